"""Follows over the training how well each layer tells each class from the others, by CCA with the class's indicator.

With no argument: a zoo of 4 narrow Myrtle CNNs on scikit-learn's digits with snapshots of all epochs; curves per class
and layer over epochs and over layers, and which classes are learned first (after Raghu et al. 2017). The same
command again recomputes nothing; more seeds or checkpoints extend what is there.
"""

import numpy as np
import pandas as pd

from experiments.history import HistorySettings, agreement, convergence, spelled
from experiments.settings import run_command
from experiments.summary import Summary
from symjax import dynamics, plots
from symjax.ops import files
from symjax.ops.result_table import Schema
from symjax.tables import mean, over_networks

KEY = {"measure": str, "seed": int, "epoch": int, "layer": str, "class": str}
ROWS = Schema("results", KEY, ("value",), order=("measure", "seed", "epoch"))
MEASURE = "cca"


Settings = HistorySettings


def main(settings: Settings) -> Summary:
    history = settings.begin("classes", ROWS, [MEASURE])
    layers, network = history.layers, history.zoo.network
    images, labels = settings.chosen(history.dataset)
    names = list(history.dataset.class_names)
    with history.out.open() as folder:

        def compute(then, _, __, epochs):
            return dynamics.class_correlations(
                then, labels.reshape(-1), names, epochs
            )  # of positions, if they have them

        table = history.follow(folder, compute)
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
            chance=chance if settings.maps == "pool" else None,
        )
        plots.over_layers(
            table,
            folder / "layers",
            title=f"CCA of each layer with each class's indicator ({over_networks(count, 'mean')})",
            chance=chance if settings.maps == "pool" else None,
        )
        ends = convergence(table[table.layer == layers[-1]], "measure", "class")
        files.write_csv(folder / "convergence.csv", ends)
        last = spelled(table[table.epoch == table.epoch.max()], "class", "layer", layers)
        if settings.maps == "pool":
            last.loc["chance"] = [f"{chance[layer]:.2f}" for layer in layers]
        at_the_end = f"correlation with each class's indicator at the end, {over_networks(count)}"
        tables = {
            f"{at_the_end} (chance: of unrelated labels)": last,
            f"{layers[-1]}: correlation at the first checkpoint and at the end, epochs until 90 % of the way": learned(
                ends
            ),
        }
        return Summary(folder, history.title(folder), conclusion(ends, layers[-1]), tables, ("classes", "layers"))


def learned(ends: pd.DataFrame) -> pd.DataFrame:
    """A row per class, those that are learned first above; mean ± deviation (n - 1) over networks."""
    grouped = ends.groupby("class", sort=False)[["first", "last", "converged"]]
    means, deviation = grouped.agg(mean), grouped.std()
    text = means.map("{:.2f}".format)
    if deviation.notna().all(axis=None):
        text += " ± " + deviation.map("{:.2f}".format)
    return text.loc[means.sort_values("converged", kind="stable").index]


def conclusion(ends: pd.DataFrame, layer: str) -> str:
    """Which classes come first and last, and whether the networks agree in that."""
    order = ends.groupby("class", sort=False).converged.agg(mean).dropna().sort_values(kind="stable")
    if order.empty:
        return f"{layer}: no class could be followed"
    text = f"{layer}: first {', '.join(order.index[:2])}, last {', '.join(order.index[-2:])}"
    relation, p = agreement(ends.pivot(index="seed", columns="class", values="converged").dropna(axis=1))
    if np.isnan(p):
        return text
    verdict = "networks agree in the order" if p < 0.05 else "no agreement of networks in the order shown"
    return f"{text}; {verdict} (mean rank correlation of two networks {relation:+.2f}, permutation test: p = {p:.2g})"


if __name__ == "__main__":
    run_command(main, Settings)
