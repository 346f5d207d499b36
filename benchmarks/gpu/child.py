"""Run one step in this process: `python -m benchmarks.gpu.child MODULE STEP ROWS SECONDS [--rehearse]`."""

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

from benchmarks.gpu.report import Report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("step")
    parser.add_argument("rows", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    report = Report(args.step, args.rows, time.monotonic() + args.seconds, args.rehearse)
    importlib.import_module(args.module).run(report)
    sys.stdout.flush()
    os._exit(0)  # without waiting for threads that compile


if __name__ == "__main__":
    main()
