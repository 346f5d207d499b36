"""Which numbers a floating type holds with their differences, sums and products.

Numbers at the ends of its range are refused: largest entries over 2^-24 of the largest number (2e31 in float32), where
sums overflow, and under 2^24 times the least normal number (2e-31), where digits are lost, since devices flush
subnormal numbers to 0. In between, no measure overflows or vanishes unless its value does.
"""

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import is_concrete
from symjax.errors import InputError

MAX_LOSS = 2.0**-10  # largest allowed rounding error, relative to a channel's spread, of conversion to fewer bits


def subtract_large_offset(name, x, translation_invariant):
    """Return concrete numbers (..., c) whose differences within channels survive conversion to JAX's default float.

    Where rounding would exceed `MAX_LOSS` of a channel's spread, the channel's first number is subtracted. This raises
    an `InputError` unless the measure is `translation_invariant`. Channels that are constant up to rounding are
    unchanged.
    """
    dtype, whole = np.dtype(jnp.result_type(float)), x.dtype.kind in "iu"
    if not (x.dtype.itemsize >= 4 if whole else x.dtype == np.float64 != dtype):
        return x
    original, x, axes = x, np.asarray(x), tuple(range(x.ndim - 1))
    with np.errstate(invalid="ignore", over="ignore"):  # infinities are rejected later
        high, low = x.max(axes), x.min(axes)
        # Differences of 64-bit integers modulo 2^64 are exact as uint64.
        spread = (high.astype(np.uint64) - low.astype(np.uint64) if whole else high - low).astype(np.float64)
        largest = np.maximum(np.abs(np.float64(high)), np.abs(np.float64(low)))
        varies = spread > (0 if whole else 16 * np.finfo(np.float64).eps * largest)
        doubtful = np.flatnonzero(varies & (np.finfo(dtype).eps * largest > 2 * MAX_LOSS * spread))
        part, first = x[..., doubtful].astype(np.int64 if whole else np.float64), (slice(1),) * len(axes)
        differences, rounded = (part - part[first]).astype(np.float64), part.astype(dtype).astype(np.float64)
        lost = np.abs(rounded - rounded[first] - differences).max(axes) > MAX_LOSS * spread[doubtful]
    if not lost.any():
        return original
    if not translation_invariant:
        channel = doubtful[lost.argmax()]
        raise InputError(
            f"{name}: got numbers about {largest[channel]:.1e} in channel {channel} that differ by up to "
            f"{spread[channel]:.1e}, expected differences that {dtype} holds; subtract an offset, or enable "
            "jax_enable_x64"
        )
    x = x.astype(np.float64)
    x[..., doubtful[lost]] = differences[..., lost]
    return x


def require_in_range(name, x, original):
    """Raise an `InputError` for concrete entries of `x`, made from `original`, that are not finite or out of range."""
    with jax.ensure_compile_time_eval():  # a constant inside of jit is concrete, but its test would be traced
        # Inside of jit, conversion turns a constant into a tracer.
        concrete = x if is_concrete(x) else jnp.asarray(original)
        if not is_concrete(concrete):
            return
        largest = float(_largest(concrete))
    # The device may have flushed subnormal numbers to 0.
    if message := range_problem(largest or float(np.abs(np.asarray(original, np.float64)).max()), x.dtype):
        raise InputError(f"{name}: {message}")


def range_problem(largest, dtype):
    """Return what is wrong with numbers of largest absolute value `largest` in computations in `dtype`, or None."""
    info, margin = jnp.finfo(dtype), 2.0**24
    if not largest <= float(info.max):  # NaN, too
        return f"got NaN or infinite entries in {dtype}, expected finite entries"
    if largest > float(info.max) / margin:
        return f"got entries up to {largest:.1e}, expected smaller ones, whose sums do not overflow {dtype}"
    if 0 < largest < float(info.tiny) * margin:
        return f"got no entry over {largest:.1e}, expected larger ones, for which {dtype} has all digits"
    return None


@jax.jit
def _largest(x):
    return jnp.abs(x).max()
