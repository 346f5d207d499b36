"""Stitches the front of one network to the tail of another at every layer, and measures the accuracy lost.

With no argument: a zoo of 4 narrow Myrtle CNNs on scikit-learn's digits, 4 pairs, every family of stitch, every layer.
The zoo is trained where it is missing. The same command again recomputes nothing; more pairs, layers or families extend
what is there.
"""

import dataclasses
from typing import Annotated

import tyro

from experiments.registry import Experiment, PublishedTable
from experiments.settings import run_command
from experiments.summary import Summary
from experiments.sweeps import StitchSettings, sweep
from symjax import plots
from symjax.stitching import parse_families
from symjax.stitching.families import family_help
from symjax.stitching.results import StitchResults
from symjax.tables import mean

EVERY_FAMILY = (
    "identity,matched,least_squares,full,orthogonal,lasso:1e-3,birkhoff,birkhoff_published,softsort,rank4,rank1"
)

EXPERIMENT = Experiment(
    place=20,
    published={
        "stitching penalty of mCNN on CIFAR-10, percentage points (about)": PublishedTable(
            ("relu1", "relu2", "relu3", "relu4"),
            {
                "full": (2, 2, 3, 3),
                "rank 4": (9, 14, 27, 16),
                "rank 2": (22, 28, 41, 32),
                "rank 1": (43, 54, 58, 62),
                "G_ReLU": (8, 8, 17, 6),
            },
        )
    },
    results=StitchResults,
)


@dataclasses.dataclass(frozen=True)
class Settings(StitchSettings):
    families: Annotated[str, tyro.conf.arg(help=f"Stitch families: {family_help()}.")] = EVERY_FAMILY


def main(settings: Settings) -> Summary:
    with sweep(settings, parse_families(settings.families), "stitch") as swept:
        plots.penalties(swept.table, swept.folder / "penalties")
        figures = ["penalties"] + ["curves"] * (plots.curves(swept.curves, swept.folder / "curves") is not None)
        means = swept.table.groupby("family", sort=False).penalty.agg(mean).sort_values()
        return Summary(
            swept.folder,
            swept.title,
            swept.with_warning(
                "Over all layers the penalty is "
                + ", ".join(f"{penalty:.1f} ({family})" for family, penalty in means.items())
                + " percentage points."
            ),
            {f"stitching penalty in percentage points, {swept.over_pairs}": StitchResults.summary(swept.table)},
            tuple(figures),
        )


if __name__ == "__main__":
    run_command(main, Settings)
