"""The freeze schedule that a rule makes while members train, and its file in the zoo folder."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd

from symjax import freezing
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.freezing import Saturation
from symjax.network import Member, Network
from symjax.ops import files
from symjax.representations import as_maps, features_of
from symjax.similarity import pairwise

FILE = "frozen.csv"
KINDS = {"epoch": int, "layer": str, "similarity": float, "frozen": bool}


def read_decisions(folder: pathlib.Path) -> pd.DataFrame:
    """Return the decisions of a zoo folder: for each epoch, a row for each layer that was not frozen, lowest first.

    Columns are epoch, layer, similarity (to the epoch before, mean over members) and frozen (from this epoch on).
    """
    path = folder / FILE
    if not path.exists():
        return pd.DataFrame({"epoch": [], "layer": [], "similarity": [], "frozen": []}).astype(KINDS)
    table = files.read_csv(path, KINDS, delete=folder)
    try:
        if not set(table.frozen) <= {True, False}:
            raise ValueError("frozen must be True or False")
        return table.astype(KINDS)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); delete {folder} to have the zoo trained again") from None


def schedule_of(decisions: pd.DataFrame) -> tuple[int, ...]:
    """Return the epochs after which layers are frozen, from the lowest."""
    return tuple(decisions.epoch[decisions.frozen].tolist())


def comparison_images(rule: Saturation, dataset: Dataset) -> np.ndarray:
    """Return the images on which layers are compared."""
    return getattr(dataset, rule.images).images[: rule.examples]


class FreezeScheduler:
    """Decide after each epoch which layers are frozen. Decisions in the folder of the zoo are final."""

    def __init__(
        self,
        rule: Saturation,
        epochs: int,
        network: Network,
        dataset: Dataset,
        folder: pathlib.Path,
        devices: tuple,
        max_device_memory: float | None,
    ):
        self.rule, self.last = rule, epochs
        self.network, self.dataset, self.folder = network, dataset, folder
        self.options: dict[str, Any] = {"devices": devices, "max_device_memory": max_device_memory}
        self.decisions = read_decisions(folder)
        self.features: dict[str, np.ndarray] = {}  # after the epoch of the last update

    def frozen(self, epoch: int) -> int:
        """Return the number of segments that are not trained after `epoch` epochs."""
        return freezing.num_frozen(schedule_of(self.decisions), epoch)

    def decided(self, epoch: int) -> bool:
        """Return whether the frozen layers after `epoch` epochs are known. After the last epoch none are needed."""
        done = self.decisions.epoch.max() if len(self.decisions) else 0
        return epoch <= done or epoch >= self.last or self.decisions.frozen.sum() == len(self.network.points)

    def finished(self) -> bool:
        """Return whether the whole schedule is known."""
        return self.decided(self.last - 1)

    def check(self, epoch: int) -> None:
        """Raise an InputError if members have completed `epoch` epochs and the decisions of these are missing."""
        if not self.decided(min(epoch, self.last - 1)):
            raise InputError(
                f"folder: {self.folder / FILE} lacks the schedule by which {epoch} epochs were trained; delete "
                f"{self.folder} and train again"
            )

    def update(self, seeds: Sequence[int], members: Member, epoch: int) -> None:
        """Decide which layers are frozen after `epoch` epochs, unless it is decided already.

        Call it after each epoch with the members of all seeds, before any of them is saved, so that a run that resumes
        from there has the decision.
        """
        if self.decided(epoch) and self.decided(epoch + 1):
            return
        features = self._features(seeds, members)
        if not self.decided(epoch):
            similarity = self._similarity(self.features, features)
            frozen = np.arange(len(similarity)) < self.rule.num_saturated(similarity)
            layers = list(features)[-len(similarity) :]
            rows = pd.DataFrame({"epoch": epoch, "layer": layers, "similarity": similarity, "frozen": frozen})
            decisions = pd.concat([self.decisions, rows], ignore_index=True) if len(self.decisions) else rows
            files.write_csv(self.folder / FILE, decisions)
            self.decisions = decisions
        self.features = features

    def _features(self, seeds: Sequence[int], members: Member) -> dict[str, np.ndarray]:
        """Return {layer: (members, n, ...)}, members in the order of their seeds."""
        images, mean, std = comparison_images(self.rule, self.dataset), self.dataset.mean, self.dataset.std
        ordered = jax.tree.map(lambda leaf: leaf[np.argsort(seeds)], jax.device_get(members))
        return as_maps(features_of(self.network, ordered, images, mean, std, samples=self.rule.samples, **self.options))

    def _similarity(self, before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> list[float]:
        """Return the similarity of each layer that is not frozen; NaN if a member has diverged."""
        similarity, count = [], len(self.rule.seeds)
        for layer in list(after)[int(self.decisions.frozen.sum()) :]:
            both = np.concatenate([before[layer], after[layer]])
            if not np.isfinite(both).all():
                similarity.append(np.nan)
                continue
            pairs = [(i, count + i) for i in range(count)]
            result = pairwise({layer: both}, self.rule.measure, pairs=pairs, devices=self.options["devices"])
            similarity.append(float(np.mean([result.values[0, i, 0, j] for i, j in pairs], dtype=np.float64)))
        return similarity
