"""Training stitches: an optax loop over the stitches' parameters alone, for one pair.

All points and families of a pair train together. The front of A runs once a batch for all of them; the tail of B runs
once a stitch, with the stitch axis lifted as `symjax.parallel` says; no gradient of A's or B's parameters is formed.
Everything here is a pure function of one pair; pairs come in by `parallel.over_members`.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from symjax.birkhoff.checks import scalar
from symjax.checks import can_be_key, flag, integer, integer_fields, one_of, sequence, short
from symjax.data import augment, epoch_indices, normalize
from symjax.data.dataset import check_augmentation
from symjax.errors import InputError
from symjax.network import Network
from symjax.parallel import Execution, concatenate, each, each_stack
from symjax.spelling import name_of
from symjax.stitching.families import Family
from symjax.stitching.junction import Junction, carried_to, junction, moment_features, point_pair
from symjax.stitching.matching import FeatureMoments, feature_moments, start_matrices
from symjax.stitching.stitched import Pair, Stitch, aligned, low_rank, stitched_output
from symjax.training.loop import TrainData
from symjax.training.task import accuracy_scores, cross_entropy

PyTree = Any
STARTS = ("auto", "identity", "random", "matched", "least_squares")


@dataclass(frozen=True)
class FitConfig:
    """How stitches are trained and evaluated.

    Attributes:
      epochs, batch_size: of the stitches' training.
      optimizer: "adam", or "sgd" as published.
      learning_rates: every family is trained with each of them; the validation split picks.
      schedule: "cosine" decay to zero over the run, or "constant".
      start: the start matrix of every family that trains; "auto" is the one that the family names.
      bias: whether stitches that train have a bias.
      flip, translate: augmentation of the images that stitches are trained on; None, as the data set asks for.
      matching_images: how many training images the closed forms see, at most.
      reestimation_images: likewise, behind the tail's batch-norm statistics before an evaluation.
      eval_batch_size: of every pass without gradients; whole batches of training images count.
      loss: a function of outputs and targets, both (examples, ...), whose scalar result is minimised; None, the
        cross-entropy of logits and classes.
      metric: a function of outputs and targets whose result (examples,) says how good each output is, the higher the
        better; None, whether the largest logit is the right one. Accuracies are then means of it, and not percent.
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

    def __post_init__(self):
        sizes = ("batch_size", "matching_images", "reestimation_images", "eval_batch_size")
        integer_fields(self, epochs=(1, 10**6 - 1), **dict.fromkeys(sizes, (1, 2**31 - 1)))
        flag("bias", self.bias)
        check_augmentation(self)
        rates = tuple(
            scalar("learning_rates", rate, "positive numbers", lambda value: 0 < value < math.inf)
            for rate in sequence("learning_rates", self.learning_rates, "positive numbers")
        )
        if not rates or len(set(rates)) < len(rates):
            raise InputError(f"learning_rates: got {rates}, wanted one or more, each once")
        object.__setattr__(self, "learning_rates", rates)
        known = {"optimizer": ("adam", "sgd"), "schedule": ("cosine", "constant"), "start": STARTS}
        for name, choices in known.items():
            one_of(name, getattr(self, name), choices)
        for name in ("loss", "metric"):
            function = getattr(self, name)
            if function is not None and not (callable(function) and can_be_key(function)):
                raise InputError(f"{name}: got {short(function)}, expected a function of outputs and targets, or None")

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict; functions by name, and left out where there are none."""
        functions = {name: getattr(self, name) for name in ("loss", "metric")}
        named = {name: name_of(function) for name, function in functions.items() if function is not None}
        return {name: value for name, value in asdict(self).items() if name not in functions} | named

    @property
    def scale(self) -> int:
        """What a mean score is multiplied by: accuracies are in percent."""
        return 100 if self.metric is None else 1

    @property
    def halfway_epoch(self) -> int:
        """The first epoch (from 0) of the second half; the first half is the longer one, and all of a single epoch."""
        return (self.epochs + 1) // 2


class Candidate(NamedTuple):
    """A family with a learning rate; None for a family that does not train."""

    family: Family
    learning_rate: float | None


@dataclass(frozen=True)
class Plan:
    """What is to be fitted for every pair: static, hashable.

    Attributes:
      network: of A, whose fronts are used.
      points: where stitches are: a point's index, or a pair of indices where A's point is not B's.
      families, config, execution: what is fitted, and how.
      network_b: of B, whose tails are used; that of A by default.

    Raises:
      InputError: no such points, or two points that cannot be stitched (`symjax.stitching.junction`).
    """

    network: Network
    points: tuple[int | tuple[int, int], ...]
    families: tuple[Family, ...]
    config: FitConfig
    execution: Execution
    network_b: Network | None = None

    def __post_init__(self):
        if self.network_b is None:
            object.__setattr__(self, "network_b", self.network)
        points = tuple(map(self._checked, sequence("points", self.points, "indices of points")))
        families = sequence("families", self.families, "families")
        if not all(isinstance(family, Family) for family in families):
            raise InputError("families: wanted each a Family, as parse_families gives them")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "families", families)
        self.junctions  # noqa: B018 (its checks)

    def _checked(self, point) -> int | tuple[int, int]:
        a, b = point_pair(point)
        a = integer("points", a, 0, len(self.network.points) - 1)
        b = integer("points", b, 0, len(self.network_b.points) - 1)
        return a if a == b else (a, b)

    @cached_property
    def junctions(self) -> tuple[Junction, ...]:
        """The points of both networks, in the order of `points`."""
        return tuple(junction(self.network, self.network_b, *point_pair(point)) for point in self.points)

    @property
    def trained(self) -> tuple[Family, ...]:
        """The families that train."""
        return tuple(family for family in self.families if family.trains)

    @property
    def closed(self) -> tuple[Family, ...]:
        """The families that do not."""
        return tuple(family for family in self.families if not family.trains)

    @property
    def stacked(self) -> tuple[Family, ...]:
        """The families in the order in which their stitches are held: those that train come first."""
        return (*self.trained, *self.closed)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All (family, learning rate), in the order of `stacked`."""
        trained = [Candidate(family, rate) for family in self.trained for rate in self.config.learning_rates]
        return (*trained, *(Candidate(family, None) for family in self.closed))


class FitState(NamedTuple):
    """All that the further training of a pair's stitches depends on."""

    pair: Pair
    params: PyTree  # per point and trained family, leading axis rates: {"family": its parameters, "bias": (d_b,)}
    opt_state: PyTree  # the optimizer's, of all params
    closed: PyTree  # per point and closed family: its matrix (d_b, d_a)
    key: jax.Array  # raw key data, so that it travels as a plain array
    epoch: jax.Array  # int32


def pair_moments(plan: Plan, pair: Pair, images: jax.Array, mean, std) -> list[FeatureMoments]:
    """Per point, the moments of A's and B's features over batches of images (steps, batch, ...)."""
    networks = plan.network, plan.network_b

    def step(carry, batch):
        x = normalize(batch, mean, std)
        of_batch = [feature_moments(a, b) for a, b in moment_features(plan.junctions, networks, pair, x)]
        return jax.tree.map(jnp.add, carry, of_batch), None

    zeros = [
        FeatureMoments(*(jnp.zeros(shape, jnp.float32) for shape in ((d_a, d_a), (d_b, d_a), (d_b,))))
        for d_b, d_a in (junction.shape for junction in plan.junctions)
    ]
    total, _ = lax.scan(step, zeros, images)
    return jax.tree.map(lambda leaf: leaf / images.shape[0], total)


def optimizer(config: FitConfig) -> optax.GradientTransformation:
    """The direction of a step; its length is the learning rate times `decay`.

    Parameters are seen as one vector, for which the compiler makes a few programs instead of a few for every leaf.
    """
    return optax.flatten({"adam": optax.scale_by_adam, "sgd": optax.identity}[config.optimizer]())


def decay(config: FitConfig, progress: jax.Array) -> jax.Array:
    """The factor on the learning rate when the share `progress` of the training is done."""
    return 0.5 * (1 + jnp.cos(jnp.pi * progress)) if config.schedule == "cosine" else jnp.ones_like(progress)


def phase(config: FitConfig, epoch: jax.Array, share: jax.Array) -> jax.Array:
    """What families see as progress when the `share` of `epoch` is done: 1/2 exactly where `halfway` is applied."""
    half = config.halfway_epoch
    first = 0.5 * (epoch + share) / half
    second = 0.5 + 0.5 * (epoch + share - half) / max(config.epochs - half, 1)
    return jnp.where(epoch < half, first, second).astype(jnp.float32)


def begin(plan: Plan, pair: Pair, key: jax.Array, moments: list[FeatureMoments]) -> FitState:
    """Stitches at their start, from raw key data (`jax.random.key_data`) and what `pair_moments` gives."""
    config = plan.config
    random_key = jax.random.fold_in(jax.random.wrap_key_data(key), 0)
    params, closed = [], []
    for at, of_point in zip(plan.junctions, moments, strict=True):
        starts, point_key = start_matrices(of_point), jax.random.fold_in(random_key, at.a)  # not of other points
        if at.a != at.b:
            point_key = jax.random.fold_in(point_key, at.b)

        def start(family, kind, key=point_key, shape=at.shape, starts=starts):
            return family.random(key, shape) if kind == "random" else starts[kind]

        of_families = []
        for family in plan.trained:
            matrix = start(family, family.start if config.start == "auto" else config.start)
            theirs = {"family": family.init(matrix), "bias": jnp.zeros((at.shape[0],), jnp.float32)}
            of_families.append(_repeat(theirs, len(config.learning_rates)))
        params.append(of_families)
        closed.append([start(family, family.start) for family in plan.closed])
    opt_state = optimizer(config).init(params) if plan.trained else ()  # optax flattens no empty tree
    return FitState(pair, params, opt_state, closed, key, jnp.zeros((), jnp.int32))


def fit_epoch(plan: Plan, state: FitState, data: TrainData) -> tuple[FitState, dict]:
    """One pass over the training images for all of a pair's stitches.

    Tails run as in training, each batch normalised by its own statistics. Nothing in them is random where the network
    can switch that off alone; else (`Network.needs_key`) all tails draw with one key a step.

    Returns the next state and metrics, each (points, trained candidates): `loss` and `accuracy` over the epoch, and the
    families' `residual` at its end.
    """
    config, network_b = plan.config, plan.network_b
    loss_of, scores_of = config.loss or cross_entropy, config.metric or accuracy_scores
    steps = data.images.shape[0] // config.batch_size
    key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), 1), state.epoch)
    order_key, augment_key = jax.random.split(key)
    tail_key = jax.random.fold_in(key, 2)
    order = epoch_indices(order_key, data.images.shape[0], config.batch_size)

    def tail_gradient(point, carried, targets, key, stitch):
        def loss_fn(stitch):
            outputs, _ = stitched_output(network_b, state.pair.b, carried, stitch, point, "batch", key=key)
            return loss_of(outputs, targets).astype(jnp.float32), jnp.mean(scores_of(outputs, targets))

        (loss, score), gradient = jax.value_and_grad(loss_fn, has_aux=True)(stitch)
        return loss, score, gradient

    def step(carry, inputs):
        params, opt_state = carry
        index, indices = inputs
        progress = (state.epoch * steps + index).astype(jnp.float32) / (steps * config.epochs)
        seen = phase(config, state.epoch, index.astype(jnp.float32) / steps)
        images = normalize(data.images[indices], data.mean, data.std)
        images = augment(jax.random.fold_in(augment_key, index), images, flip=config.flip, translate=config.translate)
        targets, random = data.labels[indices], jax.random.fold_in(tail_key, index) if network_b.needs_key else None
        fronts = carried_to(plan.junctions, plan.network, state.pair.a, images)
        gradients, metrics = [], []
        for at, carried, of_point in zip(plan.junctions, fronts, params, strict=True):
            (stitches, penalties), pull = jax.vjp(partial(_stitches_and_penalties, plan, seen), of_point)
            tail = partial(tail_gradient, at.b, carried, targets, random)
            results = each_stack(tail, stitches, plan.execution)
            metrics.append(concatenate([(loss, score) for loss, score, _ in results]))
            gradients += pull(([gradient for *_, gradient in results], jax.tree.map(jnp.ones_like, penalties)))
        params, opt_state = _update(plan, progress, seen, params, opt_state, gradients)
        return (params, opt_state), jax.tree.map(lambda *a: jnp.stack(a), *metrics)

    inputs = (jnp.arange(steps, dtype=jnp.int32), order)
    (params, opt_state), (losses, scores) = lax.scan(step, (state.params, state.opt_state), inputs)
    residuals = [
        jnp.concatenate([jax.vmap(f.residual)(theirs["family"]) for f, theirs in zip(plan.trained, point, strict=True)])
        for point in params
    ]
    metrics = {"loss": losses.mean(0), "accuracy": scores.mean(0), "residual": jnp.stack(residuals)}
    return state._replace(params=params, opt_state=opt_state, epoch=state.epoch + 1), metrics


def _stitches_and_penalties(plan: Plan, progress, of_point: list[PyTree]) -> tuple[list[Stitch], list[jax.Array]]:
    """Of one point's families that train, what acts on its features and what is added to the loss."""

    def of_family(family, theirs):
        params = theirs["family"]
        return _stitch(plan.config, family, theirs, family.matrix(params, progress)), family.penalty(params, progress)

    made = [jax.vmap(partial(of_family, family))(theirs) for family, theirs in zip(plan.trained, of_point, strict=True)]
    stitches, penalties = zip(*made, strict=True)
    return aligned(stitches), list(penalties)


def _stitch(config: FitConfig, family: Family, theirs: PyTree, matrix: jax.Array) -> Stitch:
    return Stitch(matrix, theirs["bias"] if config.bias else None, low_rank(family.factors(theirs["family"])))


def _update(plan: Plan, progress, seen, params, opt_state, gradients):
    """One optimizer step of all stitches of a pair, then their projections."""
    config = plan.config
    with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
        direction, opt_state = optimizer(config).update(gradients, opt_state, params)
    length = jnp.asarray(config.learning_rates, jnp.float32) * decay(config, progress)
    stepped = jax.tree.map(lambda old, d: old - length.reshape(-1, *(1,) * (d.ndim - 1)) * d, params, direction)

    def projected(family, new, old):
        project = jax.vmap(lambda new, old, length: family.project(new, old, seen, length))
        return {**new, "family": project(new["family"], old["family"], length)}

    return [
        [projected(*of_family) for of_family in zip(plan.trained, new, old, strict=True)]
        for new, old in zip(stepped, params, strict=True)
    ], opt_state


def halfway(plan: Plan, state: FitState) -> FitState:
    """What families do once when half of the epochs are done."""
    params = [
        [
            {**theirs, "family": jax.vmap(family.halfway)(theirs["family"])}
            for family, theirs in zip(plan.trained, of_point, strict=True)
        ]
        for of_point in state.params
    ]
    return state._replace(params=params)


def rounded(plan: Plan, state: FitState) -> list[list[Stitch]]:
    """Per point and family, in the order of `plan.stacked`, the rounded stitches: what is evaluated and saved."""

    def of_family(family, theirs):
        matrices = each(family.round, plan.execution)(theirs["family"])
        return jax.vmap(partial(_stitch, plan.config, family))(theirs, matrices)

    return [
        [of_family(*one) for one in zip(plan.trained, of_point, strict=True)]
        + [Stitch(matrix[None]) for matrix in closed]
        for of_point, closed in zip(state.params, state.closed, strict=True)
    ]


def _repeat(tree: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], count, axis=0), tree)
