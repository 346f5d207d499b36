"""Time `pairwise` on all layers of all models of a zoo, and a double loop over the function of a single pair.

    python -m benchmarks.pairwise                     # 16 models, 4 layers, 500 examples
    taskset -c 0 python -m benchmarks.pairwise        # on one core
    OPENBLAS_NUM_THREADS=1 python -m benchmarks.pairwise --widths 20 400

Representations are random, with the shapes of a Myrtle CNN after each ReLU. The loop computes every `--every`-th pair
for each combination of two layers, and its time is scaled to all pairs. Compilation is excluded. Times are CPU times of
all threads on a CPU, which depend little on other work of the machine, and wall times on other devices.

With `--widths`, Procrustes distances of 20 networks whose widths lie between these two, 200 examples, and a loop over
`numpy.linalg.svd`. The first time includes compilation.
"""

import argparse
import os
import time
from itertools import combinations, combinations_with_replacement, product

import jax
import numpy as np

from symjax.models import create
from symjax.similarity import MEASURES, pairwise

CONTESTS = {"cka": {}, "cca": {"samples": "pool"}, "wreath_procrustes": {}}
SIZES = (32, 32, 16, 8)  # size of the feature maps at the stitch points


def representations(models, examples, width):
    """Return random rectified representations: common signals, mixed differently for each model, plus noise."""
    rng = np.random.default_rng(0)
    points = create("mcnn", width=width).points
    layers = {}
    for point, size in zip(points, SIZES, strict=True):
        common = rng.standard_normal((examples, size, size, point.channels), np.float32)
        layer = np.empty((models, *common.shape), np.float32)
        for model in range(models):
            mixed = common @ rng.standard_normal((point.channels, point.channels), np.float32) / point.channels**0.5
            layer[model] = np.maximum(mixed + 0.5 * rng.standard_normal(common.shape, np.float32), 0)
        layers[point.name] = layer
    return layers


def seconds(thunk):
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    start = clock()
    result = thunk()
    return clock() - start, result


def loop(measure, options, zoo, every):
    """Return the time of a loop over all pairs, scaled from a part of them, and the values of these pairs."""
    fn, total, values = MEASURES[measure].fn, 0.0, {}
    models = len(next(iter(zoo.values())))
    for a, b in combinations_with_replacement(zoo, 2):
        pairs = [(i, j) for i, j in product(range(models), repeat=2) if a != b or i <= j]
        subset = pairs[::every]
        fn(zoo[a][0], zoo[b][0], **options).block_until_ready()  # compiles
        spent, results = seconds(
            lambda a=a, b=b, subset=subset: [float(fn(zoo[a][i], zoo[b][j], **options)) for i, j in subset]
        )
        total += spent * len(pairs) / len(subset)
        values.update({(a, i, b, j): value for (i, j), value in zip(subset, results, strict=True)})
    return total, values


def compare_widths(narrowest, widest, models=20, examples=200):
    rng = np.random.default_rng(0)
    common = rng.standard_normal((examples, 10), np.float32)
    networks = {}
    for width in np.linspace(narrowest, widest, models).round().astype(int):
        noise = rng.standard_normal((examples, width), np.float32)
        networks[f"width {width}"] = {"layer": common @ rng.standard_normal((10, width), np.float32) + noise}
    sides = [layers["layer"] for layers in networks.values()]
    first, _ = seconds(lambda: pairwise(networks, "procrustes_distance"))
    turns = [
        (*seconds(lambda: pairwise(networks, "procrustes_distance")), *seconds(lambda: procrustes_loop(sides)))
        for _ in range(5)
    ]
    spent, looped = (np.median([turn[place] for turn in turns]) for place in (0, 2))
    worst = np.abs(turns[0][1].values[0, :, 0] - turns[0][3]).max()
    print(
        f"{models} networks of {narrowest} to {widest} neurons: pairwise {spent:.3f} s (the first time {first:.2f} s)"
        f"   loop {looped:.3f} s   {looped / spent:.2f} times   largest difference {worst:.1e}"
    )


def procrustes_loop(sides):
    units = [side / np.linalg.norm(side) for side in sides]
    values = np.zeros((len(units), len(units)))
    for i, j in combinations(range(len(units)), 2):
        total = np.linalg.svd(units[i].T @ units[j], compute_uv=False).sum()
        values[i, j] = values[j, i] = max(2 - 2 * total, 0) ** 0.5
    return values


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairwise", description="Time all pairs of a zoo.")
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--every", type=int, default=40)
    parser.add_argument("--measures", nargs="+", default=list(CONTESTS), choices=CONTESTS)
    parser.add_argument("--widths", type=int, nargs=2)
    args = parser.parse_args()
    if args.widths:
        return compare_widths(*args.widths)

    zoo = representations(args.models, args.examples, args.width)
    count = args.models * len(zoo) * (args.models * len(zoo) + 1) // 2
    cores = len(os.sched_getaffinity(0))
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {cores} cores; {count} pairs")
    for measure in args.measures:
        options = CONTESTS[measure]
        first, _ = seconds(lambda measure=measure, options=options: pairwise(zoo, measure, **options))
        spent, result = seconds(lambda measure=measure, options=options: pairwise(zoo, measure, **options))
        looped, values = loop(measure, options, zoo, args.every)
        worst = max(
            abs(result.select(layer_a=a, model_a=i, layer_b=b, model_b=j) - value)
            for (a, i, b, j), value in values.items()
        )
        print(
            f"{measure:<20}pairwise {spent:8.2f} s (the first time {first:.2f} s)   loop {looped:8.1f} s"
            f"   {looped / spent:6.1f} times   largest difference {worst:.1e} of {len(values)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
