"""Whether a matrix is in the intertwiner group of an activation, decided by numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from symjax.birkhoff.checks import scalar
from symjax.checks import flag, integer
from symjax.errors import InputError
from symjax.groups.matrix_groups import real_matrix
from symjax.spelling import one_line

SINGULAR_CONDITION = 1e12
"""Condition numbers from here on are taken for infinite: float64 has four digits left."""

MAX_ROUNDING = 1e-3
"""Where rounding alone may make defects of this size and more, a small defect says nothing."""

SQUARABLE = (1e-150, 1e150)
"""Numbers between which float64 holds sums of squares."""


@dataclass(frozen=True)
class Decision:
    """What `is_intertwiner` finds.

    Attributes:
      verdict: True, False, or None where the numbers cannot tell (see `warning`).
      matrix: B (n, n), the best there is, as float64 NumPy array; NaN where none could be computed.
      offset: c (n,), zero unless asked for.
      defect: |s(A x) - B s(x) - c| / |s(A x)|, root mean squares over inputs that B was not fitted to; about 1e-15
        where A intertwines. NaN where it cannot be computed.
      condition: of A.
      trouble: a sentence, or "" where there is none.
    """

    verdict: bool | None
    matrix: np.ndarray
    offset: np.ndarray
    defect: float
    condition: float
    warning: str = ""

    __repr__ = one_line

    def __bool__(self) -> bool:
        return bool(self.verdict)


def is_intertwiner(
    activation: Callable,
    matrix,
    *,
    offset: bool = False,
    tolerance: float = 1e-10,
    key: jax.Array | None = None,
    inputs: int | None = None,
    reach: float = 40.0,
) -> Decision:
    """Decides whether s(A x) = B s(x) holds with some invertible B, for x with entries in [-reach, reach].

    B is fitted by least squares to half of some random inputs x, of normal entries with lengths spread over two decades
    (activations differ from homogeneous ones on one scale or another), and the defect is measured on the other half.
    The verdict holds on that range alone: clip(x, 0, 1000) is ReLU as far as 40, and something else for a larger reach.

    All in float64, but the activation where it gives less. Then what rounding may do to the defect is estimated from
    how s moves when its input moves by one rounding: defects up to that count as none, and `warning` says so. Where
    it is 1e-3 or more (16-bit floats), a small defect leaves the verdict at None; a large one is a False all the same.

    Args:
      activation: s, a function of JAX or NumPy arrays (m, n), rows being examples.
      matrix: A (n, n).
      offset: look for s(A x) = B s(x) + c, as a bias after the activation allows.
      tolerance: the defect up to which the verdict is True.
      key: of the inputs; key 0 by default.
      inputs: how many; 8 n + 64 by default.
      reach: the largest absolute value of an entry of x.

    Raises:
      InputError: a reach that is not positive and finite, too few inputs, A is not a finite real square matrix, or the
        activation does not keep shapes or gives no real numbers.
    """
    matrix, offset = real_matrix(matrix), flag("offset", offset)
    n = len(matrix)
    inputs = integer("inputs", 8 * n + 64 if inputs is None else inputs, 4 * n + 4)
    reach = scalar("reach", reach, "a positive number", lambda value: 0 < value < math.inf)
    tolerance = scalar("tolerance", tolerance, "a number from 0", lambda value: 0 <= value < math.inf)
    condition = _condition(matrix)
    with jax.enable_x64(True), np.errstate(over="ignore", invalid="ignore"):  # found below
        x = np.array(_inputs(jax.random.key(0) if key is None else key, inputs, n))
        x *= reach / np.abs(x).max()
        (before, dtype), (after, _) = (_apply(activation, points) for points in (x, x @ matrix.T))
        eps = float(jnp.finfo(dtype).eps)
        low_precision = eps > np.finfo(np.float64).eps
        # s at inputs one rounding away, where that is more than float64's.
        nudged = [_apply(activation, (1 + eps) * points)[0] for points in (x, x @ matrix.T)] if low_precision else None
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return _undecided(n, condition, "the activation has NaN or infinite values")
    if any(values.any() and not SQUARABLE[0] < np.abs(values).max() < SQUARABLE[1] for values in (before, after)):
        return _undecided(n, condition, "the activation has values that float64 cannot square")
    columns = np.concatenate([before, np.ones((inputs, 1))], axis=1) if offset else before
    training, held_out = slice(0, None, 2), slice(1, None, 2)
    # Columns of very different sizes (powers) are brought to one first.
    norms = np.linalg.norm(columns[training], axis=0)
    scaled = columns / np.where(norms > 0, norms, 1)
    solution, _, rank, _ = np.linalg.lstsq(scaled[training], after[training], rcond=max(1e-12, eps))
    size = np.linalg.norm(after[held_out])
    defect = float(np.linalg.norm(after[held_out] - scaled[held_out] @ solution) / size) if size > 0 else 0.0
    solution = (solution / np.where(norms > 0, norms, 1)[:, None]).T
    image, offset_vector = solution[:, :n], solution[:, n] if offset else np.zeros(n)
    warning = ""
    if low_precision:
        input_effects = [np.abs(b - a) + eps * np.abs(a) for a, b in zip((before, after), nudged, strict=True)]
        noise = np.linalg.norm((input_effects[1] + input_effects[0] @ np.abs(image).T)[held_out])
        rounding = float(noise / size) if size > 0 else 0.0
        tolerance = max(tolerance, rounding)
        warning = f"the activation gives {dtype}, so defects up to {rounding:.0e} cannot be told from rounding"
    if condition >= SINGULAR_CONDITION:
        warning = f"the matrix is singular (condition number {condition:.1e}), so it is in no group"
        return Decision(False, image, offset_vector, defect, condition, warning)
    if rank < columns.shape[1]:
        warning = f"s(x) spans {rank} of {columns.shape[1]} dimensions on the inputs, so B is not determined"
        return Decision(None, image, offset_vector, defect, condition, warning)
    if defect > tolerance:
        return Decision(False, image, offset_vector, defect, condition)
    if low_precision and not rounding < MAX_ROUNDING:
        return Decision(None, image, offset_vector, defect, condition, warning)
    if _condition(image) >= min(SINGULAR_CONDITION, 1 / eps):
        return Decision(False, image, offset_vector, defect, condition, "B is singular")
    return Decision(True, image, offset_vector, defect, condition, warning)


def _inputs(key, count, n):
    direction, length = jax.random.split(key)
    return jax.random.normal(direction, (count, n)) * 10 ** jax.random.uniform(length, (count, 1), minval=-1, maxval=1)


def _apply(activation, x):
    """s(x) as float64, and the dtype that it was computed in."""
    values = np.asarray(activation(x))
    if values.shape != x.shape:
        raise InputError(
            f"activation: got values of shape {values.shape} for inputs of shape {x.shape}, expected equal shapes"
        )
    if not jnp.issubdtype(values.dtype, jnp.floating):  # NumPy does not know bfloat16
        raise InputError(f"activation: got values of {values.dtype}, expected real numbers")
    return np.asarray(values, np.float64), values.dtype


def _condition(matrix) -> float:
    """The ratio of the largest singular value to the smallest, of rows brought to one length: scales do no harm."""
    sizes = np.abs(matrix).max(axis=1, keepdims=True)
    if not (sizes > 0).all():
        return math.inf
    matrix = matrix / sizes
    values = np.linalg.svd(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 0 else math.inf


def _undecided(n, condition, warning):
    return Decision(None, np.full((n, n), math.nan), np.full(n, math.nan), math.nan, condition, warning)
