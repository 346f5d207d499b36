"""Stitch the front of one network to the tail of another at every layer, and measure the loss of accuracy.

By default all families of stitches are trained at all layers of 4 pairs, on a zoo of 4 narrow Myrtle CNNs on
scikit-learn's digits. Missing members of the zoo are trained first. Running the same command again recomputes nothing;
more pairs, layers or families extend the results.
"""

import dataclasses

from experiments.command import run_command
from experiments.stitch_settings import StitchSettings
from experiments.summary import Summary
from experiments.sweeps import sweep
from symjax import plots
from symjax.stitching import parse_families
from symjax.stitching.results import StitchResults
from symjax.tables import mean

EVERY_FAMILY = (
    "identity,matched,least_squares,full,orthogonal,lasso:1e-3,birkhoff,birkhoff_published,softsort,rank4,rank1"
)


@dataclasses.dataclass(frozen=True)
class Settings(StitchSettings):
    families: str = EVERY_FAMILY
    """Stitch families: identity, matched, least_squares, full, orthogonal, lasso[:weight],
    lasso_proximal[:weight], birkhoff[:alpha],
    birkhoff_published[:alpha], softsort[:tau], rank1, rank2, ..."""


def main(settings: Settings) -> Summary:
    with sweep(settings, parse_families(settings.families), "stitch") as result:
        plots.penalties(result.table, result.folder / "penalties")
        figures = ["penalties"] + ["curves"] * (plots.curves(result.curves, result.folder / "curves") is not None)
        means = result.table.groupby("family", sort=False).penalty.agg(mean).sort_values()
        return Summary(
            result.folder,
            result.title,
            result.with_warning(
                "Over all layers the penalty is "
                + ", ".join(f"{penalty:.1f} ({family})" for family, penalty in means.items())
                + " percentage points."
            ),
            {f"stitching penalty in percentage points, {result.over_pairs}": StitchResults.summary(result.table)},
            tuple(figures),
        )


if __name__ == "__main__":
    run_command(main, Settings)
