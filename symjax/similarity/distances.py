"""Distances between the examples of one representation, accurate also for large offsets and for huge examples."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.checks import is_concrete, one_of
from symjax.similarity.channels import (
    centered,
    magnitude,
    pad_to_common_width,
    safe_sqrt,
    subtract_ninther,
    unit_channels,
)
from symjax.similarity.inputs import NumericalWarning, as_matrix, as_pair, warn_user
from symjax.similarity.linalg import gram
from symjax.similarity.number_range import MAX_LOSS

METRICS = ("euclidean", "sqeuclidean", "cosine", "correlation")
_LEAST_SHARE = 0.02  # squared distances below this share of |x_i|^2 + |x_j|^2 lose digits in inner products


def check_metric(metric):
    return one_of("metric", metric, METRICS)


def is_translation_invariant(metric):
    return metric in ("euclidean", "sqeuclidean")


def checked_examples(x, y, metric, samples, layout, mask, min_examples=2):
    """Return two matrices of examples, for measures of their distances."""
    options = {"translation_invariant": is_translation_invariant(check_metric(metric)), "min_examples": min_examples}
    x, y = as_pair(x, y, samples, mask, layout=layout, **options)
    if not is_translation_invariant(metric):
        for name, side in (("x", x), ("y", y)):
            if is_concrete(side) and (message := _small_angles_message(side, metric)):
                warn_user(f"{name}: {message}", NumericalWarning)
    return (x, y) if metric == "correlation" else pad_to_common_width(x, y)


def warning_of_metric(metric, samples):
    """Return `SplitMeasure.warning` of a measure of distances."""
    if is_translation_invariant(metric):
        return None
    return lambda read, aux: _small_angles_message(as_matrix(read(), "x", samples, layout="nhwc"), metric)


def _small_angles_message(x, metric):
    """Return a message if rounding changes angles between examples (n, d) by more than `MAX_LOSS` of the largest."""
    points, eps = np.asarray(x, np.float64), float(jnp.finfo(x.dtype).eps)
    points = points - points.mean(1, keepdims=True) if metric == "correlation" else points
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    directions = np.divide(points, lengths, out=np.zeros_like(points), where=lengths > 0)[lengths[:, 0] > 0]
    largest = np.linalg.norm(directions - directions[:1], axis=1).max(initial=0)
    if not 4 * eps < largest < eps / MAX_LOSS:  # examples without any angle are not compared
        return None
    return (
        f"the angles between examples, up to {largest:.1e}, are close to rounding in {x.dtype}, since the mean is far "
        "larger than the differences; subtract it, or use metric='euclidean'"
    )


def lost_with_metric(metric="euclidean", **_):
    """Return what measures of distances lose with this metric; see `Measure.lost_with`."""
    lost = {"cosine": {"translation"}, "correlation": {"translation", "zero_channels"}}
    return frozenset(lost.get(metric, ()) if isinstance(metric, str) else ())


def distances(x, metric):
    """Return the distances (n, n) between rows of x (n, d), with a diagonal of zeros, and the unit that they are in.

    "cosine" is 1 minus the cosine of the angle between two rows, and "correlation" the same after subtracting from each
    row its mean. Rows of zeros (constant rows) have distance 1 from all others.
    """
    if metric in ("euclidean", "sqeuclidean"):
        points = subtract_ninther(x)
        size = magnitude(points)
        squares = squared_distances(points / size)
        return (safe_sqrt(squares), size) if metric == "euclidean" else (squares, size**2)
    points = unit_rows(centered(x.T).T if metric == "correlation" else x)
    squares = squared_distances(points)
    squares = jnp.where(squares <= (4 * float(jnp.finfo(x.dtype).eps)) ** 2, 0, squares)  # of parallel rows
    # |u - v|^2 / 2 is 1 - <u, v> for unit vectors; each row of zeros takes 1 / 2 from it.
    missing = (1 - (lax.stop_gradient(points) != 0).any(1).astype(x.dtype)) / 2
    result = squares / 2 + missing[:, None] + missing[None]
    return jnp.where(jnp.eye(len(x), dtype=bool), 0, result), jnp.ones((), x.dtype)


def unit_rows(x):
    """Scale each row to norm 1; rows of zeros stay zero."""
    return unit_channels(x.T)[0].T


def squared_distances(points):
    """Return |x_i - x_j|^2 (n, n) of points whose bulk lies around the origin and whose squares do not overflow.

    They come from inner products, and where these lose digits, as for close points far from the origin, from
    differences: n d operations outside of matrix products for each row that has such a pair.
    """
    products = gram(points)
    squares = jnp.diagonal(products)
    sizes = squares[:, None] + squares[None]
    result = jnp.maximum(sizes - 2 * products, 0)
    diagonal = jnp.eye(len(points), dtype=bool)
    inaccurate = lax.stop_gradient((result <= _LEAST_SHARE * sizes) & ~diagonal & (sizes > 0))

    def from_differences(row):
        point, needed = row
        return lax.cond(needed, lambda: ((points - point[None]) ** 2).sum(1), lambda: jnp.zeros_like(squares))

    exact = lax.map(jax.checkpoint(from_differences), (points, inaccurate.any(1)))
    return jnp.where(diagonal, 0, jnp.where(inaccurate, exact, result)) + 0 * squares.sum()  # propagates NaN


def nan_unless_varied(matrix):
    """Return distances (n, n); all NaN where one is NaN, or where all points have the same distance from each other."""
    different = ~jnp.eye(len(matrix), dtype=bool)
    least = jnp.where(different, matrix, jnp.inf).min()
    return jnp.where(least < matrix.max(), matrix, jnp.nan)
