"""Convolution in three forms, and which runs fast where.

* "native": `lax.conv_general_dilated` and its own gradients. For one model outside loops, and on a GPU.
* "matmul": shifted slices and matrix products, which stay matrix products when weights carry a member axis, where
  XLA turns the native convolution into a grouped one.
* "winograd": for CPU programs whose steps stand in a `scan` or `lax.map`, where XLA's native gradients run at 0.5 to
  10 GFLOP/s (its forward pass runs well). 3 x 3 convolutions as Winograd's F(2x2, 3x3), 2.25 times fewer multiplications; those
  that do not fit it natively; gradients written out so that they are convolutions of the same form.
"""

from functools import partial
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
        return _native(x, kernel, stride)
    return _matmul(x, kernel, stride) if method == "matmul" else _winograd(x, kernel, stride)


def _native(x, kernel, stride):
    pad = (kernel.shape[0] - 1) // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _matmul(x, kernel, stride):
    """Columns of the k horizontal shifts side by side, then k matrix products: three copies of x where im2col has nine."""
    rows, (n, height, width) = _shifted_rows(x, kernel.shape[0], stride)
    out = sum(row @ kernel[i].reshape(row.shape[1], -1) for i, row in enumerate(rows))
    return out.reshape(n, height, width, -1)


def _shifted_rows(x, k, stride):
    """For each of k vertical shifts the rows (examples * pixels, k * channels), and the output's (n, h, w)."""
    pad = (k - 1) // 2
    n, h, w, c = x.shape
    height, width = (h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    x = jnp.concatenate([x[:, :, j : j + (width - 1) * stride + 1 : stride] for j in range(k)], axis=-1)
    rows = [x[:, i : i + (height - 1) * stride + 1 : stride].reshape(-1, k * c) for i in range(k)]
    return rows, (n, height, width)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _winograd(x, kernel, stride):
    if _fits(x, kernel, stride):
        return _tiles(x, kernel)
    # The barrier keeps XLA from folding a flip or a transposition of the kernel into a convolution of another layout.
    return _native(x, lax.optimization_barrier(kernel), stride)


def _winograd_forward(x, kernel, stride):
    return _winograd(x, kernel, stride), (x, kernel)


def _winograd_backward(stride, saved, g):
    x, kernel = saved
    if stride == 1:
        dx = _winograd(g, kernel[::-1, ::-1].swapaxes(2, 3), 1)
    else:
        (dx,) = jax.vjp(lambda x: _matmul(x, kernel, stride), x)[1](g)
    if _fits(x, kernel, stride):
        return dx, _tiles_kernel_gradient(x, g)
    rows, _ = _shifted_rows(x, kernel.shape[0], stride)
    g = g.reshape(-1, g.shape[-1])
    return dx, jnp.stack([row.T @ g for row in rows]).reshape(kernel.shape)


_winograd.defvjp(_winograd_forward, _winograd_backward)


def _fits(x, kernel, stride) -> bool:
    """Whether Winograd applies and pays: even maps, float32 or wider (its sums cost bfloat16 a digit), enough channels."""
    _, h, w, _ = x.shape
    k, _, c, d = kernel.shape
    return k == 3 and stride == 1 and h % 2 == w % 2 == 0 and x.dtype.itemsize >= 4 and min(c, d) >= 16


# Winograd's F(2, 3) per axis: tiles of 2 outputs from 4 inputs, out = A'[(G k) * (B' x)]. B' and A' are spelled out as
# sums of slices, G is KERNEL. Lavin and Gray 2016, arXiv 1509.09308.
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def _input_tiles(x):
    """B' x B: a 4 x 4 list of arrays (tiles, channels)."""
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def along(x, axis, size):
        a, b, c, d = (lax.slice_in_dim(x, i, i + size - 1, 2, axis) for i in range(4))
        return a - c, b + c, c - b, b - d

    # The barriers make each transformed tile once, as an operand of its product; XLA would fuse and recompute.
    return [
        [lax.optimization_barrier(tile.reshape(-1, c)) for tile in along(row, 2, w)] for row in along(x, 1, h)
    ]


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


def _tiles_kernel_gradient(x, g):
    def along(g, axis):
        a, b = (lax.slice_in_dim(g, i, None, 2, axis) for i in range(2))
        return a, a + b, a - b, -b

    d = g.shape[-1]
    transformed = [[lax.optimization_barrier(tile.reshape(-1, d)) for tile in along(row, 2)] for row in along(g, 1)]
    products = jnp.stack(
        [
            jnp.stack([tile.T @ gradient for tile, gradient in zip(*rows, strict=True)])
            for rows in zip(_input_tiles(x), transformed, strict=True)
        ]
    )
    transform = jnp.asarray(KERNEL, x.dtype)
    return jnp.einsum("ai,bj,abcd->ijcd", transform, transform, products)
