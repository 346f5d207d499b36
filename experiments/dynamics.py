"""Follows each layer over the training: how alike is it to what it will be in the end?

With no argument: a zoo of 4 narrow Myrtle CNNs on scikit-learn's digits, kept after every epoch, and SVCCA, PWCCA and
CKA of each layer at each of these moments with each layer at the end (Raghu et al. 2017, Morcos et al. 2018). The same
command again recomputes nothing; more seeds, measures or checkpoints extend what is there.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments.align import parse_measures
from experiments.features import FeatureSettings, add_rows, read_rows
from experiments.folders import clean_accuracy, run_folder
from experiments.settings import optional, run_command, zoo_folder
from symjax import dynamics, plots, runs, zoo
from symjax.errors import InputError
from symjax.summary import Summary
from symjax.zoo import Zoo

COLUMNS = ("measure", "seed", "epoch", "layer", "end_layer", "value")
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
        """Epochs, the first and the last at least."""
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


@dataclasses.dataclass(frozen=True)
class Settings(HistorySettings):
    measures: str = "svcca,pwcca,cka"
    """Similarity measures, names of symjax.similarity.MEASURES with commas between."""
    out: Annotated[Path | None, optional("DIR", "runs/dynamics/ and a name made from the settings")] = None
    """The folder of the results."""


def main(settings: Settings) -> Summary:
    config, measures = settings.zoo_config(), parse_measures(settings.measures)
    settings.parse_seeds()
    epochs, dataset = settings.parse_checkpoints(), settings.load_dataset()
    layers = settings.parse_layers(dataset)
    document = document_of(settings, layers)
    out = run_folder("dynamics", zoo_folder(config).name, document, dataset, settings.out)
    trained, zoo_path = settings.train(dataset, epochs)
    with out.open() as folder:
        path = folder / "results.csv"

        def compute(found, measure, moments):
            return dynamics.similarity_to_end(
                {layer: array[:-1] for layer, array in found.items()},
                {layer: array[-1] for layer, array in found.items()},
                measure,
                moments,
            )

        table = follow(path, COLUMNS, settings, trained, zoo_path, dataset, layers, epochs, measures, compute)
        plots.layers_by_layers(table, folder / "layers")
        plots.layers_by_time(table, folder / "time")
        same = table[table.layer == table.end_layer]
        plots.over_time(
            same,
            folder / "curves",
            panel="measure",
            line="layer",
            label="similarity",
            title=f"Each layer with itself at the end (mean and deviation over {len(trained)} networks)",
        )
        ends = convergence(same, "measure", "layer")
        runs.write_csv(folder / "convergence.csv", ends)
        accuracy = clean_accuracy(folder, trained, dataset).mean()
        caption = f"each layer with itself at the end, by epoch, mean ± deviation over {len(trained)} networks"
        tables = {
            f"{measure}: {caption}": spelled(rows, "layer", "epoch")
            for measure, rows in same.groupby("measure", sort=False)
        } | {
            caption: spelled(ends.assign(value=ends[column]), "measure", "layer", layers)
            for caption, column in (
                ("epochs until a layer has gone 90 % of the way from its first similarity to its last", "converged"),
                (f"epochs until its similarity with the end is {LEVEL} or more", "settled"),
            )
        }
        images = f"{len(settings.chosen(dataset)[0])} {settings.images} images"
        title = f"{trained.network.name} on {dataset.name}, {images}; clean accuracy {accuracy:.2f} %"
        return Summary(folder, title, finding(ends, layers), tables, ("layers", "time", "curves"))


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
    bar = tqdm(trained.seeds, desc="layers", unit="network", dynamic_ncols=True, file=sys.stderr)
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
    text = grouped.mean().map("{:.2f}".format)
    if (grouped.size() > 1).all():
        text += " ± " + grouped.std().map("{:.2f}".format)
    return text.unstack(across)[order or sorted(table[across].unique())].loc[list(table[down].unique())]


def finding(ends: pd.DataFrame, layers: list[str]) -> str:
    """Whether lower layers converge first, a line for each measure."""
    lines = []
    for measure, table in ends.groupby("measure", sort=False):
        # Not by the share of the way, which says little of a layer that has next to no way to go.
        mean = table.groupby("layer").settled.mean()[layers]
        relation = rank_correlation(mean)
        said = "lower layers converge first" if relation > 0.5 else "not that lower layers converge first"
        lines.append(
            f"{measure}: {layers[0]} is at {LEVEL} of its end after {mean.iloc[0]:.1f} epochs, {layers[-1]} after "
            f"{mean.iloc[-1]:.1f}: {said} (rank correlation of depth and epoch {relation:+.2f})"
        )
    return "\n".join(lines)


def rank_correlation(values: pd.Series) -> float:
    """Of the position and the value, in [-1, 1]; NaN where there is nothing to order."""
    ranks = values.rank()
    return float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1]) if ranks.nunique() > 1 else float("nan")


if __name__ == "__main__":
    run_command(main, Settings)
