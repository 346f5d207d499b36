"""The configuration of a zoo: everything on which its members depend, except their seeds."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from symjax import data, freezing, models
from symjax.checks import integer_fields, integers, one_of, scalar, short, text
from symjax.data import Dataset
from symjax.data.dataset import with_augmentation
from symjax.data.describe import describe, describe_shapes, example_of, targets_of
from symjax.errors import InputError
from symjax.freezing import Saturation
from symjax.network import Network
from symjax.network.structure import structure
from symjax.ops import files
from symjax.spelling import described, listed
from symjax.training import Recipe
from symjax.training.custom import CHECK_BATCH, check_task, fingerprints

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""The dtypes of activations by name; parameters, statistics and logits are float32 in any case."""
LABELS = ("true", "permuted", "permuted_each")


@dataclass(frozen=True)
class ZooConfig:
    """Everything on which the members of a zoo depend, except their seeds.

    `dataset`, `image_size`, `validation`, `train_size` and `split_seed` are arguments of `symjax.data.load`; `model`,
    `width` (by default the published one) and `model_options` are arguments of `symjax.models.create`. Parameters,
    statistics and logits are float32 for every `precision` of the activations. `model` can also be a `Network` with an
    `init`, which has its own width, options and precision; `dataset` is then only a name.

    `labels` selects the training labels: "true"; "permuted", by one permutation of the training images' labels that
    all members share (Morcos et al. 2018); or "permuted_each", by a permutation for each seed. Permutations are fixed
    during training; validation and test labels stay true.

    `freeze` is the schedule of freeze training (Raghu et al. 2017): segment i of the network (up to its i-th stitch
    point) is trained for the first `freeze[i]` epochs, and segments beyond the length of `freeze` to the end. See
    `symjax.training.train_epoch`. It can also be a rule, a `symjax.freezing.Saturation`, which makes the schedule
    while the members train; the result is `Zoo.freeze`.

    Raises:
      InputError: a field has a wrong type or value.

    Example:
      >>> from symjax.training import Recipe
      >>> from symjax.zoo import ZooConfig
      >>> config = ZooConfig("digits", "mcnn", width=8, recipe=Recipe(epochs=5))
      >>> ZooConfig.from_json(config.to_json()) == config, config.model_name
      (True, 'mcnn')
    """

    dataset: str = "digits"
    model: str | Network = "mcnn"
    width: int | None = None
    image_size: int | None = None
    validation: float = 0.1
    train_size: int | None = None
    split_seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    recipe: Recipe = field(default_factory=Recipe)
    labels: Literal["true", "permuted", "permuted_each"] = "true"
    freeze: tuple[int, ...] | Saturation = ()
    model_options: tuple[tuple[str, Any], ...] | Mapping[str, Any] = ()

    def __post_init__(self):
        text("dataset", self.dataset)
        one_of("precision", self.precision, PRECISIONS)
        one_of("labels", self.labels, LABELS)
        object.__setattr__(self, "model_options", _check_options(self.model_options))
        if isinstance(self.model, Network):
            self._check_network(self.model)
        else:
            models.check_name(self.model)
        ranges = {"width": (1, 2**20), "image_size": (1, 4096), "train_size": (1, 2**31 - 1)}
        given = {name: ends for name, ends in ranges.items() if getattr(self, name) is not None}
        integer_fields(self, split_seed=(0, 2**32 - 1), **given)
        scalar("validation", self.validation, "a share of the images, under 1", lambda value: 0 <= value < 1)
        if self.rule is None:
            object.__setattr__(self, "freeze", _check_freeze(self.freeze))
        if self.width is None and self.model in models.MODELS:
            object.__setattr__(self, "width", models.MODELS[self.model].defaults.get("width"))

    def _check_network(self, network: Network) -> None:
        if not network.has_init:
            raise InputError(f"network: got {network.name} without init, expected from_function(init=...)")
        for name, default in {"width": None, "model_options": (), "precision": "float32"}.items():
            if (given := getattr(self, name)) != default:
                raise InputError(f"{name}: got {short(given)} for a Network, which has its own; expected none")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {
            "freeze": list(self.schedule) if self.rule is None else self.rule.to_json(),
            "recipe": self.recipe.to_json(),
            "model": self.model_name,
            "model_options": dict(self.model_options),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], user_code: Mapping[str, Any] | None = None) -> "ZooConfig":
        """Return the configuration that `to_json` has written.

        Args:
          values: the result of `to_json`.
          user_code: the `network`, `loss`, `metric` and `optimizer` of which the JSON has only the names.

        Raises:
          InputError: keys are missing or unknown, or a value is invalid.
        """
        user_code = {name: value for name, value in (user_code or {}).items() if value is not None}
        network = {"model": user_code.pop("network")} if "network" in user_code else {}
        recipe = _from_json(Recipe, {**values.get("recipe", {}), **user_code})
        freeze = values.get("freeze")
        rule = {"freeze": _from_json(Saturation, freeze)} if isinstance(freeze, Mapping) else {}
        return _from_json(cls, {**values, **network, **rule, "recipe": recipe})

    def resolved_for(self, dataset: Dataset) -> "ZooConfig":
        """Return the configuration with the augmentation of `dataset` where the recipe has none."""
        return replace(self, recipe=with_augmentation(self.recipe, dataset))

    def identity(self, dataset: Dataset) -> dict[str, Any]:
        """Return all that the members depend on, JSON-able.

        It is `resolved_for(dataset)` with the `structure` of the model on these images, and with `user_code` if the
        network, loss, metric or optimizer are the caller's (`user_code_fingerprints`).
        """
        shapes = describe_shapes(dataset)
        identity = {**self.resolved_for(dataset).to_json(), "structure": self.structure_for(shapes)}
        user_code = self.user_code_fingerprints(shapes, len(dataset.train))
        return {**identity, "user_code": user_code} if user_code else identity

    def user_code_fingerprints(self, shapes: Mapping[str, Any], train_images: int) -> dict[str, str]:
        """Return fingerprints of the caller's loss, metric and optimizer, and the name of the caller's network.

        Args:
          shapes: the result of `describe_shapes` for the data set.
          train_images: number of training images.
        """
        network = {"network": self.model_name} if isinstance(self.model, Network) else {}
        if not self.recipe.functions:
            return network
        steps = train_images // self.recipe.batch_size
        arguments = self.network_for(shapes), example_of(shapes), targets_of(shapes)
        return {**network, **fingerprints(self.recipe, *arguments, steps)}

    @property
    def user_code(self) -> dict[str, Any]:
        """The caller's network, loss, metric and optimizer, which `zoo.load` needs as arguments."""
        return {**self.recipe.functions, **({"network": self.model} if isinstance(self.model, Network) else {})}

    @property
    def model_name(self) -> str:
        """The name of the model."""
        return self.model.name if isinstance(self.model, Network) else self.model

    def document(self, dataset: Dataset) -> dict[str, Any]:
        """Return the content of the `config.json` of a zoo folder: the identity, and a description of the data."""
        return {**self.identity(dataset), "data": describe(dataset)}

    @property
    def fingerprint(self) -> str:
        """Ten hexadecimal digits that name this configuration."""
        return files.fingerprint(self.to_json())

    def load_dataset(self, *, test_size: int | None = None) -> Dataset:
        """Return the data set of the members, with `test_size` of the test images, on which they do not depend."""
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
        return self.network_for(describe_shapes(dataset))

    def network_for(self, shapes: Mapping[str, Any]) -> Network:
        """Return the network of members for data of these shapes, as `describe_shapes` returns them."""
        example = example_of(shapes)
        network = self.model
        if not isinstance(network, Network):
            network = models.create(
                network,
                width=self.width,
                classes=shapes["classes"],
                example=example,
                dtype=PRECISIONS[self.precision],
                **dict(self.model_options),
            )
        given, expected = described(example, "n"), described(network.example, "n")
        if given != expected:
            raise InputError(
                f"network: got the example {expected} of {network.name}, expected that of the data, {given}"
            )
        with _traced(network):
            network.points  # noqa: B018, which traces it
        return network

    def check_for(self, shapes: Mapping[str, Any]) -> None:
        """Raise an InputError unless the model can be trained by the recipe on inputs and targets of these shapes."""
        count = CHECK_BATCH if self.recipe.functions else 2
        network, example = self.network_for(shapes), example_of(shapes, count)
        check_task(self.recipe, network, example, targets_of(shapes, count), shapes["classes"])

    def structure_for(self, shapes: Mapping[str, Any]) -> str:
        """Return the fingerprint of the model's code for data of these shapes, see `symjax.network.structure`."""
        network = self.network_for(shapes)
        with _traced(network):  # code that runs in training only can fail here
            return structure(network)

    def training_labels(self, dataset: Dataset, seed: int) -> np.ndarray:
        """Return the training labels of the member of `seed`: (n, ...), int32; or other targets (n, ...)."""
        true = dataset.train.labels
        true = true if dataset.num_classes is None else np.asarray(true, np.int32)
        if self.labels == "true":
            return true
        key = [1, seed] if self.labels == "permuted_each" else [0]
        return np.random.default_rng([self.split_seed, *key]).permutation(true)

    @property
    def rule(self) -> Saturation | None:
        """The freeze rule; None if the schedule is given."""
        return self.freeze if isinstance(self.freeze, Saturation) else None

    @property
    def schedule(self) -> tuple[int, ...]:
        """The given schedule of freeze training; none with a rule."""
        return () if isinstance(self.freeze, Saturation) else self.freeze

    def frozen(self, epoch: int) -> int:
        """Return the number of segments that are not trained after `epoch` epochs; 0, the minimum, with a rule."""
        return freezing.num_frozen(self.schedule, epoch)


def _check_freeze(freeze: Iterable[int]) -> tuple[int, ...]:
    freeze = integers("freeze", freeze)
    if list(freeze) != sorted(freeze):
        raise InputError(f"freeze: got {listed(freeze)}, expected epochs from 0 that do not decrease")
    return freeze


def _check_options(options: Any) -> tuple[tuple[str, Any], ...]:
    """Return options of a model sorted by name and hashable, with tuples for lists."""
    try:
        options = dict(options)
        options = {text("model_options", name): _hashable(options[name]) for name in sorted(options)}
        hash(tuple(options.values()))
        json.dumps(options)
        if reserved := {"name", "width", "dtype", "example", *models.registry.DATA_OPTIONS} & set(options):
            raise InputError(
                f"model_options: got {listed(sorted(reserved))}, which other settings define; expected others"
            )
    except (TypeError, ValueError):
        expected = "names with numbers, text, truth values, None, or sequences of these"
        raise InputError(f"model_options: got {short(options)}, expected {expected}") from None
    return tuple(options.items())


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value


@contextlib.contextmanager
def _traced(network: Network) -> Iterator[None]:
    """Turn errors of a network's code into an `InputError` on the inputs of the data set, for a `with` statement."""
    try:
        yield
    except Exception as error:  # anything that the model's code raises
        if isinstance(error, InputError) and not str(error).startswith("x:"):
            raise
        shape, name = network.example.shape[1:], network.name
        message = f"dataset: got inputs of shape {shape}, expected inputs that {name} can take ({error})"
        if len(shape) == 3 and shape[0] == shape[1]:
            message = f"image_size: got {shape[0]}, expected a size that fits {name}, such as a larger one ({error})"
        raise InputError(message) from error


def _from_json(cls, values: Mapping[str, Any]):
    known, given = {f.name for f in fields(cls)}, set(values)
    if known != given:
        raise InputError(
            f"config: got {listed(sorted(given - known)) or 'none'} besides the fields of {cls.__name__}, expected "
            f"none; missing are {listed(sorted(known - given)) or 'none'}"
        )
    return cls(**values)
