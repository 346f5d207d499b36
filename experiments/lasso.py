"""Measure stitching penalty against sparsity, for stitches with L1 penalties of several weights at every layer.

By default lasso stitches with five weights are compared with full and G_ReLU stitches, on a zoo of 4 narrow Myrtle CNNs
on scikit-learn's digits. All train together. Sparsity is the fraction of zero entries of a stitch: 1 - 1/channels for
G_ReLU. Running the same command again recomputes nothing.
"""

import dataclasses
from typing import Annotated, Literal

import pandas as pd

from experiments.command import run_command
from experiments.defaults import optional
from experiments.registry import Experiment, PublishedTable
from experiments.stitch_settings import StitchSettings
from experiments.summary import Summary
from experiments.sweeps import sweep
from symjax import plots
from symjax.errors import InputError, renamed
from symjax.stitching import FAMILIES, parse_families
from symjax.stitching.results import StitchResults
from symjax.stitching.selection import with_numbers
from symjax.tables import mean, mean_and_deviation

DEFAULTS = "; ".join(
    f"{name} {','.join(map('{:g}'.format, FAMILIES[name].grid))}" for name in ("lasso_proximal", "lasso")
)

EXPERIMENT = Experiment(
    place=40,
    published={
        "penalty in percentage points @ sparsity, mCNN on CIFAR-10 (about)": PublishedTable(
            ("relu1", "relu2", "relu3"),
            {
                "lambda 0.001": ("1.3 @ 0.22", "1.3 @ 0.36", "2 @ 0.48"),
                "lambda 0.01": ("1.4 @ 0.72", "2.2 @ 0.72", "4 @ 0.76"),
                "lambda 0.1": ("4.1 @ 0.77", "5.9 @ 0.81", "11.5 @ 0.88"),
            },
        )
    },
    results=StitchResults,
)


@dataclasses.dataclass(frozen=True)
class Settings(StitchSettings):
    family: Literal["lasso_proximal", "lasso"] = "lasso_proximal"
    """Family with the L1 penalty. lasso is the published one: the penalty is in the loss, and entries below 1e-4 are
    set to zero after training. lasso_proximal applies soft thresholding after each step."""
    weights: Annotated[str | None, optional("NUMBERS", DEFAULTS)] = None
    """Comma-separated weights of the L1 penalty (lambda)."""
    references: str = "full,birkhoff"
    """Comma-separated families to compare with, as in experiments.stitch."""


def main(settings: Settings) -> Summary:
    with renamed(families="weights"):
        lasso = with_numbers(settings.family, settings.weights)
    with renamed(families="references"):
        families = (*lasso, *parse_families(settings.references)) if settings.references.strip() else lasso
    if len(set(families)) < len(families):
        raise InputError(f"references: got {settings.references!r}, expected families other than those of --weights")
    with sweep(settings, families, "lasso") as result:
        plots.sparsity(result.table, result.folder / "sparsity")
        tables = {f"{CAPTION}, {result.over_pairs}": summary(result.table)}
        return result.summary(conclusion(result.table), tables, ["sparsity"])


CHEAP = 5.0  # largest penalty in percentage points of a cheap lasso
CAPTION = "stitching penalty in percentage points @ share of entries that are zero"


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and deviation (n - 1) of penalties, and mean sparsity, by family (rows) and layer (columns)."""
    grouped = table.groupby(["family", "layer"], sort=False)
    text = mean_and_deviation(grouped.penalty, 1) + " @ " + grouped.sparsity.agg(mean).map("{:.2f}".format)
    return text.unstack(sort=False).rename_axis(index=None, columns=None)


def conclusion(table: pd.DataFrame) -> str:
    """Return the mean penalty of the sparsest cheap lasso and of the reference families."""
    means = table.groupby("family", sort=False)[["penalty", "sparsity"]].agg(mean)
    lasso = means[means.index.str.startswith("lasso")]
    cheap = lasso[lasso.penalty <= max(CHEAP, lasso.penalty.min())]
    cheap = cheap if len(cheap) else lasso  # all penalties are NaN
    compared = pd.concat([cheap.loc[[cheap.sparsity.idxmax()]], means.drop(lasso.index)])
    costs = [
        f"{row.Index} costs {row.penalty:.1f} points with {row.sparsity:.0%} zeros" for row in compared.itertuples()
    ]
    return f"On average over layers, on the test images, {'; '.join(costs)}."


if __name__ == "__main__":
    run_command(main, Settings)
