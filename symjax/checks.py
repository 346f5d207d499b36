"""Check arguments of public functions.

Each check returns the argument, converted where stated, or raises an `InputError` that begins with the argument's name.
Representations are checked in `symjax.similarity.inputs`.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from symjax.errors import InputError, did_you_mean

LONGEST_NAME = 255  # bytes of a file name that file systems accept


def integer(name: str, value: Any, low: int = 0, high: int = 2**31 - 1) -> int:
    """Return an integer from `low` to `high` as `int`."""
    if not is_integer(value) or not low <= value <= high:
        raise InputError(f"{name}: got {short(value)}, expected an integer from {low} to {high}")
    return int(value)


def is_integer(value: Any) -> TypeGuard[int]:
    """Return whether a value is an integer of Python or NumPy; not `np.timedelta64`, a subclass of NumPy's."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64))


def is_concrete(value: Any) -> bool:
    """Return whether a value is not traced by JAX."""
    return not isinstance(value, jax.core.Tracer)


def is_real(dtype: np.dtype) -> bool:
    """Return whether a dtype holds real numbers or booleans."""
    if getattr(dtype, "kind", "m") == "m":  # keys of JAX have no kind, and NumPy takes timedelta64 for an integer
        return False
    return any(jnp.issubdtype(dtype, kind) for kind in (np.bool, jnp.integer, jnp.floating))


def flag(name: str, value: Any) -> bool:
    """Return a boolean; other values, such as 0 and 1, are refused."""
    if not isinstance(value, (bool, np.bool)):
        raise InputError(f"{name}: got {short(value)}, expected True or False")
    return bool(value)


def integer_fields(config: Any, **ranges: tuple[int, int]) -> None:
    """Convert fields of a frozen dataclass to `int`, for JSON; each must lie in its range (low, high)."""
    for name, (low, high) in ranges.items():
        object.__setattr__(config, name, integer(name, getattr(config, name), low, high))


def sequence(name: str, value: Any, what: str = "values") -> tuple:
    """Return the items of an iterable that is not text or a mapping; items of arrays become Python numbers."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        raise InputError(f"{name}: got {short(value)}, expected a sequence of {what}")
    if not is_concrete(value):
        raise InputError(f"{name}: got a traced value, expected a concrete one")
    require_unmasked(name, value)
    return tuple(value.tolist() if isinstance(value, (np.ndarray, jax.Array)) else value)


def labels(name: str, value: Any, what: str = "labels") -> tuple:
    """Return the result of `sequence` if its items are hashable; the items of a string are its letters."""
    items = tuple(value) if isinstance(value, str) else sequence(name, value, what)
    for label in items:
        if not can_be_key(label):
            raise InputError(f"{name}: got {short(label)}, expected {what} that can be keys")
    return items


def can_be_key(value: Any) -> bool:
    """Return whether a value is hashable."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def integers(name: str, value: Any, low: int = 0, high: int = 2**31 - 1) -> tuple[int, ...]:
    """Return a tuple of integers from `low` to `high`."""
    return tuple(integer(name, item, low, high) for item in sequence(name, value, "integers"))


def array(name: str, value: Any) -> np.ndarray | jax.Array:
    """Return an array of real numbers, converted as by `any_array`."""
    result = any_array(name, value)
    if not is_real(result.dtype):
        raise InputError(f"{name}: got {result.dtype}, expected real numbers")
    return result


def any_array(name: str, value: Any) -> np.ndarray | jax.Array:
    """Return a JAX array unchanged, and any other array as a NumPy array of native byte order.

    Arrays that NumPy cannot read (bfloat16 of PyTorch, memory of an accelerator) become JAX arrays by `__dlpack__`.
    Tensors are detached from their graph. Lists may contain arrays of any of these kinds, also traced ones.

    Raises:
        InputError: entries are masked or missing; neither NumPy nor JAX can read the value.
    """
    if isinstance(value, jax.Array):
        return value
    require_unmasked(name, value)
    if isinstance(value, (list, tuple)):
        value = [item if isinstance(item, (bool, int, float)) else any_array(name, item) for item in value]
    elif callable(getattr(value, "detach", None)):
        value = value.detach()
    try:
        result = np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return jnp.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError):  # PyTorch raises RuntimeError for some layouts
        result = None
    is_foreign = hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray)
    if is_foreign and (result is None or result.dtype == object):
        result = _by_dlpack(name, value)
    if result is None or (result.dtype == object and result.ndim == 0):
        raise InputError(f"{name}: got {short(value)}, expected an array of real numbers")
    if result.dtype == object and hasattr(value, "isna"):  # a data frame with several or nullable types
        if np.any(value.isna()):
            raise InputError(f"{name}: got missing values, expected none; fill them or leave them out")
        result = np.asarray(result.tolist())
    return result if result.dtype.isnative else result.astype(result.dtype.newbyteorder("="))


def _by_dlpack(name, value):
    try:
        return jnp.from_dlpack(value)
    except Exception as error:  # the type depends on the library and the device
        reason = str(error).strip().partition("\n")[0]
        given = f"got a {type(value).__name__} that JAX cannot read ({reason})"
        raise InputError(f"{name}: {given}, expected a NumPy array") from error


def require_unmasked(name: str, value: Any) -> None:
    """Raise an `InputError` for masked entries, since functions would ignore the mask."""
    if np.ma.is_masked(value):
        raise InputError(f"{name}: got masked entries, expected none; fill them or leave them out")


def numpy_array(name: str, value: Any) -> np.ndarray:
    """Return the result of `array` as a NumPy array; raise an InputError if it is traced."""
    result = array(name, value)
    if not is_concrete(result):
        raise InputError(f"{name}: got a traced value, expected a concrete one")
    return np.asarray(result)


def jax_array(name: str, value: Any) -> jax.Array:
    """Return the result of `array` as a JAX array; raise an InputError for integers that JAX would truncate."""
    source = array(name, value)
    try:
        with np.errstate(over="ignore"):  # numbers beyond the range become infinite
            result = jnp.asarray(source)
    except TypeError:  # long doubles
        raise InputError(f"{name}: got {source.dtype}, expected real numbers") from None
    if result.dtype != source.dtype and source.dtype.kind in "iu" and (source.astype(result.dtype) != source).any():
        raise InputError(f"{name}: got integers outside the range of {result.dtype}, expected integers in it")
    return result


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
    """Return a number that is traced or valid by `is_valid`; otherwise raise an InputError with the text `expected`.

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


def static_scalar(name, value, expected, is_valid):
    """Return `value` as a float if it is a valid number that is not traced; otherwise raise an `InputError`."""
    if not is_concrete(value):
        raise InputError(f"{name}: got {value}, expected {expected}, not traced")
    return float(scalar(name, value, expected, is_valid))


def _is_number(value):
    """Return whether it is a real number of Python, NumPy or JAX, and not a boolean."""
    if isinstance(value, (int, float)):
        return not isinstance(value, bool)
    dtype = getattr(value, "dtype", None)
    return dtype is not None and np.ndim(value) == 0 and is_real(dtype) and dtype.kind != "b"


def as_dtype(value, dtype):
    """Return a number as an array of this dtype; infinite if it exceeds the dtype's range."""
    with np.errstate(over="ignore"):
        return jnp.asarray(value, dtype)


def square(name, value):
    value = real(name, value)
    if value.ndim < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] == 0:
        raise InputError(f"{name}: got shape {value.shape}, expected square matrices (..., n, n) with n at least 1")
    return value


def require_finite(name, value):
    # NumPy, since inside of jit JAX would trace the test of a constant.
    if is_concrete(value) and not np.isfinite(np.asarray(value)).all():
        raise InputError(f"{name}: got NaN or infinite entries, expected finite entries")


def seeds(value: Any) -> tuple[int, ...]:
    """Return seeds of members: one or more integers without duplicates."""
    result = integers("seeds", value)
    if not result or len(set(result)) < len(result):
        raise InputError(f"seeds: got {', '.join(map(str, result)) or 'none'}, expected one or more, each once")
    return result


def random_key(name: str, value: Any) -> jax.Array:
    """Return a typed random key; a raw `jax.random.PRNGKey` is converted to the equal typed key."""
    if isinstance(value, jax.Array):
        if value.ndim == 1 and value.dtype == jnp.uint32 and value.shape == jax.random.PRNGKey(0).shape:
            return jax.random.wrap_key_data(value)
        if value.shape == () and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return value
        value = f"{value.dtype}{list(value.shape)}"
    raise InputError(f"{name}: got {short(value)}, expected a key of JAX, such as jax.random.key(0)")


def text(name: str, value: Any, *, empty: bool = False) -> str:
    """Return a text that is not blank, unless `empty` is true."""
    if not isinstance(value, str) or not (empty or value.strip()):
        raise InputError(f"{name}: got {short(value)}, expected text")
    return value


def one_of(name: str, value: Any, known: Iterable[str]) -> str:
    """Return one of the `known` texts."""
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name}: got {short(value)}{did_you_mean(value, known)}, expected one of {', '.join(known)}")
    return value


def path(name: str, value: Any) -> pathlib.Path:
    """Return a path whose names are valid on file systems."""
    name_of_path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
    if not isinstance(name_of_path, str) or not name_of_path or "\0" in name_of_path:
        raise InputError(f"{name}: got {short(value)}, expected a path")
    result = pathlib.Path(name_of_path)
    try:
        longest = max((len(os.fsencode(part)) for part in result.parts), default=0)
    except UnicodeEncodeError:
        raise InputError(f"{name}: got {short(value)}, expected text that can be the name of a file") from None
    if longest > LONGEST_NAME:
        raise InputError(f"{name}: got {short(value)}, expected names of at most {LONGEST_NAME} bytes")
    return result


def short(value: Any) -> str:
    """Return a short text of a value for messages, in one line."""
    if isinstance(value, int) and abs(value) >= 2**64:
        return f"{'-' * (value < 0)}2**64 or more"
    try:
        shown = repr(value) if isinstance(value, str) else " ".join(repr(value).split())
    except ValueError:  # contains an integer with more digits than Python converts to text
        shown = f"a {type(value).__name__} of huge integers"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
