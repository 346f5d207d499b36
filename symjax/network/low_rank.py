"""Features in a space of few dimensions, stored as coordinates."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class LowRankFeatures(NamedTuple):
    """Features x_i = sum_k directions_ik coordinates_k + offset_i, stored as these factors.

    An operation that is linear in the channels can multiply its weights by the directions and act on the coordinates,
    which are fewer. Any other operation acts on `materialize(features)`.
    """

    coordinates: jax.Array  # (..., r)
    directions: jax.Array | np.ndarray  # (channels, r)
    offset: jax.Array | np.ndarray | None = None  # (channels,)

    @property
    def dtype(self):
        return self.coordinates.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.coordinates.shape[:-1], self.directions.shape[0])


def materialize(x: jax.Array | LowRankFeatures) -> jax.Array:
    """Return features, an array or `LowRankFeatures`, as an array (..., channels)."""
    if not isinstance(x, LowRankFeatures):
        return x
    features = x.coordinates @ x.directions.T
    return features if x.offset is None else features + x.offset


def convolved(convolution: Callable, x: jax.Array | LowRankFeatures, kernel: jax.Array) -> jax.Array:
    """Return `convolution(x, kernel)` without materializing `x`.

    Args:
      convolution: a convolution with zero padding, for any number of channels.
      x: (n, ..., channels). Its offset, which is the same for all examples, is convolved once.
      kernel: (..., channels, features).
    """
    if not isinstance(x, LowRankFeatures):
        return convolution(x, kernel)
    out = convolution(x.coordinates, jnp.einsum("...cd,cr->...rd", kernel, x.directions))
    if x.offset is None:
        return out
    ones = jnp.ones((1, *x.coordinates.shape[1:-1], 1), kernel.dtype)
    return out + convolution(ones, jnp.einsum("...cd,c->...d", kernel, x.offset)[..., None, :])
