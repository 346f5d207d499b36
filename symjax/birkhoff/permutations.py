"""From matrices and scores to permutations, and back."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.optimize import linear_sum_assignment

from symjax.birkhoff.checks import is_concrete, real, require_finite, square
from symjax.errors import InputError


def nearest_permutation(matrix):
    """The permutation p that maximises sum_i matrix[i, p[i]]: linear assignment, by SciPy on the host.

    `permutation_matrix(p)` is the permutation matrix nearest to `matrix` in the Frobenius norm. p does not change when a
    constant is added to a row or a column. Nothing is differentiated through it.

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
    if is_concrete(matrix):
        return jnp.asarray(_assign(matrix))
    shape = jax.ShapeDtypeStruct(matrix.shape[:-1], jnp.int32)
    return jax.pure_callback(_assign, shape, matrix, vmap_method="expand_dims")


def _assign(matrix):
    # Runs inside a callback: NumPy only, since calling JAX from there can wait for itself for ever.
    matrix = np.asarray(matrix).astype(np.float64)
    flat = matrix.reshape(-1, *matrix.shape[-2:])
    result = np.full(flat.shape[:-1], -1, np.int32)
    for row, weights in zip(result, flat, strict=True):
        if np.isfinite(weights).all():
            row[:] = linear_sum_assignment(weights, maximize=True)[1]
    return result.reshape(matrix.shape[:-1])


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
    if jnp.ndim(tau) != 0 or (is_concrete(tau) and not tau > 0):
        raise InputError(f"tau: got {tau}, must be a positive scalar")
    descending = -jnp.sort(-scores, axis=-1)
    distance = jnp.abs(descending[..., :, None] - scores[..., None, :])
    return jax.nn.softmax(-distance / jnp.asarray(tau, scores.dtype), axis=-1)
