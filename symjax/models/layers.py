"""Convolution, batch normalisation and pooling, written for members that train side by side.

Rows are examples, channels come last. What differs from the layers of `flax.nnx` is deliberate:

* a convolution can run as three row-shifted matrix products (`method="matmul"`), which stays a matrix product when
  weights carry a member axis, where XLA turns the native convolution into a slow grouped one;
* batch normalisation is told by its caller which statistics to use, so one module serves fronts, tails and zoos;
* max pooling is a maximum of strided slices, whose gradient is an order of magnitude cheaper on a CPU.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

ConvMethod = Literal["native", "matmul"]
NormMode = Literal["inference", "batch", "train", "moments"]

he_normal = nnx.initializers.he_normal()


def conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, method: ConvMethod = "native") -> jax.Array:
    """Convolution of `x` (n, h, w, c) with `kernel` (k, k, c, d), k odd, zero padding (k - 1) / 2 on every side.

    `method="matmul"` writes the columns of the k horizontal shifts side by side and adds k matrix products, one per
    vertical shift: three copies of the input where im2col makes nine.
    """
    k = kernel.shape[0]
    pad = (k - 1) // 2
    if method == "native":
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    n, h, w, c = x.shape
    height, width = (h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    x = jnp.concatenate([x[:, :, j : j + (width - 1) * stride + 1 : stride] for j in range(k)], axis=-1)
    rows = [x[:, i : i + (height - 1) * stride + 1 : stride].reshape(-1, k * c) for i in range(k)]
    out = sum(row @ kernel[i].reshape(k * c, -1) for i, row in enumerate(rows))
    return out.reshape(n, height, width, -1)


class Conv(nnx.Module):
    """A k x k convolution with He-normal weights; `compute dtype` follows the input."""

    def __init__(self, features_in, features_out, *, kernel=3, stride=1, bias=False, init=he_normal, method, rngs):
        self.kernel = nnx.Param(init(rngs.params(), (kernel, kernel, features_in, features_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features_out,), jnp.float32)) if bias else None
        self.stride, self.method = stride, method

    def __call__(self, x):
        x = conv2d(x, self.kernel[...].astype(x.dtype), stride=self.stride, method=self.method)
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
                keep = self.momentum if mode == "train" else 0.0
                self.mean[...] = keep * self.mean[...] + (1 - keep) * lax.stop_gradient(mean)
                self.var[...] = keep * self.var[...] + (1 - keep) * lax.stop_gradient(var)
        gain = self.scale[...] * lax.rsqrt(var + self.epsilon)
        offset = self.bias[...] - mean * gain
        return x * gain.astype(x.dtype) + offset.astype(x.dtype)


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and population variance of every channel (the last axis), in float32 at least.

    Sums are contractions, which XLA's CPU compiler runs several times faster than its reductions over leading axes.
    The variance is taken about the mean, so it loses nothing where the mean is large.
    """
    flat = x.reshape(-1, x.shape[-1])
    flat = flat.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.einsum("nc,n->c", flat, jnp.full((flat.shape[0],), 1 / flat.shape[0], flat.dtype))
    centred = flat - mean
    return mean, jnp.einsum("nc,nc->c", centred, centred) / flat.shape[0]


class Dense(nnx.Module):
    """x @ kernel + bias."""

    def __init__(self, features_in, features_out, *, init=nnx.initializers.lecun_normal(), rngs):
        self.kernel = nnx.Param(init(rngs.params(), (features_in, features_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features_out,), jnp.float32))

    def __call__(self, x):
        return x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


def max_pool(x: jax.Array, size: int) -> jax.Array:
    """Maximum over windows of `size` x `size`, stride `size`; an edge that does not fill a window is dropped."""
    h, w = (x.shape[1] // size) * size, (x.shape[2] // size) * size
    for axis, length in ((1, h), (2, w)):
        slices = [lax.slice_in_dim(x, i, length, size, axis) for i in range(size)]
        x = slices[0]
        for other in slices[1:]:
            x = jnp.maximum(x, other)
    return x


def global_max_pool(x: jax.Array) -> jax.Array:
    """Maximum over all pixels."""
    return jnp.max(x, axis=(1, 2))


def global_mean_pool(x: jax.Array) -> jax.Array:
    """Mean over all pixels."""
    return jnp.mean(x, axis=(1, 2))
