"""Penalty against sparsity: stitches with an L1 penalty of growing weight at every layer, and G_ReLU as a point.

With no argument: four weights, full and G_ReLU stitches on a zoo of 4 narrow Myrtle CNNs on scikit-learn's digits. All
train together. Sparsity is the share of entries of the stitch that are zero: 1 - 1/channels for a matrix of G_ReLU. The
same command again recomputes nothing.
"""

import dataclasses

import pandas as pd

from experiments.settings import run_command
from experiments.sweeps import StitchSettings, sweep
from symjax import plots
from symjax.errors import InputError
from symjax.stitching import parse_families
from symjax.summary import Summary


@dataclasses.dataclass(frozen=True)
class Settings(StitchSettings):
    weights: str = "1e-4,1e-3,1e-2,1e-1"
    """Of the L1 penalty (lambda), with commas between."""
    beside: str = "full,birkhoff"
    """Families to draw as points, as of experiments.stitch."""


def main(settings: Settings) -> Summary:
    lasso = parse_families(",".join(f"lasso:{weight.strip()}" for weight in settings.weights.split(",")))
    families = (*lasso, *parse_families(settings.beside)) if settings.beside.strip() else lasso
    if len(set(families)) < len(families):
        raise InputError(f"beside: {settings.beside!r} repeats a weight of lasso; wanted other families")
    with sweep(settings, families, "lasso") as found:
        plots.sparsity(found.table, found.folder / "sparsity")
        tables = {f"{CAPTION}, {found.over_pairs}": summary(found.table)}
        return Summary(found.folder, found.title, finding(found.table), tables, ("sparsity",))


CAPTION = "stitching penalty in percentage points @ share of entries that are zero"


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Families down, layers across: mean and deviation (n - 1) of the penalty, and the mean sparsity."""
    grouped = table.groupby(["family", "layer"], sort=False)
    text = grouped.penalty.mean().map("{:.1f}".format)
    if table.pair.nunique() > 1:
        text += " ± " + grouped.penalty.std().map("{:.1f}".format)
    text += " @ " + grouped.sparsity.mean().map("{:.2f}".format)
    text = text.unstack("layer")[list(table.layer.unique())].loc[list(table.family.unique())]
    return text.rename_axis(index=None, columns=None)


def finding(table: pd.DataFrame) -> str:
    """What the weight does on average over layers."""
    mean = table.groupby("family", sort=False)[["penalty", "sparsity"]].mean()
    told = [f"{row.Index} {row.penalty:.1f} points at sparsity {row.sparsity:.2f}" for row in mean.itertuples()]
    return f"On average over layers: {'; '.join(told)}."


if __name__ == "__main__":
    run_command(main, Settings)
