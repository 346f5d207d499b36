"""What commands that follow a training share: a zoo kept at moments, rows for each, and when a value is reached."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd

from experiments.features import FeatureSettings, add_rows, read_rows
from experiments.settings import optional, zoo_folder
from symjax import dynamics, zoo
from symjax.errors import InputError
from symjax.progress import progress_bar
from symjax.summary import mean_and_deviation
from symjax.zoo import Zoo

LEVEL = 0.95  # of a similarity, at which a layer is taken to be what it will be


@dataclasses.dataclass(frozen=True)
class HistorySettings(FeatureSettings):
    """A zoo that is kept at moments of its training."""

    checkpoints: Annotated[str | None, optional("EPOCHS", "all of up to 11 epochs, else 12, closer early")] = None
    """After how many epochs to look at the networks, as in 0,1,2,5,10, or all; 0 is before the training. The end is
    always among them."""
    zoo: Annotated[Path | None, optional("DIR", "as python -m experiments.zoo has it")] = None
    """The folder of the zoo; trained there where it is missing, or where it was not kept at these epochs."""

    def parse_checkpoints(self) -> tuple[int, ...]:
        """Epochs, ascending; the last is always among them, and one before it."""
        last = self.zoo_config().recipe.epochs
        if self.checkpoints is None:
            return dynamics.checkpoints(last)
        parts = [part.strip() for part in self.checkpoints.split(",") if part.strip()]
        if parts == ["all"]:
            return tuple(range(last + 1))
        if not parts or not all(part.isdecimal() and int(part) <= last for part in parts):
            raise InputError(f"checkpoints: got {self.checkpoints!r}, wanted epochs from 0 to {last}, or all")
        found = tuple(sorted({*map(int, parts), last}))
        if len(found) < 2:
            raise InputError(f"checkpoints: got {self.checkpoints!r}, wanted one before the end, {last}, or more")
        return found

    def train(self, dataset, epochs: tuple[int, ...]) -> tuple[Zoo, Path]:
        """The zoo, kept at these epochs, and its folder."""
        config = self.zoo_config()
        folder = self.zoo or zoo_folder(config)
        return zoo.train(config, dataset, self.parse_seeds(), folder, keep=epochs), folder


def document_of(settings: FeatureSettings, layers: list[str]) -> dict:
    """All that rows depend on, but for their keys."""
    values = {name: getattr(settings, name) for name in ("images", "examples", "maps", "test_size")}
    return {"zoo": settings.zoo_config().to_json(), "layers": layers} | values


def follow(
    path: Path,
    columns: tuple[str, ...],
    settings: HistorySettings,
    trained: Zoo,
    zoo_path: Path,
    dataset,
    layers: list[str],
    epochs: tuple[int, ...],
    measures: list[str],
    compute: Callable,
) -> pd.DataFrame:
    """Rows for all measures, seeds and epochs; those that `path` lacks are computed, network by network.

    `compute(found, measure, epochs)` makes rows of a network's layers, {name: (moments + 1, n, ...)}: after each of
    these epochs, and at the end.
    """
    there = set(read_rows(path, columns)[["measure", "seed", "epoch"]].itertuples(index=False, name=None))
    missing = {
        seed: {m: [epoch for epoch in epochs if (m, seed, epoch) not in there] for m in measures}
        for seed in trained.seeds
    }
    bar = progress_bar(iterable=trained.seeds, desc="layers", unit="network")
    for seed in bar:
        wanted = sorted({epoch for lacking in missing[seed].values() for epoch in lacking})
        if not wanted:
            continue
        network, members = zoo.load_history(zoo_path, seed, (*wanted, trained.config.recipe.epochs))
        found = settings.features(network, members, dataset, layers)
        for measure, lacking in missing[seed].items():
            bar.set_postfix_str(measure)
            if lacking:
                chosen = [*(wanted.index(epoch) for epoch in lacking), len(wanted)]
                rows = compute({layer: array[chosen] for layer, array in found.items()}, measure, lacking)
                add_rows(path, rows.assign(measure=measure, seed=seed), columns)
    table = read_rows(path, columns)
    table = table[table.measure.isin(measures) & table.seed.isin(trained.seeds) & table.epoch.isin(epochs)]
    order = {name: i for i, name in enumerate(measures)}
    return table.sort_values(["measure", "seed", "epoch"], key=lambda c: c.map(order) if c.name == "measure" else c)


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
