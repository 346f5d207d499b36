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

from symjax import data, parallel, runs
from symjax.data import Dataset, Split
from symjax.errors import InputError
from symjax.models import Member, Network
from symjax.parallel import Execution
from symjax.training import accuracy, pad_batches
from symjax.zoo.config import ZooConfig, check_seeds, listed, network_of
from symjax.zoo.stored import abstract_state, stored_members

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
    """

    config: ZooConfig
    network: Network
    seeds: tuple[int, ...]
    members: Member
    metrics: pd.DataFrame

    def __len__(self) -> int:
        return len(self.seeds)

    def member(self, seed: int) -> Member:
        """The member of one seed."""
        if seed not in self.seeds:
            raise InputError(f"seed: {seed} is not in this zoo; its seeds: {listed(self.seeds)}")
        return parallel.take(self.members, self.seeds.index(seed))

    @property
    def validation_accuracy(self) -> np.ndarray:
        """Of each member at the end of its training, in [0, 1]."""
        last = self.metrics.groupby("seed").validation_accuracy.last()
        return last.loc[list(self.seeds)].to_numpy()


def load(folder: str | pathlib.Path, seeds: Iterable[int] | None = None, *, execution: Execution | None = None) -> Zoo:
    """Finished members of a zoo folder, by default all of them, in the order of their seeds.

    Raises:
      InputError: no zoo there, a seed that is missing or not finished, or a damaged checkpoint.
    """
    folder = pathlib.Path(folder)
    document = runs.read_config(folder, "zoo")
    try:
        config = ZooConfig.from_json({key: value for key, value in document.items() if key != "data"})
        network = network_of(document, execution or parallel.default_execution())
        like = abstract_state(config, network, document["data"]["train_images"])
    except (InputError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"folder: {folder / runs.CONFIG} is damaged or of another version ({error!r})") from None
    epochs = config.recipe.epochs
    found = {member.seed: member for member in stored_members(folder) if member.epoch() == epochs}
    seeds = tuple(sorted(found)) if seeds is None else check_seeds(seeds)
    if not found or not set(seeds) <= set(found):
        there, wanted = listed(sorted(found)) or "none", listed(seeds) or "any"
        raise InputError(f"seeds: {folder} has finished members {there}, wanted {wanted}; train the others first")
    states = [found[seed].restore(like) for seed in seeds]
    metrics = pd.concat([found[seed].metrics(epochs) for seed in seeds], ignore_index=True)
    failed = [seed for seed in seeds if metrics.loss[metrics.seed == seed].isna().any()]
    if failed:
        warn(f"the loss of seeds {listed(failed)} became NaN in training; their weights are of no use")
    members = parallel.stack([state.member for state in states])
    return Zoo(config, network, seeds, members, metrics)


def test_accuracy(zoo: Zoo, dataset: Dataset, *, split: Literal["test", "validation"] = "test", devices=None):
    """Share of the examples of `split` that each member classifies rightly: (members,), in [0, 1]."""
    return evaluate(zoo.network, zoo.members, getattr(dataset, split), dataset.mean, dataset.std, devices=devices)


test_accuracy.__test__ = False  # pytest collects what is called test_* wherever it is imported


def evaluate(network: Network, members: Member, split: Split, mean, std, *, devices=None) -> np.ndarray:
    """Accuracy of stacked members on the examples of `split`: (members,), in [0, 1]."""

    devices = devices_or_all(devices)
    shared = parallel.replicate((pad_batches(split, EVALUATION_BATCH), mean, std), devices)
    return np.asarray(_accuracies(network, devices)(members, shared))


@lru_cache
def _accuracies(network: Network, devices: tuple):
    """Accuracy lifted over members. Remembered, so that the same process does not compile it again."""

    def accuracy_of(member, shared):
        batches, mean, std = shared
        return accuracy(lambda images: network.logits(member, data.normalize(images, mean, std))[0], batches)

    return parallel.over_members(accuracy_of, parallel.default_execution(), devices=devices)


def devices_or_all(devices) -> tuple:
    return tuple(jax.local_devices() if devices is None else devices)


def warn(message: str) -> None:
    """On stderr, above a progress bar if there is one."""
    tqdm.write(f"warning: {message}", file=sys.stderr)
