"""Pooling over pixels."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax


def max_pool(x: jax.Array, size: int) -> jax.Array:
    """Maximum over windows of `size` x `size`, stride `size`; an edge that does not fill a window is dropped.

    Its gradient goes to the window's maximum, to the first one where several pixels tie. Both ways are elementwise, on
    a CPU many times as fast as `reduce_window` with its gradient, or as the scattering gradients of strided slices.
    """
    if size == 1:
        return x
    h, w = (x.shape[1] // size) * size, (x.shape[2] // size) * size
    return _max_pool(x[:, :h, :w], size)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x, size):
    for axis in (2, 1):
        x = reduce(jnp.maximum, _slices(x, size, axis))
    return x


def _max_pool_forward(x, size):
    # The winner is kept as a number: to look for the maximum again by `x == maximum` loses gradients wherever the
    # compiler computes x twice, rounded differently.
    columns, column = _largest(_slices(x, size, 2))
    out, row = _largest(_slices(columns, size, 1))
    return out, (row * size + _pick(row, _slices(column, size, 1)), x.shape)


def _max_pool_backward(size, saved, g):
    winner, (n, height, width, c) = saved
    window = jnp.arange(size * size, dtype=winner.dtype).reshape(size, 1, size, 1)
    here = winner[:, :, None, :, None] == window
    dx = jnp.where(here, g[:, :, None, :, None], jnp.zeros((), g.dtype))
    return (lax.optimization_barrier(dx.reshape(n, height, width, c)),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def overlapping_max_pool(x: jax.Array) -> jax.Array:
    """Maximum over windows of 3 x 3 around every second pixel; what lies outside of the map does not count.

    Where pixels tie, each gets its share of the gradient.
    """
    for axis in (1, 2):
        count = (x.shape[axis] + 1) // 2
        padding = [(0, 0, 0)] * x.ndim
        padding[axis] = (1, 1, 0)
        padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), padding)
        x = reduce(jnp.maximum, [lax.slice_in_dim(padded, i, i + 2 * count - 1, 2, axis) for i in range(3)])
    return x


def _slices(x, size, axis):
    return [lax.slice_in_dim(x, i, None, size, axis) for i in range(size)]


def _largest(slices):
    """The elementwise maximum of arrays, and which of them it is, the first where they tie."""
    best, winner = slices[0], jnp.zeros(slices[0].shape, jnp.int32)
    for i, new in enumerate(slices[1:], 1):
        winner = jnp.where(new > best, i, winner)
        best = jnp.maximum(best, new)
    return best, winner


def _pick(winner, slices):
    """The elements of those arrays that `winner` names."""
    picked = slices[0]
    for i, new in enumerate(slices[1:], 1):
        picked = jnp.where(winner == i, new, picked)
    return picked


@jax.custom_vjp
def global_max_pool(x: jax.Array) -> jax.Array:
    """Maximum over all pixels; its gradient goes to the first one that attains it."""
    return jnp.max(x, axis=(1, 2))


def _global_max_pool_forward(x):
    n, h, w, c = x.shape
    return global_max_pool(x), (jnp.argmax(x.reshape(n, h * w, c), axis=1), (h, w))


def _global_max_pool_backward(saved, g):
    winner, (h, w) = saved
    here = winner[:, None, None, :] == jnp.arange(h * w, dtype=winner.dtype).reshape(h, w, 1)
    return (jnp.where(here, g[:, None, None, :], jnp.zeros((), g.dtype)),)


global_max_pool.defvjp(_global_max_pool_forward, _global_max_pool_backward)


def global_mean_pool(x: jax.Array) -> jax.Array:
    """Mean over all pixels."""
    return jnp.mean(x, axis=(1, 2))
