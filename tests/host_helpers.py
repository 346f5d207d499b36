"""Jobs of one or of several real processes that run commands on the tiny zoo, and what they leave."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from stitch_helpers import flags, write_npz

TESTS = Path(__file__).parent
SCRIPT = """
import importlib, json, sys
sys.path[:0] = [{tests!r}, {root!r}]
import jax
jax.config.update("jax_disable_most_optimizations", True)
import stitch_helpers
from experiments.settings import run_command
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


def words(*argv) -> list[str]:
    return [str(word) for word in argv]


def tiny(folder: Path, *argv) -> list[str]:
    """The flags of a command on the tiny zoo that lies in `folder`."""
    if not (folder / "stripes.npz").exists():
        write_npz(folder / "stripes.npz")
    return [*flags(folder), *words(*argv)]


def start(folder: Path, commands, *, processes: int = 1, devices: int = 1, before: str = "") -> list[subprocess.Popen]:
    """The processes of a job that run `commands` one after the other, each a list: a name and its flags."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = SCRIPT.format(tests=str(TESTS), root=str(TESTS.parent), before=before)
    started = []
    for i in range(processes):
        env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg"}
        if processes > 1:
            env |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(processes)}
            env |= {"JAX_PROCESS_ID": str(i)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        argv = [sys.executable, "-c", script, json.dumps(commands)]
        started.append(subprocess.Popen(argv, cwd=folder, env=env, **pipes))
    return started


def end(job: list[subprocess.Popen], timeout: float = 600) -> list[tuple[int, str, str]]:
    """Of each process the exit code, and what it printed on stdout and stderr; -9 of one that was too slow."""
    stop = threading.Timer(timeout, lambda: [process.kill() for process in job])
    stop.start()
    try:
        told = [process.communicate() for process in job]
    finally:
        stop.cancel()
        for process in job:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(job, told, strict=True)]
