"""Alignments of one representation to another: rotations and matchings of channels, which can be used as stitches.

An alignment maps x to y_i ~ sum_j matrix_ij x_j + bias_i; for samples in rows, y ~ x @ matrix.T + bias.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from symjax.birkhoff import nearest_permutation
from symjax.birkhoff.dual import matmul
from symjax.similarity.inputs import as_matrix, as_pair, check_samples, representation
from symjax.spelling import one_line


class Rotation(NamedTuple):
    """An orthogonal alignment, y ~ scaling * rotation x + bias."""

    rotation: jax.Array  # (d_y, d_x), orthogonal; rows or columns orthonormal where widths differ. With fewer samples
    #     than channels it is orthogonal on the span of the data and zero on the complement
    scaling: jax.Array  # 0-d
    bias: jax.Array  # (d_y,), zero unless means were subtracted

    def __repr__(self):
        return one_line(self)

    @property
    def matrix(self):
        return self.scaling * self.rotation


class Matching(NamedTuple):
    """A matching of channels, y_i ~ scaling_i x_permutation(i) + bias_i."""

    permutation: jax.Array  # (d_y,), int32; -1 for channels of y without a match, where x is narrower
    scaling: jax.Array  # (d_y,), 0 where the permutation is -1
    selection: jax.Array  # (d_y, d_x), the permutation as a matrix; a zero row for each -1
    bias: jax.Array  # (d_y,), zero unless means were subtracted; the mean for channels without a match

    def __repr__(self):
        return one_line(self)

    @property
    def matrix(self):
        return self.scaling[:, None] * self.selection


def assign(gain, active_rows=True, active_columns=True):
    """Match rows to different columns of `gain` (d_y, d_x) so that the sum of the matched entries is largest.

    The narrower side is padded with zeros. Inactive rows and columns (dead channels) count as padding: as many active
    rows as possible are matched with active columns. No derivative.

    Returns:
        The column for each row (-1 for none), and the matching as a matrix (d_y, d_x).
    """
    rows, columns = gain.shape
    permutation = nearest_permutation(_pad_to_square(gain, active_rows, active_columns))[:rows]
    return _drop_padding(permutation, columns, gain.dtype)


@jax.jit
def _pad_to_square(gain, active_rows, active_columns):
    rows, columns = gain.shape
    width = max(rows, columns)
    active_rows = jnp.zeros(width, bool).at[:rows].set(active_rows)
    active_columns = jnp.zeros(width, bool).at[:columns].set(active_columns)
    square = jnp.zeros((width, width), gain.dtype).at[:rows, :columns].set(jax.lax.stop_gradient(gain))
    # A reward for pairs of inactive channels, since each leaves one more pair of active ones. A reward for active pairs
    # would be equivalent, but the gain would lose digits.
    reward = 4 * width * jnp.maximum(1, jnp.abs(square).max())
    return jnp.where(active_rows[:, None] | active_columns[None, :], square, reward)


@partial(jax.jit, static_argnums=(1, 2))
def _drop_padding(permutation, columns, dtype):
    permutation = jnp.where(permutation < columns, permutation, -1)
    return permutation, jax.nn.one_hot(permutation, columns, dtype=dtype)


@jax.jit
def positive_scaling(permutation, x_norm, y_norm):
    """Return the factor for each channel of y that gives the matched channel of x the same norm.

    It is 1 where the matched channel of x is dead; otherwise 0 for a channel of y that is dead or has no match.
    """
    matched = x_norm[permutation]
    scaling = jnp.where(matched > 0, y_norm / jnp.where(matched > 0, matched, 1), 1)
    return jnp.where(permutation < 0, 0 * y_norm, scaling)  # 0 * NaN stays NaN


def positive_matching(products, x_norm, y_norm):
    """Return the `Matching` with positive scalings that maximizes the sum of `products` (d_y, d_x)."""
    permutation, selection = assign(products, y_norm > 0, x_norm > 0)
    scaling = positive_scaling(permutation, x_norm, y_norm)
    return Matching(permutation, scaling, selection, jnp.zeros_like(scaling))


def paired_samples(x, y, samples="positions", mask=None, **options):
    """Return `x` and `y` as matrices with equally many rows (`as_pair`), after bringing maps to one size.

    Where pixels are samples, the smaller map is enlarged by nearest neighbor along each axis: pixel i of `length` new
    pixels is pixel floor(i size / length) of the `size` old ones.

    Raises:
        InputError: as `as_pair`, which takes the same options.
    """
    return as_pair(x, y, samples, mask, enlarging=True, **options)


def samples_or_maps(x, samples):
    """Return a matrix, or unchanged maps if pixels are samples, since maps may be enlarged later."""
    options = {"layout": "nhwc"}
    return (
        representation(x, **options) if check_samples(samples) == "positions" else as_matrix(x, "x", samples, **options)
    )


def channels_first(x):
    return jnp.moveaxis(x, -1, 0)


def matched_sum(cross, permutation):
    """Return the sum of `cross` (p, q) over the pairs of `Matching.permutation`."""
    chosen = jnp.where(permutation < 0, 0, cross[permutation, jnp.arange(cross.shape[1])])
    return chosen.sum() + 0 * cross.sum()  # propagates NaN in unmatched entries


def matching_residual(x, y, selection):
    """Return |y - x selection'|^2 plus the squared norms of the columns of x that `selection` (d_y, d_x) leaves out."""
    return ((y - matmul(x, selection.T)) ** 2).sum() + ((x * x).sum(0) * (1 - selection.sum(0))).sum()


def matching_residual_of_rows(x, y, permutation, selection):
    """Return `matching_residual` for channels in rows, by permuting rows."""
    matched = jnp.where(permutation[:, None] < 0, 0, x[permutation])
    return ((y - matched) ** 2).sum() + ((x * x).sum(1) * (1 - selection.sum(0))).sum()
