"""Zoos of one configuration, trained apart, made into one."""

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from symjax import runs
from symjax.errors import InputError
from symjax.zoo.stored import StoredMember, reason, stored_members
from symjax.zoo.trained import Opened


def merge_members(folders: Sequence[Path], out: Path) -> tuple[list[int], dict[int, int]]:
    """Copies the members of `folders` to `out`, one of them: of each seed the one that is furthest in its training.

    Returns:
      The seeds of finished members, and of others how many epochs they have done.

    Raises:
      InputError: two folders have members of one seed that are as far, and differ; a damaged checkpoint; members that
        find a schedule of freezing.
    """
    opened = Opened(out, None, {})
    if opened.config.rule is not None:
        raise InputError(
            f"folders: members of {out} find a schedule of freezing together; they are in one folder alone"
        )
    for folder in folders:
        if folder.resolve() == out.resolve():
            continue
        for member in sorted(stored_members(folder), key=lambda member: member.seed):
            _take(member, StoredMember(out, member.seed), opened.like)
    there = {member.seed: member.epoch() for member in stored_members(out)}
    last = opened.config.recipe.epochs
    return sorted(seed for seed in there if there[seed] == last), {s: e for s, e in there.items() if e < last}


def _take(theirs: StoredMember, ours: StoredMember, like) -> None:
    epoch, done = theirs.epoch(), ours.epoch()
    if epoch and epoch >= done:
        state, metrics = theirs.restore(like), theirs.metrics(epoch)  # an error where it is damaged
        if epoch == done:
            leaves = (dict(enumerate(jax.tree.leaves(one))) for one in (state, ours.restore(like)))
            if not _same_arrays(*leaves) or not metrics.equals(ours.metrics(epoch)):
                raise _different(theirs.folder, ours.folder)
    for kept in theirs.kept():
        _copy(theirs.kept_path(kept), ours.kept_path(kept))
    if epoch <= done:
        return
    runs.make_folder(ours.folder)
    runs.write_csv(ours.folder / "metrics.csv", metrics)
    unfinished = ours.path(epoch).with_name(f"{ours.path(epoch).name}.orbax-checkpoint-tmp-{uuid.uuid4().hex}")
    try:
        shutil.copytree(theirs.path(epoch), unfinished)
        unfinished.rename(ours.path(epoch))
    except OSError as error:
        ours.sweep()
        raise InputError(f"folder: {ours.folder} cannot be written ({reason(error)})") from error
    ours.sweep()


def _copy(source: Path, target: Path) -> None:
    arrays = runs.read_npz(source)  # an error where it is damaged
    if not target.exists():
        runs.make_folder(target.parent)
        runs.write_npz(target, arrays)
    elif not _same_arrays(arrays, runs.read_npz(target)):
        raise _different(source, target)


def _same_arrays(a: dict, b: dict) -> bool:
    def same(x, y):
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()

    return a.keys() == b.keys() and all(same(np.asarray(a[key]), np.asarray(b[key])) for key in a)


def _different(theirs: Path, ours: Path) -> InputError:
    return InputError(f"folders: {theirs} and {ours} are of one seed and differ; leave one out, or delete one of them")
