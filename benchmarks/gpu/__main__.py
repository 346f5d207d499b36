"""Run all benchmarks of an accelerator within the given time, the most important ones first.

    python -m benchmarks.gpu --minutes 8 --out gpu-results
    python -m benchmarks.gpu --minutes 3 --out again --steps zoo,measures
    python -m benchmarks.gpu --rehearse --out rehearsal        # all steps at toy size, on the CPU

Each step runs in a separate process; time that it does not use is available to the following steps. After every step
results.json and table.md are written; the table is printed at the end. docs/gpu.md describes the measurements.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.driver import Step, run
from benchmarks.gpu.report import table

STEPS = (
    Step("environment", "benchmarks.gpu.environment", 25),
    Step("correctness", "benchmarks.gpu.correctness", 85),
    Step("zoo", "benchmarks.gpu.zoo_step", 150),
    Step("stitching", "benchmarks.gpu.stitching", 100),
    Step("measures", "benchmarks.gpu.measures", 75),
    Step("cifar", "benchmarks.gpu.cifar", 45),
)


def environment(cache: str, rehearse: bool) -> dict[str, str]:
    """Return environment variables of the steps: a shared cache of programs, and memory settings that suit PyTorch."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "MPLBACKEND": "agg",
    }
    return settings | ({"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} if rehearse else {})


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [step.name for step in STEPS]
    parser.add_argument(
        "--minutes", type=float, default=8, help="time limit of all steps together (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--rehearse", action="store_true", help="run all steps at toy size, on the CPU")
    parser.add_argument("--steps", default=",".join(names), help="comma-separated names of steps (default: all)")
    parser.add_argument("--cache", help="folder for compiled programs (default: a temporary folder)")
    args = parser.parse_args()
    requested = args.steps.split(",")
    if unknown := [name for name in requested if name not in names]:
        parser.error(f"--steps: got {', '.join(unknown)}, expected some of {', '.join(names)}")
    if not args.minutes > 0:
        parser.error(f"--minutes: got {args.minutes}, expected a positive number")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running step is killed, too
    steps = [step for step in STEPS if step.name in requested]
    with tempfile.TemporaryDirectory(prefix="symjax-gpu-") as folder:
        cache = str(Path(args.cache).resolve()) if args.cache else folder
        out = args.out.resolve()
        settings = environment(cache, args.rehearse)
        rows = run(steps, 60 * args.minutes, out, rehearse=args.rehearse, environment=settings)
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
