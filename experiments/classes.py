"""Measure how well each layer separates each class from the others during training, by CCA with class indicators.

By default the networks are a zoo of 4 narrow Myrtle CNNs on scikit-learn's digits, with snapshots of all epochs. The
results are curves by class and layer over epochs and over layers, and the order in which classes are learned (after
Raghu et al. 2017). Running the same command again recomputes nothing; more seeds or checkpoints extend the results.
"""

import numpy as np
import pandas as pd

from experiments.command import run_command
from experiments.history import HistorySettings, agreement, convergence, format_means
from experiments.registry import Experiment
from experiments.summary import Summary
from symjax import dynamics, plots
from symjax.ops import files
from symjax.ops.result_table import Schema
from symjax.tables import mean, over_networks

KEY = {"measure": str, "seed": int, "epoch": int, "layer": str, "class": str}
ROWS = Schema("results", KEY, ("value",), order=("measure", "seed", "epoch"))
MEASURE = "cca"

EXPERIMENT = Experiment(place=110)


Settings = HistorySettings


def main(settings: Settings) -> Summary:
    with settings.history("classes", ROWS, [MEASURE]) as history:
        folder, layers, network = history.folder, history.layers, history.zoo.network
        images, labels = settings.selected_images(history.dataset)
        names = list(history.dataset.class_names)

        def compute(features, end, measure, epochs):  # labels of positions, if they have them
            return dynamics.class_correlations(features, labels.reshape(-1), names, epochs)

        table = history.follow(compute)
        channels = {point.name: point.channels for point in network.points}
        chance = {layer: dynamics.chance_correlation(channels[layer], len(images)) for layer in layers}
        count = len(history.zoo)
        plots.over_time(
            table,
            folder / "classes",
            panel="layer",
            line="class",
            label="correlation with the class",
            title=f"CCA of each layer with each class's indicator ({over_networks(count, 'mean and deviation')})",
            ordered=False,
            chance=chance if settings.samples == "pool" else None,
        )
        plots.over_layers(
            table,
            folder / "layers",
            title=f"CCA of each layer with each class's indicator ({over_networks(count, 'mean')})",
            chance=chance if settings.samples == "pool" else None,
        )
        ends = convergence(table[table.layer == layers[-1]], "measure", "class")
        files.write_csv(folder / "convergence.csv", ends)
        last = format_means(table[table.epoch == table.epoch.max()], "class", "layer", layers)
        if settings.samples == "pool":
            last.loc["chance"] = [f"{chance[layer]:.2f}" for layer in layers]
        caption = f"correlation with each class's indicator at the end, {over_networks(count)}"
        epochs_caption = "correlation at the first checkpoint and at the end, epochs until 90 % of the way"
        tables = {
            f"{caption} (chance: of unrelated labels)": last,
            f"{layers[-1]}: {epochs_caption}": class_table(ends),
        }
        return Summary(folder, history.title, conclusion(ends, layers[-1]), tables, ("classes", "layers"))


def class_table(ends: pd.DataFrame) -> pd.DataFrame:
    """Return mean ± deviation (n - 1) over networks, with a row for each class in the order of learning."""
    grouped = ends.groupby("class", sort=False)[["first", "last", "converged"]]
    means, deviation = grouped.agg(mean), grouped.std()
    text = means.map("{:.2f}".format)
    if deviation.notna().all(axis=None):
        text += " ± " + deviation.map("{:.2f}".format)
    return text.loc[means.sort_values("converged", kind="stable").index]


def conclusion(ends: pd.DataFrame, layer: str) -> str:
    """Return which classes are learned first and last, and whether the networks agree in the order."""
    order = ends.groupby("class", sort=False).converged.agg(mean).dropna().sort_values(kind="stable")
    if order.empty:
        return f"{layer}: no class has finite correlations"
    text = f"{layer}: first {', '.join(order.index[:2])}, last {', '.join(order.index[-2:])}"
    correlation, p = agreement(ends.pivot(index="seed", columns="class", values="converged").dropna(axis=1))
    if np.isnan(p):
        return text
    verdict = "networks agree in the order" if p < 0.05 else "no agreement of networks in the order shown"
    return (
        f"{text}; {verdict} (mean rank correlation of two networks {correlation:+.2f}, permutation test: p = {p:.2g})"
    )


if __name__ == "__main__":
    run_command(main, Settings)
