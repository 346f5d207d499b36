"""Shared code of the commands that follow networks during training: a zoo with snapshots, and results by epoch."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd

from experiments import dry_run
from experiments.defaults import optional
from experiments.features import FeatureSettings
from experiments.folders import RunSettings, clean_accuracy
from experiments.settings import split, zoo_folder
from symjax import dynamics, zoo
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.ops import files
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.tables import mean_and_deviation
from symjax.zoo import Zoo, ZooConfig

LEVEL = 0.95  # similarity with the trained layer from which a layer counts as converged


@dataclasses.dataclass(frozen=True)
class HistorySettings(RunSettings, FeatureSettings):
    """A zoo with snapshots of its training."""

    checkpoints: Annotated[str | None, optional("EPOCHS", "all of up to 11, otherwise 12, denser at the start")] = None
    """Comma-separated epochs after which networks are compared, as in 0,1,2,5,10, or all; 0 is before the training. The
    last epoch is always included."""
    zoo: Annotated[Path | None, optional("DIR", "under runs/zoo/, named by the settings and checkpoints")] = None
    """Folder of the zoo; missing members are trained. Existing members must have been trained with snapshots of these
    epochs."""

    def parse_checkpoints(self) -> tuple[int, ...]:
        """Return the epochs in ascending order: two or more, including the last."""
        last = self.zoo_config().recipe.epochs
        if self.checkpoints is None:
            return dynamics.checkpoints(last)
        parts = split(self.checkpoints)
        if parts == ["all"]:
            return tuple(range(last + 1))
        if not parts or not all(part.isdecimal() and int(part) <= last for part in parts):
            raise InputError(
                f"checkpoints: got {self.checkpoints!r}, expected epochs from 0 to {last} separated by commas, or all"
            )
        epochs = tuple(sorted({*map(int, parts), last}))
        if len(epochs) < 2:
            raise InputError(f"checkpoints: got {self.checkpoints!r}, expected an epoch before the last, {last}")
        return epochs

    def zoo_path(self) -> Path:
        """Return the folder of the zoo."""
        return self.zoo or snapshots_folder(self.zoo_config(), self.parse_checkpoints())

    @contextlib.contextmanager
    def history(self, kind: str, schema: Schema, measures: list[str]) -> Iterator["History"]:
        """Train missing members, and lock the run folder for a `with` statement, whose value is the history.

        Args:
          kind: name of the command.
          schema: schema of the table of results, whose keys begin with measure, seed and epoch.
          measures: names of measures.
        """
        config, seeds = self.zoo_config(), self.parse_seeds()
        epochs, dataset = self.parse_checkpoints(), self.load_dataset()
        layers = self.parse_layers(dataset)
        document = {name: getattr(self, name) for name in ("images", "examples", "samples", "test_size")}
        document |= {"zoo": config.identity(dataset), "layers": layers}

        def phases(folder: Path) -> list[dry_run.Phase]:
            missing = ResultTable(folder, schema).missing(snapshot_keys(measures, seeds, epochs))
            # Each network is also evaluated at the end of its training.
            counts_by_seed = [1 + count for count in missing.groupby("seed").epoch.nunique()]
            counts = {"to_do": sum(counts_by_seed), "done": 0, "together": max(counts_by_seed, default=0)}
            total, to_do = len(seeds) * len(measures) * len(epochs), len(missing)
            return [
                self.layers_phase("snapshots to evaluate", dataset, layers, **counts),
                dry_run.Phase("snapshots to compare", to_do, total - to_do),
            ]

        with self.run(kind, dataset, document, phases, keep=epochs) as (folder, trained):
            yield History(self, folder, trained, dataset, layers, schema, measures, epochs)


def snapshots_folder(config: ZooConfig, epochs: Sequence[int]) -> Path:
    """Return the default folder of a zoo with snapshots of `epochs`, which end its name, as in -snapshots-0-5_10."""
    ranges = [list(group) for _, group in itertools.groupby(enumerate(epochs), lambda pair: pair[1] - pair[0])]
    ends = [(group[0][1], group[-1][1]) for group in ranges]
    name = "_".join(f"{first}-{last}" if first < last else str(first) for first, last in ends)
    name = name if len(name) < 100 else files.fingerprint({"epochs": list(epochs)})
    folder = zoo_folder(config)
    return folder.with_name(f"{folder.name}-snapshots-{name}")


def snapshot_keys(measures: Sequence[str], seeds: Sequence[int], epochs: Sequence[int]) -> pd.DataFrame:
    """Return all combinations of measures, seeds and epochs, in this order."""
    index = pd.MultiIndex.from_product([measures, seeds, epochs], names=["measure", "seed", "epoch"])
    return index.to_frame(index=False)


class History(NamedTuple):
    """The networks of a zoo during their training.

    Attributes:
      settings: settings of the command.
      folder: the run folder, which is locked until the context ends.
      zoo: members at the end of their training.
      dataset: the images.
      layers: names of layers.
      schema: schema of the table of results.
      measures: names of measures.
      epochs: epochs after which each network is compared.
    """

    settings: HistorySettings
    folder: Path
    zoo: Zoo
    dataset: Dataset
    layers: list[str]
    schema: Schema
    measures: list[str]
    epochs: tuple[int, ...]

    def follow(self, compute: Callable) -> pd.DataFrame:
        """Return rows for all measures, seeds and epochs; missing ones are computed.

        Args:
          compute: `compute(features, end, measure, epochs)` returns the rows of one network. `features` are its layers
            after each of the epochs, {name: (epochs, n, ...)}, and `end` those at the end of the training,
            {name: (n, ...)}.
        """
        results = ResultTable(self.folder, self.schema)
        path = self.settings.zoo_path()
        bar = progress_bar(iterable=self.zoo.seeds, desc="layers", unit="network")
        for seed in bar:
            missing = results.missing(snapshot_keys(self.measures, [seed], self.epochs))
            if missing.empty:
                continue
            epochs = sorted(missing.epoch.unique().tolist())
            network, members = zoo.load_history(path, seed, (*epochs, self.zoo.config.recipe.epochs))
            features = self.settings.features(network, members, self.dataset, self.layers)
            end = {layer: array[-1] for layer, array in features.items()}
            for measure, keys in missing.groupby("measure", sort=False):
                bar.set_postfix_str(measure)
                measure_epochs = keys.epoch.tolist()
                positions = [epochs.index(epoch) for epoch in measure_epochs]
                measured = {layer: array[positions] for layer, array in features.items()}
                rows = compute(measured, end, measure, measure_epochs)
                results.add(rows.assign(measure=measure, seed=seed))
        return results.select(snapshot_keys(self.measures, sorted(self.zoo.seeds), self.epochs))

    @property
    def title(self) -> str:
        """The network, the images and the accuracy of the members."""
        accuracy = clean_accuracy(self.folder, self.zoo, self.dataset, self.settings.memory_limit).mean()
        count = f"{len(self.settings.selected_images(self.dataset)[0])} {self.settings.images} images"
        return f"{self.zoo.network.name} on {self.dataset.name}, {count}; clean accuracy {accuracy:.2f} %"


def convergence(table: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Return when values converge, for each network and each combination of `keys`.

    Columns are the keys, seed, first and last value, the epoch at which the value has covered 90 % of the difference
    between them (converged), and the epoch from which on it is at least `LEVEL` (settled).
    """
    rows = []
    for names, group in table.groupby([*keys, "seed"], sort=False):
        group = group.sort_values("epoch")
        ends = {"first": group.value.iloc[0], "last": group.value.iloc[-1]}
        ends["converged"] = dynamics.convergence_epoch(group.epoch, group.value)
        ends["settled"] = dynamics.epoch_above(group.epoch, group.value, LEVEL)
        rows.append(dict(zip([*keys, "seed"], names, strict=True)) | ends)
    return pd.DataFrame(rows)


def format_means(table: pd.DataFrame, rows: str, columns: str, order: list | None = None) -> pd.DataFrame:
    """Return mean and standard deviation (n - 1) of `value` over seeds as text.

    Args:
      table: rows with the columns seed and value.
      rows: the column of `table` for the rows of the result.
      columns: the column of `table` for the columns of the result.
      order: order of the columns; sorted by default.
    """
    grouped = table.groupby([rows, columns], sort=False).value
    text = mean_and_deviation(grouped, 2)
    return text.unstack(columns)[order or sorted(table[columns].unique())].loc[list(table[rows].unique())]


def rank_correlation(values: pd.Series) -> float:
    """Return the rank correlation of position and value, in [-1, 1]; NaN if all values are equal."""
    ranks = values.rank()
    return float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1]) if ranks.nunique() > 1 else float("nan")


def agreement(orders: pd.DataFrame, draws: int = 9999) -> tuple[float, float]:
    """Return the agreement of networks in the order of items, and its p-value.

    The agreement is the mean rank correlation over pairs of networks, whose expectation is 0 for independent orders.
    The p-value is that of a one-sided permutation test, which permutes the order of each network independently.

    Args:
      orders: values of networks (rows) and items (columns).
      draws: number of random permutations.

    Returns:
      (agreement, p-value); NaN for fewer than two networks with values that differ.
    """
    ranks = orders.rank(axis=1).to_numpy()
    ranks = ranks[np.ptp(ranks, axis=1) > 0] if ranks.size else ranks
    count = len(ranks)
    if count < 2:
        return float("nan"), float("nan")
    ranks = ranks - ranks.mean(1, keepdims=True)
    ranks /= np.linalg.norm(ranks, axis=1, keepdims=True)

    def mean_correlation(ranks):
        # The squared norm of the sum, without the products of each network with itself.
        return (np.square(ranks.sum(-2)).sum(-1) - count) / (count * (count - 1))

    observed, copies = mean_correlation(ranks), np.broadcast_to(ranks, (draws, *ranks.shape))
    permuted = mean_correlation(np.random.default_rng(0).permuted(copies, axis=-1))
    return float(observed), float((1 + (permuted >= observed - 1e-9).sum()) / (1 + draws))
