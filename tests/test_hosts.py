"""Jobs of several processes: the partition of the work, equality with one process, and failures."""

import itertools
import json
import os
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from host_helpers import (
    SHARDS,
    WEIGHTS,
    assert_same_results,
    assert_same_tables,
    end,
    free_port,
    spawn,
    start,
    tiny,
)
from stitch_helpers import SEEDS, TEST, trained

import experiments.zoo
from experiments.command import run_command
from symjax import InputError, zoo
from symjax.ops import files, hosts

ROOT = Path(__file__).parents[1]


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


# --- partition of the work ---


@pytest.mark.parametrize("per_process", [(1,), (1, 1), (4, 4), (1,) * 5, (8,) * 3, (3, 1), (1, 2, 5)], ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 9, 23, 64])
def test_member_indices_are_a_balanced_partition(count, per_process):
    held = hosts.member_indices(count, devices(*per_process))
    assert sorted(held) == list(range(len(per_process)))
    assert sorted(itertools.chain(*held.values())) == list(range(count))
    assert all(indices == sorted(indices) for indices in held.values())
    sizes = [len(indices) for indices in held.values()]
    rounds = -(-count // sum(per_process))  # no device does more
    assert all(size <= rounds * devices_of for size, devices_of in zip(sizes, per_process, strict=True))
    if len(set(per_process)) == 1:
        assert max(sizes) - min(sizes) <= 1
    elif min(sizes) == 0:
        assert max(sizes) <= 1


def test_few_members_go_to_different_processes():
    """Two members of two processes: one each, although the first process has devices for both."""
    assert hosts.member_indices(2, devices(4, 4)) == {0: [0], 1: [1]}
    assert hosts.member_indices(9, devices(4, 4)) == {0: [0, 2, 4, 6, 8], 1: [1, 3, 5, 7]}


def test_a_single_process_computes_everything():
    assert (hosts.count(), hosts.index(), hosts.is_first()) == (1, 0, True)
    assert hosts.local_shard("abc") == ["a", "b", "c"]
    assert hosts.gather("step", 3) == [3] and hosts.from_first("step", lambda: 4) == 4
    assert hosts.all_agree("step", lambda: object) is object  # not JSON-able, and not compared
    hosts.continue_on_first("step")
    with hosts.job():
        pass
    with pytest.raises(KeyError), hosts.job():
        raise KeyError("planted")


def test_a_missing_coordination_service_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax._src.distributed", None)
    monkeypatch.setattr(hosts, "count", lambda: 2)
    with pytest.raises(InputError, match="^distributed: got JAX .*, whose coordination service"), hosts.job():
        hosts.gather("step")
    with pytest.raises(KeyError), hosts.job():  # is not hidden by it
        raise KeyError("planted")


# --- joining ---


@pytest.mark.parametrize(
    "given, named",
    [
        ({"JAX_NUM_PROCESSES": "2"}, "got JAX_NUM_PROCESSES, expected"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "expected JAX_COORDINATOR_ADDRESS"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2", "JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_PROCESS_ID='2'"),
        ({"JAX_NUM_PROCESSES": "x", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_NUM_PROCESSES='x'"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "a"}, "expected HOST:PORT"),
        ({}, "srun"),
    ],
)
def test_an_incomplete_job_is_an_error(given, named, monkeypatch, capsys):
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
    output = capsys.readouterr()
    assert named in output.err and output.err.startswith("error: --distributed:") and not output.out


# --- real processes on this host ---

JOIN = """
import json
import jax
from symjax import InputError
from symjax.ops import hosts
hosts.initialize()
hosts.AGREEMENT_TIMEOUT = 0
with hosts.job():
    results = [jax.process_index(), jax.process_count(), jax.device_count()]
    results += [hosts.local_shard("abcde"), hosts.gather("joined", "!")]
    try:
        hosts.all_agree("what is there", hosts.index)
    except InputError as error:
        results.append(str(error))
    print(json.dumps(results), flush=True)
    if hosts.index() == 1:
        raise ZeroDivisionError("planted")
    hosts.barrier("what follows")
"""


def variables(cluster, port, i):
    """What the launcher of a cluster sets for process `i` of two on this host."""
    if cluster == "slurm":
        names = {"JOB_ID": port - EPHEMERAL, "STEP_NODELIST": "127.0.0.1", "NTASKS": 2, "PROCID": i, "LOCALID": i}
        return {f"SLURM_{name}": value for name, value in names.items()}
    names = {"SIZE": 2, "RANK": i, "LOCAL_RANK": i}
    uri = {"OMPI_MCA_orte_hnp_uri": f"{(port - EPHEMERAL) * 2**12}.0;tcp://127.0.0.1:34911"}
    return uri | {f"OMPI_COMM_WORLD_{name}": value for name, value in names.items()}


EPHEMERAL = 65536 - 2**12  # from here on JAX takes a port for each number of a job


@pytest.mark.parametrize("cluster", ["slurm", pytest.param("ompi", marks=pytest.mark.slow)])
def test_launchers_are_detected_and_processes_synchronize(cluster, tmp_path, monkeypatch):
    """They partition items, gather values, detect that files differ, and end when one fails."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "JAX_"))]:
        monkeypatch.delenv(name)
    port = free_port(EPHEMERAL + 1, 65536)
    job = [spawn(tmp_path, JOIN, **variables(cluster, port, i), PYTHONPATH=ROOT) for i in range(2)]
    for i, (code, printed, output) in enumerate(end(job, timeout=120)):
        *shared, apart = json.loads(printed)
        assert shared == [i, 2, 2, list("abcde")[i::2], ["!", "!"]]
        assert "got different files in the processes (what is there)" in apart
        assert code == 1 and "planted" in output and ("process 1 on " in output) == (i == 0)


STITCH = ("--families", "full,matched", "--stitch-epochs", 2, "--pairs", 3, "--layers", "relu2")
ALIGN = ("--measures", "cka", "--examples", 24)
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
    """The folder of one process with one device."""
    folder = tmp_path_factory.mktemp("alone")
    ((code, _, output),) = end(start(folder, commands(folder)))
    assert code == 0, output
    return folder


def assert_same_zoo(folder, alone):
    """The weights in the checkpoints, as `host_helpers` says."""
    actual, expected = (zoo.load(where / "zoo") for where in (folder, alone))
    assert actual.seeds == expected.seeds == SEEDS
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=WEIGHTS[0], atol=WEIGHTS[1]), actual.members, expected.members
    )
    actual, expected = (files.read_csv(where / "zoo" / "accuracy.csv") for where in (folder, alone))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def assert_same(folder, alone):
    """Tables too."""
    assert_same_results(folder, alone, ("stitch", "align"))
    assert_same_zoo(folder, alone)
    assert (folder / "stitch" / "penalties.png").exists() and (folder / "align" / "summary.json").exists()


def test_a_tolerance_is_no_more_than_it_says():
    table = pd.DataFrame(
        {"family": ["full", "rank1"], "penalty": [10.0, 20.0], "value": [0.5, 0.25], "loss": [1.0, 2.0]}
    )
    assert_same_tables(table, table.copy())
    for column, wrong in {"penalty": 2 * 100 / TEST, "value": 2e-5, "loss": 4e-4}.items():
        for other in (table.assign(**{column: table[column] + wrong}), table.assign(**{column: np.nan})):
            with pytest.raises(AssertionError, match=column):
                assert_same_tables(table, other)
    with pytest.raises(AssertionError):
        assert_same_tables(table, table.assign(family="full"))
    with pytest.raises(KeyError, match="new"):
        assert_same_tables(table.assign(new=0.5), table.assign(new=0.5))


@pytest.mark.slow
def test_the_same_again_is_the_same_bit_by_bit(tmp_path, alone):
    (tmp_path / "stripes.npz").symlink_to(alone / "stripes.npz")  # tables say which file they are of
    ((code, _, output),) = end(start(tmp_path, commands(tmp_path)))
    assert code == 0, output
    for name in ("zoo/accuracy.csv", "stitch/results.csv", "stitch/curves.csv", "align/results.csv"):
        assert (tmp_path / name).read_bytes() == (alone / name).read_bytes(), name


def test_two_processes_train_the_same_members(tmp_path):
    job = end(start(tmp_path, commands(tmp_path, "--distributed")[:1], processes=2))
    assert [code for code, _, _ in job] == [0, 0], job
    assert [{int(seed) for seed in re.findall("saved ([0-9]+)", text)} for _, _, text in job] == [{0, 2}, {1}]
    assert job[1][1] == ""
    dataset, alone = trained()  # with the same settings, by one process on one device
    members = zoo.load(tmp_path / "zoo").members
    jax.tree.map(partial(np.testing.assert_allclose, rtol=WEIGHTS[0], atol=WEIGHTS[1]), members, alone.members)
    accuracy = files.read_csv(tmp_path / "zoo" / "accuracy.csv")
    assert accuracy.seed.tolist() == list(alone.seeds) == list(SEEDS)
    np.testing.assert_allclose(accuracy.test, 100 * zoo.test_accuracy(alone, dataset), rtol=1e-6)


@pytest.mark.slow
def test_two_processes_write_the_results_of_one(tmp_path, alone):
    job = end(start(tmp_path, commands(tmp_path, "--distributed"), processes=2))
    assert [code for code, _, _ in job] == [0, 0], job
    (_, first, output), (_, other, other_output) = job
    saved = [{int(seed) for seed in re.findall("saved ([0-9]+)", text)} for text in (output, other_output)]
    assert saved == [{0, 2}, {1}]
    assert other == "" and "stitching penalty" in first and "it/s" not in other_output and "epoch/s" not in other_output
    assert sorted(path.name for path in (tmp_path / "zoo").glob("member-*")) == [f"member-{seed}" for seed in SEEDS]
    assert_same(tmp_path, alone)
    assert len(list((tmp_path / "align" / "parts").iterdir())) == 2  # one of each process
    # One process goes on with it, and has nothing to do.
    before = (tmp_path / "align" / "results.csv").read_bytes()
    again = commands(tmp_path)[1:3]
    ((code, _, output),) = end(start(tmp_path, again, before="training.train_jobs = None"))
    assert code == 0 and "pair/s" not in output, output
    assert (tmp_path / "align" / "results.csv").read_bytes() == before


def shards(output):
    """The number of devices; and of sharded programs, on how many devices with how many members on each."""
    (devices,) = re.findall("^devices ([0-9]+)$", output, re.M)
    return int(devices), {(int(a), int(b)) for a, b in re.findall("^shard ([0-9]+) ([0-9]+)$", output, re.M)}


@pytest.mark.slow
def test_eight_devices_give_the_results_of_one(tmp_path, alone):
    ((code, _, output),) = end(start(tmp_path, commands(tmp_path), devices=8, before=SHARDS))
    assert code == 0, output
    devices, result = shards(output)
    # Three members and five copies, one on each, or on three of them; shards of a sweep, in which pairs share devices,
    # have half of them.
    assert devices == 8 and (8, 1) in result and {size for size, _ in result} <= {3, 4, 8}
    assert_same(tmp_path, alone)


@pytest.mark.slow
def test_eight_devices_train_the_same_members(tmp_path, alone):
    ((code, _, output),) = end(start(tmp_path, commands(tmp_path)[:1], devices=8, before=SHARDS))
    assert code == 0 and shards(output) == (8, {(8, 1)}), output
    actual, expected = (zoo.load(where / "zoo") for where in (tmp_path, alone))
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=WEIGHTS[0], atol=WEIGHTS[1]), actual.members, expected.members
    )


@pytest.mark.slow
def test_matrices_are_partitioned(tmp_path):
    """Those of one layer of one member: between two processes, and over eight devices; the same twice in a row."""
    folders = [tmp_path / name for name in ("alone", "again", "two", "eight")]
    for folder, how in zip(folders, ({}, {}, {"processes": 2}, {"devices": 8, "before": SHARDS}), strict=True):
        folder.mkdir()
        if folder != folders[0]:  # tables say which file they are of
            (folder / "stripes.npz").symlink_to(folders[0] / "stripes.npz")
        argv = tiny(folder, *ROTATE, "--out", folder / "rotate", *["--distributed"] * ("processes" in how))
        job = end(start(folder, [["rotate", *argv]], **how))
        assert all(code == 0 for code, _, _ in job), job
    devices, result = shards(job[0][2])
    assert devices == 8 and (8, 1) in result and {size for size, _ in result} == {8}  # four matrices and four copies
    assert len(list((folders[2] / "rotate" / "parts").glob("*.results.csv"))) == 2
    for name in ("results.csv", "curves.csv"):
        assert len({(folder / "rotate" / name).read_bytes() for folder in folders[:2]}) == 1
    for folder in folders[1:]:
        assert_same_results(folder, folders[0], ("rotate",))


@pytest.mark.slow
@pytest.mark.parametrize(("error", "code"), [("InputError", 2), ("ZeroDivisionError", 1)])
def test_a_process_that_fails_ends_the_others(tmp_path, error, code):
    before = f"""
from symjax import InputError
from symjax.ops import hosts
def fail(*_):
    if hosts.index() == 1:
        raise {error}("planted")
training.train_jobs = fail
"""
    zoo = [commands(tmp_path, "--distributed")[0]]
    (first, _, output), (other, _, other_output) = end(start(tmp_path, zoo, processes=2, before=before), timeout=120)
    assert (first, other) == (2, code), (output, other_output)
    assert "process 1 on " in output and "planted" in output and "Traceback" not in output
    assert "planted" in other_output and ("Traceback" in other_output) == (code == 1)


@pytest.mark.slow
def test_folders_that_are_not_shared_are_an_error(tmp_path):
    """Each process in a folder of its own, as on hosts without a common file system."""
    before = """
import os
from symjax.ops import hosts
hosts.AGREEMENT_TIMEOUT = 2
own = "host" + os.environ["JAX_PROCESS_ID"]
os.makedirs(own, exist_ok=True)
os.chdir(own)
"""
    zoo = [*commands(tmp_path, "--distributed")[0], "--out", "zoo"]
    job = end(start(tmp_path, [zoo], processes=2, before=before), timeout=120)
    for code, _, output in job:
        assert code == 2 and "file system that all hosts share" in output, output
