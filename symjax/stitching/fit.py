"""Train stitches: an optax loop over the parameters of the stitches of one pair.

All points and families of a pair train together. The front of A runs once per batch for all of them; the tail of B runs
once per stitch, lifted over the stitch axis by `symjax.ops.parallel`. No gradients of the parameters of A and B are
computed. The functions are pure functions of one pair; `parallel.over_members` lifts them over pairs.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from symjax.data import augment, epoch_indices, normalize
from symjax.network.low_rank import materialize
from symjax.ops.parallel import batched, concatenate, each, each_stack
from symjax.stitching.controls import MATCH, TASK
from symjax.stitching.families import Family
from symjax.stitching.junction import Junction, carried_values, each_tail, paired_features
from symjax.stitching.matching import FeatureMoments, feature_moments, start_matrices
from symjax.stitching.plan import FitConfig, Plan
from symjax.stitching.stitched import Pair, Stitch, low_rank, pad_factors, stitched_features, stitched_output
from symjax.training.loop import TrainData
from symjax.training.task import accuracy_scores, cross_entropy

PyTree = Any


class FitState(NamedTuple):
    """All values on which the further training of the stitches of a pair depends."""

    pair: Pair
    params: PyTree  # per point and trained family, leading axis rates: {"family": parameters} and any "bias" (d_b,)
    opt_state: PyTree  # of the optimizer, for all params
    closed_form: PyTree  # per point and family that does not train: its matrix (d_b, d_a)
    key: jax.Array  # raw key data, a plain array
    epoch: jax.Array  # int32


def pair_moments(plan: Plan, pair: Pair, images: jax.Array, mean, std, labels=None) -> list[FeatureMoments]:
    """Return the moments of A's and B's features at each point, over batches of images (steps, batch, ...).

    Noise clusters need the classes of the images, `labels` (steps, batch).
    """
    networks = plan.network, plan.network_b

    def step(carry, batch):
        x, classes = normalize(batch[0], mean, std), batch[1]
        moments = [feature_moments(a, b) for a, b in paired_features(plan.junctions, networks, pair, x, classes)]
        return jax.tree.map(jnp.add, carry, moments), None

    zeros = [
        FeatureMoments(*(jnp.zeros(shape, jnp.float32) for shape in ((d_a, d_a), (d_b, d_a), (d_b,))))
        for d_b, d_a in (junction.shape for junction in plan.junctions)
    ]
    total, _ = lax.scan(step, zeros, (images, labels))
    return jax.tree.map(lambda leaf: leaf / images.shape[0], total)


def optimizer(config: FitConfig) -> optax.GradientTransformation:
    """Return the transformation that gives the direction of a step; its length is the learning rate times `decay`.

    The parameters are flattened to one vector, which compiles to a few kernels instead of a few for every leaf.
    """
    return optax.flatten({"adam": optax.scale_by_adam, "sgd": optax.identity}[config.optimizer]())


def decay(config: FitConfig, progress: jax.Array) -> jax.Array:
    """Return the factor of the learning rate when the share `progress` of the training is done."""
    return 0.5 * (1 + jnp.cos(jnp.pi * progress)) if config.schedule == "cosine" else jnp.ones_like(progress)


def family_progress(config: FitConfig, epoch: jax.Array, share: jax.Array) -> jax.Array:
    """Return the `progress` of families after a `share` of `epoch`; it is exactly 1/2 when `halfway` is applied."""
    half = config.halfway_epoch
    first = 0.5 * (epoch + share) / half
    second = 0.5 + 0.5 * (epoch + share - half) / max(config.epochs - half, 1)
    return jnp.where(epoch < half, first, second).astype(jnp.float32)


def initialize(plan: Plan, pair: Pair, key: jax.Array, moments: list[FeatureMoments]) -> FitState:
    """Return the initial state, from raw key data (`jax.random.key_data`) and the result of `pair_moments`."""
    config = plan.config
    random_key = jax.random.fold_in(jax.random.wrap_key_data(key), 0)
    params, closed_form = [], []
    for junction, point_moments in zip(plan.junctions, moments, strict=True):
        starts = start_matrices(point_moments)
        # The key does not depend on the other points of the plan, and is the same for a stitch and its controls.
        point_key = jax.random.fold_in(random_key, junction.layer_index)
        if junction.layer_index != junction.b:
            point_key = jax.random.fold_in(point_key, junction.b)

        def start(family, kind, key=point_key, shape=junction.shape, starts=starts):
            return family.random(key, shape) if kind == "random" else starts[kind]

        point_params = []
        for family in plan.trained:
            matrix = start(family, family.start if config.start == "auto" else config.start)
            stitch_params = {"family": family.init(matrix)}
            if config.bias:
                stitch_params["bias"] = jnp.zeros((junction.shape[0],), jnp.float32)
            point_params.append(_repeat(stitch_params, len(config.learning_rates)))
        params.append(point_params)
        closed_form.append([start(family, family.start) for family in plan.closed_form])
    opt_state = optimizer(config).init(params) if plan.trained else ()  # optax cannot flatten an empty tree
    return FitState(pair, params, opt_state, closed_form, key, jnp.zeros((), jnp.int32))


def fit_epoch(plan: Plan, state: FitState, data: TrainData) -> tuple[FitState, dict]:
    """Train all stitches of a pair for one pass over the training images.

    Tails run in training mode, with the batch-norm statistics of each batch, but without random operations where the
    network can switch these off separately. Otherwise (`Network.needs_key`) all tails use one key per step.

    Returns:
      The next state, and metrics of shape (points, trained candidates): `loss` and `accuracy` over the epoch, and the
      `residual` of the families at its end. The accuracy is NaN where the objective is not the loss of the task, since
      the tail is not run to its end.
    """
    config, network_b = plan.config, plan.network_b
    loss_of, scores_of = config.loss or cross_entropy, config.metric or accuracy_scores
    steps = data.images.shape[0] // config.batch_size
    key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), 1), state.epoch)
    order_key, augment_key = jax.random.split(key)
    tail_key = jax.random.fold_in(key, 2)
    order = epoch_indices(order_key, data.images.shape[0], config.batch_size)

    def tail_gradient(junction, carried, targets, features_b, key, stitch):
        def loss_fn(stitch):
            if junction.objective != TASK:
                features = _features_to_match(plan, state.pair, junction, carried, stitch, key)
                target = features_b[_matched_point(plan, junction)].astype(jnp.float32)
                return jnp.mean((features.astype(jnp.float32) - target) ** 2), jnp.float32(jnp.nan)
            outputs, _ = stitched_output(network_b, state.pair.b, carried, stitch, junction.b, "train", key=key)
            return loss_of(outputs, targets).astype(jnp.float32), jnp.mean(scores_of(outputs, targets))

        (loss, score), gradient = jax.value_and_grad(loss_fn, has_aux=True)(stitch)
        return loss, score, gradient

    def step(carry, inputs):
        params, opt_state = carry
        index, indices = inputs
        run_progress = (state.epoch * steps + index).astype(jnp.float32) / (steps * config.epochs)
        progress = family_progress(config, state.epoch, index.astype(jnp.float32) / steps)
        images = normalize(data.images[indices], data.mean, data.std)
        images = augment(jax.random.fold_in(augment_key, index), images, flip=config.flip, translate=config.translate)
        targets, step_key = data.labels[indices], jax.random.fold_in(tail_key, index) if network_b.needs_key else None
        fronts = carried_values(plan.junctions, plan.network, state.pair, images, targets)
        matched_points = {_matched_point(plan, junction) for junction in plan.junctions if junction.objective != TASK}
        features_b = network_b.features(state.pair.b, images, sorted(matched_points)) if matched_points else {}
        gradients, metrics, items, vjps = [], [], [], []
        for carried, point_params in zip(fronts, params, strict=True):
            (stitches, penalties), vjp = jax.vjp(partial(_stitches_and_penalties, plan, progress), point_params)
            items.append((carried, stitches))
            vjps.append((vjp, jax.tree.map(jnp.ones_like, penalties)))

        def tail_gradients(junction, item):
            carried, stitches = item
            gradient = partial(tail_gradient, junction, carried, targets, features_b, step_key)
            return each_stack(gradient, stitches, plan.execution)

        tails = each_tail(tail_gradients, plan.junctions, items, plan.execution)
        for results, (vjp, ones) in zip(tails, vjps, strict=True):
            metrics.append(concatenate([(loss, score) for loss, score, _ in results]))
            gradients += vjp(([gradient for *_, gradient in results], ones))
        params, opt_state = _update(plan, run_progress, progress, params, opt_state, gradients)
        return (params, opt_state), jax.tree.map(lambda *a: jnp.stack(a), *metrics)

    inputs = (jnp.arange(steps, dtype=jnp.int32), order)
    (params, opt_state), (losses, scores) = lax.scan(step, (state.params, state.opt_state), inputs)
    residuals = [
        jnp.concatenate([batched(f.residual)(p["family"]) for f, p in zip(plan.trained, point_params, strict=True)])
        for point_params in params
    ]
    metrics = {"loss": losses.mean(0), "accuracy": scores.mean(0), "residual": jnp.stack(residuals)}
    return state._replace(params=params, opt_state=opt_state, epoch=state.epoch + 1), metrics


def _matched_point(plan: Plan, junction: Junction) -> str:
    """Return the name of the point of B whose features a stitch is trained to match."""
    return junction.tail.name if junction.objective == MATCH else plan.network_b.points[-1].name


def _features_to_match(plan: Plan, pair: Pair, junction: Junction, carried, stitch: Stitch, key) -> jax.Array:
    """Return the features of the stitched network at the point of `_matched_point`."""
    values = (stitched_features(stitch, carried[0]), *carried[1:])
    last = len(plan.network_b.points) - 1
    if junction.objective != MATCH and junction.b < last:
        values = plan.network_b.between(pair.b, values, junction.b, last, mode="train", key=key)
    return materialize(values[0])


def _stitches_and_penalties(plan: Plan, progress, point_params: list[PyTree]) -> tuple[list[Stitch], list[jax.Array]]:
    """Return the stitches of all trained families at one point, and the penalties that are added to the loss."""

    def of_family(family, stitch_params):
        params = stitch_params["family"]
        stitch = _stitch(family, stitch_params, family.matrix(params, progress))
        return stitch, family.penalty(params, progress)

    results = [batched(partial(of_family, f))(params) for f, params in zip(plan.trained, point_params, strict=True)]
    stitches, penalties = zip(*results, strict=True)
    return pad_factors(stitches), list(penalties)


def _stitch(family: Family, stitch_params: PyTree, matrix: jax.Array) -> Stitch:
    return Stitch(matrix, stitch_params.get("bias"), low_rank(family.factors(stitch_params["family"])))


def _update(plan: Plan, run_progress, progress, params, opt_state, gradients):
    """Apply one optimizer step to all stitches of a pair, and then the projections of their families."""
    config = plan.config
    with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
        direction, opt_state = optimizer(config).update(gradients, opt_state, params)
    length = jnp.asarray(config.learning_rates, jnp.float32) * decay(config, run_progress)
    stepped = jax.tree.map(lambda old, d: old - length.reshape(-1, *(1,) * (d.ndim - 1)) * d, params, direction)

    def projected(family, new, old):
        project = batched(lambda new, old, length: family.project(new, old, progress, length))
        return {**new, "family": project(new["family"], old["family"], length)}

    return [
        [projected(*args) for args in zip(plan.trained, new, old, strict=True)]
        for new, old in zip(stepped, params, strict=True)
    ], opt_state


def halfway(plan: Plan, state: FitState) -> FitState:
    """Apply `Family.halfway` to the parameters of all stitches of a pair."""
    params = [
        [
            {**stitch_params, "family": batched(family.halfway)(stitch_params["family"])}
            for family, stitch_params in zip(plan.trained, point_params, strict=True)
        ]
        for point_params in state.params
    ]
    return state._replace(params=params)


def round_stitches(plan: Plan, state: FitState) -> list[list[Stitch]]:
    """Return the rounded stitches, which are evaluated and saved, per point and family in the order of `stacked`."""

    def of_family(family, stitch_params):
        matrices = each(family.round, plan.execution)(stitch_params["family"])
        return batched(partial(_stitch, family))(stitch_params, matrices)

    return [
        [of_family(*args) for args in zip(plan.trained, point_params, strict=True)]
        + [Stitch(matrix[None]) for matrix in matrices]
        for point_params, matrices in zip(state.params, state.closed_form, strict=True)
    ]


def _repeat(tree: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], count, axis=0), tree)
