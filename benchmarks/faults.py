"""Disturbs commands, starts them again, and compares what comes out with an undisturbed run, bit by bit.

    python -m benchmarks.faults                                 # zoo, stitch and align, each killed 20 times three ways
    python -m benchmarks.faults --commands rotate,freeze --times 5
    python -m benchmarks.faults --fault term                    # as a scheduler does before it takes the machine
    python -m benchmarks.faults --fault full                    # no file can be made any more, from some moment on
    python -m benchmarks.faults --fault together                # the same command twice on one folder, at once
    python -m benchmarks.faults --devices 1,2,8                 # no fault: the same command on so many CPU devices

A command is disturbed at random moments between its first file operation and its usual end; at random moments after
file operations drawn from all that it does; or just before such operations. Moments are counted in seconds that the
command computes, so that they mean the same on a busy machine. After each fault it is started again in the same folder.
When it has come to its end, all weights, stitches and tables are compared with those of a run that nothing disturbed,
and a new folder is begun, until there were faults enough. On other numbers of devices numbers may differ by rounding;
by how much at most is printed. The exit code is 1 if anything differed that should not or failed otherwise than it
should. On Linux, with one CPU device unless said otherwise.
"""

import dataclasses
import importlib
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
TOO_LONG = 1800  # seconds, on a machine that does much else


@dataclasses.dataclass(frozen=True)
class Settings:
    commands: str = "zoo,stitch,align"
    """Names of modules of experiments, with commas between."""
    times: int = 20
    """Faults of each command in each way."""
    fault: Literal["kill", "term", "int", "full", "readonly", "together"] = "kill"
    """SIGKILL; SIGTERM or SIGINT, after which a command tidies up; a disk that is full or read-only, after which it
    says so; the same command in the same folder, which waits."""
    devices: str = ""
    """Only compare what the commands leave on so many CPU devices, with commas between; the first is the measure."""
    ways: str = "all"
    """Of moments, between and operations, with commas between, those that are wanted."""
    seed: int = 0
    """Of the moments."""
    out: pathlib.Path | None = None
    """Takes all folders and logs; a temporary folder by default, which is deleted where all went well."""


@dataclasses.dataclass(frozen=True)
class Usual:
    """An undisturbed run: what it left, seconds computed to its first file operation and in all, operations done."""

    left: dict[str, np.ndarray | str]
    to_first: float
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
WAYS |= {"full": ("operations",), "readonly": ("operations",), "together": ("moments",)}
EXIT_CODES = {"kill": (-signal.SIGKILL,), "term": (143,), "int": (130,), "full": (0, 2), "readonly": (0, 2)}
EXIT_CODES |= {"together": (0,)}


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
    for name in names if settings.devices else ():
        found, wrong = on_devices(name, [int(count) for count in settings.devices.split(",")], folder)
        rows, problems = rows + found, problems + wrong
    for name in names if not settings.devices else ():
        usual, wrong = undisturbed(name, folder)
        problems += wrong
        print(f"{name}: {usual.seconds:.1f} s computed and {usual.operations} file operations undisturbed", flush=True)
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
        before = ended_children_computed()
        process, operations = run(name, own)
        wait_until(lambda operations=operations: operations.read()[0], process)
        to_first = computed(process) if process.exitcode is None else 0.0
        finish(process)
        seconds = ended_children_computed() - before
        if process.exitcode != 0:
            raise SystemExit(f"{name}: exit code {process.exitcode}, see {own}.log")
        found.append(Usual(disturbed.call(what_is_left, own), to_first, seconds, operations.read()[0]))
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
            if settings.fault in ("term", "int", "full", "together") and fault.temporary_files:
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
    began, at, other = time.monotonic(), int(rng.integers(1, usual.operations + 1)), None
    if way == "operations":
        process, operations = run(name, own, Fault(fault, at))
        finish(process)
        signalled = time.monotonic()
    else:
        process, operations = run(name, own)
        if way == "between":
            wait_until(lambda: operations.read()[0] >= at, process)
            process.join(rng.uniform(0, 0.3))
        else:
            moment = rng.uniform(0 if fault == "together" else usual.to_first, usual.seconds)
            wait_until(lambda: computed(process) >= moment, process)
        signalled = time.monotonic()
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
    return Disturbed(name, way, signalled - began, last, code, ended - signalled, len(leftovers(own))), code


def wait_until(condition: Callable[[], bool], process) -> None:
    """Until it holds, or the process has ended."""
    while process.exitcode is None and not condition():
        process.join(0.005)


def computed(process) -> float:
    """Seconds that the threads of a process have computed, all together."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ended_children_computed() -> float:
    """Likewise of all processes that this one has started, when they have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def finish(process) -> int:
    """The exit code of a process that is to end by itself."""
    process.join(TOO_LONG)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def run(name: str, own: pathlib.Path, fault: Fault | None = None, devices: int = 1):
    return disturbed.start(name, argv(name, own), own, own.with_suffix(".log"), fault, devices)


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


def on_devices(name: str, counts: list[int], folder: pathlib.Path) -> tuple[list[dict], list[str]]:
    """Rows that tell how far numbers are from those on the first number of devices; what else is not the same."""
    rows, problems, measure = [], [], None
    for count in counts:
        own = folder / f"{name}-{count}-devices"
        begin_folder(name, own, folder)
        if code := finish(run(name, own, devices=count)[0]):
            raise SystemExit(f"{name}: exit code {code}, see {own}.log")
        arrays, tables, rest = sorted_out(disturbed.call(what_is_left, own))
        measure = measure or (arrays, tables, rest)
        row = {"command": name, "devices": count}
        for kind, ours, theirs in (("arrays", arrays, measure[0]), ("tables", tables, measure[1])):
            if {key: array.shape for key, array in ours.items()} != {key: array.shape for key, array in theirs.items()}:
                problems.append(f"{own.name}: other {kind} than on {counts[0]}")
                continue
            apart = np.concatenate([distance(ours[key], theirs[key]).ravel() for key in ours] or [np.zeros(0)])
            row |= {f"numbers in {kind}": apart.size, f"that differ ({kind})": np.count_nonzero(apart)}
            row |= {f"by at most ({kind})": f"{apart.max(initial=0):.1g}"}
        problems += differences(f"{own.name} and {counts[0]}", rest, measure[2])
        rows.append(row)
    return rows, problems


def sorted_out(left: dict[str, np.ndarray | str]) -> tuple[dict, dict, dict]:
    """Return the arrays, the columns of numbers in tables, and the rest; of conclusions only that they exist."""
    arrays, tables, rest = {}, {}, {}
    for name, value in left.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            arrays[name] = value
        elif name.endswith(".csv"):
            for column, values in pd.read_csv(io.StringIO(value)).items():
                if values.dtype.kind == "f":
                    tables[f"{name}: {column}"] = values.to_numpy()
                else:
                    rest[f"{name}: {column}"] = values.to_csv()
        else:
            rest[name] = value if isinstance(value, np.ndarray) else "there"
    return arrays, tables, rest


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Entry by entry; none between two NaN, infinitely much between NaN and a number."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(one.astype(np.float64) - other)
    return np.where(np.isnan(one) & np.isnan(other) | (one == other), 0, np.nan_to_num(apart, nan=np.inf))


def what_is_left(folder: pathlib.Path) -> dict[str, np.ndarray | str]:
    """Return the contents of a run folder by name: weights, arrays, the text of tables, conclusions, names of files."""
    import jax

    from experiments import summary
    from symjax import zoo
    from symjax.ops import files

    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if any(part.startswith("epoch-") for part in path.parts):  # inside a checkpoint: compared by what is loaded
            continue
        if path.suffix == ".npz":
            found |= {f"{name}: {key}": array for key, array in files.read_npz(path).items()}
        elif path.suffix == ".csv":
            found[name] = path.read_text()
        elif path.name == summary.SUMMARY:
            document = files.read_json(path)
            found[name] = json.dumps([document[key] for key in ("title", "conclusion", "tables", "figures")])
        else:
            found[name] = "there"
    for config in sorted(folder.rglob("config.json")):
        if files.read_json(config)["kind"] == "zoo":
            trained = zoo.load(config.parent)
            name = str(config.parent.relative_to(folder))
            for path, leaf in jax.tree.leaves_with_path(trained.members):
                for seed, array in zip(trained.seeds, leaf, strict=True):
                    found[f"{name}: seed {seed}{jax.tree_util.keystr(path)}"] = np.asarray(array)
    return found


def differences(name: str, one: dict[str, np.ndarray | str], other: dict[str, np.ndarray | str]) -> list[str]:
    """What is not the same in both, bit by bit, one line each."""

    def bits(value: np.ndarray | str | None):
        return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value

    keys = sorted(one.keys() | other.keys())
    return [f"{name}: {key} differs" for key in keys if bits(one.get(key)) != bits(other.get(key))]


if __name__ == "__main__":
    main(tyro.cli(Settings, description=sys.modules[__name__].__doc__))
