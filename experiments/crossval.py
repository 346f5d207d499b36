"""Choose the hyperparameter of a stitch family (alpha, lambda, rank, tau) for each pair and layer by validation.

By default the family is G_ReLU stitches over the Birkhoff polytope, with alpha from 0.001 to 10, on a zoo of 4 narrow
Myrtle CNNs on scikit-learn's digits. All values train together. The value is chosen on the validation split; the test
split compares the choice with each value fixed for all pairs and layers. Running the same command again recomputes
nothing.
"""

import dataclasses
from typing import Annotated

import pandas as pd
import tyro

from experiments.command import run_command
from experiments.defaults import optional
from experiments.registry import Experiment, PublishedTable
from experiments.stitch_settings import StitchSettings
from experiments.summary import Summary
from experiments.sweeps import sweep
from symjax import plots
from symjax.errors import InputError, renamed
from symjax.ops import files
from symjax.stitching import FAMILIES
from symjax.stitching.results import StitchResults
from symjax.stitching.selection import choose, grids, with_numbers
from symjax.tables import mean

DEFAULTS = "; ".join(f"{family} {','.join(map('{:g}'.format, values))}" for family, values in grids().items())
FAMILIES_WITH_GRID = ", ".join(f"{name} ({FAMILIES[name].parameter().name})" for name in grids())

EXPERIMENT = Experiment(
    place=30,
    published={
        "stitching penalty of mCNN on CIFAR-10, percentage points (about)": PublishedTable(
            ("relu1", "relu2", "relu3", "relu4"),
            {"G_ReLU, alpha 0.1": (8, 8, 17, 6), "G_ReLU, alpha chosen": (7, 8, 17, 6)},
        )
    },
    results=StitchResults,
)


@dataclasses.dataclass(frozen=True)
class Settings(StitchSettings):
    family: Annotated[
        str,
        tyro.conf.arg(
            help=f"Family whose number is chosen: {FAMILIES_WITH_GRID}, or package.module:Name for your own."
        ),
    ] = "birkhoff"
    values: Annotated[str | None, optional("NUMBERS", DEFAULTS)] = None
    """Comma-separated values to choose from; the first one is chosen among equally good ones."""


def main(settings: Settings) -> Summary:
    with renamed(families="values"):
        families = with_numbers(settings.family, settings.values)
    if len(families) < 2:
        raise InputError(f"values: got {settings.values!r}, expected two or more different numbers")
    with sweep(settings, families, "crossval") as result:
        values = [family.hyperparameter for family in families]
        chosen = choose(result.table)
        files.write_csv(result.folder / "chosen.csv", chosen)
        # Labels omit the default value of a family, which would be ambiguous here.
        labels = {family.label: f"{family.name}:{family.hyperparameter:g}" for family in families}
        fixed = result.table.replace({"family": labels})
        both = pd.concat([fixed, chosen.assign(family="chosen by validation")])
        plots.penalties(both, result.folder / "penalties")
        plots.chosen_values(chosen, values, result.folder / "choices")
        counts = pd.crosstab(chosen.hyperparameter, chosen.layer).reindex(index=values, columns=chosen.layer.unique())
        counts = counts.fillna(0).astype(int).rename(index="{:g}".format).rename_axis(index=None, columns=None)
        tables = {
            f"stitching penalty in percentage points, {result.over_pairs}": StitchResults.summary(both),
            "how often each value was chosen": counts,
        }
        return result.summary(conclusion(fixed, chosen), tables, ["penalties", "choices"])


def conclusion(fixed: pd.DataFrame, chosen: pd.DataFrame) -> str:
    """Return the penalty of the values chosen by validation, and of one value for all pairs and layers.

    Validation also chooses the single value.

    Args:
      fixed: rows of all values, with families named family:value.
      chosen: rows of the chosen values.
    """
    means = fixed.groupby("family", sort=False)[["penalty", "val_accuracy"]].agg(mean)
    best = means.val_accuracy.idxmax()
    return (
        f"Chosen by validation, {best.partition(':')[0]} costs {mean(chosen.penalty):.1f} points on average over "
        f"pairs and layers; one value for all of them, chosen by validation too ({best}), costs "
        f"{means.penalty[best]:.1f}. Single values cost from {means.penalty.min(skipna=False):.1f} to "
        f"{means.penalty.max(skipna=False):.1f}."
    )


if __name__ == "__main__":
    run_command(main, Settings)
