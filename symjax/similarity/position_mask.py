"""Masks of positions: which tokens or pixels of each example count."""

import jax.numpy as jnp
import numpy as np

from symjax.checks import any_array, is_concrete
from symjax.errors import InputError


def as_mask(mask, name="mask"):
    """Return a mask as booleans; integers 0 and 1, as in attention masks, are allowed."""
    mask = any_array(name, mask)
    if mask.dtype == bool:
        return mask
    if not jnp.issubdtype(mask.dtype, jnp.integer) or (is_concrete(mask) and not ((mask == 0) | (mask == 1)).all()):
        raise InputError(f"{name}: got {mask.dtype}{list(mask.shape)}, expected booleans, or integers 0 and 1")
    return mask.astype(bool)


def positions_shape(x, layout):
    """Return the shape of a mask of the positions of `x`: all axes but the channels."""
    return (x.shape[0], *x.shape[2:]) if layout == "nchw" else x.shape[:-1]


def without_masked(arrays, samples, mask, layout):
    """Return the arrays of {name: array} with masked positions overwritten, and the mask as booleans or None."""
    if mask is None:
        return list(arrays.values()), None
    mask, arrays = as_mask(mask), {name: any_array(name, x) for name, x in arrays.items()}
    if samples == "flatten":
        raise InputError("samples: got 'flatten' with a mask, expected 'positions', 'pool', 'first' or 'last'")
    if all(x.ndim < 3 for x in arrays.values()):
        raise InputError("mask: got one for vectors (n, d), expected tokens (n, t, c) or maps")
    for name, x in arrays.items():
        if x.ndim > 2 and mask.shape != positions_shape(x, layout):
            raise InputError(
                f"mask: got shape {mask.shape}, expected {positions_shape(x, layout)}, one for each position of {name}"
            )
    if is_concrete(mask):
        mask = np.asarray(mask)
        _require_positions(mask, samples)
    elif samples == "positions":
        raise InputError("mask: got a traced array, expected a concrete one, which determines the number of samples")
    return [x if x.ndim < 3 else cleared(x, mask, layout) for x in arrays.values()], mask


def cleared(x, mask, layout=None):
    """Return `x` with masked examples (or positions, for a mask of several axes) overwritten by unmasked ones or 0."""
    if mask.ndim > 1 and layout == "nchw":
        xp = np if isinstance(x, np.ndarray) else jnp
        return xp.moveaxis(cleared(xp.moveaxis(x, 1, -1), mask), -1, 1)
    spread = mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
    if isinstance(x, np.ndarray) and isinstance(mask, np.ndarray):  # not yet converted: fill with valid numbers
        fill = x[np.unravel_index(mask.argmax(), mask.shape)] if mask.any() else x.dtype.type(0)
        return np.where(spread, x, fill)
    return jnp.where(spread, x, 0)


def _require_positions(mask, samples):
    counts = mask.reshape(len(mask), -1).sum(1)
    if samples == "positions" and counts.sum() < 2:
        raise InputError(f"mask: got {counts.sum()} positions, expected at least 2")
    if samples != "positions" and not counts.all():
        raise InputError(f"mask: got no position of example {counts.argmin()}, expected at least one of each example")
