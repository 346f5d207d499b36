"""Interrupt commands by faults, start them again, and compare the results with those of a run without faults.

    python -m benchmarks.faults                                 # zoo, stitch and align, each killed 20 times three ways
    python -m benchmarks.faults --commands rotate,freeze --times 5
    python -m benchmarks.faults --fault term                    # SIGTERM, as from the scheduler of a cluster
    python -m benchmarks.faults --fault full                    # from some moment on no file can be created
    python -m benchmarks.faults --fault together                # the same command twice at the same time in one folder
    python -m benchmarks.faults --devices 1,2,8                 # no fault: compare these numbers of CPU devices

Faults occur at random moments between the first file operation of a command and its end; shortly after random file
operations; or just before random file operations. Moments are measured in CPU time of the command, so that they do not
depend on the load of the machine. After each fault the command is started again in the same folder. When it is
complete, all weights, stitches and tables are compared with those of a run without faults, bit by bit, and a new folder
is started until the number of faults is reached. Results on different numbers of devices may differ by rounding; the
largest difference is printed. The exit code is 1 if results differ or a command fails in an unexpected way. Requires
Linux; commands use one CPU device by default.
"""

import dataclasses
import importlib
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd
import tyro

from benchmarks import disturbed
from benchmarks.disturbed import Fault, children_cpu_seconds, cpu_seconds, finish, wait_until
from benchmarks.fault_results import differences, distance, folder_contents, leftovers, split_results

SMALL = "--width 2 --image-size 8 --train-size 320 --test-size 200 --epochs 3".split()
SEEDS = ["--seeds", "3"]
FLAGS = {
    "zoo": SEEDS,
    "stitch": [*SEEDS, *"--pairs 4 --layers relu1,relu2 --families full,matched,rank1 --stitch-epochs 2".split()],
    "crossval": ["--seeds", "2", *"--pairs all --layers relu1 --values 0.1,1 --stitch-epochs 2".split()],
    "align": [*SEEDS, *"--examples 64 --layers relu1,relu2 --measures procrustes,cka,soft_matching".split()],
    "rotate": ["--seeds", "2", *"--model mcnn_k --layers 1,2 --repeats 2 --retrain-epochs 2".split()],
    "freeze": [*SEEDS, "--examples", "64"],
    "dynamics": [*SEEDS, *"--examples 64 --measures cka,svcca".split()],
    "classes": [*SEEDS, "--examples", "64"],
    "memorize": [*SEEDS, *"--examples 64 --measures svcca".split()],
    "symmetry": ["--seeds", "2", *"--layers relu1,relu2 --draws 1 --channels 4".split()],
}
# These commands train their zoos under faults; the others use a zoo that is trained before.
OWN_ZOO = ("zoo", "freeze", "memorize")


@dataclasses.dataclass(frozen=True)
class Settings:
    commands: str = "zoo,stitch,align"
    """Comma-separated names of modules of experiments."""
    times: int = 20
    """Number of faults of each command and way."""
    fault: Literal["kill", "term", "int", "full", "readonly", "together"] = "kill"
    """kill: SIGKILL; term, int: SIGTERM or SIGINT, after which a command cleans up; full, readonly: a disk that is full
    or read-only, which the command reports; together: the same command in the same folder, which must wait."""
    devices: str = ""
    """Only compare results on these comma-separated numbers of CPU devices; the first one is the reference."""
    ways: str = "all"
    """When faults occur: comma-separated names among moments, between and operations, or all."""
    seed: int = 0
    """Seed of the random moments."""
    out: pathlib.Path | None = None
    """Folder for all run folders and logs; by default a temporary folder, which is deleted if there are no problems."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """A run without faults: its results, CPU seconds until the first file operation and in total, file operations."""

    results: dict[str, np.ndarray | str]
    to_first: float
    seconds: float
    operations: int


@dataclasses.dataclass(frozen=True)
class Disturbed:
    """One fault: when it occurred, the last file operation before it, and how the command ended."""

    command: str
    way: str
    seconds: float
    operation: str
    exit_code: int
    seconds_to_end: float
    temporary_files: int


# When each kind of fault can occur, and the expected exit codes; failures of the disk may be harmless (exit code 0).
WAYS = {"kill": ("moments", "between", "operations"), "term": ("moments", "between"), "int": ("moments", "between")}
WAYS |= {"full": ("operations",), "readonly": ("operations",), "together": ("moments",)}
EXIT_CODES = {"kill": (-signal.SIGKILL,), "term": (143,), "int": (130,), "full": (0, 2), "readonly": (0, 2)}
EXIT_CODES |= {"together": (0,)}


def main(settings: Settings) -> None:
    names = [name.strip() for name in settings.commands.split(",") if name.strip()]
    if unknown := set(names) - set(FLAGS):
        raise SystemExit(f"error: commands: got {', '.join(sorted(unknown))}, expected some of {', '.join(FLAGS)}")
    ways = [way for way in WAYS[settings.fault] if settings.ways == "all" or way in settings.ways.split(",")]
    if not ways:
        raise SystemExit(f"error: ways: got {settings.ways!r}, expected {', '.join(WAYS[settings.fault])} or all")
    for name in FLAGS:
        importlib.import_module(f"experiments.{name}")  # before processes are forked, which inherit the modules
    folder = settings.out or pathlib.Path(tempfile.mkdtemp(prefix="symjax-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    rng, all_faults, problems, rows = np.random.default_rng(settings.seed), [], [], []
    for name in names if settings.devices else ():
        device_rows, differing = on_devices(name, [int(count) for count in settings.devices.split(",")], folder)
        rows, problems = rows + device_rows, problems + differing
    for name in names if not settings.devices else ():
        reference, differing = undisturbed(name, folder)
        problems += differing
        print(
            f"{name}: {reference.seconds:.1f} s of CPU time and {reference.operations} file operations without faults",
            flush=True,
        )
        for way in ways:
            ends = list(disturb(name, way, settings, reference, folder, rng))
            faults = [fault for end in ends for fault in end.faults]
            end_problems = [problem for end in ends for problem in end.problems]
            all_faults, problems = all_faults + faults, problems + end_problems
            rows.append(summary(name, way, faults, len(ends), len(end_problems)))
    pd.DataFrame(map(dataclasses.asdict, all_faults)).to_csv(folder / "faults.csv", index=False)
    print(f"\n{pd.DataFrame(rows).to_string(index=False)}")
    if problems:
        listed = "\n  ".join(problems)
        raise SystemExit(f"{len(problems)} problems, see {folder}:\n  {listed}")
    if not settings.out:
        shutil.rmtree(folder)


def summary(name: str, way: str, faults: list[Disturbed], ends: int, problems: int) -> dict:
    """Return a row of the printed table."""
    return {
        "command": name,
        "way": way,
        "faults": len(faults),
        "before any file operation": sum(not fault.operation for fault in faults),
        "completed folders": ends,
        "problems": problems,
        "seconds to exit": f"{max((fault.seconds_to_end for fault in faults), default=0):.1f}",
    }


def argv(name: str, folder: pathlib.Path) -> list[str]:
    """Return the flags of a command with its zoo and results in this folder."""
    zoo = [] if name in OWN_ZOO else ["--zoo", str(folder / "zoo")]
    return [*SMALL, *FLAGS[name], *zoo, "--out", str(folder / ("zoo" if name == "zoo" else "out"))]


def undisturbed(name: str, folder: pathlib.Path) -> tuple[Reference, list[str]]:
    """Run a command twice in new folders; return the second run, which uses compiled programs, and the differences."""
    runs = []
    for i in range(2):
        own = folder / f"{name}-undisturbed-{i}"
        begin_folder(name, own, folder)
        before = children_cpu_seconds()
        process, operations = run(name, own)
        wait_until(lambda operations=operations: operations.read()[0], process)
        to_first = cpu_seconds(process) if process.exitcode is None else 0.0
        finish(process)
        seconds = children_cpu_seconds() - before
        if process.exitcode != 0:
            raise SystemExit(f"{name}: exit code {process.exitcode}, see {own}.log")
        runs.append(Reference(disturbed.call(folder_contents, own), to_first, seconds, operations.read()[0]))
    return runs[1], differences(f"{name} run twice", runs[0].results, runs[1].results)


@dataclasses.dataclass
class End:
    """A completed folder: the faults that occurred, and the problems."""

    faults: list[Disturbed]
    problems: list[str]


def disturb(name, way, settings, reference: Reference, folder: pathlib.Path, rng) -> Iterator[End]:
    """Yield completed folders until the number of faults is reached."""
    done = ends = 0
    while done < settings.times:
        own, ends = folder / f"{name}-{settings.fault}-{way}-{ends}", ends + 1
        begin_folder(name, own, folder)
        end, code = End([], []), None
        while done < settings.times:
            fault, code = disturb_once(name, way, settings.fault, reference, own, rng)
            if fault is None:  # the command ended before the fault
                break
            end.faults.append(fault)
            done += 1
            print(f"{name} {done}: {fault.seconds:.2f} s, {fault.operation or 'before any'}", flush=True)
            if fault.exit_code not in EXIT_CODES[settings.fault]:
                end.problems.append(f"{own.name}: exit code {fault.exit_code}, see {own}.log")
            if settings.fault in ("term", "int", "full", "together") and fault.temporary_files:
                end.problems.append(f"{own.name}: {fault.temporary_files} temporary files left")
        else:
            code = finish(run(name, own)[0])
        if code != 0:
            end.problems.append(f"{own.name}: exit code {code} without a fault, see {own}.log")
        if "Traceback" in own.with_suffix(".log").read_text():
            end.problems.append(f"{own.name}: a traceback, see {own}.log")
        if not end.problems:
            end.problems += differences(own.name, disturbed.call(folder_contents, own), reference.results)
        if not end.problems:
            shutil.rmtree(own)
        yield end


def disturb_once(name, way, fault, reference: Reference, own: pathlib.Path, rng) -> tuple[Disturbed | None, int | None]:
    """Cause one fault; return it and the exit code, or (None, exit code) if the command ended before."""
    began, at, other = time.monotonic(), int(rng.integers(1, reference.operations + 1)), None
    if way == "operations":
        process, operations = run(name, own, Fault(fault, at))
        finish(process)
        signaled = time.monotonic()
    else:
        process, operations = run(name, own)
        if way == "between":
            wait_until(lambda: operations.read()[0] >= at, process)
            process.join(rng.uniform(0, 0.3))
        else:
            moment = rng.uniform(0 if fault == "together" else reference.to_first, reference.seconds)
            wait_until(lambda: cpu_seconds(process) >= moment, process)
        signaled = time.monotonic()
        if process.exitcode is None and fault == "together":
            other = run(name, own)[0]
            finish(other)
            finish(process)
        elif process.exitcode is None:
            os.kill(process.pid, getattr(signal, f"SIG{fault.upper()}"))
            finish(process)
    ended, (count, last), code = time.monotonic(), operations.read(), process.exitcode
    if other:
        code = code or other.exitcode
    elif code == 0 and not (way == "operations" and count >= at):
        return None, 0
    return Disturbed(name, way, signaled - began, last, code, ended - signaled, len(leftovers(own))), code


def run(name: str, own: pathlib.Path, fault: Fault | None = None, devices: int = 1):
    return disturbed.start(name, argv(name, own), own, own.with_suffix(".log"), fault, devices)


def begin_folder(name: str, own: pathlib.Path, folder: pathlib.Path) -> None:
    """Create a folder, with a trained zoo unless the command trains its own."""
    own.mkdir()
    if name in OWN_ZOO or name == "rotate":
        return
    trained = folder / "trained"
    if not trained.exists():
        finish(disturbed.start("zoo", argv("zoo", trained), trained, folder / "trained.log")[0])
    shutil.copytree(trained / "zoo", own / "zoo")


def on_devices(name: str, counts: list[int], folder: pathlib.Path) -> tuple[list[dict], list[str]]:
    """Return rows with differences of numbers from those on the first number of devices, and other differences."""
    rows, problems, reference = [], [], None
    for count in counts:
        own = folder / f"{name}-{count}-devices"
        begin_folder(name, own, folder)
        if code := finish(run(name, own, devices=count)[0]):
            raise SystemExit(f"{name}: exit code {code}, see {own}.log")
        arrays, tables, rest = split_results(disturbed.call(folder_contents, own))
        reference = reference or (arrays, tables, rest)
        row = {"command": name, "devices": count}
        for kind, values, expected in (("arrays", arrays, reference[0]), ("tables", tables, reference[1])):
            if {key: a.shape for key, a in values.items()} != {key: a.shape for key, a in expected.items()}:
                problems.append(f"{own.name}: other {kind} than on {counts[0]}")
                continue
            apart = np.concatenate([distance(values[key], expected[key]).ravel() for key in values] or [np.zeros(0)])
            row |= {f"numbers in {kind}": apart.size, f"that differ ({kind})": np.count_nonzero(apart)}
            row |= {f"by at most ({kind})": f"{apart.max(initial=0):.1g}"}
        problems += differences(f"{own.name} and {counts[0]}", rest, reference[2])
        rows.append(row)
    return rows, problems


if __name__ == "__main__":
    main(tyro.cli(Settings, description=sys.modules[__name__].__doc__))
