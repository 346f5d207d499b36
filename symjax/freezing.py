"""Freeze training (Raghu et al. 2017): lower layers stop training first, which saves the cost of their gradients."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from symjax.checks import integer, integer_fields, one_of, scalar
from symjax.checks import seeds as check_seeds
from symjax.errors import InputError
from symjax.similarity import MEASURES

__all__ = ["Saturation", "linear_schedule"]


def num_frozen(freeze: Sequence[int], epoch: int) -> int:
    """Return the number of segments that the schedule `freeze` does not train after `epoch` epochs."""
    return sum(begin <= epoch for begin in freeze)


def linear_schedule(layers: int, epochs: int, begin: float = 0.2, end: float = 0.8) -> tuple[int, ...]:
    """Return the number of epochs after which each layer is frozen, from the lowest, in equal steps.

    Args:
      layers: number of layers.
      epochs: number of epochs of the run.
      begin: the fraction of the run after which the lowest layer is frozen.
      end: the fraction of the run after which the last layer is frozen.

    Raises:
      InputError: not 0 <= begin <= end <= 1, or `layers` or `epochs` is negative or not an integer.

    Example:
      >>> from symjax.freezing import linear_schedule
      >>> linear_schedule(4, 10)
      (2, 4, 6, 8)
    """
    layers, epochs = integer("layers", layers), integer("epochs", epochs)
    for share in (begin, end):
        scalar("begin, end", share, "a fraction of the run, from 0 to 1", lambda value: 0 <= value <= 1)
    if not begin <= end:
        raise InputError(f"begin, end: got {begin} and {end}, expected 0 <= begin <= end <= 1")
    return tuple(int(epoch) for epoch in np.rint(epochs * np.linspace(begin, end, layers)))


@dataclass(frozen=True)
class Saturation:
    """A freeze schedule that depends on the training: a layer is frozen when its features have nearly converged.

    After each epoch but the last, the features of each trained layer are compared with those after the epoch before, on
    fixed examples without augmentation. A layer is saturated if the mean similarity over members is `threshold` or
    more. A saturated layer is frozen from the next epoch on if all layers below it are frozen or saturated. A layer
    with a NaN similarity, such as that of a diverged member, is not saturated.

    Attributes:
      seeds: seeds of the members, ascending; the schedule depends on all of them.
      measure: a name in `symjax.similarity.MEASURES` that is a similarity, not a distance.
      threshold: the smallest similarity of a saturated layer.
      images: the split that holds the examples.
      examples: the number of examples, from the first; all if there are fewer.
      samples: "pool" to compare the mean of each channel over pixels, or "positions".

    Raises:
      InputError: a field has a wrong type or value.

    Example:
      >>> from symjax.freezing import Saturation
      >>> Saturation(seeds=(0, 1), threshold=0.9).num_saturated([0.95, 0.92, 0.5, 0.99])
      2
    """

    seeds: tuple[int, ...]
    measure: str = "svcca"
    threshold: float = 0.98
    images: Literal["train", "validation"] = "train"
    examples: int = 500
    samples: Literal["pool", "positions"] = "pool"

    def __post_init__(self):
        object.__setattr__(self, "seeds", tuple(sorted(check_seeds(self.seeds))))
        one_of("measure", self.measure, [name for name, measure in MEASURES.items() if measure.kind == "similarity"])
        scalar("threshold", self.threshold, "a finite number", lambda value: -math.inf < value < math.inf)
        object.__setattr__(self, "threshold", float(self.threshold))
        one_of("images", self.images, ("train", "validation"))
        integer_fields(self, examples=(4, 2**31 - 1))
        one_of("samples", self.samples, ("pool", "positions"))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON."""
        return asdict(self) | {"seeds": list(self.seeds)}

    def num_saturated(self, similarity: Sequence[float]) -> int:
        """Return the number of consecutive saturated layers, from the lowest, for the `similarity` of each layer."""
        below = np.flatnonzero(~(np.asarray(similarity) >= self.threshold))
        return int(below[0]) if len(below) else len(similarity)
