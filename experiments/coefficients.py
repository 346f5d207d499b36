"""Compute all canonical correlations of each layer during training with the same layer at the end, in sorted order.

Some correlations converge to 1 early (directions that the network has learned), others stay at the level of noise
(Morcos et al. 2018, figure 1). Bartlett's test counts the correlations that differ from zero. By default the networks
are a zoo of 4 narrow Myrtle CNNs on scikit-learn's digits, with snapshots of all epochs. Running the same command again
recomputes nothing; more seeds or checkpoints extend the results.
"""

import dataclasses

import numpy as np
import pandas as pd

from experiments.command import run_command
from experiments.history import HistorySettings
from experiments.registry import Experiment, PublishedTable
from experiments.summary import Summary
from symjax import plots
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.ops.result_table import Schema
from symjax.similarity import bartlett_test, cca
from symjax.tables import interval_text, over_networks

KEY = {"measure": str, "seed": int, "epoch": int, "layer": str, "rank": int}
ROWS = Schema("results", KEY, ("correlation", "significant"), order=("measure", "seed", "epoch"))
MEASURE = "cca"

EXPERIMENT = Experiment(
    place=115,
    published={
        "Morcos et al. 2018, figure 1 (no numbers in the text)": PublishedTable(
            ("published",),
            {"sorted coefficients": ("some directions converge early, others stay at the level of noise",)},
        )
    },
)


@dataclasses.dataclass(frozen=True)
class Settings(HistorySettings):
    curves: int = 6
    """Epochs in the figure, evenly chosen from the checkpoints."""

    def parse_layers(self, dataset: Dataset) -> list[str]:
        """Return names of stitch points; raise an InputError if the widest has too few examples for Bartlett's test."""
        layers, count = super().parse_layers(dataset), len(self.selected_images(dataset)[0])
        points = self.zoo_config().network(dataset).points
        least = 2 * max(point.channels for point in points if point.name in layers) + 2
        if count < least:
            raise InputError(f"examples: got {count}, expected {least} or more, over twice the channels of each layer")
        return layers


def main(settings: Settings) -> Summary:
    if settings.curves < 2:
        raise InputError(f"curves: got {settings.curves}, expected 2 or more")
    if settings.samples != "pool":
        raise InputError(f"samples: got {settings.samples}, expected pool: rows of Bartlett's test must be independent")
    with settings.history("coefficients", ROWS, [MEASURE]) as history:
        folder = history.folder
        table = history.follow(correlations)
        epochs = np.array(history.epochs)
        shown = epochs[np.unique(np.rint(np.linspace(0, len(epochs) - 1, settings.curves)).astype(int))]
        plots.mean_curves(
            table[table.epoch.isin(shown)].assign(epoch=lambda rows: rows.epoch.map("epoch {}".format)),
            folder / "coefficients",
            x="rank",
            y="correlation",
            line="epoch",
            panel="layer",
            ylabel="correlation with the end",
            ordered=True,
        )
        counts = table.drop_duplicates(["seed", "epoch", "layer"])
        text = counts.groupby(["layer", "epoch"], sort=False).significant.agg(lambda n: interval_text(n, 1))
        counts_table = text.unstack("epoch")[list(history.epochs)].loc[history.layers].rename_axis(index=None)
        over = over_networks(len(history.zoo), "mean and 95 % interval")
        caption = f"correlations that differ from zero (Bartlett's test, level .05), {over}"
        return Summary(
            folder, history.title, conclusion(table, history.layers), {caption: counts_table}, ("coefficients",)
        )


def correlations(features, end, measure, epochs) -> pd.DataFrame:
    """Return the sorted correlations of each layer after each epoch with the layer at the end."""
    tables = []
    for layer, snapshots in features.items():
        last = end[layer].reshape(-1, end[layer].shape[-1])
        for epoch, snapshot in zip(epochs, snapshots, strict=True):
            result = cca(snapshot.reshape(last.shape), last)
            count = int(min(result.x_rank, result.y_rank))
            significant = int(bartlett_test(result, len(last)).num_significant)
            values = np.asarray(result.correlations[:count], float)
            columns = {"epoch": epoch, "layer": layer, "correlation": values, "significant": significant}
            tables.append(pd.DataFrame(columns).assign(rank=np.arange(1, count + 1)))
    return pd.concat(tables)


def conclusion(table: pd.DataFrame, layers: list[str]) -> str:
    """Return the share of correlations above .9 before the training and halfway through its checkpoints."""
    epochs = sorted(table.epoch.unique())
    sentences = []
    for epoch in (epochs[0], epochs[len(epochs) // 2]):
        grouped = table[table.epoch == epoch].groupby(["layer", "seed"]).correlation
        share = grouped.agg(lambda values: 100 * (values > 0.9).mean())
        parts = ", ".join(f"{layer} {interval_text(share[layer], 0)}" for layer in layers)
        sentences.append(f"After epoch {epoch}, correlations with the end above .9, in percent of all: {parts}.")
    return " ".join(sentences)


if __name__ == "__main__":
    run_command(main, Settings)
