"""Convolution in three forms, and which runs fast where.

* "native": `lax.conv_general_dilated` and its own gradients. For one model outside loops, and on a GPU.
* "matmul": shifted slices and matrix products, which stay matrix products when weights carry a member axis, where
  XLA turns the native convolution into a grouped one.
* "mixed": for CPU programs whose steps stand in a `scan` or `lax.map`. XLA runs native convolutions there at four
  fifths of the peak, but their gradients at 0.5 to 10 GFLOP/s. So the gradient of the input is written as the
  convolution that it is, that of the kernel as one matrix product; where there are channels enough Winograd's
  F(2x2, 3x3) takes over, matrix products throughout with 2.25 times fewer multiplications. From few channels, as of
  images, matrix products of three rows at a time are quicker, to many only for the kernel's gradient; they are the
  rest's form, too.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.parallel import Form

FEW, MANY = 4, 32  # channels: from few to fewer than many "matmul" takes less time, at 32 x 32 pixels


def convolution(
    x: jax.Array, kernel: jax.Array, *, strides: Sequence[int], padding: Sequence[Sequence[int]], form: Form
) -> jax.Array:
    """Return the convolution of `x` (n, h, w, c) with `kernel` (i, j, c, d), zeros around the images.

    Args:
      x, kernel: of one floating type.
      strides: of rows and of columns.
      padding: how many zeros before and after the rows, and the columns.
      form: "native", "matmul" or "mixed".
    """
    if form == "native":
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    same = tuple(map(tuple, padding)) == ((1, 1), (1, 1))
    if form == "matmul" or tuple(strides) != (1, 1) or kernel.shape[:2] != (3, 3) or not same:
        return _matmul(x, kernel, strides, padding)
    if kernel.shape[2] <= FEW:
        return _matmul(x, kernel, strides, padding) if kernel.shape[3] < MANY else _from_few(x, kernel)
    return _winograd(x, kernel) if _pays(x, kernel) else _forward(x, kernel)


def _matmul(x, kernel, strides=(1, 1), padding=((1, 1), (1, 1))):
    """Columns of horizontal shifts side by side, then one product a row of the kernel: few copies of x."""
    rows, columns, c, d = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    n, h, w, _ = x.shape
    height, width = (h - rows) // strides[0] + 1, (w - columns) // strides[1] + 1

    def shifts(x, axis, count, length, stride):
        ends = [(i, i + (length - 1) * stride + 1) for i in range(count)]
        return [lax.slice_in_dim(x, start, stop, stride, axis) for start, stop in ends]

    x = jnp.concatenate(shifts(x, 2, columns, width, strides[1]), axis=-1) if columns > 1 or strides[1] > 1 else x
    parts = [row.reshape(-1, columns * c) for row in shifts(x, 1, rows, height, strides[0])]
    out = sum(part @ kernel[i].reshape(columns * c, d) for i, part in enumerate(parts))
    return out.reshape(n, height, width, d)


def _pays(x, kernel) -> bool:
    """Whether Winograd applies (even maps, float32 or wider: its sums cost bfloat16 a digit) and is the faster form."""
    height, width = x.shape[1:3]
    applies = height % 2 == width % 2 == 0 and x.dtype.itemsize >= 4
    return applies and min(height, width) >= 8 and min(kernel.shape[2:]) >= 32


def _with_gradients(convolution, kernel_gradient):
    """A 3 x 3 convolution whose input gradient takes its own form, with the kernel turned round."""
    differentiable = jax.custom_vjp(convolution)

    def backward(saved, g):
        x, kernel = saved
        return convolution(g, kernel[::-1, ::-1].swapaxes(2, 3)), kernel_gradient(x, g)

    differentiable.defvjp(lambda x, kernel: (convolution(x, kernel), (x, kernel)), backward)
    return differentiable


def _kernel_gradient(x, g):
    """Horizontal shifts of x against vertical shifts of g in one product, which packs each operand once."""
    c, d = x.shape[-1], g.shape[-1]
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    x = jnp.concatenate([x[:, :, j : j + g.shape[2]] for j in range(3)], axis=-1)
    g = jnp.pad(g, ((0, 0), (1, 1), (0, 0), (0, 0)))
    g = jnp.concatenate([g[:, 2 - i : 2 - i + x.shape[1]] for i in range(3)], axis=-1)
    return (x.reshape(-1, 3 * c).T @ g.reshape(-1, 3 * d)).reshape(3, c, 3, d).transpose(2, 0, 1, 3)


def _kernel_gradient_of_few(x, g):
    """That of `_matmul`: shifts of x alone, which is the smaller one by far."""
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], g.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: _matmul(x, kernel), kernel)(g)[0]


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


def _winograd_tiles(x, kernel):
    n, h, w, _ = x.shape
    transform, zero = jnp.asarray(KERNEL, kernel.dtype), jnp.zeros((), x.dtype)
    kernel = jnp.einsum("ai,bj,ijcd->abcd", transform, transform, kernel)
    products = [[tile @ kernel[a, b] for b, tile in enumerate(row)] for a, row in enumerate(_input_tiles(x))]

    def along(a, b, c, d):
        return a + b + c, b - c - d

    columns = [along(*column) for column in zip(*products, strict=True)]
    rows = [along(*row) for row in zip(*columns, strict=True)]  # rows[i][j]: pixel (i, j) of every tile
    # Interleaved by adding padded arrays, several times as fast as the loops that XLA makes of a concatenation.
    out = sum(
        lax.pad(pixels.reshape(n, h // 2, w // 2, -1), zero, ((0, 0, 0), (i, 1 - i, 1), (j, 1 - j, 1), (0, 0, 0)))
        for i, row in enumerate(rows)
        for j, pixels in enumerate(row)
    )
    return lax.optimization_barrier(out)


def _native(x, kernel):
    return convolution(x, kernel, strides=(1, 1), padding=((1, 1), (1, 1)), form="native")


_forward = _with_gradients(_native, _kernel_gradient)
_from_few = _with_gradients(_native, _kernel_gradient_of_few)
_winograd = _with_gradients(_winograd_tiles, _kernel_gradient)
