"""How two prepared representations come together: at one size of their maps, and in a product."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from symjax.birkhoff.dual import matmul
from symjax.similarity.alignment import enlarged


class Part(NamedTuple):
    """What a measure needs of one representation."""

    data: Any  # X' as (p, samples), or (p, n, h, w) of maps, which may meet maps of other sizes (or of frequencies)
    rest: Any  # a small pytree


class Meeting(NamedTuple):
    """What depends on both sides, before the small work on a pair.

    size: of two `Part`s, the size (or the frequencies) at which they meet, of which only their shapes decide; None
        where there is none.
    shrunk: of data (..., p, n, h, w) and that size, the data at it.
    product: of the data of some of each side at one size, (i, p, ...) and (j, q, ...), what pairs need of it, (i, j,
        ...).
    """

    size: Callable
    shrunk: Callable
    product: Callable


def product(a, b):
    """X' Y for all pairs of a (i, p, ...) and b (j, q, ...), with equal axes for the dots: (i, j, p, q)."""
    (i, p), (j, q) = a.shape[:2], b.shape[:2]
    cross = matmul(a.reshape(i * p, -1), b.reshape(j * q, -1).T)
    return cross.reshape(i, p, j, q).transpose(0, 2, 1, 3)


def flat(data):
    return data.reshape(len(data), -1)


def map_size(shape):
    """(h, w) of data (p, n, h, w); () for (p, samples)."""
    return shape[2:]


def common_size(a_shape, b_shape):
    """The size to which nearest-neighbour enlargement brings both maps (`samples_of`)."""
    return tuple(map(max, map_size(a_shape), map_size(b_shape)))


def meeting_size(a: Part, b: Part):
    """The size at which the product of enlarged maps can be taken as well: the smaller one of each axis.

    <enlarge x, y> = <x, y summed over the pixels that show one pixel of x>. None where one size does not divide the
    other: unit norms then change with enlargement by more than a factor.
    """
    sizes = map_size(a.data.shape), map_size(b.data.shape)
    if any(max(pair) % min(pair) for pair in zip(*sizes, strict=True)):
        return None
    return tuple(map(min, *sizes))


def shrunk(data, size):
    """Maps (..., h, w) summed to `size`, over the growth of norms with enlargement from there: see `meeting_size`."""
    if data.shape[-2:] == tuple(size) or not size:
        return data
    (h, w), (rows, columns) = data.shape[-2:], size
    down, across = h // rows, w // columns
    # Sums of strided slices: on CPU a tenth of the time of a reduction over blocks.
    data = sum(data[..., i::down, :] for i in range(down))
    data = sum(data[..., i::across] for i in range(across))
    return data / jnp.sqrt(jnp.asarray(down * across, data.dtype))


def grown(data, size):
    """Maps (..., h, w) at unit norm, by nearest neighbour as large as `size`, which they divide, at unit norm."""
    if not size or data.shape[-2:] == tuple(size):
        return data
    factor = size[0] * size[1] // (data.shape[-2] * data.shape[-1])
    return enlarged(data, size, (-2, -1)) / jnp.sqrt(jnp.asarray(factor, data.dtype))


MAPS = Meeting(meeting_size, shrunk, product)
"""Of samples, and of maps that are enlarged by nearest neighbour."""
