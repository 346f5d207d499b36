"""Measures in two parts: the work on one representation, done once, and the work on a pair, which is small.

What most measures need of a pair is one product of matrices, X' Y, of what was made of each side before: an orthonormal
basis for CCA, channels at unit norm for Procrustes, the centred kernel matrix as one long vector for CKA. So the pairs
of many representations are a few large products (`symjax.similarity.pairwise`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.similarity.alignment import enlarged


class Part(NamedTuple):
    """What a measure needs of one representation."""

    data: Any  # X' as (p, samples), or (p, n, h, w) if its maps are compared with maps of other sizes
    rest: Any  # a small pytree


@dataclass(frozen=True)
class Factored:
    """A measure as fn(x, y) = compare(prepare(x), prepare(y)), at options that are settled.

    prepare: of a representation, its `Part`.
    finish: of X' Y (p, q) and the `rest` of both sides, the value, 0-d.
    exact: of two `Part`s whose maps are of one size, the value again, where `finish` has lost digits of it: a small
        distance from an inner product near 1 is the root of a difference that cancels. None where it never does.
    doubtful: of a value, whether it is one of these.
    width: of a `rest`, how many directions are compared, where the data and not the shapes say so.
    """

    prepare: Callable[[Any], Part]
    finish: Callable
    exact: Callable | None = None
    doubtful: Callable | None = None
    width: Callable | None = None

    def compare(self, a: Part, b: Part):
        """The value for two `Part`s; the sizes of their maps must divide each other (see `meeting_size`)."""
        size = meeting_size(a, b)
        value = self.finish(product(shrunk(a.data, size)[None], shrunk(b.data, size)[None])[0, 0], a.rest, b.rest)
        if self.exact is None:
            return value
        return lax.cond(self.doubtful(value), lambda: self.directly(a, b), lambda: value)

    def directly(self, a: Part, b: Part):
        """`exact` of two `Part`s after the smaller map is enlarged."""
        size = common_size(a.data.shape, b.data.shape)
        return self.exact(*(part._replace(data=flat(grown(part.data, size))) for part in (a, b)))


def product(a, b):
    """X' Y for all pairs of a (i, p, ...) and b (j, q, ...), with equal axes for the dots: (i, j, p, q)."""
    (i, p), (j, q) = a.shape[:2], b.shape[:2]
    cross = matmul(a.reshape(i * p, -1), b.reshape(j * q, -1).T)
    return cross.reshape(i, p, j, q).transpose(0, 2, 1, 3)


def flat(data):
    return data.reshape(len(data), -1)


def map_size(shape):
    """(h, w) of data (..., p, n, h, w); () for (p, samples)."""
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
