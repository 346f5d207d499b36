"""Run steps in separate processes with time limits, and write the results after every step."""

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
RESERVED = 3.0  # seconds for the time between and after the steps


@dataclass(frozen=True)
class Step:
    """A module with a function `run(report)`, and its share of the time; unused time goes to the following steps."""

    name: str
    module: str
    share: float


def run(
    steps: Sequence[Step], seconds: float, out: Path, *, rehearse: bool = False, environment: Mapping[str, str] = {}
) -> list[dict]:
    """Run the steps in order within `seconds`; return all rows, including those of other steps from earlier runs.

    Writes rows.jsonl, results.json, table.md and log.txt to `out`.
    """
    end = time.monotonic() + seconds - RESERVED
    out.mkdir(parents=True, exist_ok=True)
    path, names = out / "rows.jsonl", {step.name for step in steps}
    kept = [row for row in read(path) if row["step"] not in names]
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
    """Run one step, kill it with its children at its limit, and return how it ended as text."""
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
        process_group=0,  # not a new session, so that killing the session of this process kills the step, too
    )
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"killed at its limit of {limit:.0f} s"
    finally:  # also kill processes that the step has left
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return "done" if code == 0 else f"failed (exit code {code})"


def _write(out: Path, rows: Sequence[dict]) -> None:
    write(out / "results.json", json.dumps(rows, indent=1) + "\n")
    write(out / "table.md", table(rows))
