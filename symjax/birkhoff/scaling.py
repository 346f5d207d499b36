"""Sinkhorn scaling."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.birkhoff.checks import is_concrete, require_finite, square
from symjax.checks import integer
from symjax.errors import InputError


def sinkhorn(matrix, num_iters=16):
    """Alternate row and column normalisation of a nonnegative matrix, rows first: the KL projection in the limit.

    The limit is the doubly stochastic matrix diag(a) M diag(b), the minimiser of KL(X | M); it is reached at a linear
    rate when M has a positive entry on every permutation it supports. Rows and columns of zeros stay zero. The result
    does not change when rows of M are scaled. Differentiated through the sweeps.

    Args:
        matrix: (..., n, n), nonnegative, floating (integers become the default float).
        num_iters: sweeps; each is one row and one column normalisation. Static.

    Raises:
        InputError: not square, not real, num_iters negative or no integer; a concrete matrix with NaN, infinite or
            negative entries.
    """
    matrix = square("matrix", matrix)
    integer("num_iters", num_iters)
    require_finite("matrix", matrix)
    if is_concrete(matrix) and (np.asarray(matrix) < 0).any():
        raise InputError("matrix: has negative entries, must be nonnegative")
    if num_iters == 0:
        return matrix

    def normalise(m, axis):
        total = m.sum(axis, keepdims=True)
        return m / jnp.where(total > 0, total, jnp.ones_like(total))

    def sweep(m, _):
        return normalise(normalise(m, -1), -2), None

    # Row scales cancel in the first normalisation, so taking them out beforehand costs no derivative and no overflow.
    largest = lax.stop_gradient(matrix.max(-1, keepdims=True))
    scaled = matrix / jnp.where(largest > 0, largest, jnp.ones_like(largest))
    return lax.scan(sweep, scaled, length=num_iters)[0]
