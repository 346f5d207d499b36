"""Channels of a space in the parameters of a batch of networks, as matrices.

Parameters are NumPy arrays (pairs, *shape): on a host, batches of small matrix products need no compilation.
"""

import math

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
    slices = [slice(None)] * leaf.ndim
    for dimension, i in axis.index:
        slices[dimension + 1] = slice(i, i + 1)
    return np.moveaxis(leaf[tuple(slices)], axis.axis + 1, 1)


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
        if acts(space, axis):
            values = channels_of(leaves[axis.path], axis, rows)
            if space.monomial:
                values = values[np.arange(len(rows))[:, None], order]
                if axis.exponent and not unscaled:
                    values = entries**axis.exponent * values
            else:
                acting = matrices if axis.exponent > 0 else np.linalg.inv(matrices).swapaxes(1, 2)
                values = acting @ values
            set_channels(leaves[axis.path], axis, rows, values)


def squared(leaves) -> np.ndarray:
    """Return the sums of squares of all parameters, one per pair."""
    return sum(np.einsum("pi,pi->p", flat, flat, dtype=np.float64) for flat in map(_flat, leaves.values()))


def inner(first, second) -> np.ndarray:
    """Return the inner products of all parameters, one per pair."""
    return sum(np.einsum("pi,pi->p", *map(_flat, (first[path], second[path])), dtype=np.float64) for path in first)


def _flat(leaf):
    return leaf.reshape(len(leaf), math.prod(leaf.shape[1:]))
