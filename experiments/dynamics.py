"""Follows each layer over the training: how alike is it to what it will be in the end?

With no argument: a zoo of 4 narrow Myrtle CNNs on scikit-learn's digits with snapshots of all epochs, and SVCCA, PWCCA
and CKA of each layer at each of these moments with each layer at the end (Raghu et al. 2017, Morcos et al. 2018). The
same command again recomputes nothing; more seeds, measures or checkpoints extend what is there.
"""

import dataclasses

import pandas as pd

from experiments.features import parse_measures
from experiments.history import LEVEL, HistorySettings, convergence, rank_correlation, spelled
from experiments.registry import Experiment
from experiments.settings import run_command
from experiments.summary import Summary
from symjax import dynamics, plots
from symjax.ops import files
from symjax.ops.result_table import Schema
from symjax.tables import over_networks

KEY = {"measure": str, "seed": int, "epoch": int, "layer": str, "end_layer": str}
ROWS = Schema("results", KEY, ("value",), order=("measure", "seed", "epoch"))

EXPERIMENT = Experiment(place=80)


@dataclasses.dataclass(frozen=True)
class Settings(HistorySettings):
    measures: str = "svcca,pwcca,cka"
    """Similarities, not distances: names of symjax.similarity.MEASURES with commas between."""


def main(settings: Settings) -> Summary:
    measures = parse_measures(settings.measures, "similarity")
    history = settings.begin("dynamics", ROWS, measures)
    with history.out.open() as folder:
        table = history.follow(folder, dynamics.similarity_to_end)
        crossed = plots.layers_by_layers(table, folder / "layers") is not None
        plots.layers_by_time(table, folder / "time")
        same = table[table.layer == table.end_layer]
        plots.over_time(
            same,
            folder / "curves",
            panel="measure",
            line="layer",
            label="similarity",
            title=f"Each layer with itself at the end ({over_networks(len(history.zoo), 'mean and deviation')})",
        )
        ends = convergence(same, "measure", "layer")
        files.write_csv(folder / "convergence.csv", ends)
        caption = f"each layer with itself at the end, by epoch, {over_networks(len(history.zoo))}"
        tables = {
            f"{measure}: {caption}": spelled(rows, "layer", "epoch")
            for measure, rows in same.groupby("measure", sort=False)
        } | {
            caption: spelled(ends.assign(value=ends[column]), "measure", "layer", history.layers)
            for caption, column in (
                ("epochs until a layer has gone 90 % of the way from its first similarity to its last", "converged"),
                (f"epochs until its similarity with the end is {LEVEL} or more", "settled"),
            )
        }
        figures = (*["layers"] * crossed, "time", "curves")
        return Summary(folder, history.title(folder), conclusion(ends, history.layers), tables, figures)


def conclusion(ends: pd.DataFrame, layers: list[str]) -> str:
    """Whether lower layers converge first, a line for each measure.

    Page's test for ordered alternatives (1963), of networks by layers: that layers settle in their order.
    """
    lines = []
    for measure, table in ends.groupby("measure", sort=False):
        # Not by the share of the way, which says little of a layer that has next to no way to go.
        settled = table.pivot(index="seed", columns="layer", values="settled")[layers]
        whole = settled.dropna()
        if whole.empty:
            lines.append(f"{measure}: no network has an epoch for every layer, similarities are NaN: nothing to tell")
            continue
        mean = whole.mean()
        text = (
            f"{measure}: {layers[0]} is at {LEVEL} of its end after {mean.iloc[0]:.1f} epochs, {layers[-1]} after "
            f"{mean.iloc[-1]:.1f}: {said(whole)}"
        )
        if left_out := len(settled) - len(whole):
            text += f"; {left_out} of {len(settled)} networks left out, their similarities are NaN"
        lines.append(text)
    return "\n".join(lines)


def said(settled: pd.DataFrame) -> str:
    """Of networks (down) and layers (across)."""
    count, layers = settled.shape
    if count < 2 or layers < 3:
        verdict = "too few to tell whether lower layers converge first (2 networks and 3 layers are needed)"
    else:
        from scipy.stats import page_trend_test  # here: it takes most of a second to import

        p = page_trend_test(settled.to_numpy()).pvalue
        verdict = f"{'' if p < 0.05 else 'not shown that '}lower layers converge first (Page's test: p = {p:.2g})"
    relations = settled.apply(rank_correlation, axis=1)
    text = f"{verdict}; rank correlation of depth and epoch {relations.mean():+.2f}"
    if count < 2:
        return text
    return f"{text} ± {relations.std():.2f}, above 0 in {(relations > 0).sum()} of {count} networks"


if __name__ == "__main__":
    run_command(main, Settings)
