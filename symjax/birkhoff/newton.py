"""Sweeps of row and column thresholds, and semismooth Newton steps where sweeps converge slowly.

Sweeps alone suffice near the polytope. Far away they determine the support up to a few entries, and a few Newton steps
(Li, Sun, Toh 2020) complete the solution: with the right support the dual is quadratic, so the last step is exact.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import axis_sum, excess, initial_state, make_state, matmul
from symjax.birkhoff.laplacian import solve_laplacian

FIRST_SWEEPS = 48  # before the first Newton step without given duals; sweeps are cheap compared to it
SWEEPS = 16  # before the first step with given duals, and after each step, which can leave empty rows and columns
RATE_WINDOW = 4  # sweeps over which the rate of convergence is measured
MAX_RELAXATION = 1.9
THRESHOLD_STEPS = 8  # Newton steps to a threshold, enough for rounding level except on rare inputs
RESCALE_RESIDUAL = 0.1  # residual after the first sweeps above which the matrix is scaled down
SCALE_STEP = 8  # ratio of the scales of two stages
COARSE_TOL = 1e-2  # residual at which a stage with s > 1 ends


def newton(matrix, u, v, tol, max_iters):
    """Solve by sweeps and Newton steps for A / s, with s = 1 or with s decreasing to 1.

    The first attempt has s = 1. If its first sweeps leave a residual over `RESCALE_RESIDUAL`, s starts large.

    A large matrix has large duals, which sweeps and damped Newton steps change slowly. The duals of A / s, times s, are
    close to those of A. Rounding hides the effect of an s below `resolution`; the next stage is then s = 1.
    """
    largest = jnp.abs(matrix).max()
    resolution = jnp.maximum(1, 4 * jnp.finfo(matrix.dtype).eps * largest)
    warm = u.any() | v.any()

    def stage(carry):
        state, scale, first, _ = carry
        scaled_state = initial_state(matrix / scale, state.u / scale, state.v / scale, state.iterations)
        stage_tol = jnp.where(scale > 1, COARSE_TOL, tol)
        first_sweeps = jnp.where(first & warm, SWEEPS, FIRST_SWEEPS)
        state, needs_scaling = _solve_stage(
            scaled_state, stage_tol, max_iters, first_sweeps, first & (largest > SCALE_STEP)
        )
        state = state._replace(
            u=jnp.where(needs_scaling, 0, state.u * scale), v=jnp.where(needs_scaling, 0, state.v * scale)
        )
        lower = jnp.where(scale / SCALE_STEP > resolution, scale / SCALE_STEP, 1)
        finished = (scale == 1) & ~needs_scaling
        return state, jnp.where(needs_scaling, largest / SCALE_STEP, lower), jnp.bool_(False), finished

    def unfinished(carry):
        *_, finished = carry
        return ~finished

    state = initial_state(matrix, u, v)
    return lax.while_loop(unfinished, stage, (state, jnp.ones_like(tol), jnp.bool_(True), state.residual <= tol))[0]


def sweeps(matrix, u, v, tol, max_iters):
    """Solve by sweeps alone: enough near the polytope, with a quarter of the compilation time."""

    def unfinished(state):
        return (state.residual > tol) & (state.iterations < max_iters)

    def more(state):
        return _sweeps(state, tol, max_iters - state.iterations)

    # Sweeps stop by a residual that is half a sweep old; the current one may exceed the tolerance.
    return lax.while_loop(unfinished, more, initial_state(matrix, u, v))


def _solve_stage(state, tol, max_iters, first_sweeps, may_rescale):
    """Alternate sweeps and Newton steps until `tol`, or, if allowed, until the first sweeps leave a large residual."""

    def unfinished(carry):
        state, _, _, needs_scaling = carry
        return (state.residual > tol) & (state.iterations < max_iters) & ~needs_scaling

    def step(carry):
        state, sweeps, may_rescale, _ = carry
        state = _sweeps(state, tol, jnp.minimum(sweeps, max_iters - state.iterations))
        needs_scaling = may_rescale & (state.residual > RESCALE_RESIDUAL)
        due = (state.residual > tol) & (state.iterations < max_iters) & ~needs_scaling
        state = lax.cond(due, partial(_newton_step, tol=tol), lambda state: state, state)
        return state, jnp.full_like(sweeps, SWEEPS), jnp.zeros_like(needs_scaling), needs_scaling

    init = (state, first_sweeps.astype(jnp.int32), may_rescale, jnp.zeros_like(may_rescale))
    state, _, _, needs_scaling = lax.while_loop(unfinished, step, init)
    return state, needs_scaling


def _sweeps(state, tol, count):
    """Make up to `count` sweeps: move the duals of rows, then those of columns, towards sums of one (thresholds).

    Successive over-relaxation with Young's factor, re-estimated from the observed rate of convergence, reduces the
    number of sweeps. Neither a single step to a threshold nor over-relaxation always decreases the dual objective. Each
    time the residual has not decreased, over-relaxation is limited more, and from the first time on thresholds are
    exact. In the limit this is block coordinate descent, which converges from any point.
    """

    def unfinished(carry):
        *_, num_done, _, _, _, residual = carry
        return (residual > tol) & (num_done < count)

    def sweep(carry):
        shifted, u, v, num_done, relaxation, stalls, previous_residual, _ = carry
        steps = jnp.where(stalls > 0, THRESHOLD_STEPS, 1)
        du, rows = _threshold(shifted, 1, relaxation, steps)
        shifted = shifted - du[:, None]
        dv, columns = _threshold(shifted, 0, relaxation, steps)
        shifted = shifted - dv[None, :]
        residual = jnp.maximum(jnp.abs(rows).max(), jnp.abs(columns).max())  # rows: half a sweep old
        due = (num_done + 1) % RATE_WINDOW == 0
        stalls += (due & (residual >= previous_residual) & (residual > floor)).astype(stalls.dtype)
        max_relaxation = 1 + (MAX_RELAXATION - 1) * 0.5 ** stalls.astype(residual.dtype)
        better = jnp.minimum(_better_relaxation(relaxation, residual / previous_residual), max_relaxation)
        relaxation = jnp.where(due, better, relaxation)
        return (
            shifted,
            u + du,
            v + dv,
            num_done + 1,
            relaxation,
            stalls,
            jnp.where(due, residual, previous_residual),
            residual,
        )

    floor = 4 * len(state.u) ** 0.5 * float(jnp.finfo(state.u.dtype).eps)  # rounding level of the residual
    none, one = jnp.zeros_like(count), jnp.ones_like(tol)
    init = (state.shifted, state.u, state.v, none, one, none, jnp.full_like(tol, jnp.inf), state.residual)
    shifted, u, v, num_done, *_ = lax.while_loop(unfinished, sweep, init)
    return make_state(shifted, u, v, state.iterations + num_done)


def _better_relaxation(relaxation, decrease):
    # Young: a rate r with the factor w implies a spectral radius m, m^2 = (r + w - 1)^2 / (r w^2), for which the factor
    # 2 / (1 + sqrt(1 - m^2)) is optimal. Above that factor the rate is w - 1 for every m; then keep w.
    rate = jnp.clip(decrease ** (1 / RATE_WINDOW), 1e-6, 0.9999)
    squared_radius = jnp.clip((rate + relaxation - 1) ** 2 / (rate * relaxation**2), 0, 0.9999)
    best = 2 / (1 + jnp.sqrt(1 - squared_radius))
    return jnp.where(rate > relaxation - 1, jnp.clip(best, relaxation, MAX_RELAXATION), relaxation)


def _threshold(shifted, axis, relaxation, steps):
    """Make Newton steps towards the t with sum max(w - t, 0) = 1 along `axis`; also return the sum minus one at t = 0.

    The root lies between max w - 1 and max w - 1/n, and steps are clipped to this interval. The sum is convex in t: the
    first step may pass the root, and later steps approach it. One step usually suffices, since the next sweep corrects
    the rest, and the support seldom changes after a few.
    """
    largest, count = shifted.max(axis), shifted.shape[axis]

    def step(t):
        left = shifted - jnp.expand_dims(t, axis)
        excess = axis_sum(jnp.maximum(left, 0), axis) - 1
        support = axis_sum((left > 0).astype(shifted.dtype), axis)
        nearer = jnp.clip(t + excess / jnp.maximum(support, 1), largest - 1, largest - 1 / count)
        return jnp.where(support > 0, nearer, largest - 1), excess

    first, excess = step(jnp.zeros_like(largest))
    root = lax.fori_loop(1, steps, lambda _, t: step(t)[0], first)
    return jnp.clip(relaxation * root, largest - 1, largest - 1 / count), excess


def _newton_step(state, tol):
    support = (state.shifted > 0).astype(state.shifted.dtype)
    # Levenberg-Marquardt: damping in proportion to the residual keeps steps bounded where the Hessian is singular
    # (a support graph with several components) and vanishes fast enough to keep the final convergence rate.
    damping = 1e-3 * jnp.minimum(state.residual, 1)
    du, dv = solve_laplacian(support, state.rows, state.columns, damping=damping, rtol=1e-3, atol=tol / 4)
    usable = jnp.isfinite(du).all() & jnp.isfinite(dv).all()  # otherwise make no step; sweeps follow
    du, dv = jnp.where(usable, du, 0), jnp.where(usable, dv, 0)
    length = _line_search(state, du, dv)
    du, dv = length * du, length * dv
    return make_state(state.shifted - du[:, None] - dv[None, :], state.u + du, state.v + dv, state.iterations + 1)


def _line_search(state, du, dv):
    """Return the step length along (du, dv) at which the dual objective (nearly) stops decreasing.

    The search uses the slope, which increases with the length; near the minimum, differences of the objective are lost
    in rounding.
    """
    small = 0.1 * jnp.abs(matmul(state.rows, du) + matmul(state.columns, dv))

    def unfinished(carry):
        *_, tries, accepted = carry
        return (tries < 25) & ~accepted

    def bisect(carry):
        low, high, length, tries, _ = carry
        length = jnp.where(tries == 0, 1, (low + high) / 2)
        rows, columns = excess(state.shifted - length * (du[:, None] + dv[None, :]))
        slope = -(matmul(rows, du) + matmul(columns, dv))
        accepted = (jnp.abs(slope) <= small) | ((tries == 0) & (slope < 0))
        low, high = jnp.where(slope < 0, length, low), jnp.where(slope < 0, high, length)
        return low, high, length, tries + 1, accepted

    zero = jnp.zeros_like(small)
    _, _, length, *_ = lax.while_loop(unfinished, bisect, (zero, zero + 1, zero, jnp.int32(0), jnp.bool_(False)))
    return length
