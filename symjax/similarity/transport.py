"""Optimal transport between two sets of points of equal weights: exact, on the host."""

from functools import partial

import jax
import numpy as np
from jax import lax
from jax.experimental.buffer_callback import buffer_callback


def transport_plan(gain, rows, columns, mass=1.0):
    """Return the P >= 0 that maximizes sum P * gain, with equal sums of active rows and of active columns.

    Each active row sums to 1 / (number of active rows), columns likewise; inactive ones sum to 0. With `mass` under 1
    these sums are upper bounds, and all entries sum to `mass`.

    If one number of points divides the other, this is a linear assignment of repeated points; otherwise it is a linear
    program (SciPy's HiGHS, dual simplex; 500 by 512 take 2 s). In both cases P is a vertex: it has fewer nonzero
    entries than there are rows and columns together (with `mass` under 1 at most as many). No derivative.

    Args:
        gain: (p, q), floating.
        rows: (p,) booleans, the active rows.
        columns: (q,) booleans, the active columns.
        mass: number in (0, 1], not traced.

    Returns:
        (p, q) of the dtype of `gain`; NaN everywhere where `gain` is not finite, or where no row or no column is
        active.
    """
    operands = tuple(lax.stop_gradient(operand) for operand in (gain, rows, columns))
    in_place, by_copy = (partial(way, mass) for way in (_solve_in_place, _solve_by_copy))
    return lax.platform_dependent(*operands, cpu=in_place, default=by_copy)


def _solve_in_place(mass, gain, rows, columns):
    # Not `pure_callback`, which can deadlock on CPU: see `symjax.birkhoff.permutations`.
    def callback(_, plan, *operands):
        np.asarray(plan)[...] = _solve(mass, *(np.asarray(operand) for operand in operands))

    return buffer_callback(callback, _output_shape(gain), vmap_method="sequential")(gain, rows, columns)


def _solve_by_copy(mass, gain, rows, columns):
    def callback(*operands):
        return _solve(mass, *(np.asarray(operand) for operand in operands))

    return jax.pure_callback(callback, _output_shape(gain), gain, rows, columns, vmap_method="sequential")


def _output_shape(gain):
    return jax.ShapeDtypeStruct(gain.shape, gain.dtype)


def _solve(mass, gain, rows, columns):
    if not (np.isfinite(gain).all() and rows.any() and columns.any()):
        return np.full_like(gain, np.nan)
    part = np.float64(gain)[np.ix_(rows, columns)]
    largest = np.abs(part).max()
    part = part / largest if largest > 0 else part  # the tolerances of the linear program are absolute
    p, q = part.shape
    whole = mass == 1 and max(p, q) % min(p, q) == 0
    units = _solve_assignment(part) if whole else _solve_linear_program(part, mass)
    plan = np.zeros_like(gain)
    plan[np.ix_(rows, columns)] = units / (p * q)
    return plan


def _solve_assignment(gain):
    """Return the plan in units of 1 / (p q), by repeating each point of the smaller set."""
    from scipy.optimize import linear_sum_assignment  # imported here for a fast `import symjax`

    p, q = gain.shape
    width = max(p, q)
    assigned = linear_sum_assignment(gain.repeat(width // p, 0).repeat(width // q, 1), maximize=True)
    units = np.zeros_like(gain)
    np.add.at(units, (assigned[0] // (width // p), assigned[1] // (width // q)), min(p, q))
    return units


def _solve_linear_program(gain, mass):
    """Return the plan in units of 1 / (p q)."""
    from scipy import sparse
    from scipy.optimize import linprog

    p, q = gain.shape
    of_rows = sparse.kron(sparse.eye_array(p), np.ones((1, q)))
    of_columns = sparse.kron(np.ones((1, p)), sparse.eye_array(q))
    totals = np.concatenate([np.full(p, q), np.full(q, p)])  # in units of 1 / (p q), vertices are integers
    sums = sparse.vstack([of_rows, of_columns]).tocsc()
    if mass == 1:
        constraints = {"A_eq": sums, "b_eq": totals}
    else:
        constraints = {"A_ub": sums, "b_ub": totals, "A_eq": np.ones((1, p * q)), "b_eq": [mass * p * q]}
    solution = linprog(-gain.ravel(), **constraints, method="highs-ds")
    if not solution.success:
        raise RuntimeError(f"optimal transport of {p} and {q} points failed: {solution.message}")
    units = np.rint(solution.x) if mass == 1 else np.maximum(solution.x, 0)
    return np.abs(units).reshape(p, q)  # abs removes -0
