"""A disk that is full at one moment, whichever: one clear error, no temporary file, and the same again does it.

Each thing that Python does with files is refused in turn, as a disk without space refuses it. What TensorStore writes
into checkpoints is refused in `tests/test_faults.py`, by a file system that is small indeed.
"""

import errno
import io
import itertools
import os
import pathlib
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
from zoo_helpers import CONFIG, DATASET, assert_same, train

from symjax.errors import InputError
from symjax.ops import files, hosts
from symjax.stitching import PairResult, Stitch
from symjax.stitching.results import StitchResults
from symjax.zoo.merging import merge_members
from symjax.zoo.stored import StoredMember, abstract_state, add_snapshot_epochs

FULL = pathlib.Path("/dev/full")
pytestmark = [
    pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full"),
]


class Disk:
    """Counts what a disk may refuse, and has no space for number `at` of it: making, writing, flushing, renaming."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int):
        self.at, self.done = at, []
        self.open, self.refused = io.open, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(io, "open", self.opened)
        for name in ("mkdir", "fsync", "rename", "replace"):
            patch.setattr(os, name, partial(self.operation, getattr(os, name)))

    def full(self, what: str) -> bool:
        self.done.append(what)
        return len(self.done) == self.at

    def operation(self, does, *arguments, **options):
        if self.full(does.__name__):
            raise self.refused
        return does(*arguments, **options)

    def opened(self, path, mode="r", *arguments, **options):
        if "r" in mode:
            return self.open(path, mode, *arguments, **options)
        if self.full("open"):
            raise self.refused
        file = self.open(path, mode, *arguments, **options)
        if self.full("write"):  # the file is there, and the system refuses whatever is written into it
            with FULL.open("wb") as device:
                os.dup2(device.fileno(), file.fileno())
        return file


def each_refusal(monkeypatch, folder, does, left, prepare=pathlib.Path.mkdir, harmless=()):
    """`does(folder)` with each operation refused in turn, then again: `left(folder)` is that of an undisturbed run.

    Returns what was refused, and what each refusal left. `harmless` are operations without which it may do.
    """
    prepare(own := folder / "whole")
    does(own)
    whole, refused = left(own), []
    for at in itertools.count(1):
        prepare(own := folder / str(at))
        failed = None
        with monkeypatch.context() as patch:
            disk = Disk(patch, at)
            try:
                does(own)
            except InputError as error:
                failed = str(error)
        if len(disk.done) < at:
            assert not failed
            return refused
        if failed is None:
            assert disk.done[at - 1] in harmless
        else:
            assert "\n" not in failed and "cannot be written (No space left on device)" in failed
        assert not [path for path in own.rglob("*") if "tmp" in path.name]
        refused.append((disk.done[at - 1], contents(own)))
        does(own)
        assert_same(left(own), whole)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WRITE = ["open", "write", "fsync", "replace"]
TABLE = pd.DataFrame({"seed": 0, "epoch": [1], "loss": 0.5, "accuracy": 0.25, "validation_accuracy": 0.125})
WRITERS = {
    "json": lambda path: files.write_json(path, {"a": [1, 2.5]}),
    "csv": lambda path: files.write_csv(path, TABLE),
    "npz": lambda path: files.write_npz(path, {"a": np.arange(9.0), "b": np.ones(2)}),
    "larger than a buffer": lambda path: files.write_npz(path, {"a": np.arange(2.0**17), "b": np.ones(2)}),
    "bytes": lambda path: files.write_bytes(path, b"figure"),
}


@pytest.mark.parametrize("before", [{}, {"a": b"older"}], ids=["new", "there"])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=list(WRITERS))
def test_a_file_is_as_before(writer, before, tmp_path, monkeypatch):
    def prepare(folder):
        folder.mkdir()
        for name, data in before.items():
            (folder / name).write_bytes(data)

    refused = each_refusal(monkeypatch, tmp_path, lambda folder: writer(folder / "a"), contents, prepare)
    assert refused == [(what, before) for what in WRITE]


def test_the_rows_of_a_pair(tmp_path, monkeypatch):
    row = {"layer": "relu1", "layer_index": 0, "starred": False, "family": "full", "hyperparameter": 0.1}
    row |= {"start": "identity", "learning_rate": 0.1, "stitched_accuracy": 80.0, "val_accuracy": 81.0, "sparsity": 0.0}
    curve = {"layer": "relu1", "family": "full", "learning_rate": 0.1, "epoch": 1, "loss": 0.5, "accuracy": 80.0}
    stitch = Stitch(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    result = PairResult((0, 1), [row], [curve], {("relu1", "full"): (stitch, ({"mean": np.ones(3)},))})
    refused = each_refusal(
        monkeypatch,
        tmp_path,
        lambda folder: StitchResults(folder).add(result, {0: 90.0, 1: 91.0}),
        contents,
        harmless=["mkdir"],  # of a folder that exists
    )
    assert [what for what, _ in refused] == ["mkdir", *WRITE, "mkdir", *WRITE, "mkdir", *3 * WRITE]


@pytest.fixture(scope="module")
def member(tmp_path_factory):
    """The folder of a zoo of one member, its last state and metrics."""
    trained = train(folder := tmp_path_factory.mktemp("disk") / "zoo", seeds=(1,))
    like = abstract_state(CONFIG, trained.network, len(DATASET.train))
    return folder, StoredMember(folder, 1).restore(like), trained.metrics


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.few(1)
def test_the_save_of_a_member(member, processes, tmp_path, monkeypatch):
    """With Orbax, and as one of several processes."""
    _, state, metrics = member
    monkeypatch.setattr(hosts, "count", lambda: processes)

    def left(folder):
        stored = StoredMember(folder, 1)
        return stored.restore(state), {"metrics": contents(folder)["member-1/metrics.csv"]}

    refused = each_refusal(monkeypatch, tmp_path, lambda folder: StoredMember(folder, 1).save(state, metrics), left)
    done = [what for what, _ in refused]
    assert done[:6] == ["mkdir", *WRITE, "mkdir"] and done[-1] == "rename"
    assert processes == 1 or done[6:-1] == WRITE


def test_the_list_of_snapshots(tmp_path, monkeypatch):
    refused = each_refusal(monkeypatch, tmp_path, lambda folder: add_snapshot_epochs(folder, (1, 3)), contents)
    assert [what for what, _ in refused] == WRITE


@pytest.mark.slow
def test_a_member_that_is_merged(member, tmp_path, monkeypatch):
    zoo, _, _ = member

    def prepare(folder):
        folder.mkdir()
        shutil.copy(zoo / "config.json", folder)

    does = lambda folder: merge_members([zoo], folder)  # noqa: E731
    done = [what for what, _ in each_refusal(monkeypatch, tmp_path, does, contents, prepare)]
    assert done[:6] == ["mkdir", *WRITE, "mkdir"] and done[-1] == "rename"
