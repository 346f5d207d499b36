"""What a sweep computes: which stitches between which networks, and how they are trained and evaluated."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax

from symjax.checks import can_be_key, flag, integer, integer_fields, one_of, scalar, sequence, short
from symjax.data.dataset import check_augmentation
from symjax.errors import InputError
from symjax.network import Network
from symjax.ops.parallel import Execution
from symjax.spelling import name_of
from symjax.stitching.controls import NOISE, OBJECTIVES, RELATED, TASK, WRONG_LAYER, Point
from symjax.stitching.families import Family
from symjax.stitching.junction import Junction, as_point, make_junction, wrong_point
from symjax.stitching.stitched import Pair

CHOICES = {
    "optimizer": ("adam", "sgd"),
    "schedule": ("cosine", "constant"),
    "start": ("auto", "identity", "random", "matched", "least_squares"),
}


@dataclass(frozen=True)
class FitConfig:
    """How stitches are trained and evaluated.

    Attributes:
      epochs, batch_size: settings of the training.
      optimizer: "adam", or "sgd" as published.
      learning_rates: every family is trained with each of them; the validation split selects one. The commands use 3e-2
        by default, which suits stitches that are rounded half-way through a short training.
      schedule: "cosine" decay to zero over the training, or "constant".
      start: the start matrix of all families that train; "auto" uses the default of each family.
      bias: whether stitches that train have a bias.
      flip, translate: augmentation of the training images; None uses the settings of the data set.
      matching_images: the maximal number of training images for the closed forms.
      reestimation_images: the maximal number of training images for re-estimating the batch-norm statistics of the
        tail.
      eval_batch_size: the batch size of every pass without gradients; only full batches of training images are used.
      loss: a function of outputs and targets, both (examples, ...), that returns the scalar to minimize. None: the
        cross-entropy of logits and classes.
      metric: a function of outputs and targets that returns a score for each example, (examples,); higher is better.
        None: 1 if the largest logit is that of the class, else 0. With a metric, accuracies are means of its scores
        instead of percentages.
      agreement: whether to compute the share of examples for which the stitched network predicts the class that B
        alone predicts.

    Raises:
      InputError: a value is out of range.
    """

    epochs: int = 20
    batch_size: int = 32
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rates: tuple[float, ...] = (1e-2,)
    schedule: Literal["cosine", "constant"] = "cosine"
    start: Literal["auto", "identity", "random", "matched", "least_squares"] = "auto"
    bias: bool = False
    flip: bool | None = None
    translate: int | None = None
    matching_images: int = 1024
    reestimation_images: int = 8192
    eval_batch_size: int = 32
    loss: Callable[[Any, Any], jax.Array] | None = None
    metric: Callable[[Any, Any], jax.Array] | None = None
    agreement: bool = False

    def __post_init__(self):
        sizes = ("batch_size", "matching_images", "reestimation_images", "eval_batch_size")
        integer_fields(self, epochs=(1, 10**6 - 1), **dict.fromkeys(sizes, (1, 2**31 - 1)))
        flag("bias", self.bias)
        flag("agreement", self.agreement)
        check_augmentation(self)
        rates = tuple(
            scalar("learning_rates", rate, "positive numbers", lambda value: 0 < value < math.inf)
            for rate in sequence("learning_rates", self.learning_rates, "positive numbers")
        )
        if not rates or len(set(rates)) < len(rates):
            raise InputError(f"learning_rates: got {rates}, expected one or more, each once")
        object.__setattr__(self, "learning_rates", rates)
        for name, choices in CHOICES.items():
            one_of(name, getattr(self, name), choices)
        for name in ("loss", "metric"):
            function = getattr(self, name)
            if function is not None and not (callable(function) and can_be_key(function)):
                raise InputError(f"{name}: got {short(function)}, expected a function of outputs and targets, or None")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict. Functions are given by name; they and `agreement` are omitted if None or False."""
        functions = {name: getattr(self, name) for name in ("loss", "metric")}
        names = {name: name_of(function) for name, function in functions.items() if function is not None}
        omitted = [*functions, *(() if self.agreement else ("agreement",))]
        return {name: value for name, value in asdict(self).items() if name not in omitted} | names

    @property
    def scale(self) -> int:
        """The factor of mean scores in results: 100 for accuracies, which are in percent."""
        return 100 if self.metric is None else 1

    @property
    def halfway_epoch(self) -> int:
        """The first epoch (from 0) of the second half, which is the shorter one if the number of epochs is odd."""
        return (self.epochs + 1) // 2


def is_possible(junction: Junction, family: Family) -> bool:
    """Return whether a plan has a stitch; square families omit the control "wrong_layer" if its width differs."""
    return junction.replaced is None or not family.misfit(junction)


class Candidate(NamedTuple):
    """A family with a learning rate; None for a family that does not train."""

    family: Family
    learning_rate: float | None


@dataclass(frozen=True)
class Plan:
    """The stitches that are fitted for every pair. A plan is static and hashable.

    Attributes:
      network: the network of A; stitches use its fronts.
      points: the points of the stitches, each an index, a pair of indices if the points of A and B differ, or a
        `symjax.stitching.controls.Point` with a control or an objective.
      families: the families that are fitted at each point.
      config: how stitches are trained and evaluated.
      execution: how members run on a device.
      network_b: the network of B; stitches use its tails. By default that of A.

    Raises:
      InputError: a point does not exist, or two points cannot be stitched (`symjax.stitching.junction.make_junction`).

    Example:
        >>> import jax, jax.numpy as jnp, symjax
        >>> from symjax import stitching
        >>> from symjax.ops import parallel
        >>> def mlp(weight, x):
        ...     return symjax.stitch_point(jax.nn.relu(x @ weight), "relu1") @ weight.T
        >>> network = symjax.Network.from_function(mlp, jnp.ones((4, 8)), example=jnp.ones((1, 4)))
        >>> config = stitching.FitConfig(learning_rates=(1e-2, 1e-3))
        >>> families = stitching.parse_families("full,matched")
        >>> plan = stitching.Plan(network, (0,), families, config, parallel.default_execution())
        >>> len(plan.candidates)
        3
    """

    network: Network
    points: tuple[int | tuple[int, int] | Point, ...]
    families: tuple[Family, ...]
    config: FitConfig
    execution: Execution
    network_b: Network = None  # type: ignore[assignment]  # None is replaced by `network` when the plan is made

    def __post_init__(self):
        if self.network_b is None:
            object.__setattr__(self, "network_b", self.network)
        points = tuple(map(self._checked_point, sequence("points", self.points, "indices of points")))
        families = sequence("families", self.families, "families")
        if not all(isinstance(family, Family) for family in families):
            raise InputError(f"families: got {short(families)}, expected each a Family, as parse_families returns them")
        names = [family.label for family in families]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"families: got {', '.join(repeated)} more than once, expected a label for each")
        if wrong := [name for name in names if "/" in name]:
            raise InputError(f"families: got the label {wrong[0]!r}, expected one without /")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "families", families)
        self.junctions  # noqa: B018 (its checks)

    def _checked_point(self, point) -> int | tuple[int, int] | Point:
        a, b, control, objective = as_point(point)
        a = integer("points", a, 0, len(self.network.points) - 1)
        b = integer("points", b, 0, len(self.network_b.points) - 1)
        if (control, one_of("objective", objective, OBJECTIVES)) != (RELATED, TASK):
            return Point(a, b, control, objective)
        return a if a == b else (a, b)

    @cached_property
    def junctions(self) -> tuple[Junction, ...]:
        """The points of both networks, in the order of `points`."""
        return tuple(make_junction(self.network, self.network_b, *as_point(point)) for point in self.points)

    @property
    def controls(self) -> tuple[str, ...]:
        """The keys of `Pair.controls` that the junctions read."""
        return tuple(dict.fromkeys(j.control for j in self.junctions if j.control not in (RELATED, WRONG_LAYER)))

    @property
    def pair_shapes(self) -> Pair:
        """A pair with shapes and dtypes in place of its arrays."""
        key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        controls = {name: key if name == NOISE else self.network.shapes for name in self.controls}
        return Pair(self.network.shapes, self.network_b.shapes, controls)

    def with_controls(self, controls: Sequence[str], objectives: Sequence[str] = (TASK,)) -> "Plan":
        """Return the plan with each stitch and its controls, where they are possible, for each objective."""
        points = tuple(
            Point(a, b, control, objective)
            for a, b, *_ in map(as_point, self.points)
            for objective in objectives
            for control in (RELATED, *controls)
            if control != WRONG_LAYER or wrong_point(self.network, self.network_b, a, b) is not None
        )
        return replace(self, points=points)

    def parts(self, requested: Callable[[Junction, Family], bool] = lambda junction, family: True) -> list["Plan"]:
        """Return plans of the possible stitches that are requested, each with all of its families at all its points."""
        families: dict[tuple, list] = {}
        for family in self.families:
            points = tuple(
                point
                for point, junction in zip(self.points, self.junctions, strict=True)
                if is_possible(junction, family) and requested(junction, family)
            )
            if points:
                families.setdefault(points, []).append(family)
        return [replace(self, points=points, families=tuple(group)) for points, group in families.items()]

    @property
    def trained(self) -> tuple[Family, ...]:
        """The families that train."""
        return tuple(family for family in self.families if family.trains)

    @property
    def closed_form(self) -> tuple[Family, ...]:
        """The families that do not train."""
        return tuple(family for family in self.families if not family.trains)

    @property
    def stacked(self) -> tuple[Family, ...]:
        """The families in the order of stacked stitches: first those that train."""
        return (*self.trained, *self.closed_form)

    @property
    def epochs_warning(self) -> str:
        """A sentence on families that need more epochs (`Family.min_epochs`); "" if there are none."""
        families = [family for family in self.trained if family.min_epochs > self.config.epochs]
        if not families:
            return ""
        labels, least = ", ".join(family.label for family in families), max(family.min_epochs for family in families)
        return f"Warning: some parameters of {labels} are trained only with {least} or more epochs of the stitches."

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All (family, learning rate), in the order of `stacked`."""
        trained = [Candidate(family, rate) for family in self.trained for rate in self.config.learning_rates]
        return (*trained, *(Candidate(family, None) for family in self.closed_form))

    @property
    def candidate_slices(self) -> list[slice]:
        """The part of `candidates` that each family of `stacked` has."""
        families = [candidate.family for candidate in self.candidates]
        return [slice(i := families.index(family), i + families.count(family)) for family in self.stacked]
