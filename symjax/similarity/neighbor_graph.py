"""Graphs of the k nearest neighbors, as matrices (n, n) that are computed once for each representation."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from symjax.checks import integer
from symjax.errors import InputError
from symjax.similarity.channels import safe_sqrt
from symjax.similarity.distances import checked_examples, distances, is_translation_invariant, nan_unless_varied
from symjax.similarity.inputs import as_matrix
from symjax.similarity.pair_product import PairProduct

LEAST_EXAMPLES = 11  # for the default of k


def checked(x, y, k, metric, samples, layout, mask):
    """Return two matrices of examples and k; raise an `InputError` for what does not fit."""
    x, y = checked_examples(x, y, metric, samples, layout, mask)
    k = integer("k", k, 1)
    if k >= len(x):
        raise InputError(f"k: got {k}, expected at most {len(x) - 1}, the number of other examples")
    return x, y, k


def neighbor_distances(x, metric, samples):
    """Return a matrix (n, n) that increases with `distances`, all NaN if all distances are equal.

    For angles it is the distance of the unit vectors, whose rounding is the same for all pairs.
    """
    matrix, _ = distances(as_matrix(x, "x", samples, layout="nhwc"), metric)
    return nan_unless_varied(matrix if is_translation_invariant(metric) else safe_sqrt(2 * matrix))


def membership(matrix, k, metric):
    """Return (n, n): 1 in row i for the k nearest neighbors of example i, from distances.

    Examples that tie for the last places share them equally, so that the order of examples does not matter. Angles tie
    up to rounding: sparse features make few different ones.
    """
    others = _others(lax.stop_gradient(matrix))
    furthest = (-lax.top_k(-others, k)[0]).max(1, keepdims=True)  # a slice would become a slow sort
    noise = 0 if is_translation_invariant(metric) else 8 * float(jnp.finfo(matrix.dtype).eps)
    nearer, tied = others < furthest - noise, jnp.abs(others - furthest) <= noise
    nearer, tied = nearer.astype(matrix.dtype), tied.astype(matrix.dtype)
    shares = (k - nearer.sum(1, keepdims=True)) / jnp.maximum(tied.sum(1, keepdims=True), 1)
    return jnp.where(jnp.isnan(matrix), matrix, nearer + shares * tied)


def neighbor_lists(matrix, k):
    """Return (n, k): the indices of the nearest neighbors in their order, those at equal distances by index."""
    indices = lax.top_k(-_others(lax.stop_gradient(matrix)), k)[1].astype(matrix.dtype)
    return jnp.where(jnp.isnan(matrix[:, :1]), jnp.nan, indices)


def all_ranks(matrix):
    """Return (n, n): in row i the ranks of all other examples by distance, 1 for the nearest; ties share their mean."""
    ranks = jax.vmap(midranks)(_others(matrix))
    return jnp.where(jnp.isnan(matrix), matrix, jnp.where(jnp.eye(len(matrix), dtype=bool), 0, ranks))


def midranks(values):
    """Return the ranks of values (m,), from 1; equal values have the mean of their ranks. No derivative."""
    ordered = jnp.sort(values)
    below, through = (jnp.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (below + through + 1).astype(values.dtype) / 2


def midranks_of_levels(values, levels):
    """Return `midranks` of nonnegative values rounded to `levels` steps up to the largest one, without sorting."""
    largest = values.max()
    steps = jnp.rint(values / jnp.where(largest > 0, largest, 1) * levels).astype(jnp.int32)
    counts = jnp.zeros(levels + 1, jnp.int32).at[steps].add(1)
    through = jnp.cumsum(counts)
    return (2 * through - counts + 1)[steps].astype(values.dtype) / 2


def _others(matrix):
    return jnp.where(jnp.eye(len(matrix), dtype=bool), jnp.inf, matrix)


def rowwise(sums, columns=None):
    """Return the `PairProduct` whose product of two prepared matrices, (parts, n * columns) each, is sums(a, b).

    `sums` takes matrices (parts, n, columns) and adds over the last axis; by default they are square.
    """

    def multiply(a, b):
        width = columns or math.isqrt(a.shape[-1])
        a, b = (side.reshape(*side.shape[:2], -1, width) for side in (a, b))
        return jax.vmap(lambda left: jax.vmap(lambda right: sums(left, right))(b))(a)

    return PairProduct(lambda a, b: (), lambda data, size: data, multiply)


def flat(*matrices):
    """Return matrices as the data of a `Prepared` of a `rowwise` measure."""
    return jnp.stack([matrix.reshape(-1) for matrix in matrices])
