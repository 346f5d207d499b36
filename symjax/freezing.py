"""Freeze training (Raghu et al. 2017): lower layers stop training first, which saves their gradients."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from symjax.birkhoff.checks import scalar
from symjax.checks import integer, integer_fields, one_of
from symjax.checks import seeds as check_seeds
from symjax.errors import InputError
from symjax.similarity import MEASURES

__all__ = ["Saturation", "linear_schedule"]


def frozen(freeze: Sequence[int], epoch: int) -> int:
    """How many segments the schedule `freeze` no longer trains after `epoch` epochs."""
    return sum(begin <= epoch for begin in freeze)


def linear_schedule(layers: int, epochs: int, begin: float = 0.2, end: float = 0.8) -> tuple[int, ...]:
    """After how many epochs each layer is frozen: the lowest at `begin` of the run, the last at `end`, evenly between.

    Raises:
      InputError: not 0 <= begin <= end <= 1; numbers of layers or epochs that are none.
    """
    layers, epochs = integer("layers", layers), integer("epochs", epochs)
    for share in (begin, end):
        scalar("begin, end", share, "a share of the run, from 0 to 1", lambda value: 0 <= value <= 1)
    if not begin <= end:
        raise InputError(f"begin, end: got {begin} and {end}, wanted 0 <= begin <= end <= 1")
    return tuple(int(epoch) for epoch in np.rint(epochs * np.linspace(begin, end, layers)))


@dataclass(frozen=True)
class Saturation:
    """A schedule that members find while they train, together: a layer is frozen when it has nearly stopped to change.

    After each epoch but the last, each layer that is not frozen is compared with what it was an epoch before, on fixed
    examples without augmentation. The lowest of them whose similarity, in the mean over the members, is `threshold` or
    more are frozen from the next epoch on; none above one that has not come so far. A similarity that is not a number,
    as of a member that has diverged, freezes nothing.

    Attributes:
      seeds: of the members, ascending; others, or fewer, would find another schedule.
      measure: a name of `symjax.similarity.MEASURES`, no distance.
      threshold: a similarity.
      images: of which split the examples are.
      examples: how many, from the first; all where there are fewer.
      maps: what is compared of a convolutional layer: "pool", the mean over pixels of each channel, or "pixels".
    """

    seeds: tuple[int, ...]
    measure: str = "svcca"
    threshold: float = 0.98
    images: Literal["train", "validation"] = "train"
    examples: int = 500
    maps: Literal["pool", "pixels"] = "pool"

    def __post_init__(self):
        object.__setattr__(self, "seeds", tuple(sorted(check_seeds(self.seeds))))
        one_of("measure", self.measure, [name for name, found in MEASURES.items() if found.kind == "similarity"])
        scalar("threshold", self.threshold, "a finite number", lambda value: -math.inf < value < math.inf)
        object.__setattr__(self, "threshold", float(self.threshold))
        one_of("images", self.images, ("train", "validation"))
        integer_fields(self, examples=(4, 2**31 - 1))
        one_of("maps", self.maps, ("pool", "pixels"))

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return asdict(self) | {"seeds": list(self.seeds)}

    def reached(self, similarity: Sequence[float]) -> int:
        """How many layers, from the lowest, are to be frozen by these similarities."""
        below = np.flatnonzero(~(np.asarray(similarity) >= self.threshold))
        return int(below[0]) if len(below) else len(similarity)
