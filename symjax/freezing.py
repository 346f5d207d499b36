"""Freeze training (Raghu et al. 2017): lower layers stop training first, which saves their gradients."""

from collections.abc import Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.errors import InputError
from symjax.models import Network
from symjax.training import Recipe, create_state
from symjax.training.loop import optimizer, train_step


def linear_schedule(layers: int, epochs: int, begin: float = 0.2, end: float = 0.8) -> tuple[int, ...]:
    """After how many epochs each layer is frozen: the lowest at `begin` of the run, the last at `end`, evenly between.

    Raises:
      InputError: not 0 <= begin <= end <= 1.
    """
    if not 0 <= begin <= end <= 1:
        raise InputError(f"begin, end: got {begin} and {end}, wanted 0 <= begin <= end <= 1")
    return tuple(int(epoch) for epoch in np.rint(epochs * np.linspace(begin, end, layers)))


def saturation_schedule(epochs: Sequence[int], similarity, threshold: float) -> tuple[int, ...]:
    """After how many epochs each layer is frozen, by how little it still changes.

    A layer is frozen at the first checkpoint at which its similarity with the checkpoint before is `threshold` or more,
    no layer before those under it. Layers that never come so far are not in the schedule, nor are those above them.

    Args:
      epochs: of the checkpoints, ascending, (k,).
      similarity: (k - 1, layers), of each checkpoint from the second with the one before.
      threshold: a similarity.
    """
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or len(similarity) != len(epochs) - 1:
        raise InputError(f"similarity: got shape {list(similarity.shape)}, wanted {len(epochs) - 1} rows")
    found: list[int] = []
    for layer in similarity.T:
        reached = np.flatnonzero(layer >= threshold)
        if not len(reached):
            break
        found.append(max([int(epochs[reached[0] + 1]), *found[-1:]]))
    return tuple(found)


def step_flops(network: Network, image_shape: tuple[int, int, int], recipe: Recipe, frozen: int = 0) -> float:
    """Floating-point operations of one training step with the first `frozen` segments frozen.

    As XLA counts them in the program before it optimises: forward pass, loss, gradients, the optimizer's update;
    without augmentation. A network with method="native" has convolutions counted as such, not as the form in which
    they run.

    Args:
      network: its model.
      image_shape: (height, width, channels).
      recipe: its batch size, and its optimizer with what belongs to it.
      frozen: of `symjax.training.train_step`.

    Raises:
      InputError: XLA counts no operations for this backend.
    """
    return _step_flops(network, tuple(image_shape), recipe, frozen)


@lru_cache
def _step_flops(network: Network, image_shape: tuple[int, int, int], recipe: Recipe, frozen: int) -> float:
    counted = lowered_step(network, image_shape, recipe, frozen).cost_analysis() or {}
    if "flops" not in counted:
        backend = jax.default_backend()
        raise InputError(f"flops: XLA counts no operations for the backend {backend}; with JAX_PLATFORMS=cpu it does")
    return float(counted["flops"])


def lowered_step(network: Network, image_shape: tuple[int, int, int], recipe: Recipe, frozen: int = 0):
    """The training step of `step_flops` as `jax.jit(...).lower` gives it."""
    batch_size = recipe.batch_size
    tx = optimizer(recipe, steps_per_epoch=1)
    state = jax.eval_shape(lambda: create_state(network, recipe, 1, jnp.int32(0)))
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)

    def step(member, opt_state, images, labels):
        (after, opt_state), metrics = train_step(network, tx, member, opt_state, images, labels, frozen)
        return lax.optimization_barrier((after, opt_state)), metrics

    return jax.jit(step).lower(state.member, state.opt_state, images, labels)


def training_flops(
    network: Network, image_shape: tuple[int, int, int], train_images: int, recipe: Recipe, freeze: Sequence[int] = ()
) -> float:
    """Floating-point operations of all training steps of one member: `step_flops` of each; without validation.

    Args:
      network, image_shape: as of `step_flops`.
      train_images: how many there are.
      recipe: its epochs, batch size and optimizer.
      freeze: of `symjax.zoo.ZooConfig`.
    """
    frozen = [sum(begin <= epoch for begin in freeze) for epoch in range(recipe.epochs)]
    steps = train_images // recipe.batch_size
    return sum(steps * step_flops(network, image_shape, recipe, count) for count in frozen)
