"""Penalty against sparsity: stitches with an L1 penalty of growing weight at every layer, and G_ReLU as a point.

With no argument: five weights, full and G_ReLU stitches on a zoo of 4 narrow Myrtle CNNs on scikit-learn's digits. All
train together. Sparsity is the share of entries of the stitch that are zero: 1 - 1/channels for a matrix of G_ReLU. The
same command again recomputes nothing.
"""

import dataclasses
from typing import Annotated, Literal

import pandas as pd

from experiments.registry import Experiment, PublishedTable
from experiments.settings import optional, run_command
from experiments.summary import Summary
from experiments.sweeps import StitchSettings, sweep
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
    """lasso is the published one: a penalty in the loss, entries under 1e-4 cut in the end."""
    weights: Annotated[str | None, optional("NUMBERS", DEFAULTS)] = None
    """Of the L1 penalty (lambda), with commas between."""
    beside: str = "full,birkhoff"
    """Families to draw as points, as of experiments.stitch."""


def main(settings: Settings) -> Summary:
    with renamed(families="weights"):
        lasso = with_numbers(settings.family, settings.weights)
    with renamed(families="beside"):
        families = (*lasso, *parse_families(settings.beside)) if settings.beside.strip() else lasso
    if len(set(families)) < len(families):
        raise InputError(f"beside: {settings.beside!r} repeats a weight of lasso; expected other families")
    with sweep(settings, families, "lasso") as swept:
        plots.sparsity(swept.table, swept.folder / "sparsity")
        tables = {f"{CAPTION}, {swept.over_pairs}": summary(swept.table)}
        return Summary(swept.folder, swept.title, swept.with_warning(conclusion(swept.table)), tables, ("sparsity",))


CHEAP = 5.0  # points, up to which a lasso's penalty is called cheap
CAPTION = "stitching penalty in percentage points @ share of entries that are zero"


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Families down, layers across: mean and deviation (n - 1) of the penalty, and the mean sparsity."""
    grouped = table.groupby(["family", "layer"], sort=False)
    text = mean_and_deviation(grouped.penalty, 1) + " @ " + grouped.sparsity.agg(mean).map("{:.2f}".format)
    text = text.unstack("layer")[list(table.layer.unique())].loc[list(table.family.unique())]
    return text.rename_axis(index=None, columns=None)


def conclusion(table: pd.DataFrame) -> str:
    """What the sparsest of the cheap lassos costs on average over layers, beside the other families."""
    means = table.groupby("family", sort=False)[["penalty", "sparsity"]].agg(mean)
    lasso = means[means.index.str.startswith("lasso")]
    cheap = lasso[lasso.penalty <= max(CHEAP, lasso.penalty.min())]
    cheap = cheap if len(cheap) else lasso  # no penalty is a number
    shown = pd.concat([cheap.loc[[cheap.sparsity.idxmax()]], means.drop(lasso.index)])
    costs = [f"{row.Index} costs {row.penalty:.1f} points with {row.sparsity:.0%} zeros" for row in shown.itertuples()]
    return f"On average over layers, on the test images, {'; '.join(costs)}."


if __name__ == "__main__":
    run_command(main, Settings)
