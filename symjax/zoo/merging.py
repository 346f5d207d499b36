"""Merge zoo folders of one configuration, whose members were trained separately."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from symjax.errors import InputError
from symjax.ops import files
from symjax.training import TrainState
from symjax.zoo.loading import ZooFolder
from symjax.zoo.stored import StoredMember, add_snapshot_epochs, reason, snapshot_epochs, stored_members


def merge_members(folders: Sequence[Path], out: Path) -> tuple[list[int], dict[int, int]]:
    """Copy the members of `folders` to the zoo folder `out`; of those with equal seeds, the one with most epochs.

    Returns:
      The seeds of finished members, and the completed epochs of the others by seed.

    Raises:
      InputError: members of one seed differ after the same epoch, a checkpoint is damaged, or the configuration has
        a freeze rule.
    """
    merged = ZooFolder(out, None, {})
    if merged.config.rule is not None:
        raise InputError(f"folders: got members with a freeze rule, in {out}; expected a given schedule")
    for folder in folders:
        if folder.resolve() == out.resolve():
            continue
        add_snapshot_epochs(out, snapshot_epochs(folder))
        for member in sorted(stored_members(folder), key=lambda member: member.seed):
            _merge(member, StoredMember(out, member.seed), merged.like)
    completed = {member.seed: member.epoch() for member in stored_members(out)}
    last = merged.config.recipe.epochs
    return sorted(s for s in completed if completed[s] == last), {s: e for s, e in completed.items() if e < last}


def _merge(source: StoredMember, target: StoredMember, like: TrainState) -> None:
    """Copy the checkpoints that `target` lacks, unless they are superseded there."""
    done, snapshots = target.epoch(), snapshot_epochs(target.folder.parent)
    new = []
    for epoch in source.epochs():
        state, metrics = source.restore(like, epoch), source.metrics(epoch)  # an InputError if they are damaged
        if epoch not in target.epochs():
            new += [epoch] if epoch >= done or epoch in snapshots else []
        elif not _equal(state, target.restore(like, epoch)) or not metrics.equals(target.metrics(epoch)):
            raise InputError(
                f"folders: got members of one seed that differ, {source.folder} and {target.folder}, expected equal "
                "ones; leave one out, or delete one of them"
            )
    if not new:
        return
    files.make_folder(target.folder)
    if source.epoch() > done or not target.epochs():
        files.write_csv(target.folder / "metrics.csv", source.metrics(source.epoch()))
    try:
        for epoch in new:
            shutil.copytree(source.path(epoch), temporary := target.temporary_path(epoch))
            temporary.rename(target.path(epoch))
    except OSError as error:
        target.delete_temporary()
        raise InputError(f"folder: {target.folder} cannot be written ({reason(error)})") from error
    target.delete_superseded()


def _equal(a: TrainState, b: TrainState) -> bool:
    """Return whether two states are the same bit by bit."""
    pairs = zip(map(np.asarray, jax.tree.leaves(a)), map(np.asarray, jax.tree.leaves(b)), strict=True)
    return all(x.tobytes() == y.tobytes() for x, y in pairs)
