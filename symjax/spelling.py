"""Format results, types and functions as one line of text."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from symjax.checks import is_concrete, short


def one_line(result: Any) -> str:
    """Return a `repr` of a named tuple or dataclass: single numbers by value, arrays by dtype and shape."""
    if dataclasses.is_dataclass(result):
        names = [field.name for field in dataclasses.fields(result) if field.repr]
    else:
        names = result._fields
    return f"{type(result).__name__}({', '.join(f'{name}={_format(getattr(result, name))}' for name in names)})"


def described(tree: Any, batch: str | None = None) -> str:
    """Return dtypes and shapes of the arrays of a pytree, as float32[2, 3], or float32[n, 3] with `batch` "n"."""
    leaves = jax.tree.leaves(tree)
    if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves):
        return short(tree)
    shapes = [[*map(str, leaf.shape)] if batch is None else [batch, *map(str, leaf.shape[1:])] for leaf in leaves]
    return ", ".join(f"{leaf.dtype}[{', '.join(shape)}]" for leaf, shape in zip(leaves, shapes, strict=True))


def listed(items: Iterable) -> str:
    """Return items separated by commas."""
    return ", ".join(map(str, items))


def name_of(function: Any) -> str:
    """Return the name of a function, or of the update function of an optimizer, for a configuration."""
    function = getattr(function, "update", function)
    return getattr(function, "__qualname__", type(function).__name__).replace("<locals>.", "")


def _format(value: Any) -> str:
    if hasattr(value, "shape"):
        kind: Any = getattr(value, "dtype", type(value).__name__)  # a table has no dtype
        if value.shape or not isinstance(value, (np.ndarray, np.generic, jax.Array)) or not is_concrete(value):
            return f"{kind}{list(value.shape)}"
        return f"{value:.6g}" if kind.kind == "f" else f"{value}"
    if isinstance(value, (tuple, list, dict)) and not hasattr(value, "_fields"):
        if type(value) is tuple and len(value) <= 3:
            return f"({', '.join(map(_format, value))})"
        text = "" if any(hasattr(leaf, "shape") for leaf in jax.tree.leaves(value)) else repr(value)
        return text if 0 < len(text) <= 80 else f"{type(value).__name__} of {len(value)}"
    return repr(value) if hasattr(value, "_fields") else " ".join(short(value).split())
