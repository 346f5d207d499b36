"""Settings of the commands that stitch: which pairs, layers and models, and how stitches are trained."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from experiments.defaults import optional
from experiments.folders import RunSettings
from experiments.sharing import SharedSettings
from symjax.errors import InputError, renamed
from symjax.ops import hosts
from symjax.pairs import draw_pairs
from symjax.stitching import FitConfig
from symjax.training import Recipe
from symjax.zoo import ZooConfig

STITCH_EPOCHS = {"digits": 6}  # by data set
PUBLISHED_STITCH_EPOCHS = 20  # for other data sets
PAIRS = 4


@dataclasses.dataclass(frozen=True)
class StitchSettings(RunSettings, SharedSettings):
    """A zoo, the pairs and layers to stitch, and how stitches are trained."""

    pairs: Annotated[str | None, optional("STR", f"{PAIRS}, or all if there are fewer")] = None
    """Number of ordered pairs (front, tail) of different members to draw, or all."""
    pair_seed: int = 0
    """Seed of the random choice of pairs and of the random initial values of stitches."""
    layers: str = "all"
    """Comma-separated names of stitch points, as in relu1,relu3, or all. A pair such as relu2:block3 stitches from
    one point to another, which may be a point of --model-b. With --model-b, all stands for the points that have the
    same name in both models."""
    model_b: Annotated[str | None, optional("STR", "--model")] = None
    """Another model for the tails, given as for --model. Its zoo is trained with the same flags and seeds, and
    stitches go from members of --model to members of --model-b."""
    model_b_options: Annotated[str, optional("NAME=VALUE,...", "the model's own")] = ""
    """Options of --model-b, given as for --model-options."""
    width_b: Annotated[int | None, optional("INT", "as --width")] = None
    """Width of --model-b, given as for --width."""
    zoo_b: Annotated[Path | None, optional("DIR", "as for python -m experiments.zoo")] = None
    """Folder of the zoo of --model-b; missing members are trained."""
    stitch_epochs: Annotated[int | None, optional("INT", f"digits 6, otherwise {PUBLISHED_STITCH_EPOCHS}")] = None
    """Number of passes over the training images for the stitches; birkhoff trains its scales in the second half, so it
    needs two or more."""
    stitch_optimizer: Literal["adam", "sgd"] = "adam"
    """Optimizer of the stitches; sgd is the published one."""
    stitch_learning_rates: str = "3e-2"
    """Comma-separated learning rates, as in 1e-2,1e-3; the best one on the validation split is used for each stitch."""
    stitch_schedule: Literal["cosine", "constant"] = "cosine"
    """Schedule of the learning rate of the stitches."""
    start: Literal["auto", "identity", "random", "matched", "least_squares"] = "auto"
    """Initial value of stitches that are trained; auto chooses it for each family."""
    bias: bool = False
    """Train a bias together with the matrix of a stitch."""

    def zoo_config_b(self) -> ZooConfig | None:
        """Return the configuration of the zoo of tails; None if it is the zoo of fronts."""
        if self.model_b is None:
            for name in ("model_b_options", "width_b", "zoo_b"):
                if (value := getattr(self, name)) not in (None, ""):
                    raise InputError(f"{name}: got {value} without --model-b, expected both or neither")
            return None
        flags = {"model": "model_b", "model_options": "model_b_options"}
        flags |= {} if self.width_b is None else {"width": "width_b"}
        with renamed(**flags):
            config = dataclasses.replace(self, **{name: getattr(self, b) for name, b in flags.items()}).zoo_config()
        if config != self.zoo_config():
            return config
        if self.zoo_b is not None:
            raise InputError(f"zoo_b: got {self.zoo_b}, expected none: --model-b equals --model, whose zoo is --zoo")
        return None

    def draw_pairs(self, seeds: Sequence[int], between: bool = False) -> list[tuple[int, int]]:
        """Return ordered pairs of seeds, drawn at random.

        If fewer pairs than the default number exist, all are returned, which is reported on stderr.

        Args:
          seeds: seeds of the members.
          between: whether a pair has members of two zoos, so that their seeds may be equal.
        """
        count, available = self.pairs, len(seeds) * (len(seeds) - (not between))
        if count is None:
            count = PAIRS
            if 0 < available < PAIRS:
                count = available
                if hosts.is_first():
                    have = f"{len(seeds)} seeds have {available} ordered pairs"
                    print(f"pairs: using all {available}, since {have}; the default is {PAIRS}", file=sys.stderr)
        return draw_pairs(seeds, count, self.pair_seed, seeds_b=seeds if between else None)

    def fit_config(self, recipe: Recipe) -> FitConfig:
        """Return how stitches are trained; `recipe` is that of the zoo."""
        default_epochs = STITCH_EPOCHS.get(self.dataset, PUBLISHED_STITCH_EPOCHS)
        rates = parse_numbers("stitch_learning_rates", self.stitch_learning_rates)
        if self.stitch_epochs is not None and self.stitch_epochs < 1:
            raise InputError(f"stitch_epochs: got {self.stitch_epochs}, expected a positive number")
        with renamed(learning_rates="stitch_learning_rates"), renamed(epochs="stitch_epochs"):
            return FitConfig(
                epochs=default_epochs if self.stitch_epochs is None else self.stitch_epochs,
                batch_size=self.batch_size,
                optimizer=self.stitch_optimizer,
                learning_rates=rates,
                schedule=self.stitch_schedule,
                start=self.start,
                bias=self.bias,
                flip=recipe.flip,
                translate=recipe.translate,
            )


def parse_numbers(name: str, text: str) -> tuple[float, ...]:
    """Return the numbers of a comma-separated list; raise an InputError that names the flag `name`."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"{name}: got {text!r}, expected numbers separated by commas") from None
