"""The Euclidean projection onto the Birkhoff polytope, and its derivative."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import marginals, residual
from symjax.birkhoff.dykstra import dykstra
from symjax.birkhoff.laplacian import solve_laplacian
from symjax.birkhoff.newton import newton, sweeps
from symjax.checks import as_dtype, flag, is_concrete, one_of, real, require_finite, scalar, square
from symjax.errors import InputError
from symjax.spelling import one_line

SOLVERS = {"newton": newton, "sweeps": sweeps, "dykstra": dykstra}
MAX_ITERS = {"newton": 1_000, "sweeps": 1_000, "dykstra": 20_000}


class ProjectionInfo(NamedTuple):
    """The convergence of a projection; every field has the batch shape of the input, the duals one more axis.

    Attributes:
        converged: whether the residual reached the tolerance.
        iterations: int32, updates of the duals: sweeps plus Newton steps, or Dykstra rounds.
        residual: the largest |row sum - 1| or |column sum - 1| of the returned matrix; for half precisions after
            rounding. Nonnegativity and the form max(A - u - v, 0) hold by construction, so no other optimality
            condition remains.
        duals: (u, v), each (..., n); pass them as `init` to start a nearby projection from them.
    """

    converged: jax.Array
    iterations: jax.Array
    residual: jax.Array
    duals: tuple[jax.Array, jax.Array]

    def __repr__(self):
        return one_line(self)


def projection_birkhoff(matrix, *, method="newton", tol=1e-6, max_iters=None, init=None, full_output=False):
    """Project onto the doubly stochastic matrices: argmin_X |X - A|_F.

    X = max(A - u 1' - 1 v', 0), where the duals u and v minimize the convex, piecewise quadratic
    1/2 |max(A - u 1' - 1 v', 0)|^2 + sum u + sum v.

    - "newton": sweeps of row and column thresholds (block coordinate descent), then semismooth Newton steps with a line
      search (Li, Sun, Toh 2020). Converges in finitely many steps, up to rounding.
    - "sweeps": sweeps alone. Equally fast near the polytope, for example after a small step from a point whose duals
      are passed as `init`, with a quarter of the compilation time; slow far away.
    - "dykstra": Dykstra's alternating projections between {row and column sums 1} and {X >= 0}. Cheap rounds with
      linear convergence; slow far away from the polytope.

    Adding a constant to a row or a column of A does not change the result, and permuting rows or columns of A permutes
    it. The projection of a doubly stochastic A is A.

    The derivative is implicit. It is therefore the same for all methods, and its cost does not depend on the number of
    iterations: the orthogonal projection of the tangent onto {row and column sums 0, zero wherever X is zero}. It is
    exact wherever the projection is differentiable, and an element of the generalized Jacobian elsewhere. `info` and
    `init` have no derivative.

    Args:
        matrix: (..., n, n), floating (integers become the default float; half precisions are computed in float32).
        method: "newton", "sweeps" or "dykstra".
        tol: residual (see `ProjectionInfo`) at which to stop. Rounding limits it to a few times n^(1/2) eps, with eps
            of the dtype of `matrix`: half precisions do not converge to the default.
        max_iters: bound on `info.iterations` (up to one block of sweeps or rounds); by default 1,000, and 20,000 for
            "dykstra".
        init: duals (u, v), each (..., n), as in `info.duals`; by default zeros.
        full_output: whether to return (X, info) with a `ProjectionInfo`.

    Returns:
        X with the shape of `matrix`, and `info` if requested. A traced matrix with NaN or infinite entries gives NaN
        and `converged` False.

    Raises:
        InputError: not square, not real, unknown method, invalid tol, max_iters or init; a concrete matrix with NaN or
            infinite entries.

    Reference: Li, Sun, Toh, "On the efficient computation of a generalized Jacobian of the projector over the Birkhoff
        polytope", 2020.

    Example:
        >>> import numpy as np
        >>> from symjax import projection_birkhoff
        >>> projected = projection_birkhoff([[2.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]])
        >>> print(np.asarray(projected).round(3))
        [[1.   0.   0.  ]
         [0.   0.75 0.25]
         [0.   0.25 0.75]]
    """
    flag("full_output", full_output)
    matrix = square("matrix", matrix)
    one_of("method", method, MAX_ITERS)
    max_iters = MAX_ITERS[method] if max_iters is None else max_iters
    scalar("tol", tol, "a positive number", lambda value: 0 < value < float("inf"))
    scalar("max_iters", max_iters, "an integer, 0 or more", lambda value: value >= 0 and value == int(value))
    if is_concrete(max_iters):
        max_iters = min(int(max_iters), 2**31 - 1)
    require_finite("matrix", matrix)
    dtype = matrix.dtype if matrix.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
    duals = _check_duals(init, matrix.shape[:-1], dtype)
    tol, max_iters = as_dtype(tol, dtype), jnp.asarray(max_iters, jnp.int32)
    projected, info = _project(method, matrix.astype(dtype), duals, tol, max_iters)
    if matrix.dtype != dtype:
        projected = projected.astype(matrix.dtype)
        rounded = lax.stop_gradient(residual(projected))
        info = info._replace(converged=info.converged & (rounded <= tol), residual=rounded)
    return (projected, info) if full_output else projected


@partial(jax.jit, static_argnums=0)
def _project(method, matrix, duals, tol, max_iters):
    def project_one(matrix, u, v):
        constant, u, v = lax.stop_gradient((matrix, u, v))
        state = SOLVERS[method](constant, u, v, tol, max_iters)
        finite = jnp.isfinite(constant).all() & jnp.isfinite(state.residual)
        projected = jnp.where(finite, jnp.maximum(state.shifted, 0), jnp.nan)
        info = ProjectionInfo(finite & (state.residual <= tol), state.iterations, state.residual, (state.u, state.v))
        return _differentiate_implicitly(matrix, projected), info

    for _ in range(matrix.ndim - 2):
        project_one = jax.vmap(project_one)
    return project_one(matrix, *duals)


@jax.custom_jvp
def _differentiate_implicitly(matrix, projected):
    """Return `projected`, with the derivative of the projection of `matrix`."""
    del matrix
    return projected


@_differentiate_implicitly.defjvp
def _implicit_jvp(primals, tangents):
    projected = _differentiate_implicitly(*primals)  # differentiable, for second derivatives
    tangent = tangents[0]
    support = (projected > 0).astype(projected.dtype)
    rtol = float(jnp.finfo(support.dtype).eps) ** 0.4
    tangent = support * tangent
    for _ in range(3):  # a projection is idempotent, so repeating it is iterative refinement
        du, dv = solve_laplacian(support, *marginals(tangent), damping=0.0, rtol=rtol, atol=0.0)
        tangent = tangent - support * (du[:, None] + dv[None, :])
    return projected, tangent


def _check_duals(init, shape, dtype):
    if init is None:
        return (jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
    if not isinstance(init, (tuple, list)) or len(init) != 2:
        raise InputError(f"init: got {type(init).__name__}, expected a pair of duals (u, v), as in info.duals")
    duals = tuple(real("init", dual).astype(dtype) for dual in init)
    if any(dual.shape != shape for dual in duals):
        raise InputError(f"init: got shapes {duals[0].shape} and {duals[1].shape}, expected both to be {shape}")
    return duals
