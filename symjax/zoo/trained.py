"""Members of a zoo folder, loaded, and how accurate they are."""

import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from symjax import data, memory, parallel, runs
from symjax.checks import integer, integers, numpy_array, one_of, path, short
from symjax.checks import seeds as check_seeds
from symjax.data import Dataset, Split
from symjax.errors import InputError
from symjax.imports import is_import_name
from symjax.network import Member, Network
from symjax.parallel import Execution
from symjax.representations import normalization
from symjax.spelling import one_line
from symjax.training import accuracy, pad_batches
from symjax.training.evaluation import Batches
from symjax.training.recipe import FUNCTIONS
from symjax.zoo.config import ZooConfig, listed
from symjax.zoo.saturation import read_found, schedule_of
from symjax.zoo.stored import StoredMember, abstract_state, stored_members

EVALUATION_BATCH = 128


@dataclass(frozen=True, eq=False)
class Zoo:
    """Trained members.

    Attributes:
      config: what they depend on.
      network: what they are.
      seeds: one per member.
      members: parameters and statistics as NumPy arrays with a leading axis over members, in the order of `seeds`.
      metrics: one row per seed and epoch: seed, epoch (from 1), loss, accuracy and validation_accuracy (in [0, 1]; the
        mean scores of another metric of `config.recipe`).
      freeze: the schedule of freeze training: that of `config`, or what its rule has found.
    """

    config: ZooConfig
    network: Network
    seeds: tuple[int, ...]
    members: Member
    metrics: pd.DataFrame
    freeze: tuple[int, ...] = ()

    __repr__ = one_line

    def __len__(self) -> int:
        return len(self.seeds)

    def member(self, seed: int) -> Member:
        """The member of one seed."""
        seed = integer("seed", seed)
        if seed not in self.seeds:
            raise InputError(f"seed: {seed} is not in this zoo; its seeds: {listed(self.seeds)}")
        return parallel.take(self.members, self.seeds.index(seed))

    @property
    def not_finite(self) -> tuple[int, ...]:
        """Seeds of the members that have parameters or statistics that are not finite."""
        leaves = [np.asarray(leaf).reshape(len(self), -1) for leaf in jax.tree.leaves(self.members)]
        sound = np.all([np.isfinite(leaf).all(axis=1) for leaf in leaves], axis=0)
        return tuple(seed for seed, good in zip(self.seeds, sound, strict=True) if not good)

    @property
    def validation_accuracy(self) -> np.ndarray:
        """Of each member at the end of its training, in [0, 1]; NaN of one that was not trained, or has diverged."""
        last = self.metrics.drop_duplicates("seed", keep="last").set_index("seed").validation_accuracy
        return last.reindex(list(self.seeds)).to_numpy()


def load(
    folder: str | pathlib.Path,
    seeds: Iterable[int] | None = None,
    *,
    epoch: int | None = None,
    execution: Execution | None = None,
    network: Network | None = None,
    loss: Callable | None = None,
    metric: Callable | None = None,
    optimizer: Any = None,
) -> Zoo:
    """Finished members of a zoo folder, by default all of them, in the order of their seeds.

    Args:
      folder: of a zoo.
      seeds: of the members.
      epoch: load members as they were after so many epochs, 0 for the networks as they were drawn. Needs `keep` of
        `train`, but not that members are finished.
      execution: how members run; by default the one for this backend.
      network: of a zoo that was trained of a `Network`: the same one, or one that computes the same.
      loss, metric, optimizer: likewise the functions that it was trained with.

    Raises:
      InputError: no zoo there, a seed that is missing or not finished, an epoch that was not kept, a damaged
        checkpoint, or a network or function that is not the one of training.
    """
    own = {"network": network, "loss": loss, "metric": metric, "optimizer": optimizer}
    return opened_zoo(Opened(folder, execution, own), seeds, epoch)


def opened_zoo(opened: "Opened", seeds: Iterable[int] | None, epoch: int | None = None) -> Zoo:
    """Load members of a zoo folder."""
    seeds, members, metrics = opened.load(seeds, epoch)
    failed = [seed for seed in seeds if metrics.loss[metrics.seed == seed].isna().any()]
    if failed:
        warn(f"the loss of seeds {listed(failed)} became NaN in training; their weights are of no use")
    freeze = opened.config.freeze if opened.config.rule is None else schedule_of(read_found(opened.folder))
    return Zoo(opened.config, opened.network, seeds, parallel.stack(members), metrics, freeze)


def load_history(
    folder: str | pathlib.Path,
    seed: int,
    epochs: Iterable[int],
    *,
    execution: Execution | None = None,
    **own: Any,
) -> tuple[Network, Member]:
    """The network, and one member after each of `epochs`: parameters and statistics with a leading axis over them.

    `own` are `network`, `loss`, `metric` and `optimizer` of `load`.

    Raises:
      InputError: as `load`.
    """
    seed, epochs = integer("seed", seed), integers("epochs", epochs)
    if not epochs:
        raise InputError("epochs: got none, wanted one or more")
    opened = Opened(folder, execution, own)
    return opened.network, parallel.stack([opened.load([seed], epoch)[1][0] for epoch in epochs])


class Opened:
    """A zoo folder."""

    def __init__(self, folder: str | pathlib.Path, execution: Execution | None, own: Mapping[str, Any]):
        self.folder = path("folder", folder)
        document = runs.read_config(self.folder, "zoo")
        self._check_own(document, own)
        try:
            data, known, own_known = document.pop("data"), document.pop("structure"), document.pop("own", {})
            self.config = ZooConfig.from_json(document, own)
            if own_known:
                self.config.check_on(data)
            self.network = self.config.network_on(data)
            if execution is not None:
                self.network = self.network.with_form(execution.conv)
            self.like = abstract_state(self.config, self.network, data["train_images"])
            now = self.config.structure_on(data)
            own_now = self.config.own_on(data, data["train_images"])
        except (InputError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError) and (
                any(value is not None for value in own.values()) or is_import_name(document.get("model"))
            ):
                raise  # of the caller's code
            document = self.folder / runs.CONFIG
            raise InputError(f"folder: {document} is damaged or of another version ({error!r})") from None
        if now != known:
            raise InputError(
                f"folder: {self.folder} holds members of another structure than {self.config.model_name!r} has "
                f"({known} there, {now} here): {runs.STRUCTURE}"
            )
        for name in FUNCTIONS:
            if own_now.get(name) != own_known.get(name):
                raise InputError(f"{name}: computes something else than the one that {self.folder} was trained with")
        self.stored = stored_members(self.folder)

    def _check_own(self, document: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        """An InputError for a network or functions that are the caller's and are not given, or given and not needed."""
        names, used = ("network", *FUNCTIONS), document.get("own", {})
        if unknown := set(own) - set(names):
            raise InputError(f"{min(unknown)}: is no argument of load")
        if own.get("network") is not None and not isinstance(own["network"], Network):
            raise InputError(f"network: got {short(own['network'])}, expected a Network")
        for name in names:
            if (own.get(name) is None) == (name in used):
                described = "one of your own" if name in used else "that of its configuration"
                expected = f"it, as load(..., {name}=)" if name in used else "none"
                raise InputError(f"{name}: {self.folder} was trained with {described}; expected {expected}")

    def load(self, seeds: Iterable[int] | None, epoch: int | None) -> tuple[tuple[int, ...], list, pd.DataFrame]:
        """Seeds, members and metrics after `epoch` epochs, by default the last."""
        last = self.config.recipe.epochs
        epoch = last if epoch is None else integer("epoch", epoch)
        found = {member.seed: member for member in self.stored if epoch in _held(member, last)}
        seeds = tuple(sorted(found)) if seeds is None else check_seeds(seeds)
        if not found or not set(seeds) <= set(found):
            there, wanted = listed(sorted(found)) or "none", listed(seeds) or "any"
            if epoch == last:
                raise InputError(
                    f"seeds: {self.folder} has finished members {there}, wanted {wanted}; train the others first"
                )
            raise InputError(
                f"epoch: {self.folder} has members {there} after {epoch} epochs, wanted {wanted}; "
                f"train(..., keep=[{epoch}]) makes them, also of finished members"
            )
        loaded = [self._member(found[seed], epoch) for seed in seeds]
        return seeds, [member for member, _ in loaded], pd.concat([rows for _, rows in loaded], ignore_index=True)

    def _member(self, stored: StoredMember, epoch: int) -> tuple[Member, pd.DataFrame]:
        if epoch == self.config.recipe.epochs:
            return stored.restore(self.like).member, stored.metrics(epoch)
        return stored.restore_kept(epoch, self.like.member)


def _held(member: StoredMember, last: int) -> set[int]:
    """The epochs after which a member is there."""
    return {*member.kept(), *({last} if member.epoch() == last else ())}


def test_accuracy(
    zoo: Zoo, dataset: Dataset, *, split: Literal["test", "validation"] = "test", devices=None, max_device_memory=None
):
    """Share of the examples of `split` that each member classifies rightly: (members,), in [0, 1]; see `evaluate`.

    Of a zoo with another metric it is the mean of its scores.
    """
    options = {"devices": devices, "max_device_memory": max_device_memory, "metric": zoo.config.recipe.metric}
    split = getattr(dataset, one_of("split", split, ("test", "validation")))
    return evaluate(zoo.network, zoo.members, split, dataset.mean, dataset.std, **options)


test_accuracy.__test__ = False  # pytest collects what is called test_* wherever it is imported


def train_accuracy(zoo: Zoo, dataset: Dataset, *, devices=None, max_device_memory=None):
    """Share of the training images, not augmented, to which each member gives the label that it was trained on.

    Of a zoo with another metric it is the mean of its scores.
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
    """Accuracy of stacked members on the examples of `split`: (members,), in [0, 1]; or the mean of a metric's scores.

    `labels` (members, n, ...), one row for each member, takes the place of the split's. With `max_device_memory`, bytes
    on each device, members go in groups that need no more (`evaluation_need`); an InputError where it does not hold
    one. `metric` is as of `symjax.training.Recipe`.
    """
    memory.check_limit(max_device_memory)
    mean, std = data.statistics(mean, std, split.images.shape[-1:])
    labels = None if labels is None else numpy_array("labels", labels)
    if labels is not None and labels.shape[1:] != split.labels.shape:
        raise InputError(
            f"labels: got shape {labels.shape}, wanted (members, {', '.join(map(str, split.labels.shape))})"
        )
    devices = devices_or_all(devices)
    batches = pad_batches(split, EVALUATION_BATCH)
    shared = parallel.replicate((batches, mean, std), devices)
    if labels is not None:
        examples = batches.mask.astype(bool)  # in order, then padding, whose labels do not count
        padded = np.zeros((len(labels), *batches.labels.shape), batches.labels.dtype)
        padded[:, examples] = labels
        members = (members, padded)
    size = None
    if max_device_memory is not None:
        needed = evaluation_need(network, split, own_labels=labels is not None, metric=metric)
        size = len(devices) * needed.fitting(max_device_memory)
    run = parallel.in_groups(_accuracies(network, devices, labels is not None, metric), size)
    return np.asarray(run(members, shared))


def evaluation_need(
    network: Network, split: Split, *, own_labels: bool = False, metric: Callable | None = None
) -> memory.Need:
    """The device memory that `evaluate` takes; compiles its program for one or two members."""
    size = min(EVALUATION_BATCH, len(split))
    cut = (-(-len(split) // size), size)
    images, labels = (jax.ShapeDtypeStruct((*cut, *a.shape[1:]), a.dtype) for a in (split.images, split.labels))
    return _evaluation_need(network, images, labels, own_labels, metric)


@lru_cache
def _evaluation_need(
    network: Network,
    images: jax.ShapeDtypeStruct,
    labels: jax.ShapeDtypeStruct,
    own_labels: bool,
    metric: Callable | None,
) -> memory.Need:
    """For inputs and targets of these shapes, (steps, batch, ...)."""
    mask, channels = jax.ShapeDtypeStruct(images.shape[:2], np.float32), normalization(network, images)
    shared = (Batches(images, labels, mask), channels, channels)
    one = (network.shapes, labels) if own_labels else network.shapes
    return memory.need_of(_accuracy_of(network, own_labels, metric), parallel.default_execution(), one, shared)


@lru_cache
def _accuracies(network: Network, devices: tuple, own_labels: bool, metric: Callable | None):
    """Accuracy lifted over members. Remembered, so that the same process does not compile it again."""
    evaluated = _accuracy_of(network, own_labels, metric)
    return parallel.over_members(evaluated, parallel.default_execution(), devices=devices)


def _accuracy_of(network: Network, own_labels: bool, metric: Callable | None):
    """Accuracy of one member, with labels of its own or without, on what all share."""

    def accuracy_of(item, shared):
        batches, mean, std = shared
        member, labels = item if own_labels else (item, batches.labels)
        batches = batches._replace(labels=labels)
        return accuracy(lambda images: network.apply(member, data.normalize(images, mean, std)), batches, metric)

    return accuracy_of


def devices_or_all(devices) -> tuple:
    return tuple(jax.local_devices() if devices is None else devices)


def warn(message: str) -> None:
    """On stderr, above a progress bar if there is one."""
    tqdm.write(f"warning: {message}", file=sys.stderr)
