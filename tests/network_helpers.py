"""Networks of each kind that the tests of networks share."""

from functools import partial

import flax.linen as nn
import jax
from flax import nnx

from symjax.network import stitch_point

KEY = jax.random.key(0)
IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))


class CNN(nnx.Module):
    """Stock batch norms, dropout and a residual add."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(8, 8, (3, 3), strides=2, rngs=rngs)
        self.shortcut = nnx.Conv(8, 8, (1, 1), strides=2, rngs=rngs)
        self.norm1, self.norm2 = nnx.BatchNorm(8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x):
        x = stitch_point(nnx.relu(self.norm1(self.conv1(x))), "relu1")
        skip = self.shortcut(x)
        branch = stitch_point(nnx.relu(self.norm2(self.conv2(x))), "branch")
        x = stitch_point(self.dropout(branch + skip), "sum")
        return self.head(x.mean((1, 2)))


class LinenResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        x = stitch_point(nn.relu(norm()(nn.Conv(8, (3, 3))(x))), "stem")
        for i in range(2):
            branch = stitch_point(nn.relu(norm()(nn.Conv(8, (3, 3))(x))), f"block{i}*")
            x = stitch_point(nn.relu(x + norm()(nn.Conv(8, (3, 3))(branch))), f"block{i}")
        return nn.Dense(5)(x.mean((1, 2)))


def drawn(network):
    """Return a member, drawn by one compiled program; otherwise each operation would be compiled alone."""
    return jax.jit(network.init)(KEY)
