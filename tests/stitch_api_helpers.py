"""Own modules and functions that tests of `symjax.stitch` share."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from symjax import Network, stitch_point

ONE = {"devices": jax.devices()[:1], "epochs": 1, "batch_size": 12, "eval_batch_size": 20, "validation": 0.2}


class MLP(nnx.Module):
    """An ordinary Flax NNX module."""

    def __init__(self, width, rngs):
        self.first = nnx.Linear(5, width, rngs=rngs)
        self.second = nnx.Linear(width, width + 1, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(width + 1, 3, rngs=rngs)

    def __call__(self, x):
        x = stitch_point(nnx.relu(self.first(x)), "relu1")
        x = stitch_point(nnx.relu(self.second(x)), "relu2")
        return self.last(self.drop(x))


class CNN(nnx.Module):
    """Feature maps of half the size where the stride is 2."""

    def __init__(self, width, stride, rngs):
        self.conv = nnx.Conv(1, width, (3, 3), strides=stride, rngs=rngs)
        self.last = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        x = stitch_point(nnx.relu(self.conv(x)), "relu1")
        return self.last(x.mean(axis=(1, 2)))


def linear(weights, x):
    """A plain function."""
    hidden = stitch_point(jax.nn.relu(x @ weights["first"]), "relu1")
    return hidden @ weights["second"]


def residual(weights, x):
    """The skip of a block crosses at its inner point."""
    x = stitch_point(x @ weights["first"], "stem")
    inner = stitch_point(jax.nn.relu(x @ weights["inner"]), "inner*")
    x = stitch_point(x + inner @ weights["back"], "block1")
    inner = stitch_point(jax.nn.relu(x @ weights["inner"]), "other*")
    return (x + inner @ weights["back"]) @ weights["last"]


def draw(seed, **shapes):
    rng = np.random.RandomState(seed)
    return {name: jnp.asarray(rng.randn(*s) / s[0] ** 0.5, jnp.float32) for name, s in shapes.items()}


def vectors(seed=0, n=60):
    x = np.random.RandomState(seed).randn(n, 5).astype(np.float32)
    return x, np.argmax(x[:, :3], axis=1)


def of_nnx(build, seed, shape, **options):
    network = Network.from_nnx(build, example=np.zeros((1, *shape), np.float32), **options)
    return network, network.init(jax.random.key(seed))


def of_function(function, weights, example):
    network = Network.from_function(function, weights, example=example)
    return network, network.member(weights)


@lru_cache
def planted():
    """(A, B, M): plain functions of one input-output map, of 4 and 6 hidden channels, with features y = M x."""
    a = draw(0, first=(5, 4), second=(4, 3))
    matrix = np.eye(4)[[2, 0, 1, 3, 0, 2]] * np.array([1, 2, 0.5, 1, 3, 1])[:, None]
    b = {"first": a["first"] @ matrix.T, "second": np.linalg.pinv(matrix.T) @ a["second"]}
    b = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), b)
    return (
        of_function(linear, a, np.zeros((1, 5), np.float32)),
        of_function(linear, b, np.zeros((1, 5), np.float32)),
        matrix,
    )


def squared(outputs, targets):
    return jnp.mean((outputs[:, 0] - targets) ** 2)


def closeness(outputs, targets):
    return -((outputs[:, 0] - targets) ** 2)
