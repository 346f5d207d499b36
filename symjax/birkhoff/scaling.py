"""Sinkhorn scaling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.birkhoff.checks import is_concrete, require_finite, scalar, square
from symjax.birkhoff.dual import residual
from symjax.checks import flag, integer
from symjax.errors import InputError
from symjax.spelling import one_line


class SinkhornInfo(NamedTuple):
    """How a scaling ended; every field has the batch shape of the input.

    iterations: int32, sweeps made.
    residual: the largest |row sum - 1| or |column sum - 1| of the returned matrix; 1 where a row or column is zero.
    """

    iterations: jax.Array
    residual: jax.Array

    __repr__ = one_line


def sinkhorn(matrix, num_iters=16, *, tol=None, full_output=False):
    """Alternate row and column normalisation of a nonnegative matrix, rows first: the KL projection in the limit.

    The limit is the doubly stochastic matrix diag(a) M diag(b), the minimiser of KL(X | M); it is reached at a linear
    rate when M has a positive entry on every permutation it supports. Rows and columns of zeros stay zero. The result
    does not change when rows of M are scaled. Differentiated through the sweeps.

    Args:
        matrix: (..., n, n), nonnegative, floating (integers become the default float).
        num_iters: sweeps; each is one row and one column normalisation. Static.
        tol: residual (see `SinkhornInfo`) at which to stop, each matrix of a batch for itself; then `num_iters` is the
            most that are made. None makes all.
        full_output: return (X, info), where `info` is a `SinkhornInfo`, which carries no derivative.

    Returns:
        X of the shape of `matrix`, and `info` if asked for.

    Raises:
        InputError: not square, not real, num_iters negative or no integer, tol not positive; a concrete matrix with
            NaN, infinite or negative entries.
    """
    flag("full_output", full_output)
    matrix = square("matrix", matrix)
    integer("num_iters", num_iters)
    if tol is not None:
        scalar("tol", tol, "a positive number", lambda value: 0 < value < float("inf"))
    require_finite("matrix", matrix)
    if is_concrete(matrix) and (np.asarray(matrix) < 0).any():
        raise InputError("matrix: has negative entries, expected nonnegative entries")
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
        unconverged = ~(residual(m) <= tol)  # a NaN is kept
        return (jnp.where(unconverged[..., None, None], _sweep(m), m), num_sweeps + unconverged.astype(jnp.int32)), None

    # A scan and not a loop, so that there are derivatives in reverse.
    start = jnp.where((residual(matrix) <= tol)[..., None, None], matrix, _rescale_rows(matrix))
    return lax.scan(sweep, (start, jnp.zeros(matrix.shape[:-2], jnp.int32)), length=max_sweeps)[0]


def _sweep(matrix):
    return _normalize(_normalize(matrix, -1), -2)


def _normalize(matrix, axis):
    total = matrix.sum(axis, keepdims=True)
    return matrix / jnp.where(total > 0, total, jnp.ones_like(total))


def _rescale_rows(matrix):
    # Row scales cancel in the first normalisation, so taking them out beforehand costs no derivative and no overflow.
    largest = lax.stop_gradient(matrix.max(-1, keepdims=True))
    return matrix / jnp.where(largest > 0, largest, jnp.ones_like(largest))
