"""Maxima over windows and their gradients, by elementwise operations.

On a CPU they are many times as fast as `reduce_window` and its gradient, or as the scattering gradients of strided
slices. The gradient of a maximum goes to the element that attains it; of several equal ones to the first.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


def disjoint_max_pool(x: jax.Array, windows: Sequence[int]) -> jax.Array:
    """Return the maximum over adjacent windows, with a size for each axis; an incomplete last window is dropped."""
    if all(size == 1 for size in windows):
        return x
    x = x[tuple(slice(length // size * size) for length, size in zip(x.shape, windows, strict=True))]
    return _disjoint(x, tuple(windows))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _disjoint(x, windows):
    return _disjoint_forward(x, windows)[0]


def _disjoint_forward(x, windows):
    # The index of the maximum is kept. To recover it by `x == maximum` would lose gradients if the compiler computes
    # x twice with different rounding.
    winner, count = None, 1
    for axis in reversed([axis for axis, size in enumerate(windows) if size > 1]):
        size = windows[axis]
        x, first = _largest([lax.slice_in_dim(x, i, None, size, axis) for i in range(size)])
        if winner is None:
            winner = first
        else:
            winner = count * first + _pick(first, [lax.slice_in_dim(winner, i, None, size, axis) for i in range(size)])
        count *= size
    return x, winner


def _disjoint_backward(windows, winner, g):
    # Each axis becomes two: the number of the window, and the position in the window.
    outer = [part for length in g.shape for part in (length, 1)]
    inner = [part for size in windows for part in (1, size)]
    position = jnp.arange(math.prod(windows), dtype=winner.dtype).reshape(inner)
    dx = jnp.where(winner.reshape(outer) == position, g.reshape(outer), jnp.zeros((), g.dtype))
    shape = [length * size for length, size in zip(g.shape, windows, strict=True)]
    return (lax.optimization_barrier(dx.reshape(shape)),)


_disjoint.defvjp(_disjoint_forward, _disjoint_backward)


def max_along(x: jax.Array, axis: int, size: int, stride: int, padding: tuple[int, int]) -> jax.Array:
    """Return the maximum over windows along one axis, with `padding` before and after that is ignored.

    Applied to one axis after another, the last one first, it gives the maximum over windows of several axes.
    """
    return _max_along(x, (axis, size, stride, padding, x.shape[axis]))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_along(x, window):
    return _max_along_forward(x, window)[0]


def _max_along_forward(x, window):
    axis, size, stride, padding, _ = window
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (*padding, 0)
    padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), config)
    last = (padded.shape[axis] - size) // stride * stride
    return _largest([lax.slice_in_dim(padded, i, i + last + 1, stride, axis) for i in range(size)])


def _max_along_backward(window, winner, g):
    axis, size, stride, (before, _), length = window
    extent, zero = (g.shape[axis] - 1) * stride + 1, jnp.zeros((), g.dtype)

    def placed(i):
        config = [(0, 0, 0)] * g.ndim
        config[axis] = (i - before, length - extent - i + before, stride - 1)
        return lax.pad(jnp.where(winner == i, g, zero), zero, config)

    return (lax.optimization_barrier(sum(placed(i) for i in range(size))),)


_max_along.defvjp(_max_along_forward, _max_along_backward)


def _largest(slices):
    """Return the elementwise maximum of arrays, and the index of the array that has it, the first of equals."""
    best, winner = slices[0], jnp.zeros(slices[0].shape, jnp.int32)
    for i, new in enumerate(slices[1:], 1):
        winner = jnp.where(new > best, i, winner)
        best = jnp.maximum(best, new)
    return best, winner


def _pick(winner, slices):
    """Return the elements of the arrays with the indices `winner`."""
    picked = slices[0]
    for i, new in enumerate(slices[1:], 1):
        picked = jnp.where(winner == i, new, picked)
    return picked


@jax.custom_vjp
def global_max_pool(x: jax.Array) -> jax.Array:
    """Return the maximum over all pixels; its gradient goes to the first pixel that attains it."""
    return jnp.max(x, axis=(1, 2))


def _global_max_pool_forward(x):
    n, h, w, c = x.shape
    return global_max_pool(x), (jnp.argmax(x.reshape(n, h * w, c), axis=1), (h, w))


def _global_max_pool_backward(saved, g):
    winner, (h, w) = saved
    is_winner = winner[:, None, None, :] == jnp.arange(h * w, dtype=winner.dtype).reshape(h, w, 1)
    return (jnp.where(is_winner, g[:, None, None, :], jnp.zeros((), g.dtype)),)


global_max_pool.defvjp(_global_max_pool_forward, _global_max_pool_backward)
