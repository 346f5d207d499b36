"""The `CCA` of data that have been centered and reduced."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from symjax.similarity.canonical import canonical
from symjax.similarity.linalg import from_row_space, reciprocal, to_row_space, unit_columns
from symjax.spelling import one_line


class CCA(NamedTuple):
    """Canonical correlations, and the directions of the variates (x - x_mean) @ x_directions; k = min(d_x, d_y).

    Variates have mean 0 and variance 1 (sum of squares n - 1), and those of one side are uncorrelated. The i-th
    variates of x and of y have correlation `correlations[i]`, in [0, 1], in descending order. Columns past min(x_rank,
    y_rank) are zero, and so are their correlations.
    """

    correlations: jax.Array  # (k,)
    x_directions: jax.Array  # (d_x, k)
    y_directions: jax.Array  # (d_y, k)
    x_mean: jax.Array  # (d_x,)
    y_mean: jax.Array  # (d_y,)
    x_loadings: jax.Array  # (d_x, k), covariance of each neuron with each variate of its side
    y_loadings: jax.Array  # (d_y, k)
    x_rank: jax.Array  # int32, number of kept directions
    y_rank: jax.Array
    x_smallest: jax.Array  # smallest kept singular value over the largest, of centered neurons of unit norm
    y_smallest: jax.Array
    x_dropped: jax.Array  # largest singular value that `rcond` drops, over the largest; 0 if it drops none
    y_dropped: jax.Array

    def __repr__(self):
        return one_line(self)


def cca_of_centered(x, y, rcond, samples):
    """Return the `CCA` of two pairs (centered data, mean).

    The result depends on the data through X'X, X'Y and Y'Y alone, so rows may be rotated.
    """
    return cca_of_reduced(unit_norm_data(*x), unit_norm_data(*y), rcond, samples)


def unit_norm_data(centered, mean):
    # Correlations do not depend on norms; with unit norms, rounding and `rcond` treat all neurons alike.
    unit, norms = unit_columns(centered)
    data, q = to_row_space(unit)
    return ReducedData(data, mean, norms, q, None)


class ReducedData(NamedTuple):
    """Data X diag(1 / neuron_norms) basis diag(1 / direction_norms) of centered neurons X.

    They are uncorrelated with the part of X that they leave out.
    """

    data: jax.Array  # (n, m), columns of norm 1 or 0, m at most n
    mean: jax.Array  # (d,)
    neuron_norms: jax.Array | None  # (d,)
    basis: jax.Array | None  # (d, m), orthonormal or zero columns
    direction_norms: jax.Array | None  # (m,)


def cca_of_reduced(x, y, rcond, samples):
    """Return the `CCA` of two `ReducedData`, in terms of their neurons.

    `samples` is a number or a 0-d array of their dtype.
    """
    result = canonical(x.data, y.data, rcond)
    count = min(len(x.mean), len(y.mean))
    deviation = jnp.sqrt(jnp.asarray(samples - 1, x.data.dtype))
    x_directions, x_loadings = _to_neurons(x, result.x, count, deviation)
    y_directions, y_loadings = _to_neurons(y, result.y, count, deviation)
    return CCA(
        _pad_with_zeros(result.correlations, count, 0),
        x_directions,
        y_directions,
        x.mean,
        y.mean,
        x_loadings,
        y_loadings,
        result.x.rank,
        result.y.rank,
        result.x.smallest,
        result.y.smallest,
        result.x.dropped,
        result.y.dropped,
    )


def _to_neurons(reduced, side, count, deviation):
    directions, loadings = side.directions * deviation, side.loadings / deviation
    if reduced.direction_norms is not None:
        directions, loadings = (
            directions * reciprocal(reduced.direction_norms)[:, None],
            loadings * reduced.direction_norms[:, None],
        )
    directions, loadings = (
        from_row_space(directions, reduced.basis),
        from_row_space(loadings, reduced.basis),
    )
    if reduced.neuron_norms is not None:
        directions, loadings = (
            directions * reciprocal(reduced.neuron_norms)[:, None],
            loadings * reduced.neuron_norms[:, None],
        )
    return _pad_with_zeros(directions, count, 1), _pad_with_zeros(loadings, count, 1)


def _pad_with_zeros(array, size, axis):
    """Append zeros along `axis` up to `size`; with fewer samples than neurons there are fewer directions."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return jnp.pad(array, widths)
