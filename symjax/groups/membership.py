"""Numerical test whether a matrix is in the intertwiner group of an activation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import flag, integer, random_key, scalar
from symjax.errors import InputError
from symjax.groups.matrix_groups import real_matrix
from symjax.spelling import one_line

SINGULAR_CONDITION = 1e12
"""Condition number from which on a matrix counts as singular: float64 has four digits left."""

MAX_ROUNDING = 1e-3
"""If rounding can cause a defect of this size, a small defect is not conclusive."""

SQUARABLE = (1e-150, 1e150)
"""Range of numbers whose sums of squares float64 can hold."""


@dataclass(frozen=True)
class Decision:
    """The result of `is_intertwiner`; `bool` of it is True only if the verdict is True.

    Attributes:
      verdict: True, False, or None if the numbers are not conclusive (see `warning`).
      matrix: the best B (n, n), a float64 NumPy array; NaN if it cannot be computed.
      offset: c (n,), zero unless requested.
      defect: |s(A x) - B s(x) - c| / |s(A x)|, root mean squares over inputs to which B was not fitted; about 1e-15
        if A intertwines. NaN if it cannot be computed.
      condition: condition number of A.
      warning: what limits the verdict, or "".
    """

    verdict: bool | None
    matrix: np.ndarray
    offset: np.ndarray
    defect: float
    condition: float
    warning: str = ""

    def __repr__(self):
        return one_line(self)

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
    """Test whether s(A x) = B s(x) holds with an invertible B, for x with entries in [-reach, reach].

    B is fitted by least squares to half of some random inputs x. These are normal vectors with lengths spread over two
    decades, since an activation can differ from a homogeneous one on any scale. The defect is measured on the other
    half. The verdict is valid on this range alone: clip(x, 0, 1000) equals ReLU up to 40, but not for a larger reach.

    All computations are in float64, except for an activation that returns lower precision. In this case the effect of
    rounding on the defect is estimated from the change of s when its input changes by one rounding: smaller defects
    count as zero, and `warning` reports this. If the estimate is at least 1e-3 (16-bit floats), a small defect gives
    the verdict None; a large one still gives False.

    Args:
      activation: s, a function of JAX or NumPy arrays (m, n) with examples in rows.
      matrix: A (n, n).
      offset: whether to fit s(A x) = B s(x) + c, which a bias after the activation allows.
      tolerance: largest defect for the verdict True.
      key: key of the inputs; by default key 0.
      inputs: number of inputs; by default 8 n + 64.
      reach: largest absolute value of an entry of x.

    Returns:
      `Decision`.

    Raises:
      InputError: reach not positive and finite, too few inputs, A not a finite real square matrix, not a random key, or
        an activation that does not keep shapes or does not return real numbers.

    Example:
      >>> import jax, numpy as np
      >>> from symjax.groups import is_intertwiner
      >>> scaling = np.diag([1.0, 2.0, 3.0])
      >>> is_intertwiner(jax.nn.relu, scaling).verdict, is_intertwiner(jax.nn.gelu, scaling).verdict
      (True, False)
    """
    matrix, offset = real_matrix(matrix), flag("offset", offset)
    n = len(matrix)
    inputs = integer("inputs", 8 * n + 64 if inputs is None else inputs, 4 * n + 4)
    reach = scalar("reach", reach, "a positive number", lambda value: 0 < value < math.inf)
    tolerance = scalar("tolerance", tolerance, "a number from 0", lambda value: 0 <= value < math.inf)
    condition = _condition(matrix)
    with jax.enable_x64(True), np.errstate(over="ignore", invalid="ignore"):  # checked below
        x = np.array(_inputs(jax.random.key(0) if key is None else random_key("key", key), inputs, n))
        x *= reach / np.abs(x).max()
        (before, dtype), (after, _) = (_apply(activation, points) for points in (x, x @ matrix.T))
        eps = float(jnp.finfo(dtype).eps)
        low_precision = eps > np.finfo(np.float64).eps
        # s at inputs changed by one rounding of its dtype, if that is coarser than float64.
        nudged = [_apply(activation, (1 + eps) * points)[0] for points in (x, x @ matrix.T)] if low_precision else None
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return _undecided(n, condition, "the activation has NaN or infinite values")
    if any(values.any() and not SQUARABLE[0] < np.abs(values).max() < SQUARABLE[1] for values in (before, after)):
        return _undecided(n, condition, "the activation has values that float64 cannot square")
    columns = np.concatenate([before, np.ones((inputs, 1))], axis=1) if offset else before
    training, held_out = slice(0, None, 2), slice(1, None, 2)
    # Columns are scaled to unit norm first, since those of powers differ by many orders of magnitude.
    norms = np.linalg.norm(columns[training], axis=0)
    scaled = columns / np.where(norms > 0, norms, 1)
    solution, _, rank, _ = np.linalg.lstsq(scaled[training], after[training], rcond=max(1e-12, eps))
    size = np.linalg.norm(after[held_out])
    defect = float(np.linalg.norm(after[held_out] - scaled[held_out] @ solution) / size) if size > 0 else 0.0
    solution = (solution / np.where(norms > 0, norms, 1)[:, None]).T
    image, offset_vector = solution[:, :n], solution[:, n] if offset else np.zeros(n)
    warning = ""
    if nudged is not None:
        input_effects = [np.abs(b - a) + eps * np.abs(a) for a, b in zip((before, after), nudged, strict=True)]
        noise = np.linalg.norm((input_effects[1] + input_effects[0] @ np.abs(image).T)[held_out])
        rounding = float(noise / size) if size > 0 else 0.0
        tolerance = max(tolerance, rounding)
        warning = f"the activation gives {dtype}, so defects up to {rounding:.0e} cannot be distinguished from rounding"
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
    """Return s(x) as float64, and the dtype in which it was computed."""
    values = np.asarray(activation(x))
    if values.shape != x.shape:
        raise InputError(
            f"activation: got values of shape {values.shape} for inputs of shape {x.shape}, expected equal shapes"
        )
    if not jnp.issubdtype(values.dtype, jnp.floating):  # NumPy has no bfloat16
        raise InputError(f"activation: got values of {values.dtype}, expected real numbers")
    return np.asarray(values, np.float64), values.dtype


def _condition(matrix) -> float:
    """Return the condition number of the matrix with rows scaled to equal length."""
    sizes = np.abs(matrix).max(axis=1, keepdims=True)
    if not (sizes > 0).all():
        return math.inf
    matrix = matrix / sizes
    values = np.linalg.svd(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 0 else math.inf


def _undecided(n, condition, warning):
    return Decision(None, np.full((n, n), math.nan), np.full(n, math.nan), math.nan, condition, warning)
