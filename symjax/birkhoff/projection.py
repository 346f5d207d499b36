"""The Euclidean projection: what it promises, and its derivative."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.checks import as_dtype, is_concrete, real, require_finite, scalar, square
from symjax.birkhoff.dual import marginals, residual
from symjax.birkhoff.dykstra import dykstra
from symjax.birkhoff.laplacian import solve_laplacian
from symjax.birkhoff.newton import newton, sweeps
from symjax.checks import flag
from symjax.errors import InputError
from symjax.spelling import one_line

SOLVERS = {"newton": newton, "sweeps": sweeps, "dykstra": dykstra}
MAX_ITERS = {"newton": 1_000, "sweeps": 1_000, "dykstra": 20_000}


class ProjectionInfo(NamedTuple):
    """How a projection ended; every field has the batch shape of the input, the duals one more axis.

    converged: whether the residual reached the tolerance.
    iterations: int32, updates of the duals: sweeps and Newton steps together, or Dykstra rounds.
    residual: the largest |row sum - 1| or |column sum - 1| of the returned matrix, in half precisions after rounding.
        Nonnegativity and the form max(A - u - v, 0) hold by construction, so this is the only optimality condition left
        to violate.
    duals: (u, v), each (..., n); hand them to `init` to start a nearby projection from here.
    """

    converged: jax.Array
    iterations: jax.Array
    residual: jax.Array
    duals: tuple[jax.Array, jax.Array]

    __repr__ = one_line


def projection_birkhoff(matrix, *, method="newton", tol=1e-6, max_iters=None, init=None, full_output=False):
    """The nearest doubly stochastic matrix in the Frobenius norm, argmin_X |X - A|_F.

    X = max(A - u 1' - 1 v', 0), where the duals u and v minimise the convex, piecewise quadratic
    1/2 |max(A - u 1' - 1 v', 0)|^2 + sum u + sum v.

    - "newton": sweeps of row and column thresholds (block coordinate descent), then semismooth Newton steps with a
      line search (Li, Sun, Toh, "On the efficient computation of a generalized Jacobian of the projector over the
      Birkhoff polytope", 2020). Ends after finitely many steps, up to rounding.
    - "sweeps": the sweeps alone. As good near the polytope, as after a step from a nearby point with its duals for
      `init`, and compiled in a quarter of the time; slow far away.
    - "dykstra": Dykstra's alternating projections between {row and column sums 1} and {X >= 0}. One cheap round after
      another, linear convergence; slow far away from the polytope.

    The result does not change when a constant is added to a row or a column of A, and permuting rows or columns of A
    permutes it. A doubly stochastic A comes back as it is.

    The derivative is implicit, hence the same for all methods and no dearer for more iterations: the orthogonal
    projection of the tangent onto {row and column sums 0, zero wherever X is zero}. It is exact wherever the projection
    is differentiable, and one element of the generalised Jacobian elsewhere. `info` and `init` carry no derivative.

    Args:
        matrix: (..., n, n), floating (integers become the default float; half precisions are computed in float32).
        method: "newton", "sweeps" or "dykstra".
        tol: residual (see `ProjectionInfo`) at which to stop. Rounding sets a floor of a few times n^(1/2) eps,
            with eps of the type of `matrix`: half precisions do not converge to the default.
        max_iters: bound on `info.iterations` (within one block of sweeps or rounds); by default 1,000, and 20,000 for
            Dykstra.
        init: duals (u, v), each (..., n), as in `info.duals`; zeros by default.
        full_output: return (X, info), where `info` is a `ProjectionInfo`.

    Returns:
        X of the shape of `matrix`, and `info` if asked for. A matrix with a NaN or an infinity among its entries gives
        NaN and `converged` False.

    Raises:
        InputError: not square, not real, unknown method, bad tol, max_iters or init; a concrete
            matrix with NaN or infinite entries.
    """
    flag("full_output", full_output)
    matrix = square("matrix", matrix)
    if not isinstance(method, str) or method not in MAX_ITERS:
        raise InputError(f"method: {method!r} is not known; choose one of {', '.join(sorted(MAX_ITERS))}")
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
    """`projected`, with the derivative of the projection of `matrix`."""
    del matrix
    return projected


@_differentiate_implicitly.defjvp
def _implicit_jvp(primals, tangents):
    projected = _differentiate_implicitly(*primals)  # with a derivative of its own, for second ones
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
