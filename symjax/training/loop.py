"""Training one member: a pure function of its state, epoch by epoch. Other members come in by `symjax.parallel`."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from symjax.data import Dataset, augment, epoch_indices, normalize
from symjax.errors import InputError
from symjax.models import Member, Network
from symjax.training.evaluation import Batches, accuracy

PyTree = Any


@dataclass(frozen=True)
class Recipe:
    """How a member is trained; the defaults are those of Godfrey et al. 2022.

    Adam with the learning rate halved after every quarter of the run; weight decay is an L2 penalty on kernels, not on
    biases nor on batch norm. `flip` and `translate` are the augmentation.
    """

    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    flip: bool = True
    translate: int = 2

    def __post_init__(self):
        for name in ("epochs", "batch_size", "translate"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, int):
                raise InputError(f"{name}: got {value!r}, wanted an integer")
        for name in ("epochs", "batch_size", "learning_rate"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise InputError(f"{name}: got {value}, wanted a positive number")
        for name in ("weight_decay", "translate"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise InputError(f"{name}: got {value}, wanted a number from 0")


class TrainState(NamedTuple):
    """All that a member's further training depends on."""

    member: Member
    opt_state: PyTree
    seed: jax.Array  # int32
    epoch: jax.Array  # int32, epochs done


class TrainData(NamedTuple):
    """What all members share: images on the device, and how they are normalised."""

    images: jax.Array  # (n, height, width, channels), uint8
    labels: jax.Array  # (n,), int32
    mean: jax.Array  # (channels,)
    std: jax.Array  # (channels,)
    validation: Batches | None  # None where nothing is validated on the way


def optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    """Adam with L2 weight decay on kernels; the rate halves after each quarter of all steps."""
    total = recipe.epochs * steps_per_epoch
    # Step t of the run lies in quarter 4 * t // total. Quarters of very short runs may begin with one step; there the
    # halvings multiply.
    halvings: dict[int, float] = {}
    for quarter in (1, 2, 3):
        step = -(-total * quarter // 4)
        halvings[step] = halvings.get(step, 1.0) * 0.5
    return optax.chain(
        optax.add_decayed_weights(recipe.weight_decay, mask=_is_kernel),
        optax.adam(optax.piecewise_constant_schedule(recipe.learning_rate, halvings)),
    )


def apply_gradients(tx: optax.GradientTransformation, grads, opt_state, params):
    """One optax step: (new params, new optimizer state)."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state


def _is_kernel(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def create_state(network: Network, recipe: Recipe, steps_per_epoch: int, seed: jax.Array) -> TrainState:
    """A fresh member from its seed alone."""
    member = network.init(jax.random.fold_in(jax.random.key(seed), 0))
    opt_state = optimizer(recipe, steps_per_epoch).init(member.params)
    return TrainState(member, opt_state, jnp.asarray(seed, jnp.int32), jnp.zeros((), jnp.int32))


def train_epoch(network: Network, recipe: Recipe, state: TrainState, data: TrainData) -> tuple[TrainState, dict]:
    """One pass over the training images in an order of the member's own, then validation, if there are images for it.

    Of `network` it uses `logits` alone.

    Returns:
      The next state, and metrics: `loss` and `accuracy` (of the training batches as they were seen, in [0, 1]),
      `validation_accuracy` (in [0, 1]).
    """
    steps_per_epoch = data.images.shape[0] // recipe.batch_size
    tx = optimizer(recipe, steps_per_epoch)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(state.seed), 1), state.epoch)
    order_key, augment_key = jax.random.split(key)
    order = epoch_indices(order_key, data.images.shape[0], recipe.batch_size)

    def step(carry, inputs):
        member, opt_state = carry
        index, indices = inputs
        images = normalize(data.images[indices], data.mean, data.std)
        images = augment(jax.random.fold_in(augment_key, index), images, flip=recipe.flip, translate=recipe.translate)
        labels = data.labels[indices]

        def loss_fn(params):
            logits, stats = network.logits(Member(params, member.stats), images, mode="train")
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, (stats, jnp.mean((jnp.argmax(logits, -1) == labels).astype(jnp.float32)))

        (loss, (stats, right)), grads = jax.value_and_grad(loss_fn, has_aux=True)(member.params)
        params, opt_state = apply_gradients(tx, grads, opt_state, member.params)
        return (Member(params, stats), opt_state), (loss, right)

    inputs = (jnp.arange(steps_per_epoch, dtype=jnp.int32), order)
    (member, opt_state), (losses, rights) = lax.scan(step, (state.member, state.opt_state), inputs)
    metrics = {"loss": losses.mean(), "accuracy": rights.mean()}
    if data.validation is not None:
        metrics["validation_accuracy"] = accuracy(
            lambda images: network.logits(member, normalize(images, data.mean, data.std))[0], data.validation
        )
    return TrainState(member, opt_state, state.seed, state.epoch + 1), metrics


def device_data(dataset: Dataset, validation_batches: Batches | None) -> TrainData:
    """A data set's training part on the device."""
    return TrainData(
        images=jnp.asarray(dataset.train.images),
        labels=jnp.asarray(dataset.train.labels),
        mean=jnp.asarray(dataset.mean),
        std=jnp.asarray(dataset.std),
        validation=validation_batches,
    )
