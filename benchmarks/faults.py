"""Disturbs commands, starts them again, and compares what comes out with an undisturbed run, bit by bit.

    python -m benchmarks.faults                                 # zoo, stitch and align, each killed 20 times three ways
    python -m benchmarks.faults --commands rotate,freeze --times 5
    python -m benchmarks.faults --fault term                    # as a scheduler does before it takes the machine
    python -m benchmarks.faults --fault full                    # no file can be made any more, from some moment on

A command is disturbed at random moments between its start and its usual end; at random moments after file operations
drawn from all that it does; or just before such operations. After each fault it is started again in the same folder.
When it has come to its end, all weights, stitches and tables are compared with those of a run that nothing disturbed,
and a new folder is begun, until there were faults enough. The exit code is 1 if anything differed or failed otherwise
than it should. On Linux, with one CPU device.
"""

import dataclasses
import hashlib
import importlib
import json
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
from benchmarks.disturbed import Fault

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
# Of these the zoo is trained before: there is enough else to be killed.
OWN_ZOO = ("zoo", "freeze", "memorize")
TOO_LONG = 600  # seconds


@dataclasses.dataclass(frozen=True)
class Settings:
    commands: str = "zoo,stitch,align"
    """Names of modules of experiments, with commas between."""
    times: int = 20
    """Faults of each command in each way."""
    fault: Literal["kill", "term", "int", "full", "readonly"] = "kill"
    """SIGKILL; SIGTERM or SIGINT, after which a command tidies up; a disk that is full or read-only, after which it
    says so."""
    ways: str = "all"
    """Of moments, between and operations, with commas between, those that are wanted."""
    seed: int = 0
    """Of the moments."""
    out: pathlib.Path | None = None
    """Takes all folders and logs; a temporary folder by default, which is deleted where all went well."""


@dataclasses.dataclass(frozen=True)
class Usual:
    """An undisturbed run: what it left, how long it took and how many file operations it did."""

    left: dict[str, str]
    seconds: float
    operations: int


@dataclasses.dataclass(frozen=True)
class Disturbed:
    """One fault: after how many seconds, what the process had done last with files, and what came of it."""

    command: str
    way: str
    seconds: float
    operation: str
    exit_code: int
    seconds_to_end: float
    temporary_files: int


# How a fault may come: of signals and of disks. And how the command then ends; a disk may fail where it does no harm.
WAYS = {"kill": ("moments", "between", "operations"), "term": ("moments", "between"), "int": ("moments", "between")}
WAYS |= {"full": ("operations",), "readonly": ("operations",)}
EXIT_CODES = {"kill": (-signal.SIGKILL,), "term": (143,), "int": (130,), "full": (0, 2), "readonly": (0, 2)}


def main(settings: Settings) -> None:
    names = [name.strip() for name in settings.commands.split(",") if name.strip()]
    if unknown := set(names) - set(FLAGS):
        raise SystemExit(f"error: commands: {', '.join(sorted(unknown))} unknown; known: {', '.join(FLAGS)}")
    ways = [way for way in WAYS[settings.fault] if settings.ways == "all" or way in settings.ways.split(",")]
    if not ways:
        raise SystemExit(f"error: ways: got {settings.ways!r}, wanted {', '.join(WAYS[settings.fault])} or all")
    for name in FLAGS:
        importlib.import_module(f"experiments.{name}")  # once, before processes are forked
    folder = settings.out or pathlib.Path(tempfile.mkdtemp(prefix="symjax-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    rng, all_faults, problems, rows = np.random.default_rng(settings.seed), [], [], []
    for name in names:
        usual, wrong = undisturbed(name, folder)
        problems += wrong
        print(f"{name}: {usual.seconds:.1f} s and {usual.operations} file operations undisturbed", flush=True)
        for way in ways:
            ends = list(disturb(name, way, settings, usual, folder, rng))
            faults = [fault for end in ends for fault in end.faults]
            wrong = [problem for end in ends for problem in end.problems]
            all_faults, problems = all_faults + faults, problems + wrong
            rows.append(summary(name, way, faults, len(ends), len(wrong)))
    pd.DataFrame(map(dataclasses.asdict, all_faults)).to_csv(folder / "faults.csv", index=False)
    print(f"\n{pd.DataFrame(rows).to_string(index=False)}")
    if problems:
        listed = "\n  ".join(problems)
        raise SystemExit(f"{len(problems)} problems, see {folder}:\n  {listed}")
    if not settings.out:
        shutil.rmtree(folder)


def summary(name: str, way: str, faults: list[Disturbed], ends: int, problems: int) -> dict:
    """A row of the table that is printed."""
    return {
        "command": name,
        "way": way,
        "faults": len(faults),
        "before any file operation": sum(not fault.operation for fault in faults),
        "folders brought to their end": ends,
        "problems": problems,
        "seconds to exit": f"{max((fault.seconds_to_end for fault in faults), default=0):.1f}",
    }


def argv(name: str, folder: pathlib.Path) -> list[str]:
    """The flags of a command whose zoo and results are in this folder."""
    zoo = [] if name in OWN_ZOO else ["--zoo", str(folder / "zoo")]
    return [*SMALL, *FLAGS[name], *zoo, "--out", str(folder / ("zoo" if name == "zoo" else "out"))]


def undisturbed(name: str, folder: pathlib.Path) -> tuple[Usual, list[str]]:
    """A command run twice in folders of their own: the second time as killed ones are, with programs compiled."""
    found = []
    for i in range(2):
        own = folder / f"{name}-undisturbed-{i}"
        begin_folder(name, own, folder)
        process, operations = run(name, own)
        began = time.monotonic()
        finish(process)
        seconds = time.monotonic() - began
        if process.exitcode != 0:
            raise SystemExit(f"{name}: exit code {process.exitcode}, see {own}.log")
        found.append(Usual(disturbed.call(what_is_left, own), seconds, operations.read()[0]))
    return found[1], differences(f"{name} run twice", found[0].left, found[1].left)


@dataclasses.dataclass
class End:
    """A folder brought to its end: the faults on the way there, and what is wrong with it."""

    faults: list[Disturbed]
    problems: list[str]


def disturb(name, way, settings, usual: Usual, folder: pathlib.Path, rng) -> Iterator[End]:
    """Folders brought to their ends, until there were faults enough."""
    done = ends = 0
    while done < settings.times:
        own, ends = folder / f"{name}-{settings.fault}-{way}-{ends}", ends + 1
        begin_folder(name, own, folder)
        end, code = End([], []), None
        while done < settings.times:
            fault, code = disturb_once(name, way, settings.fault, usual, own, rng)
            if fault is None:  # it was at its end before
                break
            end.faults.append(fault)
            done += 1
            print(f"{name} {done}: {fault.seconds:.2f} s, {fault.operation or 'before any'}", flush=True)
            if fault.exit_code not in EXIT_CODES[settings.fault]:
                end.problems.append(f"{own.name}: exit code {fault.exit_code}, see {own}.log")
            if settings.fault in ("term", "int", "full") and fault.temporary_files:
                end.problems.append(f"{own.name}: {fault.temporary_files} temporary files left")
        else:
            code = finish(run(name, own)[0])
        if code != 0:
            end.problems.append(f"{own.name}: exit code {code} undisturbed, see {own}.log")
        if "Traceback" in own.with_suffix(".log").read_text():
            end.problems.append(f"{own.name}: a traceback, see {own}.log")
        if not end.problems:
            end.problems += differences(own.name, disturbed.call(what_is_left, own), usual.left)
        if not end.problems:
            shutil.rmtree(own)
        yield end


def disturb_once(name, way, fault, usual: Usual, own: pathlib.Path, rng) -> tuple[Disturbed | None, int | None]:
    """Starts a command and disturbs it; None and its exit code where it came to its end before."""
    began, at = time.monotonic(), int(rng.integers(1, usual.operations + 1))
    if way == "operations":
        process, operations = run(name, own, Fault(fault, at))
        finish(process)
        signalled = time.monotonic()
    else:
        process, operations = run(name, own)
        if way == "between":
            while process.exitcode is None and operations.read()[0] < at:
                process.join(0.005)
            process.join(rng.uniform(0, 0.3))
        else:
            process.join(rng.uniform(0, usual.seconds))
        signalled = time.monotonic()
        if process.exitcode is None:
            os.kill(process.pid, getattr(signal, f"SIG{fault.upper()}"))
            finish(process)
    ended, (count, last) = time.monotonic(), operations.read()
    if process.exitcode == 0 and not (way == "operations" and count >= at):
        return None, 0
    found = Disturbed(name, way, signalled - began, last, process.exitcode, ended - signalled, len(leftovers(own)))
    return found, process.exitcode


def finish(process) -> int:
    """The exit code of a process that is to end by itself."""
    process.join(TOO_LONG)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def run(name: str, own: pathlib.Path, fault: Fault | None = None):
    return disturbed.start(name, argv(name, own), own, own.with_suffix(".log"), fault)


def begin_folder(name: str, own: pathlib.Path, folder: pathlib.Path) -> None:
    """Makes a folder, with a trained zoo where the command is not to train it."""
    own.mkdir()
    if name in OWN_ZOO or name == "rotate":
        return
    trained = folder / "trained"
    if not trained.exists():
        finish(disturbed.start("zoo", argv("zoo", trained), trained, folder / "trained.log")[0])
    shutil.copytree(trained / "zoo", own / "zoo")


def leftovers(folder: pathlib.Path) -> list[pathlib.Path]:
    """Temporary files and folders."""
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp") or "-tmp" in path.name]


def what_is_left(folder: pathlib.Path) -> dict[str, str]:
    """Everything that a run's folder tells, by name, as digests: weights, arrays, tables, findings; names of files."""
    import jax

    from symjax import runs, summary, zoo

    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if any(part.startswith("epoch-") for part in path.parts):  # inside a checkpoint: compared by what is loaded
            continue
        if path.suffix == ".npz":
            found |= {f"{name}: {key}": digest(array) for key, array in runs.read_npz(path).items()}
        elif path.suffix == ".csv":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == summary.SUMMARY:
            document = runs.read_json(path)
            found[name] = json.dumps([document[key] for key in ("title", "finding", "tables", "figures")])
        else:
            found[name] = "there"
    for config in sorted(folder.rglob("config.json")):
        if runs.read_json(config)["kind"] == "zoo":
            trained = zoo.load(config.parent)
            name = str(config.parent.relative_to(folder))
            for path, leaf in jax.tree.leaves_with_path(trained.members):
                for seed, array in zip(trained.seeds, leaf, strict=True):
                    found[f"{name}: seed {seed}{jax.tree_util.keystr(path)}"] = digest(array)
    return found


def digest(array: np.ndarray) -> str:
    array = np.asarray(array)
    return f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def differences(name: str, one: dict[str, str], other: dict[str, str]) -> list[str]:
    """What is not the same in both, one line each."""
    return [f"{name}: {key} differs" for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]


if __name__ == "__main__":
    main(tyro.cli(Settings, description=sys.modules[__name__].__doc__))
