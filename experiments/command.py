"""Run a command: parse its flags, save and print its summary, and turn errors into messages and exit codes."""

import contextlib
import dataclasses
import errno
import gc
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro

from experiments import summary
from experiments.programs import keep_programs
from experiments.summary import Summary
from symjax.errors import InputError
from symjax.ops import hosts, interruption, memory, parallel, runs

# Errors of the file system that a user can correct, by freeing space or permissions, or by another name.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
NAME_ERRORS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)
Settings = TypeVar("Settings")


class DryRunReport(Exception):
    """Raised to end a dry run; the message is the report to print."""


def run_command(main: Callable[[Settings], Summary | None], settings: type[Settings], argv: list[str] | None = None):
    """Run `main` with the settings of the command line, and print and save the summary that it returns.

    Wrong input prints one line on stderr and exits with code 2, an interruption with code 130, a SIGTERM with code 143.
    Completed work is saved before that (`symjax.ops.interruption`); a second signal ends the process at once.
    """
    began = time.monotonic()
    module = sys.modules[main.__module__]
    name = f"experiments.{Path(module.__file__).stem}"  # __name__ is "__main__", and a script has no __spec__
    parsed = tyro.cli(settings, args=argv, prog=f"python -m {name}", description=module.__doc__)
    if not gc.isenabled():  # as `experiments` leaves it in a command
        gc.freeze()  # what is imported stays
        gc.enable()
    try:
        parallel.use_cores()
        keep_programs()
        _check_dry_run(parsed)
        if getattr(parsed, "distributed", False):
            hosts.initialize()
        with compilation() as intervals, interruption.interruptible(), hosts.job():
            try:
                result = main(parsed)
            except DryRunReport as report:
                result = None
                if hosts.is_first():
                    print(report)
            if result is not None:
                _save(result, name, sys.argv[1:] if argv is None else argv, time.monotonic() - began)
        if intervals and hosts.is_first():
            print(f"tracing and compiling took {covered(intervals):.0f} s", file=sys.stderr)
    except InputError as error:
        print(f"error: {_with_flag(str(error), settings)}", file=sys.stderr)
        raise SystemExit(2) from None
    except jax.errors.JaxRuntimeError as error:
        if (advice := memory.advice(error)) is None:
            raise
        print(f"error: {advice}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in (*DISK_ERRORS, *NAME_ERRORS):
            raise
        where = f"{error.filename}: " if error.filename else ""
        advice = "run the same command again to continue from the saved state"
        if error.errno in NAME_ERRORS:
            where, advice = f"folder or file: {where}", "take another name"
        print(f"error: {where}{error.strerror}; {advice}", file=sys.stderr)
        raise SystemExit(2) from None
    except interruption.Interrupted as ended:
        print(ended, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.exit_code)  # a normal exit would wait for running computations
    except KeyboardInterrupt:
        print(f"interrupted; {interruption.MESSAGE}", file=sys.stderr)
        raise SystemExit(130) from None


def _with_flag(message: str, settings: type) -> str:
    """Return a message "seeds: got ..." as "--seeds: got ..." where a setting has this name."""
    name, colon, rest = message.partition(":")
    field = next((field for field in dataclasses.fields(settings) if field.name == name), None)
    is_flag = field is not None and tyro.conf.Positional not in getattr(field.type, "__metadata__", ())
    return f"--{name.replace('_', '-')}{colon}{rest}" if is_flag else message


def _check_dry_run(settings: Any) -> None:
    """Raise an InputError for a dry run with several processes; each would report its own devices only."""
    if getattr(settings, "dry_run", False) and getattr(settings, "distributed", False):
        raise InputError(
            "dry_run: got --dry-run with --distributed, expected one of them; a dry run on one host estimates the time "
            "on 1, 8 and 64 devices"
        )


def _save(result: Summary, name: str, argv: list[str], seconds: float) -> None:
    """Write and print the summary of the command `name`."""
    run = {"experiment": name.rpartition(".")[2], "command": shlex.join(["python", "-m", name, *map(str, argv)])}
    summary.write(dataclasses.replace(result, **run, seconds=seconds, versions=runs.versions()))
    print(f"\n{result.text()}")


@contextlib.contextmanager
def compilation() -> Iterator[list[tuple[float, float]]]:
    """Record when JAX traces and compiles within the context: (begin, end) in seconds, program by program."""
    intervals: list[tuple[float, float]] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            end = time.monotonic()
            intervals.append((end - duration, end))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield intervals
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals: threads compile at the same time, and traces are nested."""
    total, last = 0.0, -math.inf
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, last))
        last = max(last, end)
    return total
