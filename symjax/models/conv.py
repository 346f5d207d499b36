"""Convolution in three forms, and which runs fast where.

* "native": `lax.conv_general_dilated` and its own gradients. For one model outside loops, and on a GPU.
* "matmul": shifted slices and matrix products, which stay matrix products when weights carry a member axis, where
  XLA turns the native convolution into a grouped one.
* "winograd": Winograd's F(2x2, 3x3) for 3 x 3 convolutions of stride 1 and even maps, "matmul" for the others. Matrix
  products throughout, 2.25 times fewer multiplications, gradients of the same form. For CPU programs whose steps stand
  in a `scan` or `lax.map`, where XLA runs the gradients of native convolutions at 0.5 to 10 GFLOP/s.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

ConvMethod = Literal["native", "matmul", "winograd"]
CONV_METHODS = ("native", "matmul", "winograd")


def conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, method: ConvMethod = "native") -> jax.Array:
    """Convolution of `x` (n, h, w, c) with `kernel` (k, k, c, d), k odd, zero padding (k - 1) / 2 on every side."""
    if method == "native":
        pad = (kernel.shape[0] - 1) // 2
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    return _winograd(x, kernel) if method == "winograd" and _fits(x, kernel, stride) else _matmul(x, kernel, stride)


def _matmul(x, kernel, stride):
    """Columns of the k horizontal shifts side by side, then k matrix products: k copies of x where im2col has k * k."""
    k = kernel.shape[0]
    pad = (k - 1) // 2
    n, h, w, c = x.shape
    height, width = (h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    x = jnp.concatenate([x[:, :, j : j + (width - 1) * stride + 1 : stride] for j in range(k)], axis=-1)
    rows = [x[:, i : i + (height - 1) * stride + 1 : stride].reshape(-1, k * c) for i in range(k)]
    out = sum(row @ kernel[i].reshape(k * c, -1) for i, row in enumerate(rows))
    return out.reshape(n, height, width, -1)


def _fits(x, kernel, stride) -> bool:
    """Whether Winograd applies: 3 x 3, even maps, and float32 or wider (its sums cost bfloat16 a digit)."""
    return kernel.shape[0] == 3 and stride == 1 and x.shape[1] % 2 == x.shape[2] % 2 == 0 and x.dtype.itemsize >= 4


@jax.custom_vjp
def _winograd(x, kernel):
    return _tiles(x, kernel)


def _winograd_forward(x, kernel):
    return _tiles(x, kernel), (x, kernel)


def _winograd_backward(saved, g):
    x, kernel = saved
    return _tiles(g, kernel[::-1, ::-1].swapaxes(2, 3)), _kernel_gradient(x, g)


_winograd.defvjp(_winograd_forward, _winograd_backward)


def _kernel_gradient(x, g):
    """Horizontal shifts of x against vertical shifts of g in one product, which packs each operand once."""
    c, d = x.shape[-1], g.shape[-1]
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    x = jnp.concatenate([x[:, :, j : j + g.shape[2]] for j in range(3)], axis=-1)
    g = jnp.pad(g, ((0, 0), (1, 1), (0, 0), (0, 0)))
    g = jnp.concatenate([g[:, 2 - i : 2 - i + x.shape[1]] for i in range(3)], axis=-1)
    return (x.reshape(-1, 3 * c).T @ g.reshape(-1, 3 * d)).reshape(3, c, 3, d).transpose(2, 0, 1, 3)


# Winograd's F(2, 3) per axis: tiles of 2 outputs from 4 inputs, out = A'[(G k) * (B' x)]. B' and A' are spelled out as
# sums of slices, G is KERNEL. Lavin and Gray 2016, arXiv 1509.09308.
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def _input_tiles(x):
    """B' x B: a 4 x 4 list of arrays (tiles, channels)."""
    _, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def along(x, axis, size):
        a, b, c, d = (lax.slice_in_dim(x, i, i + size - 1, 2, axis) for i in range(4))
        return a - c, b + c, c - b, b - d

    # The barriers make each transformed tile once, as an operand of its product; XLA would fuse and recompute.
    return [[lax.optimization_barrier(tile.reshape(-1, c)) for tile in along(row, 2, w)] for row in along(x, 1, h)]


def _tiles(x, kernel):
    n, h, w, _ = x.shape
    transform = jnp.asarray(KERNEL, kernel.dtype)
    kernel = jnp.einsum("ai,bj,ijcd->abcd", transform, transform, kernel)
    products = [[tile @ kernel[a, b] for b, tile in enumerate(row)] for a, row in enumerate(_input_tiles(x))]

    def along(a, b, c, d):
        return a + b + c, b - c - d

    columns = [along(*column) for column in zip(*products, strict=True)]
    rows = [along(*row) for row in zip(*columns, strict=True)]  # out[i][j] of every tile
    out = jnp.stack([jnp.stack(row, axis=1) for row in rows], axis=1)
    return out.reshape(n, h // 2, w // 2, 2, 2, -1).swapaxes(2, 3).reshape(n, h, w, -1)
