"""What public functions ask of plain arguments: each an `InputError` that names the argument, or the value itself.

Numbers that may be traced and matrices are asked in `symjax.birkhoff.checks`, representations in
`symjax.similarity.inputs`.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symjax.errors import InputError

LONGEST_NAME = 255  # bytes of a file's name that file systems take


def integer(name: str, value: Any, low: int = 0, high: int = 2**31 - 1) -> int:
    """An integer from `low` to `high`, as Python's."""
    if not is_integer(value) or not low <= value <= high:
        raise InputError(f"{name}: got {short(value)}, expected an integer from {low} to {high}")
    return int(value)


def is_integer(value: Any) -> bool:
    """Whether it is one of Python's or NumPy's; to NumPy a span of time is an integer, too."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64))


def is_concrete(value: Any) -> bool:
    """Whether it has a value, and is not traced by JAX."""
    return not isinstance(value, jax.core.Tracer)


def is_real(dtype: np.dtype) -> bool:
    """Whether what has this type is real numbers or truth values."""
    if getattr(dtype, "kind", "m") == "m":  # JAX's keys have none, and to NumPy a span of time is an integer
        return False
    return any(jnp.issubdtype(dtype, kind) for kind in (np.bool, jnp.integer, jnp.floating))


def flag(name: str, value: Any) -> bool:
    """True or false, and nothing that merely counts as such."""
    if not isinstance(value, (bool, np.bool)):
        raise InputError(f"{name}: got {short(value)}, expected True or False")
    return bool(value)


def integer_fields(config: Any, **ranges: tuple[int, int]) -> None:
    """Makes fields of a frozen dataclass Python's integers, as JSON wants them; each from least to greatest."""
    for name, (low, high) in ranges.items():
        object.__setattr__(config, name, integer(name, getattr(config, name), low, high))


def sequence(name: str, value: Any, what: str = "values") -> tuple:
    """What is in a list, a tuple, a range, ...; text and mappings are none. Of an array, numbers of Python's."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        raise InputError(f"{name}: got {short(value)}, expected a sequence of {what}")
    if not is_concrete(value):
        raise InputError(f"{name}: is traced, expected a concrete value")
    require_unmasked(name, value)
    return tuple(value.tolist() if isinstance(value, (np.ndarray, jax.Array)) else value)


def labels(name: str, value: Any, what: str = "labels") -> tuple:
    """A `sequence` of what can be a key, or text, which stands for a label in each letter."""
    found = tuple(value) if isinstance(value, str) else sequence(name, value, what)
    for label in found:
        if not can_be_key(label):
            raise InputError(f"{name}: got {short(label)}, expected {what} that can be keys")
    return found


def can_be_key(value: Any) -> bool:
    """Whether it can be looked up in a dict."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def integers(name: str, value: Any, low: int = 0, high: int = 2**31 - 1) -> tuple[int, ...]:
    """Integers from `low` to `high`."""
    return tuple(integer(name, item, low, high) for item in sequence(name, value, "integers"))


def array(name: str, value: Any) -> np.ndarray | jax.Array:
    """An array of real numbers: JAX's as it is, anything else as NumPy's where NumPy can hold it."""
    found = any_array(name, value)
    if not is_real(found.dtype):
        raise InputError(f"{name}: got {found.dtype}, expected real numbers")
    return found


def any_array(name: str, value: Any) -> np.ndarray | jax.Array:
    """JAX's array as it is, anything else as NumPy's of native byte order; the one way in for arrays.

    What NumPy cannot read (bfloat16 of PyTorch, memory of an accelerator) becomes JAX's by way of `__dlpack__`. Tensors
    are detached from their graph. Lists may hold arrays of any of these kinds, traced ones too.

    Raises:
        InputError: masked or missing entries; what neither NumPy nor JAX can read.
    """
    if isinstance(value, jax.Array):
        return value
    require_unmasked(name, value)
    if isinstance(value, (list, tuple)):
        value = [item if isinstance(item, (bool, int, float)) else any_array(name, item) for item in value]
    elif callable(getattr(value, "detach", None)):
        value = value.detach()
    try:
        found = np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return jnp.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError):  # PyTorch has a RuntimeError for some of its layouts
        found = None
    if (found is None or found.dtype == object) and hasattr(value, "__dlpack__"):
        found = _by_dlpack(name, value)
    if found is None:
        raise InputError(f"{name}: got {short(value)}, expected an array of real numbers")
    if found.dtype == object and hasattr(value, "isna"):  # a data frame of several types, nullable ones among them
        if np.any(value.isna()):
            raise InputError(f"{name}: has missing values; fill them or leave them out")
        found = np.asarray(found.tolist())
    return found if found.dtype.isnative else found.astype(found.dtype.newbyteorder("="))


def _by_dlpack(name, value):
    try:
        return jnp.from_dlpack(value)
    except Exception as error:  # each library and each device has its own
        told = str(error).strip().partition("\n")[0]
        message = f"{name}: got a {type(value).__name__} that JAX cannot read ({told}); pass a NumPy array"
        raise InputError(message) from error


def require_unmasked(name: str, value: Any) -> None:
    """Raises an `InputError` for a masked array with masked entries, which would count as if they were not."""
    if np.ma.is_masked(value):
        raise InputError(f"{name}: has masked entries; fill them or leave them out")


def numpy_array(name: str, value: Any) -> np.ndarray:
    """An `array` as NumPy's; an InputError where it is traced."""
    found = array(name, value)
    if not is_concrete(found):
        raise InputError(f"{name}: is traced, expected a concrete value")
    return np.asarray(found)


def jax_array(name: str, value: Any) -> jax.Array:
    """An `array` as JAX's; an InputError where it has integers that JAX would cut off."""
    found = array(name, value)
    try:
        with np.errstate(over="ignore"):  # an infinity, where it has no such float
            held = jnp.asarray(found)
    except TypeError:  # as of long doubles
        raise InputError(f"{name}: got {found.dtype}, expected real numbers") from None
    if held.dtype != found.dtype and found.dtype.kind in "iu" and (found.astype(held.dtype) != found).any():
        raise InputError(f"{name}: has integers that {held.dtype} cannot hold")
    return held


def seeds(value: Any) -> tuple[int, ...]:
    """One or more different integers that a member can have for a seed."""
    found = integers("seeds", value)
    if not found or len(set(found)) < len(found):
        raise InputError(f"seeds: got {', '.join(map(str, found)) or 'none'}, expected one or more, each once")
    return found


def random_key(name: str, value: Any) -> jax.Array:
    """One key of `jax.random`, as of `key`; one of the old kind, `PRNGKey`, becomes the same one of the new kind."""
    if isinstance(value, jax.Array):
        if value.ndim == 1 and value.dtype == jnp.uint32 and value.shape == jax.random.PRNGKey(0).shape:
            return jax.random.wrap_key_data(value)
        if value.shape == () and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return value
        value = f"{value.dtype}{list(value.shape)}"
    raise InputError(f"{name}: got {short(value)}, expected a key of JAX, such as jax.random.key(0)")


def text(name: str, value: Any, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (empty or value.strip()):
        raise InputError(f"{name}: got {short(value)}, expected text")
    return value


def one_of(name: str, value: Any, known: Iterable[str]) -> str:
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name}: got {short(value)}, expected one of {', '.join(known)}")
    return value


def path(name: str, value: Any) -> pathlib.Path:
    spelled = os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
    if not isinstance(spelled, str) or not spelled or "\0" in spelled:
        raise InputError(f"{name}: got {short(value)}, expected a path")
    found = pathlib.Path(spelled)
    try:
        longest = max((len(os.fsencode(part)) for part in found.parts), default=0)
    except UnicodeEncodeError:
        raise InputError(f"{name}: got {short(value)}, which no file can be called") from None
    if longest > LONGEST_NAME:
        raise InputError(f"{name}: got {short(value)}, expected names of at most {LONGEST_NAME} bytes")
    return found


def short(value: Any) -> str:
    """For messages."""
    if isinstance(value, int) and abs(value) >= 2**64:
        return f"{'-' * (value < 0)}2**64 or more"
    try:
        shown = repr(value)
    except ValueError:  # somewhere in it an integer of more digits than Python spells
        shown = f"a {type(value).__name__} of huge integers"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
