"""Everything to know of an accelerator, within the given time, most important first.

    python -m benchmarks.gpu --minutes 8 --out gpu-results
    python -m benchmarks.gpu --minutes 3 --out again --steps zoo,measures
    python -m benchmarks.gpu --rehearse --out rehearsal        # every step at toy size, on the CPU

Each step runs in a process of its own; what it has not used of its share is for the steps behind it. After every step
results.json and table.md are written; the table is printed last. docs/gpu.md says what is measured and how.
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
    """Settings of the steps: one cache of compiled programs, and device memory that PyTorch finds some of, too."""
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
    parser.add_argument("--minutes", type=float, default=8, help="of the whole (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--rehearse", action="store_true", help="every step at toy size, on the CPU")
    parser.add_argument("--steps", default=",".join(names), help="with commas between (default: all)")
    parser.add_argument("--cache", help="folder of compiled programs to keep; by default a new one, which is deleted")
    args = parser.parse_args()
    chosen = args.steps.split(",")
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"--steps: got {', '.join(unknown)}; known: {', '.join(names)}")
    if not args.minutes > 0:
        parser.error(f"--minutes: got {args.minutes}, must be positive")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the step that runs is killed, too
    steps = [step for step in STEPS if step.name in chosen]
    with tempfile.TemporaryDirectory(prefix="symjax-gpu-") as folder:
        cache = str(Path(args.cache).resolve()) if args.cache else folder
        out = args.out.resolve()
        settings = environment(cache, args.rehearse)
        rows = run(steps, 60 * args.minutes, out, rehearse=args.rehearse, environment=settings)
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
