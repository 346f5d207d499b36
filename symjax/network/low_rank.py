"""Features of low rank, held as their coordinates."""

from typing import Any, NamedTuple

import jax


class LowRankFeatures(NamedTuple):
    """Features x_i = sum_k directions_ik coordinates_k + offset_i, which are not formed before they must be.

    An operation that is linear in features can take the directions into its weights and work on the coordinates, which
    are fewer. `Network.tail` takes them in place of an array.
    """

    coordinates: jax.Array  # (..., r)
    directions: jax.Array  # (channels, r)
    offset: jax.Array | None = None  # (channels,)

    @property
    def dtype(self):
        return self.coordinates.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.coordinates.shape[:-1], self.directions.shape[0])


def materialize(x: Any) -> Any:
    """Return the features as an array (..., channels); any other value as it is."""
    if not isinstance(x, LowRankFeatures):
        return x
    features = x.coordinates @ x.directions.T
    return features if x.offset is None else features + x.offset
