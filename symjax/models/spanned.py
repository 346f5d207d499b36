"""Features that lie in a space of few dimensions, held as their coordinates there."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Spanned(NamedTuple):
    """Features x_i = sum_k directions_ik coordinates_k + offset_i, which are not formed before they must be.

    What is linear in features can take the directions into its weights and work on the coordinates, which are fewer:
    so does a convolution (`layers.Conv`). A segment that begins with one says `takes_spanned`; to others
    `Network.run` gives the features themselves.
    """

    coordinates: jax.Array  # (..., r)
    directions: jax.Array  # (channels, r)
    offset: jax.Array | None = None  # (channels,)

    @property
    def dtype(self):
        return self.coordinates.dtype


def formed(x):
    """Features as an array (..., channels), whether they are held as such or are `Spanned`."""
    if not isinstance(x, Spanned):
        return x
    features = x.coordinates @ x.directions.T
    return features if x.offset is None else features + x.offset


def convolved(convolution, x, kernel: jax.Array) -> jax.Array:
    """`convolution(features, kernel)`, linear in features and with zeros around them; `Spanned` ones are not formed.

    The offset, alike in all examples, is convolved once.
    """
    if not isinstance(x, Spanned):
        return convolution(x, kernel)
    out = convolution(x.coordinates, jnp.einsum("ijcd,cr->ijrd", kernel, x.directions))
    if x.offset is None:
        return out
    ones = jnp.ones((1, *x.coordinates.shape[1:-1], 1), kernel.dtype)
    return out + convolution(ones, jnp.einsum("ijcd,c->ijd", kernel, x.offset)[:, :, None])
