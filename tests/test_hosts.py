"""Jobs of several processes: who computes what, that results are those of one process, and that none waits for ever."""

import itertools
import re
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from host_helpers import end, start, tiny
from stitch_helpers import SEEDS

import experiments.zoo
from experiments.settings import run_command
from symjax import hosts, runs


@dataclass(frozen=True)
class Device:
    """As much of a device as a layout needs."""

    id: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


def devices(*per_process):
    owners = [process for process, count in enumerate(per_process) for _ in range(count)]
    return [Device(i, process) for i, process in enumerate(owners)]


# --- who computes what ---


@pytest.mark.parametrize("per_process", [(1,), (1, 1), (4, 4), (1,) * 5, (8,) * 3, (3, 1), (1, 2, 5)], ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 9, 23, 64])
def test_places_are_a_balanced_partition(count, per_process):
    held = hosts.places(count, devices(*per_process))
    assert sorted(held) == list(range(len(per_process)))
    assert sorted(itertools.chain(*held.values())) == list(range(count))
    assert all(theirs == sorted(theirs) for theirs in held.values())
    sizes = [len(theirs) for theirs in held.values()]
    rounds = -(-count // sum(per_process))  # no device does more
    assert all(size <= rounds * theirs for size, theirs in zip(sizes, per_process, strict=True))
    if len(set(per_process)) == 1:
        assert max(sizes) - min(sizes) <= 1
    elif min(sizes) == 0:
        assert max(sizes) <= 1


def test_few_members_go_to_different_processes():
    """Two of two: not both to the first process, though it has devices for both."""
    assert hosts.places(2, devices(4, 4)) == {0: [0], 1: [1]}
    assert hosts.places(9, devices(4, 4)) == {0: [0, 2, 4, 6, 8], 1: [1, 3, 5, 7]}


def test_a_process_alone_does_everything():
    assert (hosts.count(), hosts.index(), hosts.is_first()) == (1, 0, True)
    assert hosts.own("abc") == ["a", "b", "c"]
    assert hosts.gather("step", 3) == [3] and hosts.from_first("step", lambda: 4) == 4
    assert hosts.agreed("step", lambda: object) is object  # which nobody compares
    hosts.leave_to_first("step")
    with hosts.job():
        pass
    with pytest.raises(KeyError), hosts.job():
        raise KeyError("planted")


# --- joining ---


@pytest.mark.parametrize(
    "given, named",
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES given"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "wanted JAX_COORDINATOR_ADDRESS"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2", "JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_PROCESS_ID='2'"),
        ({"JAX_NUM_PROCESSES": "x", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_NUM_PROCESSES='x'"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "a"}, "wanted HOST:PORT"),
        ({}, "srun"),
    ],
)
def test_what_is_no_job_is_an_error(given, named, monkeypatch, capsys):
    for name in (hosts.COORDINATOR, hosts.PROCESSES, hosts.PROCESS):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    def initialize(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(SystemExit) as ended:
        run_command(experiments.zoo.main, experiments.zoo.Settings, ["--distributed"])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert named in told.err and told.err.startswith("error: distributed:") and not told.out


# --- real processes on this host ---

STITCH = ("--families", "full,matched", "--stitch-epochs", 2, "--pairs", 3, "--layers", "relu2")
ALIGN = ("--measures", "cka,svcca", "--examples", 24)
ROTATE = ("--model", "mcnn_k", "--width", 2, "--image-size", 16, "--seeds", "3,", "--epochs", 1, "--zoo", "chain")
ROTATE += ("--layers", "2", "--kinds", "none,orthogonal", "--repeats", 2, "--retrain-epochs", 2)


def commands(folder, *more):
    """Zoo, stitch and align of the tiny zoo, each into a folder of its name."""
    listed = [
        ["zoo", *[word if word != "--zoo" else "--out" for word in tiny(folder)]],
        ["stitch", *tiny(folder, *STITCH, "--out", folder / "stitch")],
        ["align", *tiny(folder, *ALIGN, "--out", folder / "align")],
    ]
    return [[*command, *more] for command in listed]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process with one device leaves."""
    folder = tmp_path_factory.mktemp("alone")
    ((code, _, told),) = end(start(folder, commands(folder)))
    assert code == 0, told
    return folder


def assert_same_results(folder, alone, names=("stitch", "align")):
    for name in names:
        ours, theirs = (runs.read_csv(where / name / "results.csv") for where in (folder, alone))
        assert list(ours.columns) == list(theirs.columns) and len(ours) == len(theirs) > 0
        for column in ours.columns:
            if ours[column].dtype.kind == "f":
                # One image more or less where rounding decides; features agree to rounding.
                np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-3, atol=1e-4, err_msg=name + column)
            else:
                assert ours[column].tolist() == theirs[column].tolist(), (name, column)
    if "stitch" not in names:
        return
    ours, theirs = (runs.read_csv(where / "zoo" / "accuracy.csv") for where in (folder, alone))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert (folder / "stitch" / "penalties.png").exists() and (folder / "align" / "summary.json").exists()


def test_two_processes_leave_what_one_leaves(tmp_path, alone):
    job = end(start(tmp_path, commands(tmp_path, "--distributed"), processes=2))
    assert [code for code, _, _ in job] == [0, 0], job
    (_, first, told), (_, other, told_other) = job
    saved = [{int(seed) for seed in re.findall("saved ([0-9]+)", text)} for text in (told, told_other)]
    assert saved == [{0, 2}, {1}]
    assert other == "" and "stitching penalty" in first and "it/s" not in told_other and "epoch/s" not in told_other
    assert sorted(path.name for path in (tmp_path / "zoo").glob("member-*")) == [f"member-{seed}" for seed in SEEDS]
    assert_same_results(tmp_path, alone)
    assert len(list((tmp_path / "align" / "parts").iterdir())) == 2 * 2  # measures, and processes
    # One process goes on with it, and has nothing to do.
    before = (tmp_path / "align" / "results.csv").read_bytes()
    again = commands(tmp_path)[1:3]
    ((code, _, told),) = end(start(tmp_path, again, before="training.train_jobs = None"))
    assert code == 0 and "pair/s" not in told, told
    assert (tmp_path / "align" / "results.csv").read_bytes() == before


@pytest.mark.slow
def test_eight_devices_leave_what_one_leaves(tmp_path, alone):
    ((code, _, told),) = end(start(tmp_path, commands(tmp_path), devices=8))
    assert code == 0, told
    assert_same_results(tmp_path, alone)


@pytest.mark.slow
def test_matrices_are_shared_out(tmp_path):
    """Those of one layer of one member: between two processes, and over eight devices."""
    folders = [tmp_path / name for name in ("alone", "two", "eight")]
    for folder, how in zip(folders, ({}, {"processes": 2}, {"devices": 8}), strict=True):
        folder.mkdir()
        argv = tiny(folder, *ROTATE, "--out", folder / "rotate", *["--distributed"] * ("processes" in how))
        job = end(start(folder, [["rotate", *argv]], **how))
        assert all(code == 0 for code, _, _ in job), job
    assert len(list((folders[1] / "rotate" / "parts").glob("*.rows.csv"))) == 2
    for folder in folders[1:]:
        assert_same_results(folder, folders[0], ("rotate",))


@pytest.mark.parametrize("error, code", [("InputError", 2), ("ZeroDivisionError", 1)])
def test_a_process_that_fails_ends_the_others(tmp_path, error, code):
    before = f"""
from symjax import InputError, hosts
def fail(*_):
    if hosts.index() == 1:
        raise {error}("planted")
training.train_jobs = fail
"""
    zoo = [commands(tmp_path, "--distributed")[0]]
    (first, _, told), (other, _, told_other) = end(start(tmp_path, zoo, processes=2, before=before), timeout=120)
    assert (first, other) == (2, code), (told, told_other)
    assert "process 1 on " in told and "planted" in told and "Traceback" not in told
    assert "planted" in told_other and ("Traceback" in told_other) == (code == 1)


def test_folders_that_are_not_shared_are_an_error(tmp_path):
    """Each process in a folder of its own, as on hosts without a common file system."""
    before = """
import os
from symjax import hosts
hosts.PATIENCE = 2
own = "host" + os.environ["JAX_PROCESS_ID"]
os.makedirs(own, exist_ok=True)
os.chdir(own)
"""
    zoo = [*commands(tmp_path, "--distributed")[0], "--out", "zoo"]
    job = end(start(tmp_path, [zoo], processes=2, before=before), timeout=120)
    for code, _, told in job:
        assert code == 2 and "file system that all hosts share" in told, told
