"""What is retrained behind which matrices, and what comes of it."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from symjax.birkhoff.checks import scalar
from symjax.checks import flag, integers, one_of
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.parallel import Execution
from symjax.spelling import one_line
from symjax.training import Recipe


@dataclass(frozen=True)
class Plan:
    """What is retrained and how.

    Attributes:
      network, points: a rotation stands before the activation that ends at one of these stitch points; at each of them
        every case is retrained.
      recipe: of the retraining; `flip` and `translate` count where `augment` is set.
      start: "continue" from the trained tail, or "fresh" from a random one.
      augment: augment training images, the same for all cases; the fronts then run anew every epoch.
      budget: bytes of features on each device, of all points that train together; see `Features` and `share_budget`.
      execution: how cases run.

    Raises:
      InputError: no points, or one twice; the model has no activation of its own at one of them; an unknown start, a
        budget that is not positive.
    """

    network: Network
    points: tuple[int, ...]
    recipe: Recipe
    execution: Execution
    start: Literal["continue", "fresh"] = "continue"
    augment: bool = False
    budget: float = 2**31

    def __post_init__(self):
        points = integers("points", self.points, 0, len(self.network.points) - 1)
        if not points or len(set(points)) < len(points):
            raise InputError(f"points: got {', '.join(map(str, points)) or 'none'}, wanted one or more, each once")
        for point in points:
            if self.network.points[point].starred:
                name = self.network.points[point].name
                raise InputError(f"model: {name} of {self.network.name} lies inside of a residual block")
            self.network.activation(point)  # an InputError where there is none
        object.__setattr__(self, "points", points)
        one_of("start", self.start, ("continue", "fresh"))
        flag("augment", self.augment)
        budget = scalar("budget", self.budget, "a positive number of bytes", lambda value: 0 < value < math.inf)
        object.__setattr__(self, "budget", budget)


class Case(NamedTuple):
    """One matrix at each point: its kind, and which draw of it. Kinds of one repeat see their training images in the
    same order."""

    kind: str
    repeat: int


@dataclass(frozen=True)
class Found:
    """What came of one case at one point.

    Attributes:
      point, case: which.
      accuracy, val_accuracy: on test and validation images at the end, in percent.
      history: a dict per epoch: epoch (from 1), loss, accuracy and val_accuracy (percent).
      matrix: (channels, channels).
      tail: the retrained segments, as NumPy arrays.
    """

    point: int
    case: Case
    accuracy: float
    val_accuracy: float
    history: list[dict]
    matrix: np.ndarray
    tail: Member

    __repr__ = one_line
