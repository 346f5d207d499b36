"""Time `calibrate` with 200 permutations, relative to one evaluation of the measure.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.permutations

Both run in turn, on independent normal data, and medians are printed. Compilation is excluded. Times are CPU times of
all threads on a CPU, which depend little on other work of the machine, and wall times on other devices.
"""

import argparse
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from symjax.similarity import MEASURES, calibrate

SIZES = ((2000, 64), (1000, 128), (5000, 256))  # examples, neurons of each side
EVALUATIONS = 5  # in each turn, of which the fastest counts


def seconds(thunk):
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    start = clock()
    jax.block_until_ready(thunk())
    return clock() - start


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.permutations", description="Time calibrate.")
    parser.add_argument("--permutations", type=int, default=200)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--measures", nargs="+", default=["cka", "cca", "procrustes"], choices=list(MEASURES))
    args = parser.parse_args()

    warnings.simplefilter("ignore")
    key = jax.random.key(0)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}; {args.permutations} permutations")
    for n, d in SIZES:
        x, y = (jnp.asarray(side) for side in np.random.default_rng(0).standard_normal((2, n, d), np.float32))
        for name in args.measures:

            def evaluate(fn=MEASURES[name].fn, x=x, y=y):
                return fn(x, y)

            def permute(name=name, x=x, y=y):
                return calibrate(name, x, y, key, args.permutations).values

            evaluate(), permute()  # compile
            times = [(min(seconds(evaluate) for _ in range(EVALUATIONS)), seconds(permute)) for _ in range(args.turns)]
            one, all_permuted = np.median(times, 0)
            print(
                f"{n} x {d}  {name:<24}one {1e3 * one:7.2f} ms   calibrate {1e3 * all_permuted:7.1f} ms"
                f"   {all_permuted / one:6.1f} evaluations",
                flush=True,
            )


if __name__ == "__main__":
    main()
