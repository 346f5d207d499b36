"""Settings and distances of commands that compare one layer of networks from several zoos."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from experiments.settings import ZooSettings, point_of, short_name
from symjax.checks import integer_fields
from symjax.data import Dataset
from symjax.network import Member, Network
from symjax.representations import as_maps, features_of
from symjax.similarity import pairwise

MEASURE = "pwcca_distance"


@dataclasses.dataclass(frozen=True)
class LayerSettings(ZooSettings):
    """The settings of a zoo, and of the layer that is compared."""

    layer: str = "last"
    """The stitch point that is compared, by name, or last."""
    examples: int = 500
    """Test images on which the layer is compared; all if there are fewer."""
    samples: Literal["positions", "pool"] = "positions"
    """Samples of a convolutional layer: positions, each pixel of each image; pool, the mean over pixels of an image."""

    @property
    def run_name(self) -> str:
        """The prefix of the name of the default run folder."""
        return f"{short_name(self.dataset)}-{self.model.replace(':', '-')}"

    def point(self, network: Network) -> int:
        """Return the index of the stitch point that is compared; check the settings."""
        integer_fields(self, examples=(1, 2**31 - 1))
        return point_of(network, self.layer)

    def features(self, network: Network, members: Member, dataset: Dataset) -> np.ndarray:
        """Return the features of the layer, (members, n, ..., channels)."""
        images = dataset.test.images[: self.examples]
        options = {"layers": network.points[self.point(network)].name, "max_device_memory": self.memory_limit}
        (features,) = as_maps(features_of(network, members, images, dataset.mean, dataset.std, **options)).values()
        return features


def pair_distances(features: np.ndarray, models: Sequence, pairs: Sequence[tuple], samples: str) -> list[float]:
    """Return the PWCCA distance of each pair of models, the mean over both orders.

    PWCCA weights the directions of its first argument; the mean is symmetric.

    Args:
      features: (models, n, ..., channels) of one layer.
      models: labels of the models.
      pairs: pairs of labels.
      samples: as in `LayerSettings`.
    """
    values = pairwise({"layer": features}, MEASURE, models=models, pairs=pairs, samples=samples).values[0, :, 0]
    values = pd.DataFrame(np.asarray(values), models, models)
    return [(values.loc[a, b] + values.loc[b, a]) / 2 for a, b in pairs]
