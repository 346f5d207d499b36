"""Training steps of networks of stock Flax layers in a `lax.scan`, as they are and rewritten: milliseconds of a step.

    python -m benchmarks.rewrite                          # both networks; the native form takes minutes
    python -m benchmarks.rewrite --forms mixed --models resnet20

CPU time of all threads, contestants in turn, the best of the turns: see `symjax.network.rewrite.TABLE` for what is
replaced. Width 16, batches of 32 images of 32 x 32 pixels. On 2 cores (AVX-512), shared with other work:

    myrtle      native 2082 ms, matmul 68, mixed 54 (symjax's own layers before, in turn with it: 54.5)
    myrtle      mixed with use_fast_variance=True: 51.7 ms
"""

import argparse
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from benchmarks.layers import STEPS, best_seconds, blocking, cross_entropy
from symjax.network import rewrite
from symjax.ops.compiler import compiler_options
from symjax.ops.parallel import FORMS

BATCH_SIZE = 32


class Myrtle(nnx.Module):
    """Four convolutions, each after the first followed by a maximum over 2 x 2 pixels."""

    def __init__(self, width, rngs):
        widths = [3, width, 2 * width, 4 * width, 8 * width]
        self.layers = nnx.List([_normed_conv(a, b, 1, rngs) for a, b in pairwise(widths)])
        self.head = nnx.Linear(widths[-1], 10, rngs=rngs)

    def __call__(self, x):
        for i, layer in enumerate(self.layers):
            x = nnx.relu(layer(x))
            x = nnx.max_pool(x, (2, 2), (2, 2)) if i else x
        return self.head(x.max((1, 2)))


class ResNet20(nnx.Module):
    """Three groups of three residual blocks, the later groups begin with strided convolutions."""

    def __init__(self, width, rngs):
        widths = [width] * 4 + [2 * width] * 3 + [4 * width] * 3
        self.first = _normed_conv(3, width, 1, rngs)
        self.blocks = nnx.List([Block(a, b, rngs) for a, b in pairwise(widths)])
        self.head = nnx.Linear(widths[-1], 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.first(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class Block(nnx.Module):
    def __init__(self, features_in, features_out, rngs):
        stride = features_out // features_in
        self.first = _normed_conv(features_in, features_out, stride, rngs)
        self.second = _normed_conv(features_out, features_out, 1, rngs)
        self.shortcut = nnx.Conv(features_in, features_out, (1, 1), strides=stride, rngs=rngs) if stride > 1 else None

    def __call__(self, x):
        out = self.second(nnx.relu(self.first(x)))
        return nnx.relu(out + (x if self.shortcut is None else self.shortcut(x)))


def _normed_conv(features_in, features_out, stride, rngs):
    shape = {"strides": stride, "padding": ((1, 1), (1, 1)), "use_bias": False}
    conv = nnx.Conv(features_in, features_out, (3, 3), **shape, rngs=rngs)
    return nnx.Sequential(conv, nnx.BatchNorm(features_out, use_fast_variance=False, rngs=rngs))


MODELS = {"myrtle": Myrtle, "resnet20": ResNet20}


def training(module: nnx.Module, form: str, images: jax.Array):
    """Return a function that runs `STEPS` steps of SGD in one scan."""
    graph, params, others = nnx.split(module, nnx.Param, ...)
    closed, shapes = jax.make_jaxpr(lambda *args: _apply(graph, *args), return_shape=True)(params, others, images[0])
    labels = jnp.arange(images.shape[1]) % 10

    def step(variables, x):
        params, others = variables

        def loss(params):
            results = rewrite.evaluate(closed, jax.tree.leaves((params, others, x)), form)
            logits, moved = jax.tree.unflatten(jax.tree.structure(shapes), results)
            return cross_entropy(logits, labels), moved

        (value, others), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return (jax.tree.map(lambda a, b: a - 0.01 * b, params, gradient), others), value

    program = jax.jit(lambda variables, images: lax.scan(step, variables, images), compiler_options=compiler_options())
    return blocking(program, (params, others), images)


def _apply(graph, params, others, x):
    module = nnx.merge(graph, params, others)
    module.train()
    return module(x), nnx.split(module, nnx.Param, ...)[2]


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rewrite", description="Time rewritten networks.")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    images = jax.random.normal(jax.random.key(0), (STEPS, BATCH_SIZE, 32, 32, 3))
    for name in args.models:
        thunks = {form: training(MODELS[name](16, nnx.Rngs(0)), form, images) for form in args.forms}
        for form, seconds in best_seconds(thunks, args.turns).items():
            print(f"{name:<12}{form:<10}{seconds / STEPS * 1e3:9.1f} ms", flush=True)


if __name__ == "__main__":
    main()
