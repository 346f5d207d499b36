"""Conversion of matrices and scores to permutations, and back."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.buffer_callback import buffer_callback

from symjax.checks import any_array, array, as_dtype, is_concrete, real, require_finite, scalar, square
from symjax.errors import InputError


def nearest_permutation(matrix):
    """Return the permutation p that maximizes sum_i matrix[i, p[i]]: linear assignment, by SciPy on the host.

    `permutation_matrix(p)` is the permutation matrix nearest to `matrix` in the Frobenius norm. p does not change when
    a constant is added to a row or a column. No derivative.

    Args:
        matrix: (..., n, n), real and finite.

    Returns:
        int32 (..., n). A traced matrix with NaN or infinite entries gives a row of -1, which is no index and whose
        `permutation_matrix` is zero.

    Raises:
        InputError: not square, not real; NaN or infinity in a concrete matrix.

    Example:
        >>> from symjax import nearest_permutation
        >>> nearest_permutation([[0.1, 0.9, 0.0], [0.2, 0.8, 0.3], [0.7, 0.1, 0.2]]).tolist()
        [1, 2, 0]
    """
    original = any_array("matrix", matrix)
    matrix = lax.stop_gradient(square("matrix", original))
    if isinstance(original, np.ndarray):  # keeps all bits
        matrix = original
    require_finite("matrix", matrix)
    flat = matrix.reshape(-1, *matrix.shape[-2:])
    if is_concrete(flat):
        assigned = np.array([_assign(one) for one in np.asarray(flat)], np.int32)
    else:
        assigned = lax.map(_assign_traced, flat)
    return jnp.asarray(assigned.reshape(matrix.shape[:-1]))


def _assign_traced(matrix):
    if matrix.dtype.itemsize < 4:  # NumPy has no bfloat16
        matrix = matrix.astype(jnp.float32)
    return lax.platform_dependent(matrix, cpu=_assign_in_place, default=_assign_by_copy)


def _assign_in_place(matrix):
    # On CPU pure_callback copies its operands on the thread pool of the program that waits for it, which deadlocks when
    # all threads are in use (jax-ml/jax#24255; observed on one core, with 1 MB inside of a scan). buffer_callback reads
    # the buffer in place.
    def callback(_, permutation, matrix):
        np.asarray(permutation)[...] = _assign(np.asarray(matrix))

    return buffer_callback(callback, _output_shape(matrix), vmap_method="sequential")(matrix)


def _assign_by_copy(matrix):
    def callback(matrix):
        return _assign(np.asarray(matrix))

    return jax.pure_callback(callback, _output_shape(matrix), matrix, vmap_method="sequential")


def _output_shape(matrix):
    return jax.ShapeDtypeStruct(matrix.shape[:1], jnp.int32)


def _assign(matrix):
    from scipy.optimize import linear_sum_assignment  # saves most of a second in `import symjax`

    matrix = matrix.astype(np.float64)
    if not np.isfinite(matrix).all():
        return np.full(len(matrix), -1, np.int32)
    return linear_sum_assignment(matrix, maximize=True)[1].astype(np.int32)


def permutation_matrix(permutation, dtype=jnp.float32):
    """Return M of shape (..., n, n) with M[i, p[i]] = 1 and zeros elsewhere, so that (M x)[i] = x[p[i]].

    Args:
        permutation: (..., n), integers; rows of M for invalid indices, such as -1, are zero.
        dtype: dtype of M.

    Raises:
        InputError: `permutation` is not an array (..., n) of integers.

    Example:
        >>> from symjax import permutation_matrix
        >>> permutation_matrix([1, 2, 0]).tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    permutation = array("permutation", permutation)
    if permutation.ndim < 1 or not jnp.issubdtype(permutation.dtype, jnp.integer):
        raise InputError(f"permutation: got {permutation.dtype}{list(permutation.shape)}, expected integers (..., n)")
    if permutation.dtype.itemsize > 4:  # JAX would truncate 64-bit integers; keep invalid indices invalid
        permutation = permutation.clip(0 if permutation.dtype.kind == "u" else -1, permutation.shape[-1])
    return jax.nn.one_hot(permutation, permutation.shape[-1], dtype=dtype)


def softsort(scores, tau):
    """Compute SoftSort_tau(v) = softmax(-|sort(v)_i - v_j| / tau) over j, with sort descending.

    Row i tends to the indicator of the i-th largest score as tau tends to 0. Adding a constant to all scores does not
    change the result; permuting the scores permutes the columns.

    Args:
        scores: (..., n), floating (integers become the default float).
        tau: temperature, a positive scalar.

    Returns:
        (..., n, n), nonnegative with row sums of one.

    Raises:
        InputError: scores without an axis or not real; concrete scores that are not finite, a concrete tau that is not
            positive.

    Reference: Prillo, Eisenschlos 2020.

    Example:
        >>> from symjax import softsort
        >>> softsort([1.0, 3.0, 2.0], tau=0.01).round(3).tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    scores = real("scores", scores)
    if scores.ndim < 1:
        raise InputError("scores: got a scalar, expected (..., n)")
    require_finite("scores", scores)
    tiny = float(jnp.finfo(scores.dtype).tiny)
    tau = as_dtype(scalar("tau", tau, "a positive scalar", lambda value: value >= tiny), scores.dtype)
    descending = -jnp.sort(-scores, axis=-1)
    distance = jnp.abs(descending[..., :, None] - scores[..., None, :])
    return jax.nn.softmax(-distance / tau, axis=-1)
