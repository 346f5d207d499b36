"""Shared code of the commands that follow a training: a zoo with snapshots, and results after each of these epochs."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd

from experiments import dry_run
from experiments.defaults import optional
from experiments.features import FeatureSettings
from experiments.folders import RunFolder, clean_accuracy, run_folder
from experiments.settings import zoo_folder
from symjax import dynamics, zoo
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.ops import files
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.tables import mean_and_deviation
from symjax.zoo import Zoo, ZooConfig

LEVEL = 0.95  # of a similarity, at which a layer is taken to be what it will be


@dataclasses.dataclass(frozen=True)
class HistorySettings(FeatureSettings):
    """A zoo that keeps snapshots of its training."""

    checkpoints: Annotated[str | None, optional("EPOCHS", "all of up to 11 epochs, else 12, closer early")] = None
    """The epochs after which networks are compared, as in 0,1,2,5,10, or all; 0 is before the training. The last epoch
    is always included."""
    zoo: Annotated[Path | None, optional("DIR", "runs/zoo/ and a name made from the settings and checkpoints")] = None
    """The folder of the zoo, trained there where it is missing. A zoo that exists must have kept its snapshots of these
    epochs."""
    out: Annotated[Path | None, optional("DIR", "under runs/, by command and settings")] = None
    """The folder of the results."""

    def parse_checkpoints(self) -> tuple[int, ...]:
        """Epochs, ascending; the last is always among them, and one before it."""
        last = self.zoo_config().recipe.epochs
        if self.checkpoints is None:
            return dynamics.checkpoints(last)
        parts = [part.strip() for part in self.checkpoints.split(",") if part.strip()]
        if parts == ["all"]:
            return tuple(range(last + 1))
        if not parts or not all(part.isdecimal() and int(part) <= last for part in parts):
            raise InputError(f"checkpoints: got {self.checkpoints!r}, expected epochs from 0 to {last}, or all")
        epochs = tuple(sorted({*map(int, parts), last}))
        if len(epochs) < 2:
            raise InputError(f"checkpoints: got {self.checkpoints!r}, expected one before the end, {last}, or more")
        return epochs

    def begin(self, kind: str, schema: Schema, measures: list[str]) -> "History":
        """Return what the command `kind` follows by these measures; flags are checked before the zoo is trained.

        Rows of the table `schema` are named by measure, seed, epoch, and by what they are about.
        """
        config, seeds = self.zoo_config(), self.parse_seeds()
        epochs, dataset = self.parse_checkpoints(), self.load_dataset()
        layers = self.parse_layers(dataset)
        document = {name: getattr(self, name) for name in ("images", "examples", "maps", "test_size")}
        document |= {"zoo": config.identity(dataset), "layers": layers}  # all that rows depend on, but for their keys
        out = run_folder(kind, zoo_folder(config).name, document, dataset, self.out)
        path = self.zoo or snapshots_folder(config, epochs)

        def phases() -> list[dry_run.Phase]:
            missing = ResultTable(out.path, schema).missing(moments_of(measures, seeds, epochs))
            # The features at the end of the training are computed beside those of the moments.
            moments = [1 + count for count in missing.groupby("seed").epoch.nunique()]
            counts = {"to_do": sum(moments), "there": 0, "together": max(moments, default=0)}
            every, to_do = len(seeds) * len(measures) * len(epochs), len(missing)
            return [
                dry_run.zoo_phase(config, dataset, seeds, path, self.memory_limit, keep=epochs),
                self.layers_phase("moments to look at", dataset, layers, **counts),
                dry_run.Phase("moments to compare", to_do, every - to_do),
            ]

        dry_run.stop(self, config, dataset, out.path, phases)
        return History(
            self,
            out,
            self.train_zoo(config, dataset, path, keep=epochs),
            path,
            dataset,
            layers,
            schema,
            measures,
            epochs,
        )


def snapshots_folder(config: ZooConfig, epochs: Sequence[int]) -> Path:
    """Return the default folder of a zoo with snapshots of `epochs`, which end its name, as in -snapshots-0-5_10."""
    ranges = [list(group) for _, group in itertools.groupby(enumerate(epochs), lambda pair: pair[1] - pair[0])]
    ends = [(group[0][1], group[-1][1]) for group in ranges]
    name = "_".join(f"{first}-{last}" if first < last else str(first) for first, last in ends)
    name = name if len(name) < 100 else files.fingerprint({"epochs": list(epochs)})
    folder = zoo_folder(config)
    return folder.with_name(f"{folder.name}-snapshots-{name}")


def moments_of(measures: Sequence[str], seeds: Sequence[int], epochs: Sequence[int]) -> pd.DataFrame:
    """All combinations of measures, seeds and epochs, in this order."""
    index = pd.MultiIndex.from_product([measures, seeds, epochs], names=["measure", "seed", "epoch"])
    return index.to_frame(index=False)


class History(NamedTuple):
    """The moments of a training.

    Attributes:
      settings: of the command.
      out: its folder.
      zoo, zoo_path: members at the end of their training, and their folder with the snapshots.
      dataset: the images.
      layers: by name.
      schema: of the table of results.
      measures: by name.
      epochs: after which each network is compared.
    """

    settings: HistorySettings
    out: RunFolder
    zoo: Zoo
    zoo_path: Path
    dataset: Dataset
    layers: list[str]
    schema: Schema
    measures: list[str]
    epochs: tuple[int, ...]

    def follow(self, folder: Path, compute: Callable) -> pd.DataFrame:
        """Rows for all measures, seeds and epochs; those that `folder` lacks are computed, network by network.

        `compute(then, end, measure, epochs)` makes rows of a network's layers: `then` is {name: (moments, n, ...)}
        after each of these epochs, `end` {name: (n, ...)} at the end of the training.
        """
        results = ResultTable(folder, self.schema)
        bar = progress_bar(iterable=self.zoo.seeds, desc="layers", unit="network")
        for seed in bar:
            missing = results.missing(moments_of(self.measures, [seed], self.epochs))
            if missing.empty:
                continue
            moments = sorted(missing.epoch.unique().tolist())
            network, members = zoo.load_history(self.zoo_path, seed, (*moments, self.zoo.config.recipe.epochs))
            features = self.settings.features(network, members, self.dataset, self.layers)
            end = {layer: array[-1] for layer, array in features.items()}
            for measure, of_measure in missing.groupby("measure", sort=False):
                bar.set_postfix_str(measure)
                epochs = of_measure.epoch.tolist()
                places = [moments.index(epoch) for epoch in epochs]
                rows = compute({layer: array[places] for layer, array in features.items()}, end, measure, epochs)
                results.add(rows.assign(measure=measure, seed=seed))
        return results.select(moments_of(self.measures, sorted(self.zoo.seeds), self.epochs))

    def title(self, folder: Path) -> str:
        """The network, the images looked at, and how good the members are, which is kept in `folder`."""
        accuracy = clean_accuracy(folder, self.zoo, self.dataset, self.settings.memory_limit).mean()
        count = f"{len(self.settings.chosen(self.dataset)[0])} {self.settings.images} images"
        return f"{self.zoo.network.name} on {self.dataset.name}, {count}; clean accuracy {accuracy:.2f} %"


def convergence(table: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """For each network and each combination of `keys`: the first and the last value, the epoch at which 90 % of the way
    between them is gone (converged), and the one from which on it is at `LEVEL` (settled)."""
    rows = []
    for names, group in table.groupby([*keys, "seed"], sort=False):
        group = group.sort_values("epoch")
        ends = {"first": group.value.iloc[0], "last": group.value.iloc[-1]}
        ends["converged"] = dynamics.convergence_epoch(group.epoch, group.value)
        ends["settled"] = dynamics.epoch_above(group.epoch, group.value, LEVEL)
        rows.append(dict(zip([*keys, "seed"], names, strict=True)) | ends)
    return pd.DataFrame(rows)


def spelled(table: pd.DataFrame, down: str, across: str, order: list | None = None) -> pd.DataFrame:
    """Mean and standard deviation (n - 1) of `value` over seeds."""
    grouped = table.groupby([down, across], sort=False).value
    text = mean_and_deviation(grouped, 2)
    return text.unstack(across)[order or sorted(table[across].unique())].loc[list(table[down].unique())]


def rank_correlation(values: pd.Series) -> float:
    """Of the position and the value, in [-1, 1]; NaN where there is nothing to order."""
    ranks = values.rank()
    return float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1]) if ranks.nunique() > 1 else float("nan")


def agreement(orders: pd.DataFrame, draws: int = 9999) -> tuple[float, float]:
    """How far networks (down) agree in the order of things (across), and how likely chance agrees as far.

    The mean rank correlation of two of the networks, which is 0 on average where their orders have nothing to do with
    each other: with the networks' mean order each would correlate by its own part in it. The p-value is of a
    permutation test, one-sided: as many draws of orders, each network's on its own. NaN for fewer than two networks
    whose values differ.
    """
    ranks = orders.rank(axis=1).to_numpy()
    ranks = ranks[np.ptp(ranks, axis=1) > 0] if ranks.size else ranks
    count = len(ranks)
    if count < 2:
        return float("nan"), float("nan")
    ranks = ranks - ranks.mean(1, keepdims=True)
    ranks /= np.linalg.norm(ranks, axis=1, keepdims=True)

    def mean(ranks):
        """Of the products of all pairs: of the squared sum, those of each with itself taken away."""
        return (np.square(ranks.sum(-2)).sum(-1) - count) / (count * (count - 1))

    observed, drawn = mean(ranks), np.broadcast_to(ranks, (draws, *ranks.shape))
    by_chance = mean(np.random.default_rng(0).permuted(drawn, axis=-1))
    return float(observed), float((1 + (by_chance >= observed - 1e-9).sum()) / (1 + draws))
