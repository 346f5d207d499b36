"""Training stitches: an optax loop over the stitches' parameters alone, for one pair.

All points and families of a pair train together. The front of A runs once a batch for all of them; the tail of B runs
once a stitch, with the stitch axis lifted as `symjax.parallel` says; no gradient of A's or B's parameters is formed.
Everything here is a pure function of one pair; pairs come in by `parallel.over_members`.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from symjax.data import augment, epoch_indices, normalize
from symjax.errors import InputError
from symjax.models import Network, branch
from symjax.parallel import Execution, each
from symjax.stitching.families import Family
from symjax.stitching.matching import FeatureMoments, feature_moments, start_matrices
from symjax.stitching.stitched import Pair, Stitch, stitched_logits
from symjax.training.loop import TrainData

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
      start: the start matrix of every family; "auto" is the one that the family names.
      bias: whether stitches have a bias.
      flip, translate: augmentation of the images that stitches are trained on.
      matching_batches: training batches of `eval_batch_size` images behind the closed forms, at most.
      reestimation_batches: likewise, behind the tail's batch-norm statistics before an evaluation.
      eval_batch_size: of every pass without gradients.
    """

    epochs: int = 20
    batch_size: int = 32
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rates: tuple[float, ...] = (1e-2,)
    schedule: Literal["cosine", "constant"] = "cosine"
    start: Literal["auto", "identity", "random", "matched", "least_squares"] = "auto"
    bias: bool = False
    flip: bool = True
    translate: int = 2
    matching_batches: int = 16
    reestimation_batches: int = 64
    eval_batch_size: int = 128

    def __post_init__(self):
        for name in ("epochs", "batch_size", "matching_batches", "reestimation_batches", "eval_batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} is not positive")
        if not self.learning_rates or not all(0 < rate < math.inf for rate in self.learning_rates):
            raise InputError(f"learning_rates: got {self.learning_rates}, wanted one or more positive numbers")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise InputError(f"learning_rates: got {self.learning_rates}, wanted each once")
        if self.start not in STARTS:
            raise InputError(f"start: {self.start!r} is unknown; known: {', '.join(STARTS)}")


class Candidate(NamedTuple):
    """A family with a learning rate; None for a family that does not train."""

    family: Family
    learning_rate: float | None


@dataclass(frozen=True)
class Plan:
    """What is to be fitted for every pair: static, hashable."""

    network: Network
    points: tuple[int, ...]
    families: tuple[Family, ...]
    config: FitConfig
    execution: Execution

    @property
    def trained(self) -> tuple[Family, ...]:
        """The families that train."""
        return tuple(family for family in self.families if family.trains)

    @property
    def closed(self) -> tuple[Family, ...]:
        """The families that do not."""
        return tuple(family for family in self.families if not family.trains)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All (family, learning rate), in the order in which stitches are stacked: those that train come first."""
        trained = [Candidate(family, rate) for family in self.trained for rate in self.config.learning_rates]
        return (*trained, *(Candidate(family, None) for family in self.closed))


class FitState(NamedTuple):
    """All that the further training of a pair's stitches depends on."""

    pair: Pair
    params: PyTree  # per point and trained family, leading axis rates: {"family": its parameters, "bias": (d,)}
    opt_states: PyTree  # likewise
    closed: PyTree  # per point and closed family: its matrix (d, d)
    key: jax.Array  # raw key data, so that it travels as a plain array
    epoch: jax.Array  # int32


def pair_moments(plan: Plan, pair: Pair, images: jax.Array, mean, std) -> list[FeatureMoments]:
    """Per point, the moments of A's and B's features over batches of images (steps, batch, h, w, c)."""

    def step(carry, batch):
        x = normalize(batch, mean, std)
        of_a, of_b = (plan.network.features(member, x, plan.points) for member in pair)
        found = [feature_moments(branch(a), branch(b)) for a, b in zip(of_a, of_b, strict=True)]
        return jax.tree.map(jnp.add, carry, found), None

    zeros = [
        FeatureMoments(jnp.zeros((d, d)), jnp.zeros((d, d)), jnp.zeros((d,)))
        for d in (plan.network.points[point].channels for point in plan.points)
    ]
    total, _ = lax.scan(step, zeros, images)
    return jax.tree.map(lambda leaf: leaf / images.shape[0], total)


def optimizer(config: FitConfig) -> optax.GradientTransformation:
    """The direction of a step; its length is the learning rate times `decay`."""
    return {"adam": optax.scale_by_adam, "sgd": optax.identity}[config.optimizer]()


def decay(config: FitConfig, progress: jax.Array) -> jax.Array:
    """The factor on the learning rate when the share `progress` of the training is done."""
    return 0.5 * (1 + jnp.cos(jnp.pi * progress)) if config.schedule == "cosine" else jnp.ones_like(progress)


def begin(plan: Plan, pair: Pair, key: jax.Array, data: TrainData, matching_images: jax.Array) -> FitState:
    """Stitches at their start. `key` is raw key data (`jax.random.key_data`)."""
    config = plan.config
    random_key = jax.random.fold_in(jax.random.wrap_key_data(key), 0)
    params, opt_states, closed = [], [], []
    for p, moments in enumerate(pair_moments(plan, pair, matching_images, data.mean, data.std)):
        channels = moments.xx.shape[0]
        starts = start_matrices(moments)

        def start(family, kind, p=p, channels=channels, starts=starts):
            key = jax.random.fold_in(random_key, plan.points[p])  # whatever other points there are
            return family.random(key, channels) if kind == "random" else starts[kind]

        of_point = []
        for family in plan.trained:
            matrix = start(family, family.start if config.start == "auto" else config.start)
            theirs = {"family": family.init(matrix), "bias": jnp.zeros((channels,), jnp.float32)}
            of_point.append(_repeat(theirs, len(config.learning_rates)))
        params.append(of_point)
        opt_states.append([jax.vmap(optimizer(config).init)(theirs) for theirs in of_point])
        closed.append([start(family, family.start) for family in plan.closed])
    return FitState(pair, params, opt_states, closed, key, jnp.zeros((), jnp.int32))


def fit_epoch(plan: Plan, state: FitState, data: TrainData) -> tuple[FitState, dict]:
    """One pass over the training images for all of a pair's stitches.

    Returns the next state and metrics, `loss` and `accuracy`, each (points, trained candidates).
    """
    network, config = plan.network, plan.config
    rates = len(config.learning_rates)
    steps = data.images.shape[0] // config.batch_size
    key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), 1), state.epoch)
    order_key, augment_key = jax.random.split(key)
    order = epoch_indices(order_key, data.images.shape[0], config.batch_size)

    def tail_gradient(point, travelling, labels, stitch):
        def loss_fn(stitch):
            logits, _ = stitched_logits(network, state.pair.b, travelling, stitch, point, "batch")
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, jnp.mean((jnp.argmax(logits, -1) == labels).astype(jnp.float32))

        (loss, right), gradient = jax.value_and_grad(loss_fn, has_aux=True)(stitch)
        return loss, right, gradient

    def step(carry, inputs):
        index, indices = inputs
        progress = (state.epoch * steps + index).astype(jnp.float32) / (steps * config.epochs)
        images = normalize(data.images[indices], data.mean, data.std)
        images = augment(jax.random.fold_in(augment_key, index), images, flip=config.flip, translate=config.translate)
        labels = data.labels[indices]
        fronts = network.features(state.pair.a, images, plan.points)
        new, metrics = [], []
        for point, travelling, *of_point in zip(plan.points, fronts, *carry, strict=True):
            params, opt_states = of_point
            made = [
                jax.vjp(jax.vmap(partial(_stitch_of, family, progress=progress)), theirs)
                for family, theirs in zip(plan.trained, params, strict=True)
            ]
            stitches = _concatenate([stitch for stitch, _ in made])
            loss, right, gradients = each(partial(tail_gradient, point, travelling, labels), plan.execution)(stitches)
            metrics.append((loss, right))
            updated = []
            for f, (family, (_, pull)) in enumerate(zip(plan.trained, made, strict=True)):
                (gradient,) = pull(jax.tree.map(lambda leaf, f=f: leaf[f * rates : (f + 1) * rates], gradients))
                update = jax.vmap(partial(_update, config, family, progress))
                updated.append(update(params[f], opt_states[f], gradient, jnp.asarray(config.learning_rates)))
            new.append(updated)
        new_params = [[theirs for theirs, _ in of_point] for of_point in new]
        new_opt_states = [[opt_state for _, opt_state in of_point] for of_point in new]
        return (new_params, new_opt_states), jax.tree.map(lambda *a: jnp.stack(a), *metrics)

    inputs = (jnp.arange(steps, dtype=jnp.int32), order)
    (params, opt_states), (losses, rights) = lax.scan(step, (state.params, state.opt_states), inputs)
    metrics = {"loss": losses.mean(0), "accuracy": rights.mean(0)}
    return state._replace(params=params, opt_states=opt_states, epoch=state.epoch + 1), metrics


def _stitch_of(family: Family, theirs: PyTree, progress: jax.Array) -> Stitch:
    return Stitch(family.matrix(theirs["family"], progress), theirs["bias"])


def _update(config: FitConfig, family: Family, progress, theirs, opt_state, gradient, rate):
    """One optimizer step of one stitch, then its projection."""
    extra = jax.grad(family.penalty)(theirs["family"], progress)
    bias = gradient["bias"] if config.bias else jnp.zeros_like(gradient["bias"])
    gradient = {"family": jax.tree.map(jnp.add, gradient["family"], extra), "bias": bias}
    with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
        direction, opt_state = optimizer(config).update(gradient, opt_state, theirs)
    stepped = jax.tree.map(lambda old, d: old - rate * decay(config, progress) * d, theirs, direction)
    return {**stepped, "family": family.project(stepped["family"], theirs["family"], progress)}, opt_state


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


def rounded(plan: Plan, state: FitState) -> list[Stitch]:
    """Per point, the rounded stitches of all candidates, stacked: what is evaluated and saved."""
    rounds = []
    for of_point, closed in zip(state.params, state.closed, strict=True):
        stitches = [
            Stitch(jax.vmap(family.round)(theirs["family"]), theirs["bias"])
            for family, theirs in zip(plan.trained, of_point, strict=True)
        ]
        stitches += [Stitch(matrix[None], jnp.zeros((1, matrix.shape[0]), jnp.float32)) for matrix in closed]
        rounds.append(_concatenate(stitches))
    return rounds


def _repeat(tree: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], count, axis=0), tree)


def _concatenate(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)
