"""The accuracy of the members of a zoo."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import jax
import numpy as np

from symjax import data
from symjax.checks import numpy_array, one_of
from symjax.data import Dataset, Split
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.ops import memory, parallel
from symjax.representations import normalization
from symjax.training import accuracy, pad_batches
from symjax.training.evaluation import Batches
from symjax.zoo.loading import Zoo

EVALUATION_BATCH = 128


def test_accuracy(
    zoo: Zoo, dataset: Dataset, *, split: Literal["test", "validation"] = "test", devices=None, max_device_memory=None
):
    """Return the share of the examples of `split` that each member classifies correctly.

    Args:
      zoo: the members.
      dataset: the data set of the members.
      split: "test" or "validation".
      devices, max_device_memory: as in `evaluate`.

    Returns:
      (members,), in [0, 1]; for a zoo with another metric the mean of its scores.

    Raises:
      InputError: as in `evaluate`, or `split` is unknown.

    Example:
      >>> import numpy as np, pandas as pd, symjax
      >>> import jax.numpy as jnp
      >>> def scale(params, x):
      ...     return x * params["w"]
      >>> x = np.eye(2, dtype=np.float32)
      >>> net = symjax.Network.from_function(scale, init=lambda key: {"w": jnp.ones(2)}, example=x)
      >>> arrays = {"x_train": x, "y_train": np.arange(2), "x_test": x, "y_test": np.arange(2)}
      >>> dataset = symjax.data.load(arrays, validation=0)
      >>> members = symjax.network.Member({"w": jnp.array([[1.0, 1.0], [-1.0, -1.0]])}, {})
      >>> zoo = symjax.zoo.Zoo(symjax.zoo.ZooConfig("mine", net), net, (0, 1), members, pd.DataFrame())
      >>> symjax.zoo.test_accuracy(zoo, dataset).tolist()
      [1.0, 0.0]
    """
    options = {"devices": devices, "max_device_memory": max_device_memory, "metric": zoo.config.recipe.metric}
    split = getattr(dataset, one_of("split", split, ("test", "validation")))
    return evaluate(zoo.network, zoo.members, split, dataset.mean, dataset.std, **options)


vars(test_accuracy)["__test__"] = False  # otherwise pytest collects it as a test in every module that imports it


def train_accuracy(zoo: Zoo, dataset: Dataset, *, devices=None, max_device_memory=None):
    """Return the share of the training images, without augmentation, for which each member predicts its training label.

    Args:
      zoo: the members.
      dataset: the data set of the members.
      devices, max_device_memory: as in `evaluate`.

    Returns:
      (members,), in [0, 1]; for a zoo with another metric the mean of its scores.

    Raises:
      InputError: as in `evaluate`.

    Example:
      >>> import numpy as np, pandas as pd, symjax
      >>> import jax.numpy as jnp
      >>> def scale(params, x):
      ...     return x * params["w"]
      >>> x = np.eye(2, dtype=np.float32)
      >>> net = symjax.Network.from_function(scale, init=lambda key: {"w": jnp.ones(2)}, example=x)
      >>> arrays = {"x_train": x, "y_train": np.arange(2), "x_test": x, "y_test": np.arange(2)}
      >>> dataset = symjax.data.load(arrays, validation=0)
      >>> members = symjax.network.Member({"w": jnp.array([[1.0, 1.0], [-1.0, -1.0]])}, {})
      >>> zoo = symjax.zoo.Zoo(symjax.zoo.ZooConfig("mine", net), net, (0, 1), members, pd.DataFrame())
      >>> symjax.zoo.train_accuracy(zoo, dataset).tolist()
      [1.0, 0.0]
    """
    options = {"devices": devices, "max_device_memory": max_device_memory, "metric": zoo.config.recipe.metric}
    labels = np.stack([zoo.config.training_labels(dataset, seed) for seed in zoo.seeds])
    return evaluate(zoo.network, zoo.members, dataset.train, dataset.mean, dataset.std, labels=labels, **options)


def evaluate(
    network: Network,
    members: Member,
    split: Split,
    mean,
    std,
    *,
    labels=None,
    devices=None,
    max_device_memory=None,
    metric: Callable | None = None,
) -> np.ndarray:
    """Return the accuracy of stacked members on the examples of `split`: (members,), in [0, 1].

    Args:
      network: the network of the members.
      members: variables with a leading axis over members.
      split: the examples.
      mean, std: (channels,) or scalars, by which inputs are normalized; both None for inputs without normalization.
      labels: (members, n, ...), used in place of the labels of the split.
      devices: the devices over which members are spread; by default all local ones.
      max_device_memory: bytes on each device; members run in groups that need no more.
      metric: as in `symjax.training.Recipe`; the result is then the mean of its scores.

    Raises:
      InputError: wrong shapes, or memory for less than one member.

    Example:
      >>> import jax.numpy as jnp, numpy as np, symjax
      >>> def scale(params, x):
      ...     return x * params["w"]
      >>> x = np.eye(2, dtype=np.float32)
      >>> net = symjax.Network.from_function(scale, {"w": jnp.ones(2)}, example=x)
      >>> members = symjax.network.Member({"w": jnp.array([[1.0, 1.0], [-1.0, -1.0]])}, {})
      >>> symjax.zoo.evaluate(net, members, symjax.data.Split(x, np.arange(2)), None, None).tolist()
      [1.0, 0.0]
    """
    memory.check_limit(max_device_memory)
    mean, std = data.statistics(mean, std, split.images.shape[-1:])
    labels = None if labels is None else numpy_array("labels", labels)
    if labels is not None and labels.shape[1:] != split.labels.shape:
        raise InputError(
            f"labels: got shape {labels.shape}, expected (members, {', '.join(map(str, split.labels.shape))})"
        )
    devices = devices_or_all(devices)
    batches = pad_batches(split, EVALUATION_BATCH)
    shared = parallel.replicate((batches, mean, std), devices)
    if labels is not None:
        examples = batches.mask.astype(bool)  # False at padding
        padded = np.zeros((len(labels), *batches.labels.shape), batches.labels.dtype)
        padded[:, examples] = labels
        members = (members, padded)
    program = evaluation_program(network, split, per_member_labels=labels is not None, metric=metric)
    return np.asarray(program.within(max_device_memory, devices)(members, shared))


def evaluation_program(
    network: Network, split: Split, *, per_member_labels: bool = False, metric: Callable | None = None
) -> memory.MemberProgram:
    """Return the program of `evaluate`. A member is (member, labels) where members have labels of their own."""
    size = min(EVALUATION_BATCH, len(split))
    leading = (-(-len(split) // size), size)
    images, labels = (jax.ShapeDtypeStruct((*leading, *a.shape[1:]), a.dtype) for a in (split.images, split.labels))
    return _evaluation_program(network, images, labels, per_member_labels, metric)


@lru_cache
def _evaluation_program(
    network: Network,
    images: Any,
    labels: Any,
    per_member_labels: bool,
    metric: Callable | None,
) -> memory.MemberProgram:
    """Return `evaluation_program` for inputs and targets of shapes (steps, batch, ...); cached."""

    def accuracy_of(item, shared):
        batches, mean, std = shared
        member, labels = item if per_member_labels else (item, batches.labels)
        batches = batches._replace(labels=labels)
        return accuracy(lambda images: network.apply(member, data.normalize(images, mean, std)), batches, metric)

    mask: Any = jax.ShapeDtypeStruct(images.shape[:2], np.float32)
    channels = normalization(network, images)
    shared = (Batches(images, labels, mask), channels, channels)
    member = (network.shapes, labels) if per_member_labels else network.shapes
    return memory.MemberProgram(accuracy_of, parallel.default_execution(), member, shared)


def devices_or_all(devices) -> tuple:
    """Return devices, by default all local ones."""
    return tuple(jax.local_devices() if devices is None else devices)
