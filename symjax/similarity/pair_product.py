"""The product of two prepared representations: bring maps to one size, then multiply."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.similarity.inputs import enlarge

PIECE = 4096  # entries of long rows that are multiplied at once, few enough for the cache
MOST_LONG_ROWS = 64


class Prepared(NamedTuple):
    """The result of the part of a measure's computation that depends on one representation alone."""

    data: Any  # X' as (p, samples), or (p, n, h, w) for maps (or frequencies) whose size may differ between sides
    aux: Any  # a small pytree with what else the measure needs of this side


class PairProduct(NamedTuple):
    """The computation that depends on both sides, before the small computation for each pair.

    Attributes:
        size: size(a, b) of two `Prepared`: the map size (or the frequencies) of the product, computed from shapes
            alone; None where there is no such size.
        downsample: downsample(data, size) of data (..., p, n, h, w): the data at this size.
        multiply: multiply(a, b) of data (i, p, ...) and (j, q, ...) at one size: the products of all pairs, (i, j,
            ...).
    """

    size: Callable
    downsample: Callable
    multiply: Callable


def multiply(a, b):
    """Return X' Y for all pairs of a (i, p, ...) and b (j, q, ...), whose other axes are equal: (i, j, p, q)."""
    (i, p), (j, q) = a.shape[:2], b.shape[:2]
    cross = _product_of_rows(a.reshape(i * p, -1), b.reshape(j * q, -1))
    return cross.reshape(i, p, j, q).transpose(0, 2, 1, 3)


def _product_of_rows(a, b):
    """Return a @ b.T. A few long rows, such as kernel matrices, are multiplied piece by piece: 3 to 4 times faster."""
    pieces = a.shape[1] // PIECE
    if pieces < 2 or not 1 < max(len(a), len(b)) <= MOST_LONG_ROWS:
        return matmul(a, b.T)

    def add(piece, total):
        left, right = (lax.dynamic_slice_in_dim(side, piece * PIECE, PIECE, 1) for side in (a, b))
        return total + matmul(left, right.T)

    return lax.fori_loop(0, pieces, add, matmul(a[:, pieces * PIECE :], b[:, pieces * PIECE :].T))


def flatten(data):
    return data.reshape(len(data), -1)


def map_size(shape):
    """Return (h, w) of data (p, n, h, w), and () of data (p, samples)."""
    return shape[2:]


def larger_size(a_shape, b_shape):
    """Return the size to which nearest-neighbor enlargement brings both maps (`paired_samples`)."""
    return tuple(map(max, map_size(a_shape), map_size(b_shape)))


def smaller_size(a: Prepared, b: Prepared):
    """Return the smaller size along each axis, at which the product of enlarged maps can be computed.

    <enlarge x, y> = <x, y summed over the pixels that show one pixel of x>. None where one size does not divide the
    other: enlargement then changes unit norms by more than a factor.
    """
    sizes = map_size(a.data.shape), map_size(b.data.shape)
    if any(max(pair) % min(pair) for pair in zip(*sizes, strict=True)):
        return None
    return tuple(map(min, *sizes))


def downsample(data, size):
    """Sum maps (..., h, w) over blocks to `size`, divided by the factor by which enlargement back increases norms."""
    if data.shape[-2:] == tuple(size) or not size:
        return data
    (h, w), (rows, columns) = data.shape[-2:], size
    down, across = h // rows, w // columns
    # Sums of strided slices take a tenth of the time of a reduction over blocks on CPU.
    data = sum(data[..., i::down, :] for i in range(down))
    data = sum(data[..., i::across] for i in range(across))
    return data / jnp.sqrt(jnp.asarray(down * across, data.dtype))


def upsample(data, size):
    """Enlarge maps (..., h, w) of unit norm by nearest neighbor to `size`, a multiple of (h, w), at unit norm."""
    if not size or data.shape[-2:] == tuple(size):
        return data
    factor = size[0] * size[1] // (data.shape[-2] * data.shape[-1])
    return enlarge(data, size, (-2, -1)) / jnp.sqrt(jnp.asarray(factor, data.dtype))


MAP_PRODUCT = PairProduct(smaller_size, downsample, multiply)
"""The product of samples, or of maps that are enlarged by nearest neighbor."""
