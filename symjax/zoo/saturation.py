"""A schedule of freeze training that members find while they train, and the file beside them that holds it."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
import pandas as pd

from symjax import freezing, runs
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.freezing import Saturation
from symjax.network import Member, Network
from symjax.representations import as_maps, features_of
from symjax.similarity import pairwise
from symjax.zoo.config import ZooConfig

FILE = "frozen.csv"
KINDS = {"epoch": int, "layer": str, "similarity": float, "frozen": bool}


def read_found(folder: pathlib.Path) -> pd.DataFrame:
    """What members have found so far: after each epoch a row for each layer that was not frozen, from the lowest.

    Of epoch, layer, similarity (with the epoch before, mean over the members) and frozen (whether it is, from then on).
    """
    path = folder / FILE
    if not path.exists():
        return pd.DataFrame({"epoch": [], "layer": [], "similarity": [], "frozen": []}).astype(KINDS)
    table = runs.read_csv(path, KINDS, delete=folder)
    try:
        if not set(table.frozen) <= {True, False}:
            raise ValueError("frozen is to be True or False")
        return table.astype(KINDS)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); delete {folder} to have the zoo made again") from None


def schedule_of(found: pd.DataFrame) -> tuple[int, ...]:
    """After how many epochs each layer is frozen, from the lowest."""
    return tuple(found.epoch[found.frozen].tolist())


def looked_at(rule: Saturation, dataset: Dataset) -> np.ndarray:
    """The images that layers are compared on."""
    return getattr(dataset, rule.images).images[: rule.examples]


class Finder:
    """Decides after each epoch what is frozen from then on, once: what the folder holds is decided."""

    def __init__(
        self,
        config: ZooConfig,
        network: Network,
        dataset: Dataset,
        folder: pathlib.Path,
        devices: tuple,
        max_device_memory: float | None,
    ):
        self.rule, self.last = config.rule, config.recipe.epochs
        self.network, self.dataset, self.folder = network, dataset, folder
        self.options = {"devices": devices, "max_device_memory": max_device_memory}
        self.found = read_found(folder)
        self.before: dict[str, np.ndarray] | None = None  # the features after the epoch that was looked at last

    def frozen(self, epoch: int) -> int:
        """How many segments are no longer trained after `epoch` epochs."""
        return freezing.num_frozen(schedule_of(self.found), epoch)

    def decided(self, epoch: int) -> bool:
        """Whether it is known what is frozen after `epoch` epochs. After the last one nothing is to be."""
        done = self.found.epoch.max() if len(self.found) else 0
        return epoch <= done or epoch >= self.last or self.found.frozen.sum() == len(self.network.points)

    def check(self, epoch: int) -> None:
        """An InputError where members were trained for `epoch` epochs by a schedule that is lost."""
        if not self.decided(min(epoch, self.last - 1)):
            raise InputError(
                f"folder: {self.folder / FILE} lacks the schedule by which {epoch} epochs were trained; delete "
                f"{self.folder} to have both made again"
            )

    def look(self, seeds: Sequence[int], members: Member, epoch: int) -> None:
        """Decides, where it is not decided yet, by these members of all seeds after `epoch` epochs.

        To be called after each epoch, and before one of the members is saved: who goes on from there finds it decided.
        """
        if self.decided(epoch) and self.decided(epoch + 1):
            return
        features = self._features(seeds, members)
        if not self.decided(epoch):
            similarity = self._similarity(self.before, features)
            frozen = np.arange(len(similarity)) < self.rule.num_saturated(similarity)
            layers = list(features)[-len(similarity) :]
            rows = {"epoch": epoch, "layer": layers, "similarity": similarity, "frozen": frozen}
            found = pd.DataFrame(rows)
            found = pd.concat([self.found, found], ignore_index=True) if len(self.found) else found
            runs.write_csv(self.folder / FILE, found)
            self.found = found
        self.before = features

    def _features(self, seeds: Sequence[int], members: Member) -> dict[str, np.ndarray]:
        """From each layer to (members, n, ...), members in the order of their seeds."""
        images, mean, std = looked_at(self.rule, self.dataset), self.dataset.mean, self.dataset.std
        ordered = jax.tree.map(lambda leaf: leaf[np.argsort(seeds)], jax.device_get(members))
        options = {"pool": self.rule.maps == "pool", **self.options}
        return as_maps(features_of(self.network, ordered, images, mean, std, **options))

    def _similarity(self, before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> list[float]:
        """Of each layer that is not frozen; NaN where a member has diverged."""
        found, count = [], len(self.rule.seeds)
        for layer in list(after)[int(self.found.frozen.sum()) :]:
            both = np.concatenate([before[layer], after[layer]])
            if not np.isfinite(both).all():
                found.append(np.nan)
                continue
            pairs = [(i, count + i) for i in range(count)]
            result = pairwise({layer: both}, self.rule.measure, pairs=pairs, devices=self.options["devices"])
            found.append(float(np.mean([result.values[0, i, 0, j] for i, j in pairs], dtype=np.float64)))
        return found
