"""Channels of a space in the parameters of a batch of networks, as matrices.

Parameters are NumPy arrays (pairs, *shape): on a host, batches of small matrix products need no compilation.
"""

import jax
import jax.numpy as jnp
import numpy as np


def channels_of(leaf, axis, rows=slice(None)):
    """Return the entries of a parameter at a space's channels, (pairs, channels, other entries)."""
    values = _channels_first(leaf, axis)[rows]
    channels, repeats = axis.positions.shape
    if (channels * repeats, repeats) != (values.shape[1], 1) or (axis.positions[:, 0] != np.arange(channels)).any():
        values = values[:, axis.positions.ravel()]
    return values.reshape(len(values), channels, -1)


def set_channels(leaf, axis, rows, values):
    """Set the entries that `channels_of` returns, in place."""
    target = _channels_first(leaf, axis)
    positions = axis.positions.ravel()
    target[np.arange(len(leaf))[rows][:, None], positions] = values.reshape(-1, len(positions), *target.shape[2:])


def _channels_first(leaf, axis):
    """Return a view (pairs, positions on the axis, *other dimensions)."""
    return np.moveaxis(_selected(leaf, axis), axis.axis + 1, 1)


def _selected(leaf, axis):
    """Return a view of the entries that an axis acts on, in the shape of the parameter."""
    slices = [slice(None)] * leaf.ndim
    for dimension, i in axis.index:
        slices[dimension + 1] = slice(i, i + 1)
    return leaf[tuple(slices)]


def on_host(tree):
    """Return a pytree with NumPy arrays, which `Symmetry.act` handles without compilation; random keys stay."""
    is_key = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf if is_key(leaf) else np.asarray(leaf), tree)


def acts(space, axis) -> bool:
    """Return whether the space's matrices change the axis: a power 0 of a general matrix is the identity."""
    return axis.exponent != 0 or space.monomial


def permutation_of(matrices):
    """Return the place (pairs, n) of the largest entry of each row, and these entries (pairs, n, 1)."""
    order = np.abs(matrices).argmax(2)
    return order, np.take_along_axis(matrices, order[:, :, None], 2)


def apply(leaves, space, matrices, rows=slice(None)):
    """Multiply the space's channels by matrices (pairs, n, n), in place."""
    rows = np.arange(len(matrices)) if isinstance(rows, slice) else rows
    order, entries = permutation_of(matrices)
    unscaled = (entries == 1).all()
    for axis in space.axes:
        if not acts(space, axis):
            continue
        leaf = leaves[axis.path]
        if space.monomial and (unscaled or not axis.exponent):
            _permute(leaf, axis, order, rows)
            continue
        values = channels_of(leaf, axis, rows)
        if space.monomial:
            values = entries**axis.exponent * values[np.arange(len(rows))[:, None], order]
        else:
            values = (matrices if axis.exponent > 0 else np.linalg.inv(matrices).swapaxes(1, 2)) @ values
        set_channels(leaf, axis, rows, values)


def _permute(leaf, axis, order, rows):
    """Move the channels of an axis, in place: channel i becomes what channel order[i] was."""
    view = _selected(leaf, axis)
    places = np.tile(np.arange(view.shape[axis.axis + 1]), (len(rows), 1))
    places[:, axis.positions.ravel()] = axis.positions[order].reshape(len(rows), -1)
    for row, place in zip(rows, places, strict=True):
        view[row] = view[row].take(place, axis=axis.axis)


def squared(leaves) -> np.ndarray:
    """Return the sums of squares of all parameters, one per pair."""
    return inner(leaves, leaves)


def inner(first, second) -> np.ndarray:
    """Return the inner products of all parameters, one per pair."""
    return np.sum([products(first[path], second[path]) for path in first], axis=0)


def products(x, y) -> np.ndarray:
    """Return the inner products of arrays (pairs, *shape); only sums over the last axis have their precision."""
    return np.vecdot(x, y).reshape(len(x), -1).sum(1, dtype=np.float64)
