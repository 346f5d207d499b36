"""The folder of one member: checkpoints of its training state, and a table of metrics."""

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
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from symjax.checks import integers
from symjax.errors import InputError
from symjax.network import Network
from symjax.ops import files, hosts
from symjax.training import TrainState, create_state
from symjax.zoo.config import ZooConfig

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

COLUMNS = ("seed", "epoch", "loss", "accuracy", "validation_accuracy")
SNAPSHOTS = "snapshots.json"  # of a zoo folder: the epochs whose checkpoints are never deleted

PyTree = Any


def snapshot_epochs(folder: pathlib.Path) -> tuple[int, ...]:
    """Return the epochs whose checkpoints a zoo folder never deletes, ascending."""
    path = folder / SNAPSHOTS
    return integers(str(path), files.read_json(path)) if path.exists() else ()


def add_snapshot_epochs(folder: pathlib.Path, epochs: Iterable[int]) -> None:
    """Keep the checkpoints of these epochs too, from now on."""
    before = snapshot_epochs(folder)
    if not set(epochs) <= set(before):
        files.write_json(folder / SNAPSHOTS, sorted({*before, *epochs}))


class StoredMember:
    """The folder of one member."""

    def __init__(self, zoo_folder: pathlib.Path, seed: int):
        self.folder, self.seed = zoo_folder / f"member-{seed}", seed

    def epochs(self) -> list[int]:
        """Return the epochs of all complete checkpoints, ascending; incomplete ones have other names."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(name.removeprefix("epoch-")) for name in names if re.fullmatch(r"epoch-\d{5,}", name))

    def epoch(self) -> int:
        """Return the number of completed epochs that are saved."""
        return max(self.epochs(), default=0)

    def path(self, epoch: int) -> pathlib.Path:
        """Return the path of the checkpoint after `epoch` epochs."""
        return (self.folder / f"epoch-{epoch:05d}").absolute()

    def temporary_path(self, epoch: int) -> pathlib.Path:
        """Return a new path for an incomplete checkpoint; `delete_temporary` deletes it."""
        return self.path(epoch).with_name(f"epoch-{epoch:05d}.orbax-checkpoint-tmp-{uuid.uuid4().hex}")

    def save(self, state: TrainState, metrics: pd.DataFrame) -> None:
        """Save a state of NumPy arrays, and the metrics of the epochs up to it."""
        try:
            files.make_folder(self.folder)
            # The metrics first: rows of epochs after the last checkpoint are ignored.
            files.write_csv(self.folder / "metrics.csv", metrics)
            path = self.path(int(state.epoch))
            fingerprint = bytes.fromhex(files.folder_fingerprint(path) or "00" * 5)
            tree = {"state": state, "checksum": _checksum(state), "owner": np.frombuffer(fingerprint, np.uint8)}
            _write(path, self.temporary_path(int(state.epoch)), tree)
        except Exception as error:  # on a full disk, for example, TensorStore raises a ValueError
            self.delete_temporary()
            if isinstance(error, InputError):
                raise
            raise InputError(f"folder: {self.folder} cannot be written ({reason(error)})") from error

    def restore(self, like: TrainState, epoch: int | None = None) -> TrainState:
        """Return the state after `epoch` epochs, by default the last one, as NumPy arrays.

        Args:
          like: shapes and dtypes of the state.
          epoch: the number of completed epochs of the checkpoint.

        Raises:
          InputError: the checkpoint is damaged, or belongs to another configuration.
        """
        epoch = self.epoch() if epoch is None else epoch
        path = self.path(epoch)
        target = {
            "state": jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like),
            "checksum": np.zeros(16, np.uint8),
            "owner": np.zeros(5, np.uint8),
        }
        try:
            restored = jax.tree.map(_checked, _read(path, target), target)
            state = restored["state"]
            if not np.array_equal(restored["checksum"], _checksum(state)):
                raise ValueError("its numbers differ from the saved ones")
            if int(state.seed) != self.seed or int(state.epoch) != epoch:
                raise ValueError(f"it holds seed {state.seed} after epoch {state.epoch}")
        except Exception as error:  # Orbax and TensorStore raise many types, depending on what is damaged
            raise InputError(
                f"checkpoint: {path} is damaged ({reason(error)}); "
                f"delete {self.folder} to have the member trained again"
            ) from error
        files.check_fingerprint(path, restored["owner"].tobytes().hex(), self.folder)
        return state

    def metrics(self, epochs: int) -> pd.DataFrame:
        """Return the metrics of the first `epochs` epochs."""
        path = self.folder / "metrics.csv"
        table = files.read_csv(path, COLUMNS, delete=self.folder)[list(COLUMNS)]
        table = table[table.epoch <= epochs]
        if table.epoch.tolist() != list(range(1, epochs + 1)) or not (table.seed == self.seed).all():
            raise InputError(f"metrics: {path} is damaged; delete {self.folder} to have the member trained again")
        return table.astype({"seed": int, "epoch": int})

    def delete_temporary(self) -> None:
        """Delete incomplete checkpoints. `runs.open_folder` deletes other temporary files."""
        for path in self.folder.glob("epoch-*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)

    def delete_superseded(self) -> None:
        """Delete all checkpoints except the last one and the snapshots, as far as the file system allows it."""
        kept = {self.epoch(), *snapshot_epochs(self.folder.parent)}
        for epoch in set(self.epochs()) - kept:
            with contextlib.suppress(OSError):
                # Renamed first, so that a partly deleted checkpoint is never taken for a whole one.
                shutil.rmtree(self.path(epoch).rename(self.temporary_path(epoch)))


ARCHIVE = "state.npz"  # in a checkpoint that one of several processes has written


def _checkpointer() -> "ocp.StandardCheckpointer":
    import orbax.checkpoint as ocp  # imported here for a fast --help: it takes a quarter of a second

    # If Orbax makes folders in a thread and that fails, it waits five minutes for them. It measures timeouts by the
    # wall clock, which may jump.
    options = ocp.options.AsyncOptions(create_directories_asynchronously=False, timeout_secs=10**9)
    if hosts.count() == 1:
        return ocp.StandardCheckpointer(async_options=options)
    # Each process restores different members, independently of the others.
    single = ocp.options.MultiprocessingOptions(
        primary_host=hosts.index(),
        active_processes={hosts.index()},
        barrier_sync_key_prefix=f"process{hosts.index()}",
    )
    return ocp.StandardCheckpointer(async_options=options, multiprocessing_options=single)


def _write(path: pathlib.Path, temporary: pathlib.Path, tree: PyTree) -> None:
    """Write a checkpoint, whole or not at all: with Orbax, or as an archive if there are several processes.

    Each of several processes writes different members; Orbax (0.12) writes NumPy arrays in the first process only, and
    refuses JAX arrays of one process.
    """
    if hosts.count() == 1:
        with _quiet_failure(), _checkpointer() as checkpointer:
            checkpointer.save(path, tree)
        return
    temporary.mkdir()
    files.write_npz(temporary / ARCHIVE, {_name(key): leaf for key, leaf in jax.tree.leaves_with_path(tree)})
    temporary.rename(path)


def _read(path: pathlib.Path, like: PyTree) -> PyTree:
    """Read a checkpoint; any exception if it is damaged."""
    if (path / ARCHIVE).exists():
        arrays = files.read_npz(path / ARCHIVE)
        if len(arrays) != len(jax.tree.leaves(like)):
            raise ValueError(f"it holds {len(arrays)} arrays")
        return jax.tree.map_with_path(lambda key, _: arrays[_name(key)], like)
    with _quiet_failure(), _checkpointer() as checkpointer:
        return checkpointer.restore(path, like)


def _name(key) -> str:
    return jax.tree_util.keystr(key, simple=True, separator="/")


def stored_members(folder: pathlib.Path) -> list[StoredMember]:
    """Return the members of a zoo folder."""
    names = [re.fullmatch(r"member-(0|[1-9]\d*)", path.name) for path in folder.iterdir()]
    return [StoredMember(folder, int(name[1])) for name in names if name]


def abstract_state(config: ZooConfig, network: Network, train_images: int) -> TrainState:
    """Return the shapes and dtypes of a member's training state."""
    steps_per_epoch = train_images // config.recipe.batch_size
    create = partial(create_state, network, config.recipe, steps_per_epoch)
    return jax.eval_shape(create, jax.ShapeDtypeStruct((), jnp.int32))


def _checksum(state: PyTree) -> np.ndarray:
    """Return 16 bytes of a hash of all leaves, with their names, shapes and dtypes."""
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree.leaves_with_path(state):
        leaf = np.asarray(leaf)
        digest.update(json.dumps([jax.tree_util.keystr(path), leaf.shape, leaf.dtype.name]).encode())
        digest.update(leaf.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def reason(error: Exception) -> str:
    """Return in one line why Orbax, TensorStore or a copy of their files failed."""
    text = str(error).strip()
    disk_errors = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)]
    matching = [message for message in disk_errors if message in text]
    return matching[0] if matching else (text.splitlines()[0][:200] if text else type(error).__name__)


@contextlib.contextmanager
def _quiet_failure():
    """Suppress what Orbax logs and what its threads print after a failure; the exception contains all of it."""
    hook, log = sys.unraisablehook, logging.getLogger("absl")
    disabled, log.disabled = log.disabled, True
    sys.unraisablehook = lambda args: None if "loop is closed" in str(args.exc_value) else hook(args)
    try:
        yield
    except Exception:
        time.sleep(0.3)  # until TensorStore's threads have ended
        raise
    finally:
        sys.unraisablehook, log.disabled = hook, disabled


def _checked(array, like: np.ndarray) -> np.ndarray:
    """Return a NumPy array; a ValueError unless it has the shape and dtype of `like`."""
    array = np.asarray(array)
    if array.shape != like.shape or array.dtype != like.dtype:
        raise ValueError(f"an array is {array.dtype}{array.shape}, expected {like.dtype}{like.shape}")
    return array
