"""The canonical form of two centered data matrices X and Y, with its derivative.

H = X A and K = Y B are orthonormal, and H' K is the diagonal matrix of correlations. A and B come from whitening each
side and an SVD of the whitened cross product. Whitening uses Cholesky factors of the Gram matrices where these are well
conditioned, which takes one pass over the data. Otherwise it uses the triangular factor of (X, Y) and an SVD for each
side, since a Gram matrix in float32 loses all singular values under 3e-4 of the largest one.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular

from symjax.birkhoff.dual import matmul
from symjax.similarity.linalg import masked, reciprocal, transposed, triangular_factor

# Largest condition number of a Gram matrix, times the root of eps. Up to it, correlations from the Cholesky factor are
# accurate to 1e-5 in float32 (condition 1e4; the error is 1e-9 times the condition) and to 1e-9 in float64 (2e8).
GRAM_CONDITION = 4


class Canonical(NamedTuple):
    """The canonical form, with columns in the order of correlations; those past a side's rank are zero."""

    correlations: jax.Array  # (min(d_x, d_y),)
    x: "Side"
    y: "Side"


class Side(NamedTuple):
    directions: jax.Array  # A (d, min(d_x, d_y))
    loadings: jax.Array  # X' H, of the same shape
    rank: jax.Array  # int32
    smallest: jax.Array  # smallest kept singular value of X, relative to the largest one
    dropped: jax.Array  # largest dropped singular value, relative to the largest one; 0 without any


class _Whitening(NamedTuple):
    """A map W such that X W is orthonormal in the kept directions and zero in the others; X' X W = `loadings`."""

    transform: jax.Array
    loadings: jax.Array
    kept: jax.Array  # bool (d,), for columns of `transform`
    dropped: jax.Array  # as in `Side`


def whiten(x, rcond):
    """Return an orthonormal basis (n, d) of the kept directions of X, X' times it (d, d), the rank, and `Side.dropped`.

    Columns for dropped directions are zero. The singular values of the product of two such bases are the correlations.
    X is as in `canonical`; no derivatives.
    """
    whitening, condition = _whiten_gram(matmul(transposed(x), x))

    def by_cholesky():
        return matmul(x, whitening.transform), whitening

    def by_triangular():
        q, r = jnp.linalg.qr(x)
        coordinates, whitening = _whiten_svd(r, rcond)
        return matmul(q, coordinates), whitening

    basis, used = lax.cond(condition <= _condition_limit(x.dtype, rcond), by_cholesky, by_triangular)
    return basis, used.loadings, used.kept.sum(dtype=jnp.int32), used.dropped


def _condition_limit(dtype, rcond):
    """Return the largest condition number of a Gram matrix at which Cholesky is accurate and drops no direction."""
    return min(GRAM_CONDITION / math.sqrt(jnp.finfo(dtype).eps), 1 / max(rcond, 1e-30) ** 2)


def canonical(x, y, rcond):
    """Return the `Canonical` form of X (n, d_x) and Y (n, d_y), with centered columns of norm 1 or 0 and d_x, d_y <= n.

    Directions with singular values up to rcond times the largest one are dropped. Derivatives are valid at constant
    rank. Those of `directions` and `loadings` also require distinct correlations (for equal ones, up to rounding, the
    rotation into each other counts as zero), and move directions only within the span of X'.
    """
    correlations, a, b, x_loadings, y_loadings, *ranks, x_dropped, y_dropped = _canonical(rcond, x, y)
    count = correlations.shape[0]
    used = jnp.arange(count, dtype=jnp.int32) < jnp.minimum(*ranks)
    sides = [
        Side(
            masked(directions[:, :count], used),
            masked(loadings[:, :count], used),
            rank,
            _smallest_singular_value(loadings, rank),
            dropped,
        )
        for directions, loadings, rank, dropped in zip(
            (a, b), (x_loadings, y_loadings), ranks, (x_dropped, y_dropped), strict=True
        )
    ]
    return Canonical(correlations, *sides)


def _smallest_singular_value(loadings, rank):
    # Outside of `_canonical`, so that under `jit` it is computed only where it is used.
    s = jnp.linalg.svd(lax.stop_gradient(loadings), compute_uv=False)
    return s[rank - 1] * reciprocal(s[0])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _canonical(rcond, x, y):
    x_t, y_t = transposed(x), transposed(y)
    x_gram, y_gram = matmul(x_t, x), matmul(y_t, y)
    (x_gram_whitening, x_condition), (y_gram_whitening, y_condition) = _whiten_gram(x_gram), _whiten_gram(y_gram)

    def by_cholesky(_):
        cross = matmul(x_t, y)
        return (
            matmul(x_gram_whitening.transform.T, matmul(cross, y_gram_whitening.transform)),
            x_gram_whitening,
            y_gram_whitening,
        )

    def by_triangular(_):
        joint = triangular_factor(jnp.concatenate([x, y], 1))
        (x_basis, x_whitening), (y_basis, y_whitening) = (
            _whiten_svd(side, rcond) for side in jnp.split(joint, [x.shape[1]], axis=1)
        )
        return matmul(x_basis.T, y_basis), x_whitening, y_whitening

    limit = _condition_limit(x.dtype, rcond)
    accurate = (x_condition <= limit) & (y_condition <= limit)
    cross, x_whitening, y_whitening = lax.cond(accurate, by_cholesky, by_triangular, None)
    p, correlations, qt = jnp.linalg.svd(cross)
    # Both bases are orthonormal up to rounding, so this removes rounding alone.
    correlations = jnp.minimum(correlations, 1)
    common = jnp.minimum(x_whitening.kept.sum(dtype=jnp.int32), y_whitening.kept.sum(dtype=jnp.int32))
    correlations = jnp.where(jnp.arange(len(correlations), dtype=jnp.int32) < common, correlations, 0 * correlations)
    return (
        correlations,
        matmul(x_whitening.transform, p),
        matmul(y_whitening.transform, qt.T),
        matmul(x_whitening.loadings, p),
        matmul(y_whitening.loadings, qt.T),
        x_whitening.kept.sum(dtype=jnp.int32),
        y_whitening.kept.sum(dtype=jnp.int32),
        x_whitening.dropped,
        y_whitening.dropped,
    )


def _replace_zero_columns(x_gram):
    """Return the Gram matrix with 1 on the diagonal for zero columns.

    1 is within the range of the other eigenvalues, whose mean is 1.
    """
    return x_gram + jnp.diag(jnp.where(jnp.diagonal(x_gram) == 0, 1, 0).astype(x_gram.dtype))


def _whiten_gram(x_gram):
    """Return the `_Whitening` from the Cholesky factor, and an upper bound of the Gram matrix's condition number."""
    nonzero = ~(jnp.diagonal(x_gram) == 0)
    x_gram = _replace_zero_columns(x_gram)
    factor = jnp.linalg.cholesky(x_gram)
    inverse = solve_triangular(factor, jnp.eye(len(factor), dtype=factor.dtype), lower=True)
    condition = _norm_bound(x_gram) * _norm_bound(matmul(inverse.T, inverse))
    zero = jnp.zeros((), x_gram.dtype)
    return _Whitening(masked(inverse.T, nonzero), masked(factor, nonzero), nonzero, zero), condition


def _norm_bound(symmetric):
    """Return an upper bound of the largest eigenvalue, at most the root of the size times it."""
    return jnp.minimum(jnp.abs(symmetric).sum(0).max(), jnp.sqrt((symmetric**2).sum()))


def _whiten_svd(x, rcond):
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    kept = ~(s <= rcond * s[0])  # a NaN is kept
    dropped = jnp.where(kept, 0, s).max() * reciprocal(s[0])
    return masked(u, kept), _Whitening(
        vt.T * masked(reciprocal(s), kept)[None], vt.T * masked(s, kept)[None], kept, dropped
    )


@_canonical.defjvp
def _canonical_jvp(rcond, primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    outputs = _canonical(rcond, x, y)
    correlations, a, b, x_loadings, y_loadings, *_ = outputs
    count = len(correlations)
    h, k = matmul(x, a), matmul(y, b)
    # If H moves orthogonally to its span, dA = -A H' dX A. Then H' K changes by `cross_change`, and rotations of both
    # sides make it diagonal again (the derivative of an SVD).
    dxa, dyb = matmul(dx, a), matmul(dy, b)
    x_within, y_within = matmul(h.T, dxa), matmul(k.T, dyb)
    sigma = jnp.zeros((h.shape[1], k.shape[1]), h.dtype).at[jnp.arange(count), jnp.arange(count)].set(correlations)
    cross_change = matmul(dxa.T, k) - matmul(x_within.T, sigma) + matmul(h.T, dyb) - matmul(sigma, y_within)
    x_rotation, y_rotation = _rotations(correlations, cross_change)
    # The diagonal of `cross_change` again: a gradient of correlations alone then needs no square products.
    d_correlations = _column_products(dxa[:, :count], k[:, :count] - h[:, :count] * correlations[None])
    d_correlations += _column_products(dyb[:, :count], h[:, :count] - k[:, :count] * correlations[None])
    tangents_out = (
        d_correlations,
        matmul(a, x_rotation - x_within),
        matmul(b, y_rotation - y_within),
        matmul(dx.T, h) + matmul(x_loadings, x_rotation),
        matmul(dy.T, k) + matmul(y_loadings, y_rotation),
    )
    no_tangent = np.zeros((), jax.dtypes.float0)
    return outputs, (*tangents_out, no_tangent, no_tangent, *(jnp.zeros_like(dropped) for dropped in outputs[-2:]))


def _column_products(left, right):
    return jnp.einsum("ni,ni->i", left, right, precision="highest")


def _rotations(correlations, cross_change):
    """Return antisymmetric Omega_x, Omega_y with `cross_change` = Omega_x Sigma + d Sigma - Sigma Omega_y."""
    rows, columns = cross_change.shape
    size = max(rows, columns)
    cross_change = jnp.pad(cross_change, ((0, size - rows), (0, size - columns)))
    sigma = jnp.pad(correlations, (0, size - len(correlations)))
    gap = sigma[None, :] ** 2 - sigma[:, None] ** 2
    tolerance = 8 * float(jnp.finfo(gap.dtype).eps)
    inverse = reciprocal(jnp.where(jnp.abs(gap) <= tolerance, 0, gap))
    x_rotation = (cross_change * sigma[None, :] + sigma[:, None] * cross_change.T) * inverse
    y_rotation = (sigma[:, None] * cross_change + cross_change.T * sigma[None, :]) * inverse
    return x_rotation[:rows, :rows], y_rotation[:columns, :columns]
