"""Training stitches: an optax loop over the stitches' parameters alone, for one pair.

All points and families of a pair train together. The front of A runs once a batch for all of them; the tail of B runs
once a stitch, with the stitch axis lifted as `symjax.parallel` says; no gradient of A's or B's parameters is formed.
Everything here is a pure function of one pair; pairs come in by `parallel.over_members`.
"""

from collections.abc import Sequence
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
from symjax.training.loop import TrainData, apply_gradients

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
        if not self.learning_rates or not all(rate > 0 for rate in self.learning_rates):
            raise InputError(f"learning_rates: {self.learning_rates}, wanted one or more positive numbers")
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
    def candidates(self) -> tuple[Candidate, ...]:
        """All (family, learning rate); those that train come first."""
        trained = [Candidate(f, rate) for f in self.families if f.trains for rate in self.config.learning_rates]
        return (*trained, *(Candidate(f, None) for f in self.families if not f.trains))

    @property
    def num_trained(self) -> int:
        """How many of the candidates train."""
        return sum(candidate.family.trains for candidate in self.candidates)


class FitState(NamedTuple):
    """All that the further training of a pair's stitches depends on."""

    pair: Pair
    params: PyTree  # per point, per candidate: {"family": the family's parameters, "bias": (d,)}
    opt_states: PyTree  # per point, per trained candidate
    key: jax.Array  # raw key data, so that it travels as a plain array
    epoch: jax.Array  # int32


def pair_moments(plan: Plan, pair: Pair, images: jax.Array, mean, std) -> list[FeatureMoments]:
    """Per point, the moments of A's and B's features over batches of images (steps, batch, h, w, c)."""

    def step(carry, batch):
        x = normalize(batch, mean, std)
        fronts = zip(plan.network.features(pair.a, x, plan.points), plan.network.features(pair.b, x, plan.points))
        found = [feature_moments(branch(a), branch(b)) for a, b in fronts]
        return jax.tree.map(jnp.add, carry, found), None

    zeros = [
        FeatureMoments(jnp.zeros((d, d)), jnp.zeros((d, d)), jnp.zeros((d,)))
        for d in (plan.network.points[point].channels for point in plan.points)
    ]
    total, _ = lax.scan(step, zeros, images)
    return jax.tree.map(lambda leaf: leaf / images.shape[0], total)


def optimizer(plan: Plan, candidate: Candidate, total_steps: int) -> optax.GradientTransformation:
    """The optax transformation of one candidate."""
    rate = candidate.learning_rate
    schedule = optax.cosine_decay_schedule(rate, total_steps) if plan.config.schedule == "cosine" else rate
    return {"adam": optax.adam, "sgd": optax.sgd}[plan.config.optimizer](schedule)


def begin(plan: Plan, pair: Pair, key: jax.Array, data: TrainData, matching_images: jax.Array) -> FitState:
    """Stitches at their start. `key` is raw key data (`jax.random.key_data`)."""
    random_key = jax.random.fold_in(jax.random.wrap_key_data(key), 0)
    params, opt_states = [], []
    all_moments = pair_moments(plan, pair, matching_images, data.mean, data.std)
    for p, moments in enumerate(all_moments):
        starts = start_matrices(moments)
        channels = moments.xx.shape[0]
        of_point = []
        for candidate in plan.candidates:
            family = candidate.family
            start = plan.config.start if family.trains and plan.config.start != "auto" else family.start
            if start == "random":
                matrix = family.random(jax.random.fold_in(random_key, p), channels)
            else:
                matrix = starts[start]
            of_point.append({"family": family.init(matrix), "bias": jnp.zeros((channels,), jnp.float32)})
        params.append(of_point)
        trained = zip(plan.candidates[: plan.num_trained], of_point, strict=False)
        opt_states.append([optimizer(plan, candidate, 1).init(theirs) for candidate, theirs in trained])
    return FitState(pair, params, opt_states, key, jnp.zeros((), jnp.int32))


def stitch_of(candidate: Candidate, params: PyTree, progress: jax.Array) -> Stitch:
    """The stitch that a candidate's parameters make."""
    return Stitch(candidate.family.matrix(params["family"], progress), params["bias"])


def fit_epoch(plan: Plan, state: FitState, data: TrainData) -> tuple[FitState, dict]:
    """One pass over the training images for all of a pair's stitches.

    Returns the next state and metrics, `loss` and `accuracy`, each (points, trained candidates).
    """
    network, config = plan.network, plan.config
    trained = plan.candidates[: plan.num_trained]
    steps = data.images.shape[0] // config.batch_size
    total = steps * config.epochs
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
        params, opt_states = carry
        index, indices = inputs
        progress = (state.epoch * steps + index).astype(jnp.float32) / total
        images = normalize(data.images[indices], data.mean, data.std)
        images = augment(jax.random.fold_in(augment_key, index), images, flip=config.flip, translate=config.translate)
        labels = data.labels[indices]
        fronts = network.features(state.pair.a, images, plan.points)
        losses, rights, new_params, new_opt_states = [], [], [], []
        for point, travelling, of_point, opts in zip(plan.points, fronts, params, opt_states, strict=True):
            made = [
                jax.vjp(partial(stitch_of, candidate, progress=progress), theirs)
                for candidate, theirs in zip(trained, of_point, strict=False)
            ]
            stitches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[stitch for stitch, _ in made])
            loss, right, gradients = each(partial(tail_gradient, point, travelling, labels), plan.execution)(stitches)
            losses.append(loss)
            rights.append(right)
            updated, updated_opts = [], []
            for i, (candidate, (_, pull), theirs, opt) in enumerate(zip(trained, made, of_point, opts, strict=False)):
                (gradient,) = pull(jax.tree.map(lambda leaf, i=i: leaf[i], gradients))
                gradient = _add_penalty_gradient(candidate.family, gradient, theirs["family"])
                if not config.bias:
                    gradient["bias"] = jnp.zeros_like(gradient["bias"])
                stepped, opt = apply_gradients(optimizer(plan, candidate, total), gradient, opt, theirs)
                stepped["family"] = candidate.family.project(stepped["family"], theirs["family"], progress)
                updated.append(stepped)
                updated_opts.append(opt)
            new_params.append(updated + of_point[len(trained) :])
            new_opt_states.append(updated_opts)
        return (new_params, new_opt_states), (jnp.stack(losses), jnp.stack(rights))

    inputs = (jnp.arange(steps, dtype=jnp.int32), order)
    (params, opt_states), (losses, rights) = lax.scan(step, (state.params, state.opt_states), inputs)
    metrics = {"loss": losses.mean(0), "accuracy": rights.mean(0)}
    return state._replace(params=params, opt_states=opt_states, epoch=state.epoch + 1), metrics


def _add_penalty_gradient(family: Family, gradient: PyTree, params: PyTree) -> PyTree:
    extra = jax.grad(family.penalty)(params)
    return {**gradient, "family": jax.tree.map(jnp.add, gradient["family"], extra)}


def halfway(plan: Plan, state: FitState) -> FitState:
    """What families do once when half of the epochs are done."""
    params = _per_candidate(plan, state.params, lambda family, theirs: family.halfway(theirs))
    return state._replace(params=params)


def rounded(plan: Plan, state: FitState) -> list[Stitch]:
    """Per point, the rounded stitches of all candidates, stacked: what is evaluated and saved."""
    rounds = []
    for of_point in state.params:
        stitches = [
            Stitch(candidate.family.round(theirs["family"]), theirs["bias"])
            for candidate, theirs in zip(plan.candidates, of_point, strict=True)
        ]
        rounds.append(jax.tree.map(lambda *leaves: jnp.stack(leaves), *stitches))
    return rounds


def _per_candidate(plan: Plan, params: Sequence, change) -> list:
    return [
        [
            {**theirs, "family": change(candidate.family, theirs["family"])} if candidate.family.trains else theirs
            for candidate, theirs in zip(plan.candidates, of_point, strict=True)
        ]
        for of_point in params
    ]
