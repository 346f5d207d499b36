"""What the members of a zoo depend on, but for their seeds."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from symjax import data, freezing, models, runs
from symjax.birkhoff.checks import scalar
from symjax.checks import integer_fields, integers, one_of, text
from symjax.data import Dataset
from symjax.data.dataset import with_augmentation
from symjax.data.describe import describe, describe_shapes
from symjax.errors import InputError
from symjax.freezing import Saturation
from symjax.network import Network
from symjax.network.structure import structure
from symjax.training import Recipe
from symjax.training.loop import LATER as RECIPE_LATER

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
LABELS = ("true", "permuted", "permuted_each")
LATER = {"labels": "true", "freeze": []}  # keys that older configurations lack


@dataclass(frozen=True)
class ZooConfig:
    """All that the members of a zoo depend on, but for their seeds.

    `dataset`, `image_size`, `validation`, `train_size` and `split_seed` are arguments of `symjax.data.load`, `model`
    and `width` (by default the published one) of `symjax.models.create`. Parameters, statistics and logits are float32
    whatever the `precision` of the activations.

    `labels` says what the members learn: the "true" labels; "permuted" ones, by one permutation of the training images'
    labels that all members share (Morcos et al. 2018); or "permuted_each", where each seed has a permutation of its
    own. Permutations are fixed over training; validation and test labels stay true.

    `freeze` is the schedule of freeze training (Raghu et al. 2017): the segment i of the network (up to its i-th stitch
    point) is trained for `freeze[i]` epochs and then no longer, segments beyond its length to the end. See
    `symjax.training.train_epoch`. Or it is a rule, a `symjax.freezing.Saturation`, by which its members find a schedule
    while they train; that is `Zoo.freeze`.
    """

    dataset: str = "digits"
    model: str = "mcnn"
    width: int | None = None
    image_size: int | None = None
    validation: float = 0.1
    train_size: int | None = None
    split_seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    recipe: Recipe = field(default_factory=Recipe)
    labels: Literal["true", "permuted", "permuted_each"] = "true"
    freeze: tuple[int, ...] | Saturation = ()

    def __post_init__(self):
        text("dataset", self.dataset)
        one_of("precision", self.precision, PRECISIONS)
        one_of("labels", self.labels, LABELS)
        models.check_name(self.model)
        sizes = {"width": (1, 2**20), "image_size": (1, 4096), "train_size": (1, 2**31 - 1)}
        given = {name: ends for name, ends in sizes.items() if getattr(self, name) is not None}
        integer_fields(self, split_seed=(0, 2**32 - 1), **given)
        scalar("validation", self.validation, "a share of the images, under 1", lambda value: 0 <= value < 1)
        if self.rule is None:
            object.__setattr__(self, "freeze", _check_freeze(self.freeze))
        if self.width is None and self.model in models.MODELS:
            object.__setattr__(self, "width", models.MODELS[self.model].defaults["width"])

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict, without what came later and is at its default: older zoos keep their names."""
        freeze = list(self.freeze) if self.rule is None else self.rule.to_json()
        values = asdict(self) | {"freeze": freeze, "recipe": self.recipe.to_json()}
        return {key: value for key, value in values.items() if key not in LATER or value != LATER[key]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ZooConfig":
        """The inverse of `to_json`; an InputError for keys that are missing or unknown."""
        values = {**LATER, **values}
        if isinstance(values["freeze"], Mapping):
            values["freeze"] = _from_json(Saturation, values["freeze"])
        return _from_json(cls, {**values, "recipe": _from_json(Recipe, {**RECIPE_LATER, **values.get("recipe", {})})})

    def on(self, dataset: Dataset) -> "ZooConfig":
        """The same with the augmentation that the data set asks for where the recipe leaves it open."""
        return replace(self, recipe=with_augmentation(self.recipe, dataset))

    def identity(self, dataset: Dataset) -> dict[str, Any]:
        """What results of the zoo depend on: `on(dataset)`, and as `structure` what its model is on these images."""
        return {**self.on(dataset).to_json(), "structure": self.structure_on(describe_shapes(dataset))}

    def document(self, dataset: Dataset) -> dict[str, Any]:
        """What the `config.json` of a zoo's folder holds: its identity, and what it sees of the data set."""
        return {**self.identity(dataset), "data": describe(dataset)}

    @property
    def fingerprint(self) -> str:
        """Ten hexadecimal digits that name this configuration."""
        return runs.fingerprint(self.to_json())

    def load_dataset(self, *, test_size: int | None = None) -> Dataset:
        """The images that the members train on; of the test images, on which they do not depend, `test_size`."""
        return data.load(
            self.dataset,
            image_size=self.image_size,
            validation=self.validation,
            train_size=self.train_size,
            test_size=test_size,
            seed=self.split_seed,
        )

    def network(self, dataset: Dataset) -> Network:
        """Return the network of members on the images of `dataset`."""
        return self.network_on(describe_shapes(dataset))

    def network_on(self, shapes: Mapping[str, Any]) -> Network:
        """The same from what `describe_shapes` tells of a data set."""
        network = models.create(
            self.model,
            width=self.width,
            classes=shapes["classes"],
            example=_example(shapes),
            dtype=PRECISIONS[self.precision],
        )
        try:
            _ = network.points
        except (InputError, TypeError, ValueError) as error:  # depends on the layer that cannot take the inputs
            raise bad_inputs(network, error) from None
        return network

    def structure_on(self, shapes: Mapping[str, Any]) -> str:
        """The fingerprint of the model's code on images of these shapes, see `symjax.network.structure`."""
        network = self.network_on(shapes)
        try:
            return structure(network)
        except (InputError, TypeError, ValueError) as error:  # depends on the layer that cannot take the inputs
            raise bad_inputs(network, error) from None

    def training_labels(self, dataset: Dataset, seed: int) -> np.ndarray:
        """The labels of the training images that the member of `seed` learns: (n,), int32."""
        true = np.asarray(dataset.train.labels, np.int32)
        if self.labels == "true":
            return true
        own = [1, seed] if self.labels == "permuted_each" else [0]
        return np.random.default_rng([self.split_seed, *own]).permutation(true)

    @property
    def rule(self) -> Saturation | None:
        """By which members find their schedule; None where it is given."""
        return self.freeze if isinstance(self.freeze, Saturation) else None

    def frozen(self, epoch: int) -> int:
        """How many segments are no longer trained after `epoch` epochs; by a rule, at the least: none."""
        return freezing.frozen(() if self.rule else self.freeze, epoch)


def _check_freeze(freeze: Iterable[int]) -> tuple[int, ...]:
    freeze = integers("freeze", freeze)
    if list(freeze) != sorted(freeze):
        raise InputError(f"freeze: got {listed(freeze)}, wanted epochs from 0, none before that of a lower layer")
    return freeze


def _example(shapes: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    """Shape and type of two examples as a network gets them, from `symjax.data.describe.describe_shapes`."""
    if "image_size" in shapes:
        return jax.ShapeDtypeStruct((2, shapes["image_size"], shapes["image_size"], shapes["channels"]), jnp.float32)
    dtype = jnp.float32 if shapes["normalized"] else shapes["input_dtype"]
    return jax.ShapeDtypeStruct((2, *shapes["example_shape"]), jnp.dtype(dtype))


def bad_inputs(network: Network, error: Exception) -> InputError:
    """The error of a network that cannot be traced on the inputs of a data set."""
    if str(error).startswith("points:"):
        return error
    shape = network.example.shape[1:]
    if len(shape) == 3 and shape[0] == shape[1]:
        return InputError(f"image_size: {shape[0]} is too small for {network.name} ({error})")
    return InputError(f"dataset: {network.name} cannot take inputs of shape {shape} ({error})")


def _from_json(cls, values: Mapping[str, Any]):
    known, given = {f.name for f in fields(cls)}, set(values)
    if known != given:
        raise InputError(
            f"config: {cls.__name__} has missing keys: {listed(sorted(known - given)) or 'none'}, "
            f"unknown: {listed(sorted(given - known)) or 'none'}"
        )
    return cls(**values)


def listed(items: Iterable) -> str:
    return ", ".join(map(str, items))
