"""What commands that look at layers share: which layers, on which images."""

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from experiments.dry_run import Phase, layers_phase
from experiments.settings import ZooSettings
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.representations import as_maps, features_of
from symjax.similarity import MEASURES

MODELS_IN_BLOCK, PAIRS_IN_BLOCK = 8, 32


@dataclasses.dataclass(frozen=True)
class FeatureSettings(ZooSettings):
    """A zoo, and what of its members' layers is looked at."""

    layers: str = "all"
    """Stitch points by name, as in relu1,relu3, or all."""
    images: Literal["test", "train"] = "test"
    """The images to look at the layers on, as they are stored, without augmentation."""
    examples: int = 500
    """How many of them; all where there are fewer."""
    maps: Literal["pool", "pixels"] = "pool"
    """What is compared of a convolutional layer: pool, the mean over pixels of each channel; pixels, the maps, whose
    pixels the CCA family takes for samples, so that it compares layers of one map size alone. Where each position has a
    class, as in text, every measure takes positions for samples."""

    def parse_layers(self, dataset: Dataset) -> list[str]:
        """Names of stitch points; finds out what is wrong with the flags before anything is trained."""
        if self.examples < 4:
            raise InputError(f"examples: got {self.examples}, expected 4 or more")
        config = self.zoo_config()
        network = config.network(dataset)
        return [network.points[point].name for point in network.parse_points(self.layers)]

    def chosen(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """The images and their true labels."""
        split = getattr(dataset, self.images)
        return split.images[: self.examples], split.labels[: self.examples]

    def features(self, network: Network, members: Member, dataset: Dataset, layers: list[str]) -> dict[str, np.ndarray]:
        """From each layer to (members, n, c), or with maps="pixels" to (members, n, h, w, c).

        Where each position has a class it is to (members, n positions, c).
        """
        images, _ = self.chosen(dataset)
        options = {"layers": ",".join(layers), "pool": self.pooled(dataset), "max_device_memory": self.memory_limit}
        features = features_of(network, members, images, dataset.mean, dataset.std, **options)
        if classes_at_positions(dataset):
            return {layer: x.reshape(len(x), -1, x.shape[-1]) for layer, x in features.items()}
        return as_maps(features)

    def pooled(self, dataset: Dataset) -> bool:
        """Whether the mean over positions is compared."""
        return self.maps == "pool" and not classes_at_positions(dataset)

    def layers_phase(self, name: str, dataset: Dataset, layers: list[str], **counts: int) -> Phase:
        """What a dry run tells of `features`; `counts` are those of `dry_run.layers_phase`."""
        options = {"images": len(self.chosen(dataset)[0]), "pool": self.pooled(dataset), "limit": self.memory_limit}
        return layers_phase(name, self.zoo_config(), dataset, layers, **counts, **options)


def classes_at_positions(dataset: Dataset) -> bool:
    """Whether each position of an example has a class, as in text, and not the example."""
    return dataset.num_classes is not None and dataset.train.labels.ndim > 1


def maps_option(measure: str, maps: str) -> dict[str, str]:
    """`maps` as an option of `pairwise`: none for the measure's own way, or where the measure has but one."""
    return {"maps": maps} if own_maps(measure) and maps != "default" else {}


def own_maps(measure: str) -> str | None:
    """Return the default of a measure's option `maps`; None if it has no such option."""
    parameters = inspect.signature(MEASURES[measure].fn).parameters
    return parameters["maps"].default if "maps" in parameters else None


def which_layers(measure: str, maps: str, shapes: Iterable[tuple[int, ...]]) -> str:
    """`layers` of `pairwise`: all with all, but of maps that differ in size equal layers where pixels are samples.

    Two layers must then have equally many, except for measures of the Procrustes kind, which enlarge the smaller map.
    """
    alike = {"default": MEASURES[measure].one_map_size}
    alike["pixels"] = alike["default"] or own_maps(measure) == "flatten"
    return "same" if alike.get(maps, False) and len({shape[2:-1] for shape in shapes}) > 1 else "all"


def in_blocks(pairs: Sequence[tuple], models: Sequence, missing: Iterable[tuple]) -> Iterator[list[tuple]]:
    """The missing ones of these pairs of models in groups, each of which is computed, then written.

    What a measure makes of one model is made once for each group, so groups have few models and many pairs: those
    between one block of models and another, as many blocks as have `PAIRS_IN_BLOCK` pairs or more. Groups depend on
    `pairs` and the places of the models, so that a run that goes on computes the same groups.
    """
    place = {model: position // MODELS_IN_BLOCK for position, model in enumerate(models)}
    blocks: dict[tuple[int, int], list[tuple]] = {}
    for pair in pairs:
        blocks.setdefault(tuple(sorted(place[model] for model in pair)), []).append(pair)
    missing, group = set(missing), []
    for index, block in enumerate(blocks.values()):
        group += block
        if len(group) >= PAIRS_IN_BLOCK or index == len(blocks) - 1:
            if left := [pair for pair in group if pair in missing]:
                yield left
            group = []


def only_those(features: dict[str, np.ndarray], models: Sequence, pairs: Iterable[tuple]) -> tuple[dict, list]:
    """The representations of the models in these pairs, and these models."""
    needed = {model for pair in pairs for model in pair}
    chosen = [position for position, model in enumerate(models) if model in needed]
    if len(chosen) < len(models):
        features = {layer: representations[chosen] for layer, representations in features.items()}
    return features, [models[position] for position in chosen]


def parse_measures(text: str, kind: str | None = None, flag: str = "measures") -> list[str]:
    """Names of measures, each once.

    Args:
      text: names with commas between.
      kind: "similarity" or "distance" where others will not do.
      flag: what the message of an error names.

    Raises:
      InputError: no name, one that is unknown, or one of another kind.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    fitting = [name for name, measure in MEASURES.items() if kind in (None, measure.kind)]
    wrong = [
        f"{name!r} is a {MEASURES[name].kind}" if name in MEASURES else f"{name!r} not known"
        for name in names
        if name not in fitting
    ]
    if wrong or not names:
        raise InputError(f"{flag}: {', '.join(wrong) or 'none given'}; choose from {', '.join(fitting)}")
    return names
