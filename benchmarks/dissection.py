"""Measure the time of a dissection: 64 units on 2,000 composites, all 27 concepts, in one or several bases.

    python -m benchmarks.dissection
    python -m benchmarks.dissection --bases 11

The activations are random feature maps. They are dissected twice; the first time includes compilation. Printed are wall
time and processor time of all threads.
"""

import argparse
import os
import time

import jax
import numpy as np

from symjax.dissection import composites, dissect_activations, rotation_powers, special_orthogonal
from symjax.ops import parallel


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dissection", description="Time a dissection.")
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--bases", type=int, default=1)
    parser.add_argument("--pixels", type=int, default=6, help="height and width of the maps")
    args = parser.parse_args()

    parallel.use_cores()
    data, _ = composites("test", args.images)
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((1, args.images, args.pixels, args.pixels, args.units), np.float32)
    rotation = special_orthogonal(jax.random.key(0), args.units)
    bases = rotation_powers(rotation, np.linspace(0, 1, args.bases))
    cores = len(os.sched_getaffinity(0))
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {cores} cores")
    print(f"{args.units} units, {args.images} images, {len(data.names)} concepts, {args.bases} bases")
    for name in ("with compilation", "compiled"):
        wall, cpu = time.perf_counter(), time.process_time()
        dissect_activations(maps, data, bases=bases)
        print(f"{name:<18}{time.perf_counter() - wall:6.2f} s   {time.process_time() - cpu:6.2f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
