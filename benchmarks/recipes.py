"""Compare recipes for G_ReLU stitches: initial value of P, its penalty, when the scaling trains, when P is rounded.

    python -m benchmarks.recipes                      # digits, the default zoo, 4 pairs
    python -m benchmarks.recipes --dataset cifar10 --width 16 --seeds 4 --epochs 10 --train-size 10000 \
        --stitch-epochs 4 --test-size 4000 --layers relu1,relu4

Each recipe is trained with every learning rate, and the best one on the validation split is used for each pair and
layer. Flags are those of `python -m experiments.stitch`. The first table has the accuracy on the validation split, by
which recipes should be compared; the second has the penalty on the test split. Differences are taken for each pair;
their intervals (Student's t) treat pairs as independent, although pairs can share networks.
"""

import dataclasses
from functools import partial

import jax.numpy as jnp
from jax import lax

from experiments.command import run_command
from experiments.stitch_settings import StitchSettings
from experiments.summary import Summary
from experiments.sweeps import sweep
from symjax.birkhoff import nearest_permutation, permutation_matrix
from symjax.errors import InputError
from symjax.stitching.families import Family, parse_families
from symjax.stitching.families.relu import HALF, NEVER, Birkhoff
from symjax.tables import interval_text


@dataclasses.dataclass(frozen=True)
class Recipe(Birkhoff):
    """`Birkhoff` with options for its recipe; P can be rounded at any share of the training.

    Attributes:
      alpha_end: if not None, the weight of the penalty grows geometrically from alpha to this value until P is rounded.
    """

    name: str = ""
    start: str = "matched"
    scaling_trains_from: float = HALF
    permutation_fixed_from: float = HALF
    alpha_end: float | None = None

    @property
    def label(self):
        return self.name

    def penalty(self, params, progress):
        if self.alpha_end is None:
            return super().penalty(params, progress)
        growth = (self.alpha_end / self.alpha) ** jnp.minimum(progress / self.permutation_fixed_from, 1)
        return growth * super().penalty(params, progress)

    def project(self, params, previous, progress, length=0.0):
        projected = super().project(params, previous, progress, length)
        if self.permutation_fixed_from in (HALF, NEVER, 0):
            return projected
        rounded = lax.cond(
            progress >= self.permutation_fixed_from,
            lambda permutation: permutation_matrix(nearest_permutation(permutation)),
            lambda permutation: permutation,
            projected["permutation"],
        )
        return {**projected, "permutation": rounded}


PHASES = ("scaling_trains_from", "permutation_fixed_from")
RECIPES = (
    Recipe(name="default"),
    Recipe(name="from identity", start="identity"),
    Recipe(name="from random", start="random"),
    Recipe(name="from least squares", start="least_squares"),
    Recipe(name="from least squares with alpha 0.001", alpha=1e-3, start="least_squares"),
    Recipe(name="rounded late with growing alpha", alpha=0.03, alpha_end=1, **dict.fromkeys(PHASES, 5 / 6)),
    Recipe(name="P with s and then s", scaling_trains_from=0),
    Recipe(name="P and then P with s", permutation_fixed_from=NEVER),
    Recipe(name="P with s", scaling_trains_from=0, permutation_fixed_from=NEVER),
    Recipe(name="s alone", scaling_trains_from=0, permutation_fixed_from=0),
    *parse_families("matched,softsort,birkhoff_published"),
)


@dataclasses.dataclass(frozen=True)
class Settings(StitchSettings):
    stitch_learning_rates: str = "3e-3,1e-2,3e-2"
    """Comma-separated learning rates; the best one on the validation split is used for each stitch."""
    recipes: str = "all"
    """Comma-separated recipes, as in "default,from random", or all."""

    def parse_recipes(self) -> tuple[Family, ...]:
        known = {recipe.label: recipe for recipe in RECIPES}
        names = list(known) if self.recipes == "all" else [name.strip() for name in self.recipes.split(",")]
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"recipes: got {unknown[0]!r}, expected some of {', '.join(known)}")
        return tuple(known[name] for name in names)


def main(settings: Settings) -> Summary:
    with sweep(settings, settings.parse_recipes(), "recipes") as result:
        table = result.table

        def by_layer(column, rows="family"):
            means = table.pivot_table(column, rows, "layer", sort=False)
            return means.assign(mean=means.mean(axis=1))

        def difference(column):
            values = by_layer(column, ["family", "pair"])
            gaps = values.sub(values.loc[table.family.iloc[0]], level="pair")
            return gaps.groupby("family", sort=False).agg(partial(interval_text, digits=1))

        rates = table.groupby("family", sort=False).learning_rate.agg(lambda r: r.value_counts().to_dict())
        validation = by_layer("val_accuracy")
        tables = {
            "mean validation accuracy": validation.round(1),
            "mean penalty in percentage points (test)": by_layer("penalty").round(1),
            "learning rates chosen, and how often": rates.to_frame(),
        }
        if len(result.pairs) > 1:
            minus = "minus that of the first recipe, mean and 95 % interval over pairs"
            tables[f"validation accuracy {minus}"] = difference("val_accuracy")
            tables[f"penalty {minus}"] = difference("penalty")
        return result.summary(f"Best on the validation split: {validation['mean'].idxmax()}.", tables, [])


if __name__ == "__main__":
    run_command(main, Settings)
