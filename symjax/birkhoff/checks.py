"""Validation of the arguments of this package."""

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import any_array, is_concrete, is_real, short
from symjax.errors import InputError


def real(name, value):
    """Return `value` as a floating JAX array; integers and booleans become the default float."""
    if not isinstance(value, (jax.Array, bool, int, float)):
        value = any_array(name, value)
        if value.dtype.kind in "iu":  # as floats, since JAX would truncate 64-bit integers
            value = value.astype(jnp.result_type(float))
    try:
        with np.errstate(over="ignore"):  # callers check for infinities
            array = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError):
        kind = getattr(value, "dtype", type(value).__name__)
        raise InputError(f"{name}: got {kind}, expected an array of real numbers") from None
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array
    if jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == bool:
        return array.astype(jnp.result_type(float))
    raise InputError(f"{name}: got {array.dtype}, expected real numbers")


def scalar(name, value, expected, is_valid):
    """Return `value` if it is a number, traced or valid by `is_valid`; otherwise raise an `InputError`.

    The message says that `expected` was expected.

    Concrete values are returned as Python numbers, and integers that JAX would truncate or reject as floats.
    """
    if is_concrete(value):
        try:
            valid = _is_number(value) and is_valid(number := float(value))
        except (ValueError, OverflowError):  # integers beyond the range of floats
            valid = False
        if valid and (abs(number) >= 2**31 or not isinstance(value, int)):
            value = number
    else:
        valid = value.ndim == 0
    if not valid:
        raise InputError(f"{name}: got {short(value)}, expected {expected}")
    return value


def _is_number(value):
    """Return whether it is a real number of Python, NumPy or JAX, and not a boolean."""
    if isinstance(value, (int, float)):
        return not isinstance(value, bool)
    dtype = getattr(value, "dtype", None)
    return dtype is not None and np.ndim(value) == 0 and is_real(dtype) and dtype.kind != "b"


def as_dtype(value, dtype):
    """Return a number as an array of this dtype; infinite where it exceeds the dtype's range."""
    with np.errstate(over="ignore"):
        return jnp.asarray(value, dtype)


def square(name, value):
    value = real(name, value)
    if value.ndim < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] == 0:
        raise InputError(f"{name}: got shape {value.shape}, expected square matrices (..., n, n) with n at least 1")
    return value


def require_finite(name, value):
    # NumPy, since JAX would trace the test of a constant inside of jit.
    if is_concrete(value) and not np.isfinite(np.asarray(value)).all():
        raise InputError(f"{name}: has NaN or infinite entries, expected finite entries")
