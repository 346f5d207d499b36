"""Running first and second moments of x and y, as means and triangular factors.

With Z the centered samples of (x, y) so far, the state holds rows whose Gram matrix is Z'Z. Two sets with n_a and n_b
samples and means m_a and m_b give

    Z'Z = Z_a'Z_a + Z_b'Z_b + n_a n_b / (n_a + n_b) (m_b - m_a)(m_b - m_a)'        (Chan, Golub, LeVeque 1983).

The rows of both, or of one and a batch, are therefore stacked with one additional row, and a QR reduces them to a
triangular factor. A Gram matrix is never formed, since float32 would lose its small singular values; a factor is as
accurate as the data. Measures of data X, Y depend on X'X, X'Y and Y'Y, so they use the columns of the factor as X and
Y.

Each QR rounds all previous rows. Therefore there are `LEVELS` factors. `MAX_UPDATES` batches update the first factor,
which is then merged into the second one, and so on. Each of B batches passes about 3 B^(1/3) QRs and not B.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from symjax.similarity.channels import ninther, zero_rounding
from symjax.similarity.linalg import factor_of_parts, triangular_factor
from symjax.similarity.streams.stream import add_counts, as_float, count_of, no_samples
from symjax.spelling import one_line

LEVELS, MAX_UPDATES = 3, 32


class Mean(NamedTuple):
    """The mean, shift + offset.

    The shift lies within the bulk of the first batch, so that a constant neuron has offset 0.
    """

    shift: jax.Array  # (d,)
    offset: jax.Array  # (d,)

    def __repr__(self):
        return one_line(self)


class Moments(NamedTuple):
    """The state: count, means and triangular factors."""

    # (2,) int32, number of samples; see `stream.count_of`
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    x: Mean
    y: Mean
    factors: jax.Array  # (LEVELS, D, D), D = d_x + d_y; all their rows together have the Gram matrix Z'Z
    num_updates: jax.Array  # (LEVELS,) int32, number of updates of each factor since it was last emptied

    def __repr__(self):
        return one_line(self)


def zero_moments(x_width, y_width, dtype):
    """Return the `Moments` of no samples."""
    means = (Mean(jnp.zeros(width, dtype), jnp.zeros(width, dtype)) for width in (x_width, y_width))
    width = x_width + y_width
    return Moments(no_samples(), *means, jnp.zeros((LEVELS, width, width), dtype), jnp.zeros(LEVELS, jnp.int32))


@jax.jit
def add_batch(moments, x, y, mask):
    """Return `moments` with the rows of x and y added; `mask` ((n,) booleans, or None) excludes padding."""
    if mask is None:
        rows, samples = slice(None), x.shape[0]
    else:
        rows, samples = jnp.argsort(~mask), mask.sum(dtype=jnp.int32)  # unmasked rows first
    batch_count = count_of(samples)
    (x_rows, x_mean), (y_rows, y_mean) = (_centered(z, mask, rows, samples) for z in (x, y))
    count, x_mean, y_mean, between = _means(moments, (batch_count, x_mean, y_mean))
    rows = factor_of_parts(jnp.concatenate([x_rows, y_rows], 1))
    first_factor = triangular_factor(jnp.concatenate([moments.factors[0], rows, between[None]]))
    factors = moments.factors.at[0].set(first_factor)
    return _cascade(Moments(count, x_mean, y_mean, factors, moments.num_updates.at[0].add(1)))


def _centered(x, mask, rows, samples):
    samples = jnp.maximum(jnp.asarray(samples, x.dtype), 1)
    shift = ninther(x[rows], samples)
    deviations = _zero_padding(x - shift[None], mask)
    offset = deviations.sum(0) / samples
    return _zero_padding(deviations - offset[None], mask), Mean(shift, offset)


def _zero_padding(x, mask):
    return x if mask is None else jnp.where(mask[:, None], x, 0)


@jax.jit
def merge_moments(a, b):
    """Return the `Moments` of the samples of a and b together."""
    count, x_mean, y_mean, between = _means(a, b)
    row = jnp.zeros_like(a.factors[:, :1]).at[0, 0].set(between)
    factors = jax.vmap(triangular_factor)(jnp.concatenate([a.factors, b.factors, row], 1))
    return _cascade(Moments(count, x_mean, y_mean, factors, a.num_updates + b.num_updates))


def _means(a, b):
    """Return the count and means of both, and the row for the difference of their means."""
    count = add_counts(a[0], b[0])
    dtype = a[1].shift.dtype
    a_samples, b_samples, samples = (as_float(c, dtype) for c in (a[0], b[0], count))
    share = b_samples / jnp.maximum(samples, 1)

    def mean(a, b):
        difference = (b.shift - a.shift) + (b.offset - a.offset)
        shift = jnp.where(a_samples == 0, b.shift, a.shift)
        return Mean(shift, jnp.where(a_samples == 0, b.offset, a.offset + share * difference)), difference

    (x_mean, x_gap), (y_mean, y_gap) = mean(a[1], b[1]), mean(a[2], b[2])
    return count, x_mean, y_mean, jnp.sqrt(a_samples * share) * jnp.concatenate([x_gap, y_gap])


def _cascade(moments):
    """Merge each factor that has had `MAX_UPDATES` updates into the next one."""
    factors, num_updates = moments.factors, moments.num_updates
    for level in range(LEVELS - 1):

        def carry(factors, level=level):
            both = triangular_factor(jnp.concatenate([factors[level + 1], factors[level]]))
            return factors.at[level + 1].set(both).at[level].set(0)

        full = num_updates[level] >= MAX_UPDATES
        factors = lax.cond(full, carry, lambda factors: factors, factors)
        num_updates = (
            num_updates.at[level + 1].add(full.astype(jnp.int32)).at[level].multiply(1 - full.astype(jnp.int32))
        )
    return moments._replace(factors=factors, num_updates=num_updates)


def centered(moments):
    """Return ((X, mean), (Y, mean), samples), where X, Y equal the centered data up to a rotation of rows.

    NaN for fewer than 2 samples.
    """
    samples = as_float(moments.count, moments.factors.dtype)
    width = moments.factors.shape[-1]
    factor = jnp.where(samples < 2, jnp.nan, triangular_factor(moments.factors.reshape(-1, width)))
    factors = jnp.split(factor, [len(moments.x.shift)], axis=1)
    return *((x, mean.shift + mean.offset) for x, mean in zip(factors, moments[1:3], strict=True)), samples


def centered_neurons(moments):
    """Return `centered`, with neurons at rounding level set to 0, as in `channels.subtract_mean`."""
    *sides, samples = centered(moments)
    sides = ((zero_rounding(x, (jnp.sqrt(samples) * jnp.abs(mean))[None]), mean) for x, mean in sides)
    return *sides, samples


def uncentered(moments):
    """Return (X, Y), equal to the uncentered data up to a rotation of rows. One row is the mean times the root of n."""
    *sides, samples = centered(moments)
    return tuple(jnp.concatenate([x, (jnp.sqrt(samples) * mean)[None]]) for x, mean in sides)
