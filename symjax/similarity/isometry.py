"""The best rotation between two data matrices, accurate also for small differences."""

import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.similarity.channels import safe_sqrt, zero_if_equal
from symjax.similarity.linalg import hold_constant, triangular_factor

_REFINE_BELOW = 0.05  # distance below which the rotation is refined
_SIZE_STEP, _NUM_SIZES = 1e-4, 4  # ratio and number of the squared sizes below which directions are refined together


def best_isometry(narrow, wide):
    """Return min |wide - narrow R| over R with orthonormal rows, and R."""
    narrow_part, narrow_basis = _row_coordinates(narrow)
    wide_part, wide_basis = _row_coordinates(wide)
    left, _, right = jnp.linalg.svd(matmul(narrow_part.T, wide_part), full_matrices=False)
    isometry = matmul(left, right)
    distance_of_svd = jnp.linalg.norm(wide_part - matmul(narrow_part, isometry))
    isometry = lax.cond(
        distance_of_svd < _REFINE_BELOW,
        lambda isometry: _refine_isometry(narrow_part, wide_part, isometry),
        lambda isometry: isometry,
        isometry,
    )
    if narrow_basis is not None:
        isometry = matmul(narrow_basis, isometry)
    if wide_basis is not None:
        isometry = matmul(isometry, wide_basis.T)
    isometry = lax.stop_gradient(isometry)
    # At the best R, the distance has the same derivative with R held fixed. The derivative of the SVD, which is
    # undefined where singular values coincide, is not needed.
    isometry = hold_constant(isometry, (narrow, wide))
    distance = safe_sqrt(((wide - matmul(narrow, isometry)) ** 2).sum())
    return zero_if_equal(distance, narrow, wide), isometry


def _refine_isometry(narrow, wide, isometry):
    """Return a better R than the one from X'Y, whose small singular values are lost in the rounding of large ones.

    Z = X R and Y are expressed in the right singular vectors of Z. All of these directions, then only the smaller ones,
    and so on, are rotated optimally among themselves. Directions of different sizes are then rotated by the solution W
    of W Z'Z + Z'Z W = Z'Y - Y'Z, which is right to first order, with the digits that the size of each direction allows.
    R itself and the identity are among the candidates, so the result is at least as good.
    """

    def refine(turn, isometry):
        rotated = matmul(narrow, isometry)
        vectors = jnp.linalg.svd(triangular_factor(rotated))[2].T
        z, y = matmul(rotated, vectors), matmul(wide, vectors)
        squares = (z**2).sum(0)
        small = squares <= squares.max() * _SIZE_STEP ** (turn % _NUM_SIZES)
        inner = jnp.where(small[:, None] & small[None], matmul(z.T, y), 0)
        left, _, right = jnp.linalg.svd(inner / jnp.maximum(jnp.abs(inner).max(), jnp.finfo(inner.dtype).tiny))
        best = jnp.where(small[:, None] & small[None], matmul(left, right), jnp.eye(len(inner), dtype=inner.dtype))
        z = matmul(z, best)
        skew = matmul(z.T, y - z)
        squares = (z**2).sum(0)
        sums = squares[:, None] + squares[None, :]
        turn = jnp.where(sums > 0, (skew.T - skew) / jnp.where(sums > 0, sums, 1), 0) / 2
        eye = jnp.eye(len(turn), dtype=turn.dtype)
        turn = jnp.linalg.solve(eye + turn, eye - turn)  # orthogonal (Cayley); to first order 1 - 2 turn
        for rotation in (best, matmul(best, turn)):
            candidate = matmul(isometry, matmul(matmul(vectors, rotation), vectors.T))
            isometry = _closer_isometry(narrow, wide, candidate, isometry)
        return isometry

    isometry = lax.fori_loop(0, 2 * _NUM_SIZES, refine, isometry)
    return _closer_isometry(narrow, wide, jnp.eye(*isometry.shape, dtype=isometry.dtype), isometry)


def _closer_isometry(narrow, wide, first, second):
    squares = [((wide - matmul(narrow, isometry)) ** 2).sum() for isometry in (first, second)]
    return jnp.where(squares[0] < squares[1], first, second)


def _row_coordinates(x):
    """Return the rows of x in an orthonormal basis and this basis (as columns), if x has fewer rows than columns."""
    x = lax.stop_gradient(x)
    if x.shape[0] >= x.shape[1]:
        return x, None
    basis, triangle = jnp.linalg.qr(x.T)
    return triangle.T, basis
