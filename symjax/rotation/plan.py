"""The settings of a rotation experiment, its cases and their results."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from symjax.checks import flag, integers, one_of, scalar
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.ops.parallel import Execution
from symjax.spelling import one_line
from symjax.training import Recipe


@dataclass(frozen=True)
class RotationPlan:
    """The settings of a retraining.

    Attributes:
      network: the network of the members.
      points: indices of stitch points. The matrix is applied before the activation whose output is the point. Every
        case is retrained at each point.
      recipe: the training settings; `flip` and `translate` are used if `augment` is set.
      execution: how cases run on a device.
      start: "continue" from the trained tail, or "fresh" from a random one.
      augment: whether to augment training images, equally for all cases. The fronts then run in every epoch.
      budget: bytes of features on each device, for all points that train together; see `group_fronts`.

    Raises:
      InputError: `points` is empty or has duplicates; a point is not the output of an activation; `start` is unknown;
        `budget` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, symjax
      >>> def mlp(params, x):
      ...     return symjax.stitch_point(jax.nn.relu(x @ params["hidden"]), "relu1") @ params["out"]
      >>> params = {"hidden": jnp.eye(3), "out": jnp.ones((3, 2))}
      >>> net = symjax.Network.from_function(mlp, params, example=np.zeros((1, 3), np.float32))
      >>> from symjax.ops.parallel import Execution
      >>> from symjax.training import Recipe
      >>> symjax.rotation.RotationPlan(net, (0,), Recipe(epochs=1), Execution("map", "native")).start
      'continue'
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
            raise InputError(f"points: got {', '.join(map(str, points)) or 'none'}, expected one or more, each once")
        for point in points:
            if self.network.points[point].starred:
                name = self.network.points[point].name
                raise InputError(f"points: got {name} of {self.network.name}, inside a residual block, expected others")
            self.network.activation(point)  # raises an InputError if there is none
        object.__setattr__(self, "points", points)
        one_of("start", self.start, ("continue", "fresh"))
        flag("augment", self.augment)
        budget = scalar("budget", self.budget, "a positive number of bytes", lambda value: 0 < value < math.inf)
        object.__setattr__(self, "budget", budget)


class RotationCase(NamedTuple):
    """One matrix at each point.

    Attributes:
      kind: the kind of matrix.
      repeat: the number of the draw. Cases of equal `repeat` train on images in the same order.

    Example:
      >>> from symjax.rotation import RotationCase
      >>> [RotationCase("orthogonal", repeat) for repeat in range(2)]
      [RotationCase(kind='orthogonal', repeat=0), RotationCase(kind='orthogonal', repeat=1)]
    """

    kind: str
    repeat: int


@dataclass(frozen=True)
class CaseResult:
    """The result of one case at one point.

    Attributes:
      point: index of the stitch point.
      case: the case.
      accuracy: accuracy on test images after retraining, in percent.
      val_accuracy: accuracy on validation images after retraining, in percent.
      history: one dict per epoch: epoch (from 1), loss, accuracy and val_accuracy (percent).
      matrix: (channels, channels) float32.
      tail: the retrained tail, as NumPy arrays.
    """

    point: int
    case: RotationCase
    accuracy: float
    val_accuracy: float
    history: list[dict]
    matrix: np.ndarray
    tail: Member

    __repr__ = one_line
