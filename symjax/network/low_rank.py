"""Features of low rank, held as their coordinates. (replaced by the rewrite branch)"""

from typing import NamedTuple

import jax


class LowRankFeatures(NamedTuple):
    coordinates: jax.Array
    directions: jax.Array
    offset: jax.Array | None = None

    @property
    def dtype(self):
        return self.coordinates.dtype

    @property
    def shape(self):
        return (*self.coordinates.shape[:-1], self.directions.shape[0])


def materialize(x):
    if not isinstance(x, LowRankFeatures):
        return x
    features = x.coordinates @ x.directions.T
    return features if x.offset is None else features + x.offset
