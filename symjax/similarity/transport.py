"""Optimal transport between two sets of points of equal weights: exact, on the host."""

import jax
import numpy as np
from jax import lax
from jax.experimental.buffer_callback import buffer_callback


def transport_plan(gain, rows, columns):
    """Return the P >= 0 that maximizes sum P * gain, with equal sums of active rows and of active columns.

    Inactive rows and columns sum to 0.

    Each active row sums to 1 / (number of active rows), columns likewise. Linear assignment of repeated points where
    one number divides the other; otherwise a linear program (SciPy's HiGHS, dual simplex; 500 by 512 take 2 s). In both
    cases P is a vertex: it has fewer nonzero entries than there are rows and columns together. No derivative.

    Args:
        gain: (p, q), floating.
        rows: (p,) booleans, the active rows.
        columns: (q,) booleans, the active columns.

    Returns:
        (p, q) of the dtype of `gain`; NaN everywhere where `gain` is not finite, or where no row or no column is
        active.
    """
    operands = tuple(lax.stop_gradient(operand) for operand in (gain, rows, columns))
    return lax.platform_dependent(*operands, cpu=_solve_in_place, default=_solve_by_copy)


def _solve_in_place(gain, rows, columns):
    # Not `pure_callback`, which can deadlock on CPU: see `symjax.birkhoff.permutations`.
    def callback(_, plan, *operands):
        np.asarray(plan)[...] = _solve(*(np.asarray(operand) for operand in operands))

    return buffer_callback(callback, _output_shape(gain), vmap_method="sequential")(gain, rows, columns)


def _solve_by_copy(gain, rows, columns):
    def callback(*operands):
        return _solve(*(np.asarray(operand) for operand in operands))

    return jax.pure_callback(callback, _output_shape(gain), gain, rows, columns, vmap_method="sequential")


def _output_shape(gain):
    return jax.ShapeDtypeStruct(gain.shape, gain.dtype)


def _solve(gain, rows, columns):
    if not (np.isfinite(gain).all() and rows.any() and columns.any()):
        return np.full_like(gain, np.nan)
    part = np.float64(gain)[np.ix_(rows, columns)]
    largest = np.abs(part).max()
    part = part / largest if largest > 0 else part  # the tolerances of the linear program are absolute
    p, q = part.shape
    units = _solve_assignment(part) if max(p, q) % min(p, q) == 0 else _solve_linear_program(part)
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


def _solve_linear_program(gain):
    """Return the plan in units of 1 / (p q)."""
    from scipy import sparse
    from scipy.optimize import linprog

    p, q = gain.shape
    of_rows = sparse.kron(sparse.eye_array(p), np.ones((1, q)))
    of_columns = sparse.kron(np.ones((1, p)), sparse.eye_array(q))
    totals = np.concatenate([np.full(p, q), np.full(q, p)])  # in units of 1 / (p q), vertices are integers
    equalities = sparse.vstack([of_rows, of_columns]).tocsc()
    solution = linprog(-gain.ravel(), A_eq=equalities, b_eq=totals, method="highs-ds")
    if not solution.success:
        raise RuntimeError(f"optimal transport of {p} and {q} points failed: {solution.message}")
    return np.abs(np.rint(solution.x)).reshape(p, q)  # abs removes -0
