"""The folder of one member: checkpoints, each with a checksum of its numbers, and metrics."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import time
import uuid
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd

from symjax import hosts, runs
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.training import TrainState, create_state
from symjax.zoo.config import ZooConfig

COLUMNS = ("seed", "epoch", "loss", "accuracy", "validation_accuracy")

PyTree = Any


class StoredMember:
    """The folder of one member."""

    def __init__(self, folder: pathlib.Path, seed: int):
        self.folder, self.seed = folder / f"member-{seed}", seed

    def epochs(self) -> list[int]:
        """Of all whole checkpoints, ascending; Orbax gives a folder its name when it is complete."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(name.removeprefix("epoch-")) for name in names if re.fullmatch(r"epoch-\d{5,}", name))

    def epoch(self) -> int:
        """Epochs done as far as they are saved."""
        return max(self.epochs(), default=0)

    def path(self, epoch: int) -> pathlib.Path:
        return (self.folder / f"epoch-{epoch:05d}").absolute()

    def save(self, state: TrainState, metrics: pd.DataFrame) -> None:
        """Saves a state of NumPy arrays, then deletes the older ones."""
        try:
            runs.make_folder(self.folder)
            # First the metrics: rows beyond the checkpoint do not count.
            runs.write_csv(self.folder / "metrics.csv", metrics)
            path = self.path(int(state.epoch))
            _save(path, {"state": state, "checksum": _marked(_checksum(state), runs.folder_fingerprint(path))})
        except Exception as error:  # a full disk, say, of which TensorStore makes a ValueError
            self.sweep()
            if isinstance(error, InputError):
                raise
            raise InputError(f"folder: {self.folder} cannot be written ({reason(error)})") from error
        self._delete_older()

    def restore(self, like: TrainState) -> TrainState:
        """The last state, as NumPy arrays."""
        path = self.path(self.epoch())
        target = {"state": jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like), "checksum": np.zeros(16, np.uint8)}
        try:
            restored = _restore(path, target)
            state = jax.tree.map(lambda a, b: _exactly(a, b.shape, b.dtype), restored["state"], target["state"])
            stored, checksum = np.asarray(restored["checksum"]), _checksum(state)
            if not np.array_equal(stored[:_MARKED], checksum[:_MARKED]):
                raise ValueError("its numbers are not those that were saved")
            if int(state.seed) != self.seed or int(state.epoch) != self.epoch():
                raise ValueError(f"it holds seed {state.seed} after epoch {state.epoch}")
        except Exception as error:  # Orbax and TensorStore raise nearly anything, according to what is damaged
            raise InputError(
                f"checkpoint: {path} is damaged ({reason(error)}); "
                f"delete {self.folder} to have the member trained again"
            ) from error
        if not np.array_equal(stored, checksum):  # otherwise an older version's, without a mark
            runs.check_fingerprint(path, stored[_MARKED:].tobytes().hex(), self.folder)
        return state

    def kept(self) -> list[int]:
        """Epochs of which parameters and statistics are kept beside the checkpoints, ascending."""
        found = [re.fullmatch(r"kept-(\d{5,})\.npz", path.name) for path in self.folder.glob("kept-*.npz")]
        return sorted(int(name[1]) for name in found if name)

    def kept_path(self, epoch: int) -> pathlib.Path:
        return self.folder / f"kept-{epoch:05d}.npz"

    def keep(self, epoch: int, member: Member, metrics: pd.DataFrame) -> None:
        """Keeps parameters and statistics as they are after `epoch` epochs, with the metrics so far."""
        runs.make_folder(self.folder)
        arrays = {_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(member)}
        runs.write_npz(self.kept_path(epoch), {**arrays, "metrics": metrics[list(COLUMNS)].to_numpy(np.float64)})

    def restore_kept(self, epoch: int, like: Member) -> tuple[Member, pd.DataFrame]:
        """What `keep` kept: the member as NumPy arrays, and its metrics up to there."""
        path = self.kept_path(epoch)
        arrays = runs.read_npz(path)
        try:
            rows = pd.DataFrame(_exactly(arrays.pop("metrics"), (epoch, len(COLUMNS)), np.float64), columns=COLUMNS)
            if len(arrays) != len(jax.tree.leaves(like)):
                raise ValueError(f"it holds {len(arrays)} arrays")
            member = jax.tree.map_with_path(lambda p, leaf: _exactly(arrays[_name(p)], leaf.shape, leaf.dtype), like)
        except (ValueError, KeyError) as error:
            raise InputError(f"checkpoint: {path} is damaged ({error}); delete it to have it made again") from None
        return member, rows.astype({"seed": int, "epoch": int})

    def metrics(self, epochs: int) -> pd.DataFrame:
        """The first `epochs` epochs' metrics."""
        path = self.folder / "metrics.csv"
        frame = runs.read_csv(path, COLUMNS, delete=self.folder)[list(COLUMNS)]
        frame = frame[frame.epoch <= epochs]
        if frame.epoch.tolist() != list(range(1, epochs + 1)) or not (frame.seed == self.seed).all():
            raise InputError(f"metrics: {path} is damaged; delete {self.folder} to have the member trained again")
        return frame

    def sweep(self) -> None:
        """Deletes what an interrupted save left; its temporary files, `runs.open_folder` does."""
        for path in self.folder.glob("epoch-*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)
        self._delete_older()

    def _delete_older(self) -> None:
        """Deletes all checkpoints but the last. One that cannot be deleted does no harm."""
        for epoch in self.epochs()[:-1]:
            shutil.rmtree(self.path(epoch), ignore_errors=True)


def _checkpointer() -> ocp.StandardCheckpointer:
    # Where it makes folders in a thread of its own and cannot, it waits for them for five minutes. It measures its
    # timeouts by the wall clock, which may jump.
    patient = ocp.options.AsyncOptions(create_directories_asynchronously=False, timeout_secs=10**9)
    if hosts.count() == 1:
        return ocp.StandardCheckpointer(async_options=patient)
    alone = ocp.options.MultiprocessingOptions(
        primary_host=hosts.index(),
        active_processes={hosts.index()},
        barrier_sync_key_prefix=f"process{hosts.index()}",
    )
    return ocp.StandardCheckpointer(async_options=patient, multiprocessing_options=alone)


STATE = "state.npz"  # of a checkpoint that is one file


def _save(path: pathlib.Path, tree: PyTree) -> None:
    """Writes a checkpoint, whole or not at all.

    With Orbax; but of the processes of a job each saves members of its own, and Orbax (0.12) writes NumPy arrays in the
    first process alone. There a checkpoint is one file of NumPy's.
    """
    if hosts.count() == 1:
        with _quiet_failure(), _checkpointer() as checkpointer:
            checkpointer.save(path, tree)
        return
    unfinished = path.with_name(f"{path.name}.orbax-checkpoint-tmp-{uuid.uuid4().hex}")  # for `sweep`
    unfinished.mkdir()
    runs.write_npz(unfinished / STATE, {_name(p): leaf for p, leaf in jax.tree.leaves_with_path(tree)})
    unfinished.rename(path)


def _restore(path: pathlib.Path, target: PyTree) -> PyTree:
    """What `_save` saved, in whatever way; an exception of any kind where it cannot be read."""
    if (path / STATE).exists():
        arrays = runs.read_npz(path / STATE)
        if len(arrays) != len(jax.tree.leaves(target)):
            raise ValueError(f"it holds {len(arrays)} arrays")
        return jax.tree.map_with_path(lambda p, _: arrays[_name(p)], target)
    with _quiet_failure(), _checkpointer() as checkpointer:
        return checkpointer.restore(path, target)


def stored_members(folder: pathlib.Path) -> list[StoredMember]:
    names = [re.fullmatch(r"member-(0|[1-9]\d*)", path.name) for path in folder.iterdir()]
    return [StoredMember(folder, int(name[1])) for name in names if name]


def abstract_state(config: ZooConfig, network: Network, train_images: int) -> TrainState:
    steps_per_epoch = train_images // config.recipe.batch_size
    create = partial(create_state, network, config.recipe, steps_per_epoch)
    return jax.eval_shape(create, jax.ShapeDtypeStruct((), jnp.int32))


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _checksum(state: PyTree) -> np.ndarray:
    """16 bytes of a hash of all leaves, their names, shapes and types."""
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree.leaves_with_path(state):
        leaf = np.asarray(leaf)
        digest.update(json.dumps([jax.tree_util.keystr(path), leaf.shape, leaf.dtype.name]).encode())
        digest.update(leaf.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


_MARKED = 11  # bytes of a checksum that are kept in front of the five of a mark


def _marked(checksum: np.ndarray, mark: str | None) -> np.ndarray:
    """A checksum with the mark of `symjax.runs` in place of its end, as long as that of older versions."""
    return checksum if mark is None else np.frombuffer(checksum[:_MARKED].tobytes() + bytes.fromhex(mark), np.uint8)


def reason(error: Exception) -> str:
    """Why Orbax, TensorStore or a copy of what they wrote failed, in a line."""
    text = str(error).strip()
    known = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)]
    found = [reason for reason in known if reason in text]
    return found[0] if found else (text.splitlines()[0][:200] if text else type(error).__name__)


@contextlib.contextmanager
def _quiet_failure():
    """Keeps Orbax from logging tracebacks where it fails, and its other reads and writes, whose event loop is closed
    then, from printing them: all that there is to say is in the error."""
    hook, log = sys.unraisablehook, logging.getLogger("absl")
    disabled, log.disabled = log.disabled, True
    sys.unraisablehook = lambda what: None if "loop is closed" in str(what.exc_value) else hook(what)
    try:
        yield
    except Exception:
        time.sleep(0.3)  # they are under way in threads of TensorStore's
        raise
    finally:
        sys.unraisablehook, log.disabled = hook, disabled


def _exactly(array, shape, dtype) -> np.ndarray:
    array = np.asarray(array)
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"an array is {array.dtype}{array.shape}, wanted {dtype}{shape}")
    return array
