"""Convolution, batch normalisation and pooling, written for members that train side by side.

Rows are examples, channels come last. What differs from the layers of `flax.nnx` is deliberate:

* a convolution has a `method`, since XLA's own is slow under `vmap` over weights and inside loops (see `conv.py`);
* batch normalisation is told by its caller which statistics to use, so one module serves fronts, tails and zoos;
* max pooling is elementwise in both directions, an order of magnitude cheaper on a CPU (see `pool.py`).
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from symjax.network.low_rank import convolved
from symjax.network.operations.conv import FORMS as CONV_METHODS  # noqa: F401
from symjax.network.operations.conv import Form as ConvMethod  # noqa: F401
from symjax.network.operations.conv import conv2d as conv2d
from symjax.network.operations.pool import global_max_pool as global_max_pool
from symjax.network.operations.pool import global_mean_pool as global_mean_pool
from symjax.network.operations.pool import max_pool as max_pool
from symjax.network.operations.pool import overlapping_max_pool as overlapping_max_pool

NormMode = Literal["inference", "batch", "train", "moments"]


def he(fan_in: int, fan_out: int) -> float:
    """The variance of weights before a ReLU."""
    return 2 / fan_in


def glorot(fan_in: int, fan_out: int) -> float:
    """The variance of weights before a sigmoid."""
    return 2 / (fan_in + fan_out)


def lecun(fan_in: int, fan_out: int) -> float:
    """The variance of weights that keep their input's."""
    return 1 / fan_in


class Conv(nnx.Module):
    """A k x k convolution with normal weights, of features or low-rank ones; computes in the dtype of its input."""

    def __init__(self, features_in, features_out, *, kernel=3, stride=1, bias=False, variance=he, method, rngs):
        shape = (kernel, kernel, features_in, features_out)
        self.kernel = nnx.Param(rngs.normal(shape, variance(kernel**2 * features_in, kernel**2 * features_out)))
        self.bias = nnx.Param(jnp.zeros((features_out,), jnp.float32)) if bias else None
        self.stride, self.method = stride, method

    def __call__(self, x):
        convolution = partial(conv2d, stride=self.stride, method=self.method)
        x = convolved(convolution, x, self.kernel[...].astype(x.dtype))
        return x if self.bias is None else x + self.bias[...].astype(x.dtype)


class BatchNorm(nnx.Module):
    """Batch normalisation over examples and pixels: (x - mean) / sqrt(var + epsilon) * scale + bias.

    `mode` says which statistics are used and what becomes of the stored ones (population variances throughout):

    * "inference": the stored ones, left as they are;
    * "batch": the batch's own; the stored ones are left as they are;
    * "train": the batch's own; the stored ones move towards them by `1 - momentum`;
    * "moments": the batch's own; the stored ones become them (for an exact re-estimation by pooling batches).
    """

    def __init__(self, features, *, momentum=0.9, epsilon=1e-5):
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros((features,), jnp.float32))
        self.var = nnx.BatchStat(jnp.ones((features,), jnp.float32))
        self.momentum, self.epsilon = momentum, epsilon

    def __call__(self, x, mode: NormMode):
        if mode == "inference":
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = moments(x)
            if mode != "batch":
                # `set_value`: to assign to [...] searches the trace, quadratic time in all.
                keep = self.momentum if mode == "train" else 0.0
                self.mean.set_value(keep * self.mean[...] + (1 - keep) * lax.stop_gradient(mean))
                self.var.set_value(keep * self.var[...] + (1 - keep) * lax.stop_gradient(var))
        gain = self.scale[...] * lax.rsqrt(var + self.epsilon)
        offset = self.bias[...] - mean * gain
        return x * gain.astype(x.dtype) + offset.astype(x.dtype)


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and population variance of every channel (the last axis), in float32 at least.

    Sums are contractions, which XLA's CPU compiler runs several times faster than its reductions over leading axes.
    The variance is taken about the mean, so it loses nothing where the mean is large.
    """
    flat = x.reshape(-1, x.shape[-1])
    flat = flat if x.dtype.itemsize >= 4 else flat.astype(jnp.float32)
    weights = jnp.full((flat.shape[0],), 1 / flat.shape[0], flat.dtype)
    mean = jnp.einsum("nc,n->c", flat, weights, precision="highest")
    centred = flat - mean
    return mean, jnp.einsum("nc,nc->c", centred, centred, precision="highest") / flat.shape[0]


class Dense(nnx.Module):
    """x @ kernel + bias."""

    def __init__(self, features_in, features_out, *, bias=True, variance=lecun, rngs):
        self.kernel = nnx.Param(rngs.normal((features_in, features_out), variance(features_in, features_out)))
        self.bias = nnx.Param(jnp.zeros((features_out,), jnp.float32)) if bias else None

    def __call__(self, x):
        x = x @ self.kernel[...].astype(x.dtype)
        return x if self.bias is None else x + self.bias[...].astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(var + epsilon) * scale + bias, moments over the channels of each token, in float32 at least."""

    def __init__(self, features, *, epsilon=1e-5):
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x):
        wide = x if x.dtype.itemsize >= 4 else x.astype(jnp.float32)
        normed = jax.nn.standardize(wide, axis=-1, epsilon=self.epsilon)
        return normed.astype(x.dtype) * self.scale[...].astype(x.dtype) + self.bias[...].astype(x.dtype)
