"""Measures in two steps: a computation on each representation, done once, and a small computation for each pair.

Most measures need one matrix product X' Y for a pair, where X and Y are prepared from one side each: an orthonormal
basis for CCA, channels of unit norm for Procrustes, the centred kernel matrix as one long vector for CKA. The pairs of
many representations are therefore a few large products (`symjax.similarity.pairwise`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax

from symjax.similarity.channels import unit_norm
from symjax.similarity.pair_product import MAP_PRODUCT, PairProduct, Prepared, flatten, larger_size, upsample


@dataclass(frozen=True)
class SplitMeasure:
    """A measure as fn(x, y) = compare(prepare(x), prepare(y)), with its options fixed.

    Attributes:
        prepare: prepare(x), the `Prepared` form of a representation.
        finish: finish(X' Y, a.aux, b.aux), the 0-d value, from the product (p, q), or whatever `product` computes.
        exact: exact(a, b) of two `Prepared` whose maps have one size: the value again where `finish` has lost digits.
            (A small distance from an inner product near 1 is the root of a difference that cancels.) None if never
            needed.
        is_inaccurate: is_inaccurate(value), whether `finish` has lost digits of this value.
        num_directions: num_directions(aux), how many directions are compared, where this depends on the data and not on
            shapes alone.
        product: how the data of both sides are multiplied.
    """

    prepare: Callable[[Any], Prepared]
    finish: Callable
    exact: Callable | None = None
    is_inaccurate: Callable | None = None
    num_directions: Callable | None = None
    product: PairProduct = MAP_PRODUCT

    def compare(self, a: Prepared, b: Prepared):
        """Return the value for two `Prepared`; the sizes of their maps must divide each other (see `smaller_size`)."""
        size = self.product.size(a, b)
        a_data, b_data = (self.product.downsample(part.data, size)[None] for part in (a, b))
        value = self.finish(self.product.multiply(a_data, b_data)[0, 0], a.aux, b.aux)
        if self.exact is None or self.is_inaccurate is None:
            return value
        return lax.cond(self.is_inaccurate(value), lambda: self.compare_exactly(a, b), lambda: value)

    def compare_exactly(self, a: Prepared, b: Prepared):
        """Return `exact` of two `Prepared` after enlarging the smaller map."""
        assert self.exact is not None
        size = larger_size(a.data.shape, b.data.shape)
        return self.exact(*(part._replace(data=flatten(upsample(part.data, size))) for part in (a, b)))


def cosine_of_vectors(vector_of):
    """Return the cosine of vector_of(x) and vector_of(y), arrays of one shape, as a `SplitMeasure`; NaN for zeros."""

    def prepare(x):
        vector, norm = unit_norm(vector_of(x))
        return Prepared(vector.reshape(1, -1), norm > 0)

    def finish(cross, a_nonzero, b_nonzero):
        return jnp.where(a_nonzero & b_nonzero, jnp.clip(cross[0, 0], -1, 1), jnp.nan)

    return SplitMeasure(prepare, finish)
