"""The orthogonal factor of a matrix, with its derivative."""

import jax
import jax.numpy as jnp

from symjax.birkhoff.dual import matmul
from symjax.similarity.linalg import masked, reciprocal


@jax.custom_jvp
def polar(x):
    """Return U V' of x = U S V' (m, d), over the directions with singular values above rounding.

    It is the rotation nearest to x, and zero on the directions that x does not have. The derivative is at constant
    rank.
    """
    u, _, vt = _svd(x)
    return matmul(u, vt)


@polar.defjvp
def _polar_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    u, s, vt = _svd(x)
    right = matmul(dx, vt.T)
    within = matmul(u.T, right)
    turn = (within - within.T) * reciprocal(s[:, None] + s[None, :])
    rows = (right - matmul(u, within)) * reciprocal(s)[None]
    left = matmul(u.T, dx)
    columns = (left - matmul(within, vt)) * reciprocal(s)[:, None]
    return matmul(u, vt), matmul(matmul(u, turn) + rows, vt) + matmul(u, columns)


def _svd(x):
    """Return the SVD with zeros in place of directions of rounding."""
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    kept = ~(s <= 8 * float(jnp.finfo(x.dtype).eps) * min(x.shape) ** 0.5 * s[0])  # a NaN is kept
    return masked(u, kept), masked(s, kept), jnp.where(kept[:, None], vt, 0)
