"""Stitch the front of one network to the tail of another at every layer, and measure the loss of accuracy.

By default all families of stitches are trained at all layers of 4 pairs, on a zoo of 4 narrow Myrtle CNNs on
scikit-learn's digits. Missing members of the zoo are trained first. Running the same command again recomputes nothing;
more pairs, layers or families extend the results.
"""

import dataclasses
from typing import Annotated

import tyro

from experiments.command import run_command
from experiments.controls import Comparison, parse_losses
from experiments.registry import Experiment, PublishedTable
from experiments.stitch_settings import StitchSettings
from experiments.summary import Summary
from experiments.sweeps import sweep
from symjax import plots
from symjax.stitching import parse_families
from symjax.stitching.controls import RELATED, TASK
from symjax.stitching.families import family_help
from symjax.stitching.results import StitchResults
from symjax.stitching.summary import (
    agreement_table,
    distinguished,
    gap_table,
    penalty_table,
    with_defaults,
    with_labels,
)
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
    controls: bool = False
    """Also stitch fronts that are not related to the tail: untrained ones, those of another layer, noise around a
    center for each class, and fronts trained on permuted labels. The last ones are a second zoo, whose folder has
    -permuted-labels appended to its name. Results also have the percentage of test images for which the stitched
    network and that of the tail predict the same class."""
    loss: str = "task"
    """Comma-separated losses of the stitches: task, the cross-entropy; match, the mean squared difference from
    features of the tail's network at the point; penultimate, the same difference at the last point."""


def main(settings: Settings) -> Summary:
    comparison = Comparison(settings.controls, parse_losses(settings.loss))
    with sweep(settings, parse_families(settings.families), "stitch", comparison) as result:
        plots.penalties(result.table, result.folder / "penalties")
        curves = with_defaults(result.curves).query(f"control == {RELATED!r} and objective == {TASK!r}")
        figures = ["penalties"] + ["curves"] * (plots.curves(curves, result.folder / "curves") is not None)
        related = with_labels(with_defaults(result.table).query(f"control == {RELATED!r}"))
        means = related.groupby("family", sort=False).penalty.agg(mean).sort_values()
        tables = {f"stitching penalty in percentage points, {result.over_pairs}": penalty_table(result.table)}
        if not comparison.is_default:
            tables[f"agreement with the predictions of B in percent, {result.over_pairs}"] = agreement_table(
                result.table
            )
        if comparison.controls:
            caption = "penalty of controls minus that of the related front, mean and 95 % interval over pairs"
            tables[caption] = gap_table(result.table)
        penalties = ", ".join(f"{penalty:.1f} ({family})" for family, penalty in means.items())
        text = f"The mean penalty over these layers is {penalties} percentage points."
        return result.summary(f"{text} {distinguished(result.table)}" if comparison.controls else text, tables, figures)


if __name__ == "__main__":
    run_command(main, Settings)
