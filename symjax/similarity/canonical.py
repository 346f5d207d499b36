"""The canonical form of two centred data matrices X and Y, with its derivative.

H = X A and K = Y B are orthonormal, and H' K is the diagonal of correlations. A and B are found by whitening each side
and an SVD of what is left of the cross product. Whitening takes Cholesky factors of the Gram matrices where these are
well conditioned, which costs one pass over the data; elsewhere the triangular factor of (X, Y) and an SVD for each
side, since a Gram matrix in float32 has lost all singular values under 3e-4 of the largest.
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

# Of a Gram matrix, times the root of eps: up to which correlations from its Cholesky factor are right to 1e-5 in
# float32 (condition 1e4; the error is 1e-9 times the condition) and to 1e-9 in float64 (2e8).
GRAM_CONDITION = 4


class Canonical(NamedTuple):
    """Columns come in the order of correlations; those past a side's rank are zero, as are correlations."""

    correlations: jax.Array  # (min(d_x, d_y),)
    x: "Side"
    y: "Side"


class Side(NamedTuple):
    directions: jax.Array  # A (d, min(d_x, d_y))
    loadings: jax.Array  # X' H, of the same shape
    rank: jax.Array  # int32
    smallest: jax.Array  # smallest kept singular value of X, relative to the largest
    dropped: jax.Array  # largest one that is not kept, alike; 0 where there is none


class _Whitening(NamedTuple):
    """X W orthonormal in the kept directions, zero in the others; X' X W = `loadings`."""

    transform: jax.Array
    loadings: jax.Array
    kept: jax.Array  # bool (d,), of columns of `transform`
    dropped: jax.Array  # as of `Side`


def whiten(x, rcond):
    """An orthonormal basis (n, d) of the directions of X that `canonical` keeps, X' times it (d, d), and the rank.

    Columns for directions not kept are zero. The singular values of the product of two such bases are the correlations.
    For X as in `canonical`; no derivatives.
    """
    whitening, condition = _whiten_gram(matmul(transposed(x), x))

    def by_cholesky():
        return matmul(x, whitening.transform), whitening.loadings, whitening.kept

    def by_triangular():
        q, r = jnp.linalg.qr(x)
        coordinates, whitening = _whiten_svd(r, rcond)
        return matmul(q, coordinates), whitening.loadings, whitening.kept

    coordinates, loadings, kept = lax.cond(condition <= _condition_limit(x.dtype, rcond), by_cholesky, by_triangular)
    return coordinates, loadings, kept.sum(dtype=jnp.int32)


def _condition_limit(dtype, rcond):
    """Of a Gram matrix, up to which its Cholesky factor will do: accurate, and no direction is to be dropped."""
    return min(GRAM_CONDITION / math.sqrt(jnp.finfo(dtype).eps), 1 / max(rcond, 1e-30) ** 2)


def canonical(x, y, rcond):
    """`Canonical` of X (n, d_x) and Y (n, d_y), whose columns are centred and of norm 1 or 0, with d_x, d_y <= n.

    Directions with singular values up to rcond times the largest are left out. Derivatives hold at constant rank;
    those of `directions` and `loadings` moreover where correlations are distinct (two that agree to rounding are taken
    not to rotate into each other), and directions are moved within the span of X' only.
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
    # Here and not in `_canonical`, so that under `jit` nobody pays for it who does not ask.
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
    # Both bases are orthonormal to rounding, so no more than rounding is cut off here.
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
    """The Gram matrix with 1 for a column of zeros: within the range of the others' eigenvalues, whose mean is 1."""
    return x_gram + jnp.diag(jnp.where(jnp.diagonal(x_gram) == 0, 1, 0).astype(x_gram.dtype))


def _whiten_gram(x_gram):
    """`_Whitening` and an upper bound of the Gram matrix's condition number."""
    nonzero = ~(jnp.diagonal(x_gram) == 0)
    x_gram = _replace_zero_columns(x_gram)
    factor = jnp.linalg.cholesky(x_gram)
    inverse = solve_triangular(factor, jnp.eye(len(factor), dtype=factor.dtype), lower=True)
    condition = _norm_bound(x_gram) * _norm_bound(matmul(inverse.T, inverse))
    zero = jnp.zeros((), x_gram.dtype)
    return _Whitening(masked(inverse.T, nonzero), masked(factor, nonzero), nonzero, zero), condition


def _norm_bound(symmetric):
    """No less than the largest eigenvalue, at most the root of the size times it."""
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
    # With H moved orthogonally to its span, dA = -A H' dX A. H' K then changes by `cross_change`, and rotations of both
    # sides make it diagonal again (the derivative of an SVD).
    dxa, dyb = matmul(dx, a), matmul(dy, b)
    x_within, y_within = matmul(h.T, dxa), matmul(k.T, dyb)
    sigma = jnp.zeros((h.shape[1], k.shape[1]), h.dtype).at[jnp.arange(count), jnp.arange(count)].set(correlations)
    cross_change = matmul(dxa.T, k) - matmul(x_within.T, sigma) + matmul(h.T, dyb) - matmul(sigma, y_within)
    x_rotation, y_rotation = _rotations(correlations, cross_change)
    # The diagonal of `cross_change` again, for a gradient of correlations alone that costs no square products.
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
    """Antisymmetric Omega_x, Omega_y with `cross_change` = Omega_x Sigma + d Sigma - Sigma Omega_y."""
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
