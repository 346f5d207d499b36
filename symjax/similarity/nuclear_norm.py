"""Nuclear norms, the sums of singular values."""

from collections.abc import Sequence
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.buffer_callback import buffer_callback

SMALLEST = 2.0**-20  # smallest singular value, relative to the Frobenius norm, in the range of the approximation
NUM_POLES = 28


def nuclear_norm(matrix):
    """Return the nuclear norm of a matrix (p, q), by its singular value decomposition."""
    return jnp.linalg.svd(matrix, compute_uv=False).sum()


@jax.custom_jvp
def nuclear_norms(matrices):
    """Return the nuclear norms (k,) of matrices (k, p, q).

    In float32 on CPU, they are computed on the host as the trace of (M'M)^1/2 in float64, which takes two thirds of the
    time of singular value decompositions. M'M is reduced to a tridiagonal matrix T. The root is a sum of poles
    T (T + t)^-1 (Hale, Higham, Trefethen 2008, method 3), whose traces follow from a recurrence over the rows of T, for
    all matrices and poles at once. The error of each singular value is at most 6e-8 of the Frobenius norm, less than
    the rounding of M in float32.
    """
    if matrices.dtype != jnp.float32:
        return lax.map(nuclear_norm, matrices)
    return lax.platform_dependent(matrices, cpu=_call_host, default=jax.vmap(nuclear_norm))


@nuclear_norms.defjvp
def _nuclear_norms_jvp(primals, tangents):
    _, change = jax.jvp(lambda matrices: lax.map(nuclear_norm, matrices), primals, tangents)
    return nuclear_norms(*primals), change


def _call_host(matrices):
    # Not `pure_callback`, which can deadlock on CPU: see `symjax.birkhoff.permutations`.
    def callback(_, norms, matrices):
        np.asarray(norms)[...] = host_nuclear_norms(np.asarray(matrices))

    shape = jax.ShapeDtypeStruct(matrices.shape[:1], matrices.dtype)
    return buffer_callback(callback, shape, vmap_method="sequential")(matrices)


def host_nuclear_norms(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Return the nuclear norms (k,) of matrices on the host, as `nuclear_norms` does for float32 on CPU."""
    from scipy.linalg.lapack import dsytrd  # imported here for a fast `import symjax`

    size = max(min(matrix.shape) for matrix in matrices)
    diagonals, squares = np.zeros((size, len(matrices))), np.zeros((size, len(matrices)))
    for k, matrix in enumerate(matrices):
        wide = (matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T).astype(np.float64)
        if used := wide.shape[1]:
            _, diagonals[:used, k], off_diagonal, *_ = dsytrd(
                (wide.T @ wide).T, lower=1, lwork=32 * used, overwrite_a=1
            )
            squares[1:used, k] = off_diagonal**2
    totals = diagonals.sum(0)
    scale = np.where(totals == 0, 1, totals)
    diagonals /= scale
    squares /= scale**2
    poles, weights = (part[:, None] for part in _poles_of_root())
    inverse, slopes, traces = (np.zeros((len(poles), len(matrices))) for _ in range(3))
    for entry, square in zip(diagonals, squares, strict=True):
        # The pivots of T + t, their derivatives by t, and the sum of the ratios, tr (T + t)^-1.
        ratio = square * inverse
        slopes *= ratio
        slopes *= inverse
        slopes += 1
        np.subtract(entry + poles, ratio, out=inverse)
        np.reciprocal(inverse, out=inverse)
        traces += slopes * inverse
    return np.sqrt(totals) * (weights * (size - poles * traces)).sum(0)


@cache
def _poles_of_root():
    """Return t and w (poles,) with sqrt(a) = sum w a / (a + t) for a in [SMALLEST^2, 1], up to 6e-8."""
    from scipy import special

    parameter = 1 - SMALLEST**2  # exact
    period = special.ellipkm1(SMALLEST**2)
    points = (np.arange(NUM_POLES) + 0.5) * period / NUM_POLES
    sn, cn, dn, _ = special.ellipj(points, parameter)
    return (SMALLEST * sn / cn) ** 2, 2 * SMALLEST * period / (np.pi * NUM_POLES) * dn / cn**2
