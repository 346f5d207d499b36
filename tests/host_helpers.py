"""Jobs of one or several processes that run commands on the tiny zoo, and comparisons of their folders."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from stitch_helpers import TEST, flags, write_npz

from symjax.ops import files

TESTS = Path(__file__).parent
SCRIPT = """
import importlib, json, sys
sys.path[:0] = [{tests!r}, {root!r}]
import jax
import stitch_helpers
from experiments.command import run_command
from symjax.zoo import stored, training

def told(self, state, metrics, save=stored.StoredMember.save):
    print("saved", self.seed, file=sys.stderr)
    save(self, state, metrics)

stored.StoredMember.save = told
{before}
for name, *argv in json.loads(sys.argv[1]):
    command = importlib.import_module("experiments." + name)
    run_command(command.main, command.Settings, argv)
"""


SHARDS = """
from symjax.ops import parallel
print("devices", jax.device_count(), file=sys.stderr)
shard_map = jax.shard_map

def watched(fn, *, mesh, **options):
    def shard(members, shared):
        print("shard", mesh.size, parallel.count_members(members), file=sys.stderr)
        return fn(members, shared)

    return shard_map(shard, mesh=mesh, **options)

jax.shard_map = watched
"""
"""Code for `before`, which tells how many devices there are and, of each sharded program, over how many of them members
spread and how many each of these gets."""

# By how much results may differ between numbers of devices or of processes, column by column: (relative, absolute). One
# image more or less where rounding decides; features, similarities and losses agree to rounding; the rest is the same.
IMAGE = (0, 100 / TEST + 1e-9)
TOLERANCES = {
    **dict.fromkeys(("accuracy", "stitched_accuracy", "clean_accuracy", "baseline", "penalty"), IMAGE),
    "val_accuracy": (0, 100 / 18 + 1e-9),  # of the tiny zoo's 18 images to validate
    "value": (0, 1e-5),
    "loss": (1e-4, 0),
    **dict.fromkeys(("sparsity", "hyperparameter", "learning_rate"), (0, 0)),
}
WEIGHTS = (1e-5, 1e-5)


def assert_same_tables(actual, expected, what=""):
    """Tables of results as `TOLERANCES` allow; a column of floating-point numbers that it lacks is an error."""
    assert list(actual.columns) == list(expected.columns) and len(actual) == len(expected) > 0
    for column in actual.columns:
        if actual[column].dtype.kind == "f":
            rtol, atol = TOLERANCES[column]
            np.testing.assert_allclose(
                actual[column], expected[column], rtol=rtol, atol=atol, err_msg=f"{what} {column}"
            )
        else:
            assert actual[column].tolist() == expected[column].tolist(), (what, column)


def assert_same_results(folder: Path, other: Path, names) -> None:
    """What commands left in folders of these names, up to `TOLERANCES`."""
    for name in names:
        assert_same_tables(*(files.read_csv(where / name / "results.csv") for where in (folder, other)), name)


def words(*argv) -> list[str]:
    return [str(word) for word in argv]


def tiny(folder: Path, *argv) -> list[str]:
    """The flags of a command on the tiny zoo that lies in `folder`."""
    if not (folder / "stripes.npz").exists():
        write_npz(folder / "stripes.npz")
    return [*flags(folder), *words(*argv)]


def free_port(low: int = 0, high: int = 0) -> int:
    """A port that nobody listens at, from `low` to below `high` where they are given."""
    for port in range(low, max(high, low + 1)):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return free.getsockname()[1]
    raise OSError(f"no port is free from {low} to {high}")


def spawn(folder: Path, script: str, *argv: str, **environment) -> subprocess.Popen:
    """A process that runs a script in Python, under an environment with these variables."""
    env = os.environ | {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg"} | {k: str(v) for k, v in environment.items()}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", script, *argv], cwd=folder, env=env, **pipes)


def start(folder: Path, commands, *, processes: int = 1, devices: int = 1, before: str = "") -> list[subprocess.Popen]:
    """The processes of a job that run `commands` one after the other, each a list: a name and its flags."""
    port = free_port()
    script = SCRIPT.format(tests=str(TESTS), root=str(TESTS.parent), before=before)
    started = []
    for i in range(processes):
        env = {"JAX_NUM_CPU_DEVICES": devices}
        if processes > 1:
            env |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": processes, "JAX_PROCESS_ID": i}
        started.append(spawn(folder, script, json.dumps(commands), **env))
    return started


def end(job: list[subprocess.Popen], timeout: float = 600) -> list[tuple[int, str, str]]:
    """Of each process the exit code, and what it printed on stdout and stderr; -9 of one that was too slow."""
    stop = threading.Timer(timeout, lambda: [process.kill() for process in job])
    stop.start()
    try:
        printed = [process.communicate() for process in job]
    finally:
        stop.cancel()
        for process in job:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(job, printed, strict=True)]
