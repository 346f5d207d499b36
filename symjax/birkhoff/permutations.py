"""From matrices and scores to permutations, and back."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.optimize import linear_sum_assignment

from symjax.birkhoff.checks import is_concrete, real, require_finite, square
from symjax.errors import InputError

SAFE_OPERAND = 8_192  # entries, 64 kB in float64


def nearest_permutation(matrix):
    """The permutation p that maximises sum_i matrix[i, p[i]]: linear assignment, by SciPy on the host.

    `permutation_matrix(p)` is the permutation matrix nearest to `matrix` in the Frobenius norm. p does not change when
    a constant is added to a row or a column. Nothing is differentiated through it.

    Args:
        matrix: (..., n, n), real and finite.

    Returns:
        int32 (..., n). A traced matrix with a NaN or an infinity gives a row of -1, which indexes nothing and whose
        `permutation_matrix` is zero.

    Raises:
        InputError: not square, not real; NaN or infinity in a concrete matrix.
    """
    matrix = lax.stop_gradient(square("matrix", matrix))
    require_finite("matrix", matrix)
    flat = matrix.reshape(-1, *matrix.shape[-2:])
    if is_concrete(flat):
        assigned = jnp.asarray(np.stack([_assign(one) for one in np.asarray(flat)]))
    else:
        assigned = lax.map(_assign_traced, flat)
    return assigned.reshape(matrix.shape[:-1])


def _assign_traced(matrix):
    # On CPU, JAX copies operands over 100 kB to the callback on the thread pool of the very program that waits for the
    # callback: with all threads in use, that waits for ever (jax-ml/jax#24255; seen on one core). Smaller operands are
    # copied at once, so the matrix goes over in pieces, and members of a batch one by one.
    size = matrix.shape[0]
    pieces = jnp.split(matrix.reshape(-1), range(SAFE_OPERAND, size * size, SAFE_OPERAND))
    shape = jax.ShapeDtypeStruct((size,), jnp.int32)
    return jax.pure_callback(_assign_pieces, shape, *pieces, vmap_method="sequential")


def _assign_pieces(*pieces):
    entries = np.concatenate([np.asarray(piece) for piece in pieces])
    size = math.isqrt(entries.size)
    return _assign(entries.reshape(size, size))


def _assign(matrix):
    matrix = matrix.astype(np.float64)
    if not np.isfinite(matrix).all():
        return np.full(len(matrix), -1, np.int32)
    return linear_sum_assignment(matrix, maximize=True)[1].astype(np.int32)


def permutation_matrix(permutation, dtype=jnp.float32):
    """M of shape (..., n, n) with M[i, p[i]] = 1 and zeros elsewhere, so that (M x)[i] = x[p[i]].

    Raises:
        InputError: `permutation` (..., n) is not an array of integers.
    """
    permutation = jnp.asarray(permutation)
    if permutation.ndim < 1 or not jnp.issubdtype(permutation.dtype, jnp.integer):
        raise InputError(f"permutation: got {permutation.dtype}{list(permutation.shape)}, must be integers (..., n)")
    return jax.nn.one_hot(permutation, permutation.shape[-1], dtype=dtype)


def softsort(scores, tau):
    """SoftSort_tau(v) = softmax(-|sort(v)_i - v_j| / tau) over j, sort descending (Prillo, Eisenschlos 2020).

    Row stochastic. Row i tends to the indicator of the i-th largest score as tau tends to 0. Does not change when a
    constant is added to all scores; permuting the scores permutes the columns.

    Args:
        scores: (..., n), floating (integers become the default float).
        tau: positive scalar, the temperature.

    Returns:
        (..., n, n).

    Raises:
        InputError: scores without an axis or not real; a concrete tau that is not positive.
    """
    scores = real("scores", scores)
    if scores.ndim < 1:
        raise InputError("scores: got a scalar, must be (..., n)")
    if jnp.ndim(tau) != 0 or (is_concrete(tau) and not np.asarray(tau) > 0):
        raise InputError(f"tau: got {tau}, must be a positive scalar")
    descending = -jnp.sort(-scores, axis=-1)
    distance = jnp.abs(descending[..., :, None] - scores[..., None, :])
    return jax.nn.softmax(-distance / jnp.asarray(tau, scores.dtype), axis=-1)
