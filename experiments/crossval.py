"""Stitches with the number of a family (alpha, lambda, rank, tau) chosen for each pair and layer by validation.

With no argument: G_ReLU stitches over the Birkhoff polytope, alpha from 0.001 to 10, on a zoo of 4 narrow Myrtle CNNs
on scikit-learn's digits. All values train together. The validation split chooses; the test split then tells what the
choice is worth beside each value kept for all pairs and layers. The same command again recomputes nothing.
"""

import dataclasses
from typing import Annotated

import pandas as pd
import tyro

from experiments.registry import Experiment, PublishedTable
from experiments.settings import optional, run_command
from experiments.summary import Summary
from experiments.sweeps import StitchSettings, sweep
from symjax import plots
from symjax.errors import InputError, renamed
from symjax.ops import files
from symjax.stitching import FAMILIES
from symjax.stitching.results import StitchResults
from symjax.stitching.selection import choose, grids, with_numbers
from symjax.tables import mean

DEFAULTS = "; ".join(f"{family} {','.join(map('{:g}'.format, values))}" for family, values in grids().items())
WHOSE = ", ".join(f"{name} ({FAMILIES[name].parameter().name})" for name in grids())

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
        str, tyro.conf.arg(help=f"Whose number is chosen: {WHOSE}, or package.module:Name for your own.")
    ] = "birkhoff"
    values: Annotated[str | None, optional("NUMBERS", DEFAULTS)] = None
    """What to choose from, with commas between; of equally good ones the first is taken."""


def main(settings: Settings) -> Summary:
    with renamed(families="values"):
        families = with_numbers(settings.family, settings.values)
    if len(families) < 2:
        raise InputError(f"values: got {settings.values!r}, expected two or more different ones to choose from")
    with sweep(settings, families, "crossval") as swept:
        values = [family.hyperparameter for family in families]
        chosen = choose(swept.table)
        files.write_csv(swept.folder / "chosen.csv", chosen)
        # A family's default number is not in its label, but here it is what is compared.
        labels = {family.label: f"{family.name}:{family.hyperparameter:g}" for family in families}
        fixed = swept.table.replace({"family": labels})
        together = pd.concat([fixed, chosen.assign(family="chosen by validation")])
        plots.penalties(together, swept.folder / "penalties")
        plots.chosen_values(chosen, values, swept.folder / "choices")
        counts = pd.crosstab(chosen.hyperparameter, chosen.layer).reindex(index=values, columns=chosen.layer.unique())
        counts = counts.fillna(0).astype(int).rename(index="{:g}".format).rename_axis(index=None, columns=None)
        return Summary(
            swept.folder,
            swept.title,
            swept.with_warning(conclusion(fixed, chosen)),
            {
                f"stitching penalty in percentage points, {swept.over_pairs}": StitchResults.summary(together),
                "how often each value was chosen": counts,
            },
            ("penalties", "choices"),
        )


def conclusion(fixed: pd.DataFrame, chosen: pd.DataFrame) -> str:
    """What the choice by validation costs, beside each value kept for all pairs and layers, in `fixed` as family:value.

    By the test images are no choices: one value for all is chosen by validation, too.
    """
    means = fixed.groupby("family", sort=False)[["penalty", "val_accuracy"]].agg(mean)
    one = means.val_accuracy.idxmax()
    return (
        f"Chosen by validation, {one.partition(':')[0]} costs {mean(chosen.penalty):.1f} points on average over "
        f"pairs and layers; one value for all of them, chosen likewise ({one}), costs {means.penalty[one]:.1f}. "
        f"Single values cost from {means.penalty.min(skipna=False):.1f} to {means.penalty.max(skipna=False):.1f}."
    )


if __name__ == "__main__":
    run_command(main, Settings)
