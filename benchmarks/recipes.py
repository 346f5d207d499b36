"""Compare recipes for G_ReLU stitches: initial value of P, when the scaling trains, and when P is rounded.

    python -m benchmarks.recipes                      # digits, the default zoo, 4 pairs
    python -m benchmarks.recipes --dataset cifar10 --width 16 --seeds 4 --epochs 10 --train-size 10000 \
        --stitch-epochs 4 --test-size 4000 --layers relu1,relu4

Each recipe is trained with every learning rate, and the best one on the validation split is used for each pair and
layer. Flags are those of `python -m experiments.stitch`. The first table has the accuracy on the validation split, by
which recipes should be compared; the second has the penalty on the test split.
"""

import dataclasses

from experiments.command import run_command
from experiments.stitch_settings import StitchSettings
from experiments.summary import Summary
from experiments.sweeps import sweep
from symjax.stitching.families import parse_families
from symjax.stitching.families.relu import HALF, NEVER, Birkhoff


@dataclasses.dataclass(frozen=True)
class Recipe(Birkhoff):
    """`Birkhoff` with options for its recipe."""

    name: str = ""
    start: str = "matched"
    scaling_trains_from: float = HALF
    permutation_fixed_from: float = HALF

    @property
    def label(self):
        return self.name


RECIPES = (
    Recipe(name="P, then s (default)"),
    Recipe(name="P, then s; from identity", start="identity"),
    Recipe(name="P, then s; from random", start="random"),
    Recipe(name="P, then s; from least squares", start="least_squares"),
    Recipe(name="P with s, then s", scaling_trains_from=0),
    Recipe(name="P, then P with s", permutation_fixed_from=NEVER),
    Recipe(name="P with s", scaling_trains_from=0, permutation_fixed_from=NEVER),
    Recipe(name="s alone", scaling_trains_from=0, permutation_fixed_from=0),
    *parse_families("matched,softsort,birkhoff_published"),
)


@dataclasses.dataclass(frozen=True)
class Settings(StitchSettings):
    stitch_learning_rates: str = "3e-3,1e-2,3e-2"
    """Comma-separated learning rates; the best one on the validation split is used for each stitch."""


def main(settings: Settings) -> Summary:
    with sweep(settings, RECIPES, "recipes") as result:
        table = result.table

        def by_layer(column):
            means = table.pivot_table(column, "family", "layer", sort=False)
            return means.assign(mean=means.mean(axis=1)).round(1)

        rates = table.groupby("family", sort=False).learning_rate.agg(lambda r: r.value_counts().to_dict())
        validation = by_layer("val_accuracy")
        tables = {
            f"validation accuracy, {result.over_pairs}": validation,
            "penalty in percentage points (test)": by_layer("penalty"),
            "learning rates chosen, and how often": rates.to_frame(),
        }
        return result.summary(f"Best on the validation split: {validation['mean'].idxmax()}.", tables, [])


if __name__ == "__main__":
    run_command(main, Settings)
