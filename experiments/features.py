"""Shared code of the commands that compare layers: settings, features and groups of pairs."""

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from experiments.dry_run import Phase, layers_phase
from experiments.settings import ZooSettings, split
from symjax.data import Dataset
from symjax.errors import InputError, did_you_mean
from symjax.network import Member, Network
from symjax.ops import parallel
from symjax.representations import as_maps, features_of
from symjax.similarity import MEASURES
from symjax.similarity.table import one_measure_of_each_kind
from symjax.zoo import Zoo

MODELS_IN_BLOCK, PAIRS_IN_BLOCK = 8, 32


@dataclasses.dataclass(frozen=True)
class FeatureSettings(ZooSettings):
    """A zoo, and the layers and images on which its members are compared."""

    layers: str = "all"
    """Comma-separated names of stitch points, as in relu1,relu3, or all."""
    images: Literal["test", "train"] = "test"
    """Images on which layers are compared, without augmentation."""
    examples: int = 500
    """Number of these images; all if there are fewer."""
    samples: Literal["pool", "positions"] = "pool"
    """Features of a convolutional layer: pool, the mean of each channel over pixels; positions, the feature maps. With
    positions, the CCA family treats each pixel as a sample and can only compare layers of equal map size. If each
    position has a class, as in text, every measure treats positions as samples."""

    def parse_layers(self, dataset: Dataset) -> list[str]:
        """Return names of stitch points, and check the flags before anything is trained."""
        if self.examples < 4:
            raise InputError(f"examples: got {self.examples}, expected 4 or more")
        config = self.zoo_config()
        network = config.network(dataset)
        return [network.points[point].name for point in network.parse_points(self.layers)]

    def selected_images(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Return the images on which layers are compared, and their true labels."""
        split = getattr(dataset, self.images)
        return split.images[: self.examples], split.labels[: self.examples]

    def features(self, network: Network, members: Member, dataset: Dataset, layers: list[str]) -> dict[str, np.ndarray]:
        """Return features by layer, of shape (members, n, c), or (members, n, h, w, c) with samples="positions".

        If each position has a class, they are of shape (members, n positions, c).
        """
        images, _ = self.selected_images(dataset)
        options = {
            "layers": ",".join(layers),
            "samples": self.reduction(dataset),
            "max_device_memory": self.memory_limit,
        }
        features = features_of(network, members, images, dataset.mean, dataset.std, **options)
        if classes_at_positions(dataset):
            return {layer: x.reshape(len(x), -1, x.shape[-1]) for layer, x in features.items()}
        return as_maps(features)

    def reduction(self, dataset: Dataset) -> str:
        """Return `samples` for `features_of`."""
        return "positions" if classes_at_positions(dataset) else self.samples

    def layers_phase(self, name: str, dataset: Dataset, layers: list[str], **counts: int) -> Phase:
        """Return the phase of a dry run that computes `features`; `counts` are arguments of `dry_run.layers_phase`."""
        options = {
            "images": len(self.selected_images(dataset)[0]),
            "samples": self.reduction(dataset),
            "limit": self.memory_limit,
        }
        return layers_phase(name, self.zoo_config(), dataset, layers, **counts, **options)


def classes_at_positions(dataset: Dataset) -> bool:
    """Whether each position of an example has a class, as in text, and not the example."""
    return dataset.num_classes is not None and dataset.train.labels.ndim > 1


def samples_option(measure: str, samples: str) -> dict[str, str]:
    """Return `samples` as an option of `pairwise`; no option for "default" or if the measure does not have it."""
    return {"samples": samples} if default_samples(measure) and samples != "default" else {}


def default_samples(measure: str) -> str | None:
    """Return the default of a measure's option `samples`; None if it has no such option."""
    parameters = inspect.signature(MEASURES[measure].fn).parameters
    return parameters["samples"].default if "samples" in parameters else None


def layers_option(measure: str, samples: str, shapes: Iterable[tuple[int, ...]]) -> str:
    """Return `layers` of `pairwise`: "same" if map sizes differ and the measure needs equal sizes, otherwise "all".

    Sizes must be equal where pixels are samples, except for measures of the Procrustes kind, which enlarge the smaller
    map.
    """
    needs_one_size = {"default": MEASURES[measure].one_map_size}
    needs_one_size["positions"] = needs_one_size["default"] or default_samples(measure) == "flatten"
    return "same" if needs_one_size.get(samples, False) and len({shape[2:-1] for shape in shapes}) > 1 else "all"


def in_blocks(pairs: Sequence[tuple], models: Sequence, missing: Iterable[tuple]) -> Iterator[list[tuple]]:
    """Yield the missing pairs of models in groups; each group is computed and saved together.

    A measure prepares each model once per group, so groups have few models and many pairs: the pairs between two blocks
    of models, of as many blocks as are needed for `PAIRS_IN_BLOCK` pairs. Groups depend on `pairs` and the order of
    `models` only, so that a resumed run computes the same groups.
    """
    place = {model: position // MODELS_IN_BLOCK for position, model in enumerate(models)}
    blocks: dict[tuple[int, int], list[tuple]] = {}
    for pair in pairs:
        blocks.setdefault(tuple(sorted(place[model] for model in pair)), []).append(pair)
    missing, group = set(missing), []
    for index, block in enumerate(blocks.values()):
        group += block
        if len(group) >= PAIRS_IN_BLOCK or index == len(blocks) - 1:
            if missing_group := [pair for pair in group if pair in missing]:
                yield missing_group
            group = []


def select_models(features: dict[str, np.ndarray], models: Sequence, pairs: Iterable[tuple]) -> tuple[dict, list]:
    """Return the features of the models that are in the pairs, and these models."""
    needed = {model for pair in pairs for model in pair}
    positions = [position for position, model in enumerate(models) if model in needed]
    if len(positions) < len(models):
        features = {layer: representations[positions] for layer, representations in features.items()}
    return features, [models[position] for position in positions]


def select_members(trained: Zoo, seeds: Sequence[int]) -> Zoo:
    """Return the zoo of the members with these seeds."""
    members = parallel.take(trained.members, [trained.seeds.index(seed) for seed in seeds])
    metrics = trained.metrics[trained.metrics.seed.isin(seeds)]
    return dataclasses.replace(trained, seeds=tuple(seeds), members=members, metrics=metrics)


def parse_measures(text: str, kind: str | None = None, flag: str = "measures") -> list[str]:
    """Return names of measures without repeats.

    Args:
      text: comma-separated names; or "all", without distances whose similarity is included.
      kind: "similarity" or "distance" if other measures are not allowed.
      flag: name of the flag for error messages.

    Raises:
      InputError: no name, an unknown one, or a measure of another kind.
    """
    names = one_measure_of_each_kind() if text == "all" else split(text)
    allowed = [name for name, measure in MEASURES.items() if kind in (None, measure.kind)]
    wrong = [
        f"{name!r} is a {MEASURES[name].kind}"
        if name in MEASURES
        else f"{name!r} is unknown{did_you_mean(name, allowed)}"
        for name in names
        if name not in allowed
    ]
    if wrong or not names:
        reasons = f", where {', '.join(wrong)}" if wrong else ""
        raise InputError(f"{flag}: got {text!r}{reasons}, expected some of {', '.join(allowed)}")
    return names
