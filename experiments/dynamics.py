"""Measure the similarity of each layer during training with each layer at the end of the training.

By default the measures are SVCCA, PWCCA and CKA, and the networks a zoo of 4 narrow Myrtle CNNs on scikit-learn's
digits, with snapshots of all epochs (Raghu et al. 2017, Morcos et al. 2018). Running the same command again recomputes
nothing; more seeds, measures or checkpoints extend the results.
"""

import dataclasses

import pandas as pd

from experiments.command import run_command
from experiments.features import parse_measures
from experiments.history import LEVEL, HistorySettings, convergence, format_means, rank_correlation
from experiments.registry import Experiment, PublishedTable
from experiments.summary import Summary
from symjax import dynamics, plots
from symjax.ops import files
from symjax.ops.result_table import Schema
from symjax.tables import over_networks

KEY = {"measure": str, "seed": int, "epoch": int, "layer": str, "end_layer": str}
ROWS = Schema("results", KEY, ("value",), order=("measure", "seed", "epoch"))

EXPERIMENT = Experiment(
    place=80,
    published={
        "PWCCA of each layer with itself at the end, AWD-LSTM of 3 layers on the Penn Treebank": PublishedTable(
            ("layer 1", "layer 2", "layer 3"),
            {
                "epoch 0": (0.54, 0.45, 0.36),
                "epoch 10": (0.62, 0.55, 0.52),
                "epoch 100": (0.70, 0.63, 0.64),
                "epoch 300": (0.79, 0.75, 0.75),
                "epoch 490": (0.90, 0.87, 0.85),
            },
        ),
        "PWCCA of each layer with itself at the end, AWD-LSTM of 5 layers on WikiText-2": PublishedTable(
            tuple(f"layer {i}" for i in range(1, 6)),
            {"epoch 0": (0.55, 0.49, 0.45, 0.43, 0.39), "epoch 100": (0.74, 0.68, 0.64, 0.61, 0.61)},
        ),
    },
    published_on=None,
)


@dataclasses.dataclass(frozen=True)
class Settings(HistorySettings):
    measures: str = "svcca,pwcca,cka"
    """Comma-separated names of symjax.similarity.MEASURES; similarities, not distances."""


def main(settings: Settings) -> Summary:
    measures = parse_measures(settings.measures, "similarity")
    with settings.history("dynamics", ROWS, measures) as history:
        folder = history.folder
        table = history.follow(dynamics.similarity_to_end)
        has_layer_pairs = plots.layers_by_layers(table, folder / "layers") is not None
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
            f"{measure}: {caption}": format_means(rows, "layer", "epoch")
            for measure, rows in same.groupby("measure", sort=False)
        } | {
            caption: format_means(ends.assign(value=ends[column]), "measure", "layer", history.layers)
            for caption, column in (
                ("epochs until a layer has gone 90 % of the way from its first similarity to its last", "converged"),
                (f"epochs until its similarity with the end is {LEVEL} or more", "settled"),
            )
        }
        figures = (*["layers"] * has_layer_pairs, "time", "curves")
        return Summary(folder, history.title, conclusion(ends, history.layers), tables, figures)


def conclusion(ends: pd.DataFrame, layers: list[str]) -> str:
    """Return whether lower layers converge first, in one line for each measure.

    Reference: Page 1963, test for ordered alternatives, here of the epochs at which layers settle.
    """
    lines = []
    for measure, table in ends.groupby("measure", sort=False):
        # The column "converged" is not used: it says little about layers whose similarity hardly changes.
        settled = table.pivot(index="seed", columns="layer", values="settled")[layers]
        complete = settled.dropna()
        if complete.empty:
            lines.append(f"{measure}: no network has an epoch for every layer, similarities are NaN")
            continue
        mean = complete.mean()
        text = (
            f"{measure}: {layers[0]} is at {LEVEL} of its end after {mean.iloc[0]:.1f} epochs, {layers[-1]} after "
            f"{mean.iloc[-1]:.1f}: {order_test(complete)}"
        )
        if left_out := len(settled) - len(complete):
            text += f"; {left_out} of {len(settled)} networks are left out because similarities are NaN"
        lines.append(text)
    return "\n".join(lines)


def order_test(settled: pd.DataFrame) -> str:
    """Return the result of Page's test as text, for the epochs of networks (rows) and layers (columns)."""
    count, layers = settled.shape
    if count < 2 or layers < 3:
        verdict = "a test whether lower layers converge first needs 2 networks and 3 layers or more"
    else:
        from scipy.stats import page_trend_test  # imported here, because it is slow to import

        p = page_trend_test(settled.to_numpy()).pvalue
        verdict = f"{'' if p < 0.05 else 'not shown that '}lower layers converge first (Page's test: p = {p:.2g})"
    correlations = settled.apply(rank_correlation, axis=1)
    text = f"{verdict}; rank correlation of depth and epoch {correlations.mean():+.2f}"
    if count < 2:
        return text
    return f"{text} ± {correlations.std():.2f}, above 0 in {(correlations > 0).sum()} of {count} networks"


if __name__ == "__main__":
    run_command(main, Settings)
