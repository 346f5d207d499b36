"""Convolution in three forms, and when each is fast.

* "native": `lax.conv_general_dilated` and its own gradients. For one model outside loops, and on a GPU.
* "matmul": shifted slices and matrix products, which stay matrix products when weights carry a member axis, where
  XLA turns the native convolution into a grouped one.
* "mixed": for CPU programs inside a `scan` or `lax.map`. There XLA runs native convolutions at up to four fifths of the
  peak, but their gradients at 0.5 to 10 GFLOP/s. So the gradient of the input is written as a convolution, and that of
  the kernel as matrix products. Two methods are faster for some shapes. With enough channels, Winograd's F(2x2, 3x3)
  consists of matrix products with 2.25 times fewer multiplications. A native convolution with few output channels takes
  as long as one with many, so there it computes several neighboring pixels at once, as channels.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from symjax.ops.parallel import Form

CACHE = 2**21  # bytes of Winograd's tiles for the gradient of the kernel at a time
FEW = 4  # input channels, as in images


class Geometry(NamedTuple):
    """The static description of a convolution over two axes, rows and columns."""

    strides: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))  # zeros before and after, less than a window
    dilation: tuple[int, int] = (1, 1)  # of the kernel
    precision: lax.PrecisionLike = None


def convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry, form: Form) -> jax.Array:
    """Return the convolution of `x` (n, h, w, c) with `kernel` (i, j, c, d), by the fastest method for the shapes."""
    if form == "native":
        return _native(x, kernel, geometry)
    undilated = all(d == 1 or size == 1 for d, size in zip(geometry.dilation, kernel.shape, strict=False))
    if undilated and all(size <= stride for size, stride in zip(kernel.shape, geometry.strides, strict=False)):
        return _disjoint(x, kernel, geometry)
    if form == "matmul" or geometry.strides != (1, 1):
        return _matmul(x, kernel, geometry)
    return _mixed(x, kernel, geometry)


def _native(x, kernel, geometry):
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=geometry.precision,
    )


def _pad(x, rows, columns):
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


def _output_size(x, kernel, geometry):
    return tuple(
        (size + sum(padding) - (taps - 1) * dilation - 1) // stride + 1
        for size, padding, taps, dilation, stride in zip(
            x.shape[1:3], geometry.padding, kernel.shape[:2], geometry.dilation, geometry.strides, strict=True
        )
    )


def _disjoint(x, kernel, geometry):
    """Return a convolution whose windows do not overlap, by one matrix product."""
    rows, columns, c, d = kernel.shape
    (height, width), (down, right) = _output_size(x, kernel, geometry), geometry.strides
    x = _pad(x, *geometry.padding)[:, : height * down, : width * right]
    x = _pad(x, (0, height * down - x.shape[1]), (0, width * right - x.shape[2]))
    x = x.reshape(-1, height, down, width, right, c)[:, :, :rows, :, :columns].swapaxes(2, 3)
    out = jnp.matmul(x.reshape(-1, rows * columns * c), kernel.reshape(-1, d), precision=geometry.precision)
    return out.reshape(-1, height, width, d)


def _matmul(x, kernel, geometry):
    """Return a convolution by concatenated horizontal shifts of `x` and a matrix product for each row of taps.

    It needs as many copies of x as the kernel has columns; im2col needs one for each tap.
    """
    rows, columns, c, d = kernel.shape
    height, width = _output_size(x, kernel, geometry)

    def shifted(x, axis, i, size):
        start, stride = i * geometry.dilation[axis - 1], geometry.strides[axis - 1]
        return lax.slice_in_dim(x, start, start + (size - 1) * stride + 1, stride, axis)

    x = _pad(x, *geometry.padding)
    x = jnp.concatenate([shifted(x, 2, j, width) for j in range(columns)], axis=-1)
    out = sum(
        jnp.matmul(
            shifted(x, 1, i, height).reshape(-1, columns * c),
            kernel[i].reshape(columns * c, d),
            precision=geometry.precision,
        )
        for i in range(rows)
    )
    return out.reshape(-1, height, width, d)


def _side_by_side(x, kernel, geometry):
    """Return a native convolution without strides that computes several neighboring pixels of a row as channels.

    The kernel is repeated for each pixel, shifted within a wider window. This takes a third of the time for 3 to 16
    channels, two thirds for 16 to 16.
    """
    c, d = kernel.shape[2:]
    height, width = _output_size(x, kernel, geometry)
    faster = geometry.dilation[1] == 1 and min(height, width) >= 16
    most = (64 if c <= FEW else 32 if c <= 16 else 1) // d if faster else 1
    count = max((count for count in range(1, most + 1) if width % count == 0), default=1)
    if count > 1:
        shifted = [jnp.pad(kernel, ((0, 0), (j, count - 1 - j), (0, 0), (0, 0))) for j in range(count)]
        kernel, geometry = jnp.concatenate(shifted, axis=-1), geometry._replace(strides=(1, count))
    return _native(x, kernel, geometry).reshape(-1, height, width, d)


def _winograd_applies(x, taps, geometry) -> bool:
    """Return whether Winograd applies: maps of even size, and float32 or wider, as bfloat16 would lose a digit."""
    height, width = x.shape[1:3]
    same = taps == (3, 3) and geometry[:3] == Geometry(padding=((1, 1), (1, 1)))[:3]
    return same and height % 2 == width % 2 == 0 and min(height, width) >= 8 and x.dtype.itemsize >= 4


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _mixed(x, kernel, geometry):
    """Return a convolution without strides. The gradient of x is the same convolution with the rotated kernel."""
    if min(kernel.shape[2:]) >= 32 and _winograd_applies(x, kernel.shape[:2], geometry):
        return _winograd(x, kernel, geometry)
    return _side_by_side(x, kernel, geometry)


def _mixed_forward(x, kernel, geometry):
    return _mixed(x, kernel, geometry), (x, kernel)


def _mixed_backward(geometry, saved, g):
    x, kernel = saved
    extents = [(taps - 1) * dilation for taps, dilation in zip(kernel.shape, geometry.dilation, strict=False)]
    padding = tuple((e - low, e - high) for e, (low, high) in zip(extents, geometry.padding, strict=True))
    dx = _mixed(g, kernel[::-1, ::-1].swapaxes(2, 3), geometry._replace(padding=padding))
    if x.shape[-1] <= FEW and g.shape[-1] >= 16:
        return dx, _kernel_gradient_of_few(x, g, kernel, geometry)
    if min(kernel.shape[2:]) >= 16 and _winograd_applies(x, kernel.shape[:2], geometry):
        return dx, _winograd_kernel_gradient(x, g, geometry)
    return dx, _kernel_gradient(x, g, kernel.shape[:2], geometry)


_mixed.defvjp(_mixed_forward, _mixed_backward)


def _kernel_gradient(x, g, taps, geometry):
    """Return the kernel gradient, by one product of horizontal shifts of x and vertical shifts of g."""
    (rows, columns), (down, right), c, d = taps, geometry.dilation, x.shape[-1], g.shape[-1]
    (low, high), sides = geometry.padding
    x = _pad(x, (0, 0), sides)
    x = jnp.concatenate([x[:, :, j * right : j * right + g.shape[2]] for j in range(columns)], axis=-1)
    last = (rows - 1) * down
    g = _pad(g, (last - low, last - high), (0, 0))
    g = jnp.concatenate([g[:, last - i * down :][:, : x.shape[1]] for i in range(rows)], axis=-1)
    product = jnp.matmul(x.reshape(-1, columns * c).T, g.reshape(-1, rows * d), precision=geometry.precision)
    return product.reshape(columns, c, rows, d).transpose(2, 0, 1, 3)


def _kernel_gradient_of_few(x, g, kernel, geometry):
    """Return the kernel gradient of `_matmul`, which shifts only x, the much smaller array."""
    return jax.linear_transpose(lambda kernel: _matmul(x, kernel, geometry), kernel)(g)[0]


# Winograd's F(2, 3) per axis: tiles of 2 outputs from 4 inputs, out = A' [(G k) * (B' x)], and for the gradient of the
# kernel G' [(B' x) * (A g)]. The transforms are spelled out as sums of slices, since products with such small matrices
# are slow. Lavin and Gray 2016, arXiv 1509.09308.


def _kernel_tiles(kernel):
    """Return G k G' as a 4 x 4 list of arrays (channels, channels)."""

    def along(a, b, c):
        return a, (a + b + c) / 2, (a - b + c) / 2, c

    columns = [along(*row) for row in kernel]
    return list(zip(*(along(*column) for column in zip(*columns, strict=True)), strict=True))


def _input_tiles(x):
    """Return B' x B as a 4 x 4 list of arrays (tiles, channels)."""
    _, h, w, c = x.shape
    x = _pad(x, (1, 1), (1, 1))

    def along(x, axis, size):
        a, b, c, d = (lax.slice_in_dim(x, i, i + size - 1, 2, axis) for i in range(4))
        return a - c, b + c, c - b, b - d

    # Without the barriers XLA would fuse the transformed tiles into each product and recompute them.
    return [[lax.optimization_barrier(tile.reshape(-1, c)) for tile in along(row, 2, w)] for row in along(x, 1, h)]


def _output_tiles(g):
    """Return A g A' as a 4 x 4 list of arrays (tiles, channels), the transpose of the sums in `_winograd`."""

    def along(x, axis):
        a, b = (lax.slice_in_dim(x, i, None, 2, axis) for i in range(2))
        return a, a + b, a - b, -b

    return [[lax.optimization_barrier(tile.reshape(-1, g.shape[-1])) for tile in along(row, 2)] for row in along(g, 1)]


def _winograd_kernel_gradient(x, g, geometry):
    """Return the kernel gradient by 16 matrix products of tiles, G' (B' x B)' (A g A') G for each pair of channels.

    It uses a few images at a time, whose tiles fit in the cache. This saves a fifth of the time.
    """

    def products(x, g):
        return [
            [jnp.matmul(a.T, b, precision=geometry.precision) for a, b in zip(*row, strict=True)]
            for row in zip(_input_tiles(x), _output_tiles(g), strict=True)
        ]

    def along(a, b, c, d):
        return a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d

    count = _images_at_once(x, g)
    if count == len(x):
        total = products(x, g)
    else:
        parts = [side.reshape(-1, count, *side.shape[1:]) for side in (x, g)]
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(products, *(part[0] for part in parts)))
        total, _ = lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, products(*part)), None), zeros, parts)
    rows = [along(*row) for row in total]
    return jnp.stack([jnp.stack(along(*column)) for column in zip(*rows, strict=True)], axis=1)


def _images_at_once(x, g):
    """Return the largest divisor of the number of images whose tiles fit in the cache; all images if it is small."""
    size = 4 * (x[0].size + g[0].size) * x.dtype.itemsize
    most = max(1, min(len(x), CACHE // size))
    count = max(count for count in range(1, most + 1) if len(x) % count == 0)
    return len(x) if 4 * count <= most else count


def _winograd(x, kernel, geometry):
    n, h, w, _ = x.shape
    product = partial(jnp.matmul, precision=geometry.precision)
    zero = jnp.zeros((), x.dtype)
    products = [list(map(product, *rows)) for rows in zip(_input_tiles(x), _kernel_tiles(kernel), strict=True)]

    def along(a, b, c, d):
        return a + b + c, b - c - d

    columns = [along(*column) for column in zip(*products, strict=True)]
    rows = [along(*row) for row in zip(*columns, strict=True)]  # rows[i][j]: pixel (i, j) of every tile
    # Pixels are interleaved by a sum of padded arrays, which is several times as fast as XLA's concatenation.
    out = sum(
        lax.pad(pixels.reshape(n, h // 2, w // 2, -1), zero, ((0, 0, 0), (i, 1 - i, 1), (j, 1 - j, 1), (0, 0, 0)))
        for i, row in enumerate(rows)
        for j, pixels in enumerate(row)
    )
    return lax.optimization_barrier(out)
