"""Steps, each in a process of its own with its own limit of time; what they find is written after every step."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.report import Report, read, table, write

ROOT = Path(__file__).parents[2]
KEPT_BACK = 3.0  # seconds of the whole for what comes between and after the steps


@dataclass(frozen=True)
class Step:
    """A module with a function `run(report)`, and its share of the time: what it leaves is for those that follow."""

    name: str
    module: str
    share: float


def run(
    steps: Sequence[Step], seconds: float, out: Path, *, rehearse: bool = False, environment: Mapping[str, str] = {}
) -> list[dict]:
    """Runs the steps in order within so many seconds; the rows of the table, those of earlier runs of other steps too.

    Writes into `out`: rows.jsonl, results.json, table.md and log.txt.
    """
    end = time.monotonic() + seconds - KEPT_BACK
    out.mkdir(parents=True, exist_ok=True)
    path, again = out / "rows.jsonl", {step.name for step in steps}
    kept = [row for row in read(path) if row["step"] not in again]
    write(path, "".join("\n" + json.dumps(row) for row in kept))
    with (out / "log.txt").open("ab") as log:
        for number, step in enumerate(steps):
            left = end - time.monotonic()
            limit = left * step.share / sum(later.share for later in steps[number:])
            began = time.monotonic()
            outcome = _run_step(step, limit, path, log, rehearse, environment) if limit >= 1 else "no time was left"
            spent = time.monotonic() - began
            Report(step.name, path, end).row("whole step", spent, "s", f"{outcome}; limit {limit:.0f} s")
            _write(out, read(path))
    return read(path)


def _run_step(step: Step, limit: float, path: Path, log, rehearse: bool, environment: Mapping[str, str]) -> str:
    """Runs one step and kills it with its children at its limit; how it ended, in words."""
    log.write(f"\n==== {step.name}, {limit:.0f} s ====\n".encode())
    log.flush()
    command = [sys.executable, "-m", "benchmarks.gpu.child", step.module, step.name, str(path), f"{limit:.3f}"]
    process = subprocess.Popen(
        [*command, *(["--rehearse"] if rehearse else [])],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        process_group=0,  # not a session: whoever kills this one's session kills the step too
    )
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"killed at its limit of {limit:.0f} s"
    finally:  # what it has left behind, too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return "done" if code == 0 else f"failed (exit code {code})"


def _write(out: Path, rows: Sequence[dict]) -> None:
    write(out / "results.json", json.dumps(rows, indent=1) + "\n")
    write(out / "table.md", table(rows))
