"""Time `match` on all pairs of a zoo and `barrier`, beside loops in NumPy and SciPy and in plain Flax.

    python -m benchmarks.alignment                    # 8 Myrtle CNNs of width 64, 25 positions
    python -m benchmarks.alignment --width 16 --positions 5

The networks are trained on digits for `--epochs`. The loop over pairs is the published weight matching (Ainsworth et
al. 2023): each pair on its own, from the identity, in sweeps of random order until none changes. The loop over
positions calls compiled functions of the stock Flax module: batch statistics in the mode of training, and evaluations
on training and test images. Times are processor seconds of all threads and seconds of the wall; compilation is
excluded.
"""

import argparse
import os
import time
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from symjax import zoo
from symjax.alignment import barrier, interpolate, match
from symjax.data import load, normalize
from symjax.models import create
from symjax.models.myrtle import Myrtle
from symjax.ops import parallel

BATCH = 256


def weight_matching(rng, axes, sizes, a, b):
    """Return the permutations of b that bring it to a, by sweeps of linear assignments."""
    from scipy.optimize import linear_sum_assignment

    order = {space: np.arange(size) for space, size in sizes.items()}
    changed = True
    while changed:
        changed = False
        for space in rng.permutation(list(axes)):
            products = np.zeros((sizes[space], sizes[space]))
            for path, axis in axes[space]:
                moved = permuted(axes, order, path, b[path], axis)
                x, y = (np.moveaxis(leaf, axis, 0).reshape(sizes[space], -1) for leaf in (a[path], moved))
                products += x @ y.T
            columns = linear_sum_assignment(products, maximize=True)[1]
            rows = np.arange(sizes[space])
            changed |= bool(products[rows, columns].sum() > products[rows, order[space]].sum() + 1e-12)
            order[space] = columns
    return order


def permuted(axes, order, path, leaf, but=None):
    for space, held in axes.items():
        for name, axis in held:
            if name == path and axis != but:
                leaf = np.take(leaf, order[space], axis)
    return leaf


def matching(network, members, count):
    """Return {name: function} of all pairs: the loop for each dtype, and `match`. They return mean objectives."""
    symmetry = network.symmetry(parallel.take(members, 0), np.zeros((2, *network.example.shape[1:]), np.float32))
    sizes = {name: space.size for name, space in symmetry.spaces.items()}
    axes = {
        name: [(axis.path, axis.axis) for axis in space.axes if axis.path.startswith("params/")]
        for name, space in symmetry.spaces.items()
    }
    paths = {path for held in axes.values() for path, _ in held}
    pairs = np.array(list(combinations(range(count), 2)))

    def loop(dtype):
        leaves = dict(zip(symmetry.shapes, jax.tree.leaves(members), strict=True))
        leaves = {path: np.asarray(leaves[path], dtype) for path in paths}
        networks = [{path: leaf[i] for path, leaf in leaves.items()} for i in range(count)]
        rng, orders = np.random.default_rng(0), []
        for i, j in pairs:
            orders.append(weight_matching(rng, axes, sizes, networks[i], networks[j]))
        return lambda: [
            sum(((networks[i][p] - permuted(axes, order, p, networks[j][p])) ** 2).sum() for p in paths)
            for (i, j), order in zip(pairs, orders, strict=True)
        ]

    a, b = (parallel.take(members, pairs[:, side]) for side in (0, 1))

    def all_pairs():
        _, info = match(network, a, b)
        return lambda: info.objective[:, -1]

    return {"float64 loop": lambda: loop(np.float64), "float32 loop": lambda: loop(np.float32), "match": all_pairs}


def lines(network, a, b, dataset, width, positions):
    """Return {name: function} of the line from a to b: the loop, and `barrier`. They return mean test losses."""
    module = Myrtle(width=width, channels=1, rngs=nnx.Rngs(0))
    graph, params, state = nnx.split(module, nnx.Param, ...)
    filled = [
        [jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(part)) for like, part in zip(*parts, strict=True)]
        for parts in (((params, state), (member.params, member.state)) for member in (a, b))
    ]
    ends, state = [params for params, _ in filled], filled[0][1]

    def batches(split, end):
        x = normalize(split.images[:end], dataset.mean, dataset.std)
        y = split.labels[:end]
        return [(jnp.asarray(x[i : i + BATCH]), jnp.asarray(y[i : i + BATCH])) for i in range(0, len(x), BATCH)]

    train, test = batches(dataset.train, len(dataset.train) // BATCH * BATCH), batches(dataset.test, None)

    @jax.jit
    def moments(params, state, x):
        module = nnx.merge(graph, params, state)
        module.train(), module.set_attributes(momentum=0.0)
        module(x)
        return nnx.split(module, nnx.Param, ...)[2]

    @jax.jit
    def evaluate(params, state, x, y):
        module = nnx.merge(graph, params, state)
        module.eval()
        logits = module(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).sum(), (logits.argmax(-1) == y).sum()

    def loop():
        losses = []
        for t in np.linspace(0, 1, positions):
            params = interpolate(*ends, t)
            own = [moments(params, state, x) for x, _ in train]
            own = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *own)
            for part in (train, test):
                scores = [evaluate(params, own, x, y) for x, y in part]
                loss = sum(float(loss) for loss, _ in scores) / sum(len(y) for _, y in part)
            losses.append(loss)
        return lambda: losses

    def together():
        line = barrier(network, a, b, dataset, positions)
        return lambda: line.test_loss

    return {"loop": loop, "barrier": together}


def report(functions, repeats):
    """Print the median times of functions that run in turn, and the mean of what they return."""
    times = {name: [] for name in functions}
    values = {name: np.mean(fn()()) for name, fn in functions.items()}  # compiles
    for _ in range(repeats):
        for name, fn in functions.items():
            start = time.process_time(), time.perf_counter()
            fn()
            times[name].append((time.process_time() - start[0], time.perf_counter() - start[1]))
    for name, value in values.items():
        processor, wall = np.median(times[name], 0)
        print(
            f"  {name:13} {processor:8.3f} s of the processor, {wall:8.3f} s of the wall; mean {value:.6g}", flush=True
        )


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alignment", description="Time match and barrier.")
    parser.add_argument("--networks", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--positions", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    dataset = load("digits", image_size=16)
    network = create("mcnn", width=args.width, image_size=16, channels=1)
    members = zoo.train(network, dataset, seeds=range(args.networks), epochs=args.epochs).members
    a, b = (parallel.take(members, i) for i in (0, 1))
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} cores")
    print(f"all pairs of {args.networks} Myrtle CNNs of width {args.width}: mean objective")
    report(matching(network, members, args.networks), args.repeats)
    images = f"{len(dataset.train) // BATCH * BATCH} training and {len(dataset.test)} test images"
    forward = jax.jit(network.apply).lower(a, np.zeros((BATCH, 16, 16, 1), np.float32)).compile().cost_analysis()
    print(
        f"{args.positions} positions, {images}, {forward['flops'] / BATCH / 1e6:.2f} million operations for each image"
    )
    report(lines(network, a, b, dataset, args.width, args.positions), args.repeats)


if __name__ == "__main__":
    main()
