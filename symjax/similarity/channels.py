"""Channels centred and scaled, alike for matrices (n, d) and maps (n, h, w, c): the last axis is that of channels."""

import jax.numpy as jnp
from jax import lax


def centred(x):
    """`x` less the mean of each channel over all other axes; a constant channel becomes exactly zero."""
    return _centred(x, x.reshape(-1, x.shape[-1])[0], tuple(range(x.ndim - 1)))


def centred_whole(x):
    """`x` less the mean of all of it; exactly zero if constant."""
    return _centred(x, x.ravel()[0], None)


def _centred(x, sample, axes):
    # The mean of many equal numbers is not that number in floating point, and what is left of a constant channel would
    # be scaled up to unit norm later.
    x = x - lax.stop_gradient(sample)
    return x - x.mean(axes)


def unit_channels(x):
    """`x` with each channel at unit Euclidean norm over all other axes, and the norms; zero channels stay zero."""
    return _unit(x, tuple(range(x.ndim - 1)))


def unit(x):
    """`x` at unit Frobenius norm, and the norm; zero stays zero."""
    return _unit(x, None)


def _unit(x, axes):
    largest = lax.stop_gradient(jnp.abs(x).max(axes))  # squares of numbers near 1 neither overflow nor vanish
    largest = jnp.where(largest == 0, 1, largest)
    x = x / largest
    norm = root((x * x).sum(axes))
    return x / jnp.where(norm == 0, 1, norm), largest * norm


def root(squares):
    """The square root, and zero of what rounding left below zero; NaN stays NaN. The derivative at zero is zero."""
    positive = ~(squares <= 0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
