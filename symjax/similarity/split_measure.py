"""Measures in two steps: a computation on each representation, done once, and a small computation for each pair.

Most measures need one matrix product X' Y for a pair, where X and Y are prepared from one side each: an orthonormal
basis for CCA, channels of unit norm for Procrustes, the centered kernel matrix as one long vector for CKA. The pairs of
many representations are therefore a few large products (`symjax.similarity.pairwise`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from symjax.similarity.channels import unit_norm
from symjax.similarity.nuclear_norm import nuclear_norm
from symjax.similarity.pair_product import MAP_PRODUCT, PairProduct, Prepared, flatten, larger_size, upsample


@dataclass(frozen=True)
class SplitMeasure:
    """A measure as fn(x, y) = compare(prepare(x), prepare(y)), with its options fixed.

    Attributes:
        prepare: prepare(x), the `Prepared` form of a representation; prepare(x, width) if `counts_channels`.
        finish: finish(X' Y, a.aux, b.aux), the 0-d value, from the product (p, q), or another result of `product`.
        exact: exact(a, b) of two `Prepared` whose maps have one size: the value again where `finish` has lost digits.
            (A small distance from an inner product near 1 is the root of a difference that cancels.) None if never
            needed.
        is_inaccurate: is_inaccurate(value), whether `finish` has lost digits of this value.
        num_directions: num_directions(aux), how many directions are compared, where this depends on the data and not on
            shapes alone.
        product: how the data of both sides are multiplied.
        permute: permute(prepared, order), the `Prepared` of x[order] from that of x; `permute_samples`,
            `permute_matrices`, `permute_kernel` or a function. None where x[order] has to be prepared again.
        counts_channels: whether `prepare` leaves out appended zero channels; see `Measure`.
        nuclear: whether `finish` takes the nuclear norm of X' Y, the sum of its singular values, in place of X' Y.
        warning: warning(read, aux), the message of a `NumericalWarning` about the representation that read() returns,
            or None. None for a measure without such warnings.
    """

    prepare: Callable[..., Prepared]
    finish: Callable
    exact: Callable | None = None
    is_inaccurate: Callable | None = None
    num_directions: Callable | None = None
    product: PairProduct = MAP_PRODUCT
    permute: Callable | None = None
    counts_channels: bool = False
    nuclear: bool = False
    warning: Callable | None = None

    def compare(self, a: Prepared, b: Prepared):
        """Return the value for two `Prepared`; the sizes of their maps must divide each other (see `smaller_size`)."""
        size = self.product.size(a, b)
        a_data, b_data = (self.product.downsample(part.data, size)[None] for part in (a, b))
        return self.value_of(self.reduce(self.product.multiply(a_data, b_data)[0, 0]), a, lambda: b)

    def reduce(self, cross):
        """Return what `finish` takes of the product `cross`."""
        return nuclear_norm(cross) if self.nuclear else cross

    def value_of(self, reduced, a: Prepared, b: Callable[[], Prepared]):
        """Return the value from the `reduce`d product of a and b(); the data of b() are used where it is inaccurate."""
        value = self.finish(reduced, a.aux, b().aux)
        if self.exact is None or self.is_inaccurate is None:
            return value
        return lax.cond(self.is_inaccurate(value), lambda: self.compare_exactly(a, b()), lambda: value)

    def compare_exactly(self, a: Prepared, b: Prepared):
        """Return `exact` of two `Prepared` after enlarging the smaller map."""
        assert self.exact is not None
        size = larger_size(a.data.shape, b.data.shape)
        return self.exact(*(part._replace(data=flatten(upsample(part.data, size))) for part in (a, b)))


def permute_samples(prepared: Prepared, order):
    """Permute the examples of data (p, samples) or (p, n, h, w), where the samples of an example are contiguous."""
    data = prepared.data
    return prepared._replace(data=data.reshape(len(data), len(order), -1)[:, order].reshape(data.shape))


def permute_matrices(prepared: Prepared, order):
    """Permute the examples of matrices (parts, n n), whose rows and columns are examples."""
    data = prepared.data
    matrices = data.reshape(len(data), len(order), len(order))
    return prepared._replace(data=matrices[:, order][:, :, order].reshape(data.shape))


def permute_kernel(prepared: Prepared, order):
    """Permute the examples of a symmetric kernel matrix (1, n n), of which `finish` takes the inner products."""
    return permute_matrices(prepared, order)


def kernel_matrix(prepared: Prepared):
    """Return the kernel matrix (n, n) of data (1, n n)."""
    return prepared.data.reshape(math.isqrt(prepared.data.size), -1)


@partial(jax.jit, static_argnums=0)
def evaluate(split: SplitMeasure, x, y):
    """Return the value for two representations, in one program."""
    return split.compare(split.prepare(x), split.prepare(y))


def cosine_of_vectors(vector_of, permute=None, warning=None):
    """Return the cosine of vector_of(x) and vector_of(y), arrays of one shape, as a `SplitMeasure`; NaN for zeros."""

    def prepare(x):
        vector, norm = unit_norm(vector_of(x))
        return Prepared(vector.reshape(1, -1), norm > 0)

    def finish(cross, a_nonzero, b_nonzero):
        return jnp.where(a_nonzero & b_nonzero, jnp.clip(cross[0, 0], -1, 1), jnp.nan)

    return SplitMeasure(prepare, finish, permute=permute, warning=warning)
