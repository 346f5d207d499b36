"""Sinkhorn scaling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.birkhoff.dual import residual
from symjax.checks import flag, integer, is_concrete, require_finite, scalar, square
from symjax.errors import InputError
from symjax.spelling import one_line


class SinkhornInfo(NamedTuple):
    """The convergence of a scaling; every field has the batch shape of the input.

    Attributes:
        iterations: int32, number of sweeps.
        residual: the largest |row sum - 1| or |column sum - 1| of the returned matrix; 1 where a row or column is zero.
    """

    iterations: jax.Array
    residual: jax.Array

    def __repr__(self):
        return one_line(self)


def sinkhorn(matrix, num_iters=16, *, tol=None, full_output=False):
    """Normalize rows and columns of a nonnegative matrix alternately, rows first: in the limit the KL projection.

    The limit is the doubly stochastic matrix diag(a) M diag(b) that minimizes KL(X | M). Convergence is linear if every
    positive entry of M lies on a permutation with positive entries. Rows and columns of zeros stay zero. Scaling rows
    of M does not change the result. Derivatives are those of the sweeps.

    Args:
        matrix: (..., n, n), nonnegative, floating (integers become the default float).
        num_iters: number of sweeps, each of one row and one column normalization. Static.
        tol: residual (see `SinkhornInfo`) at which to stop, separately for each matrix of a batch; `num_iters` is then
            the largest number of sweeps. None makes all sweeps.
        full_output: whether to return (X, info) with a `SinkhornInfo`, which has no derivative.

    Returns:
        X with the shape of `matrix`, and `info` if requested.

    Raises:
        InputError: not square, not real, num_iters negative or not an integer, tol not positive; a concrete matrix with
            NaN, infinite or negative entries.

    Reference: Sinkhorn 1964.

    Example:
        >>> import numpy as np
        >>> from symjax import sinkhorn
        >>> print(np.asarray(sinkhorn([[1.0, 2.0], [2.0, 1.0]])).round(3))
        [[0.333 0.667]
         [0.667 0.333]]
    """
    flag("full_output", full_output)
    matrix = square("matrix", matrix)
    integer("num_iters", num_iters)
    if tol is not None:
        scalar("tol", tol, "a positive number", lambda value: 0 < value < float("inf"))
    require_finite("matrix", matrix)
    if is_concrete(matrix) and (np.asarray(matrix) < 0).any():
        raise InputError("matrix: got negative entries, expected nonnegative entries")
    scaled, iterations = (_sweeps if tol is None else _sweeps_until)(matrix, num_iters, tol)
    if not full_output:
        return scaled
    return scaled, SinkhornInfo(iterations, residual(lax.stop_gradient(scaled)))


def _sweeps(matrix, count, _):
    if count:
        matrix = lax.scan(lambda m, _: (_sweep(m), None), _rescale_rows(matrix), length=count)[0]
    return matrix, jnp.full(matrix.shape[:-2], count, jnp.int32)


def _sweeps_until(matrix, max_sweeps, tol):
    def sweep(carry, _):
        m, num_sweeps = carry
        unconverged = ~(residual(m) <= tol)  # NaN counts as unconverged
        return (jnp.where(unconverged[..., None, None], _sweep(m), m), num_sweeps + unconverged.astype(jnp.int32)), None

    # A scan and not a while loop, for reverse-mode derivatives.
    start = jnp.where((residual(matrix) <= tol)[..., None, None], matrix, _rescale_rows(matrix))
    return lax.scan(sweep, (start, jnp.zeros(matrix.shape[:-2], jnp.int32)), length=max_sweeps)[0]


def _sweep(matrix):
    return _normalize(_normalize(matrix, -1), -2)


def _normalize(matrix, axis):
    total = matrix.sum(axis, keepdims=True)
    return matrix / jnp.where(total > 0, total, jnp.ones_like(total))


def _rescale_rows(matrix):
    # This cancels in the first normalization, so it needs no derivative, and it avoids overflow.
    largest = lax.stop_gradient(matrix.max(-1, keepdims=True))
    return matrix / jnp.where(largest > 0, largest, jnp.ones_like(largest))
