"""Members of a zoo folder, loaded, and how accurate they are."""

import pathlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from symjax import data, memory, parallel, runs
from symjax.checks import integer, integers, numpy_array, one_of, path
from symjax.checks import seeds as check_seeds
from symjax.data import Dataset, Split
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.parallel import Execution
from symjax.spelling import one_line
from symjax.training import accuracy, pad_batches
from symjax.training.evaluation import Batches
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
      metrics: one row per seed and epoch: seed, epoch (from 1), loss, accuracy and validation_accuracy (in [0, 1]).
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
) -> Zoo:
    """Finished members of a zoo folder, by default all of them, in the order of their seeds.

    Args:
      folder: of a zoo.
      seeds: of the members.
      epoch: load members as they were after so many epochs, 0 for the networks as they were drawn. Needs `keep` of
        `train`, but not that members are finished.
      execution: how members run; by default the one for this backend.

    Raises:
      InputError: no zoo there, a seed that is missing or not finished, an epoch that was not kept, or a damaged
        checkpoint.
    """
    opened = _Opened(folder, execution)
    seeds, members, metrics = opened.load(seeds, epoch)
    failed = [seed for seed in seeds if metrics.loss[metrics.seed == seed].isna().any()]
    if failed:
        warn(f"the loss of seeds {listed(failed)} became NaN in training; their weights are of no use")
    freeze = opened.config.freeze if opened.config.rule is None else schedule_of(read_found(opened.folder))
    return Zoo(opened.config, opened.network, seeds, parallel.stack(members), metrics, freeze)


def load_history(
    folder: str | pathlib.Path, seed: int, epochs: Iterable[int], *, execution: Execution | None = None
) -> tuple[Network, Member]:
    """The network, and one member after each of `epochs`: parameters and statistics with a leading axis over them.

    Raises:
      InputError: as `load`.
    """
    seed, epochs = integer("seed", seed), integers("epochs", epochs)
    if not epochs:
        raise InputError("epochs: got none, wanted one or more")
    opened = _Opened(folder, execution)
    return opened.network, parallel.stack([opened.load([seed], epoch)[1][0] for epoch in epochs])


class _Opened:
    """A zoo folder."""

    def __init__(self, folder: str | pathlib.Path, execution: Execution | None):
        self.folder = path("folder", folder)
        document = runs.read_config(self.folder, "zoo")
        try:
            data, known = document.pop("data"), document.pop("structure")
            self.config = ZooConfig.from_json(document)
            self.network = self.config.network_on(data)
            if execution is not None:
                self.network = self.network.with_form(execution.conv)
            self.like = abstract_state(self.config, self.network, data["train_images"])
            now = self.config.structure_on(data)
        except (InputError, KeyError, TypeError, AttributeError) as error:
            document = self.folder / runs.CONFIG
            raise InputError(f"folder: {document} is damaged or of another version ({error!r})") from None
        if now != known:
            raise InputError(
                f"folder: {self.folder} holds members of another structure than {self.config.model!r} has ({known} "
                f"there, {now} here): {runs.STRUCTURE}"
            )
        self.stored = stored_members(self.folder)

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
    """Share of the examples of `split` that each member classifies rightly: (members,), in [0, 1]; see `evaluate`."""
    options = {"devices": devices, "max_device_memory": max_device_memory}
    split = getattr(dataset, one_of("split", split, ("test", "validation")))
    return evaluate(zoo.network, zoo.members, split, dataset.mean, dataset.std, **options)


test_accuracy.__test__ = False  # pytest collects what is called test_* wherever it is imported


def train_accuracy(zoo: Zoo, dataset: Dataset, *, devices=None, max_device_memory=None):
    """Share of the training images, not augmented, to which each member gives the label that it was trained on."""
    options = {"devices": devices, "max_device_memory": max_device_memory}
    labels = np.stack([zoo.config.training_labels(dataset, seed) for seed in zoo.seeds])
    return evaluate(zoo.network, zoo.members, dataset.train, dataset.mean, dataset.std, labels=labels, **options)


def evaluate(
    network: Network, members: Member, split: Split, mean, std, *, labels=None, devices=None, max_device_memory=None
) -> np.ndarray:
    """Accuracy of stacked members on the examples of `split`: (members,), in [0, 1].

    `labels` (members, n), one row for each member, takes the place of the split's. With `max_device_memory`, bytes on
    each device, members go in groups that need no more (`evaluation_need`); an InputError where it does not hold one.
    """
    memory.check_limit(max_device_memory)
    mean, std = data.statistics(mean, std, split.images.shape[-1:])
    labels = None if labels is None else numpy_array("labels", labels)
    if labels is not None and (labels.ndim != 2 or labels.shape[1] != len(split)):
        raise InputError(f"labels: got shape {labels.shape}, wanted (members, {len(split)})")
    devices = devices_or_all(devices)
    batches = pad_batches(split, EVALUATION_BATCH)
    shared = parallel.replicate((batches, mean, std), devices)
    if labels is not None:
        examples = batches.mask.astype(bool)  # in order, then padding, whose labels do not count
        padded = np.zeros((len(labels), *examples.shape), batches.labels.dtype)
        padded[:, examples] = labels
        members = (members, padded)
    size = None
    if max_device_memory is not None:
        needed = evaluation_need(network, split, own_labels=labels is not None)
        size = len(devices) * needed.fitting(max_device_memory)
    run = parallel.in_groups(_accuracies(network, devices, labels is not None), size)
    return np.asarray(run(members, shared))


def evaluation_need(network: Network, split: Split, *, own_labels: bool = False) -> memory.Need:
    """The device memory that `evaluate` takes; compiles its program for one or two members."""
    count, size = len(split), min(EVALUATION_BATCH, len(split))
    return _evaluation_need(network, (-(-count // size), size, *split.images.shape[1:]), own_labels)


@lru_cache
def _evaluation_need(network: Network, shape: tuple[int, ...], own_labels: bool) -> memory.Need:
    """For images of this shape, (steps, batch, height, width, channels)."""
    images, channels = jax.ShapeDtypeStruct(shape, np.uint8), jax.ShapeDtypeStruct(shape[-1:], np.float32)
    labels, mask = (jax.ShapeDtypeStruct(shape[:2], kind) for kind in (np.int32, np.float32))
    shared = (Batches(images, labels, mask), channels, channels)
    one = (network.shapes, labels) if own_labels else network.shapes
    return memory.need_of(_accuracy_of(network, own_labels), parallel.default_execution(), one, shared)


@lru_cache
def _accuracies(network: Network, devices: tuple, own_labels: bool):
    """Accuracy lifted over members. Remembered, so that the same process does not compile it again."""
    return parallel.over_members(_accuracy_of(network, own_labels), parallel.default_execution(), devices=devices)


def _accuracy_of(network: Network, own_labels: bool):
    """Accuracy of one member, with labels of its own or without, on what all share."""

    def accuracy_of(item, shared):
        batches, mean, std = shared
        member, labels = item if own_labels else (item, batches.labels)
        batches = batches._replace(labels=labels)
        return accuracy(lambda images: network.apply(member, data.normalize(images, mean, std)), batches)

    return accuracy_of


def devices_or_all(devices) -> tuple:
    return tuple(jax.local_devices() if devices is None else devices)


def warn(message: str) -> None:
    """On stderr, above a progress bar if there is one."""
    tqdm.write(f"warning: {message}", file=sys.stderr)
