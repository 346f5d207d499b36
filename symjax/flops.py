"""Floating-point operations of networks, as the compiler counts them before it begins; nothing is compiled or run."""

import contextlib
from collections.abc import Sequence
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jax import lax

from symjax import freezing
from symjax.checks import integer, integers
from symjax.errors import InputError
from symjax.network import Network
from symjax.training import Recipe, create_state
from symjax.training.loop import optimizer, train_step

__all__ = ["step_flops", "training_flops"]

CLASS = jax.ShapeDtypeStruct((), jnp.int32)  # one target of classification


def segment_flops(network: Network, image: Sequence[int]) -> list[float]:
    """Operations up to each stitch point from the one before, and from the last to the output, for one input.

    `image` is its shape; of images (height, width, channels).

    Convolutions are counted plainly, whatever the form in which they run. Where the compiler does not count, each
    segment counts as one.
    """
    network = network.with_form("native")
    crossing, counts = (_inputs(network, 1, image),), []
    for i in range(len(network.points) + 1):
        run = partial(network.between, start=i - 1, stop=i)
        counts.append(float((lowered(run, network.shapes, crossing).cost_analysis() or {}).get("flops", 1.0)))
        crossing = jax.eval_shape(run, network.shapes, crossing)
    return counts


def step_flops(
    network: Network,
    image_shape: Sequence[int],
    recipe: Recipe,
    frozen: int = 0,
    *,
    target: jax.ShapeDtypeStruct = CLASS,
) -> float:
    """Floating-point operations of one training step with the first `frozen` segments frozen.

    As XLA counts them in the program before it optimises: forward pass, loss, gradients, the optimizer's update;
    without augmentation. Convolutions are counted plainly, whatever the form in which they run.

    Args:
      network: its model.
      image_shape: (height, width, channels); or the shape of one input of another kind.
      recipe: its batch size, its loss, and its optimizer with what belongs to it.
      frozen: of `symjax.training.train_step`.
      target: shape and type of the target of one example; a class by default.

    Raises:
      InputError: the network takes no such images; XLA counts no operations for this backend.
    """
    image_shape = integers("image_shape", image_shape, 1)
    (example,) = jax.tree.leaves(network.example)
    if len(image_shape) != example.ndim - 1:
        expected = "height, width and channels" if example.ndim == 4 else f"such as {example.shape[1:]}"
        raise InputError(f"image_shape: got {image_shape}, wanted {expected}")
    try:
        jax.eval_shape(network.apply, network.shapes, _inputs(network, 1, image_shape))
    except Exception as error:  # which one depends on the layer
        raise InputError(f"image_shape: got {image_shape}, which {network.name} cannot take") from error
    return _step_flops(
        network.with_form("native"), image_shape, recipe, integer("frozen", frozen, 0, len(network.points)), target
    )


@lru_cache
def _step_flops(network: Network, image_shape: tuple[int, ...], recipe: Recipe, frozen: int, target) -> float:
    return counted(lowered_step(network, image_shape, recipe, frozen, target))


def _inputs(network: Network, count: int, shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    """Shape and type of so many inputs as the network takes them."""
    (example,) = jax.tree.leaves(network.example)
    return jax.ShapeDtypeStruct((count, *shape), example.dtype)


def lowered(fn, *arguments):
    """`jax.jit(fn).lower(*arguments)` for the CPU where there is one: the clients of accelerators count nothing."""
    with contextlib.ExitStack() as contexts:
        if jax.default_backend() != "cpu":
            with contextlib.suppress(RuntimeError):  # the CPU is left out of JAX_PLATFORMS
                contexts.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
        return jax.jit(fn).lower(*arguments)


def counted(program) -> float:
    """The operations of a program as `lowered` gives it; an InputError where XLA counts none here."""
    found = program.cost_analysis() or {}
    if "flops" not in found:
        backend = jax.default_backend()
        raise InputError(f"flops: XLA counts no operations for the backend {backend}; with JAX_PLATFORMS=cpu it does")
    return float(found["flops"])


def lowered_step(
    network: Network,
    image_shape: Sequence[int],
    recipe: Recipe,
    frozen: int = 0,
    target: jax.ShapeDtypeStruct = CLASS,
):
    """The training step of `step_flops`."""
    batch_size = recipe.batch_size
    tx = optimizer(recipe, steps_per_epoch=1)
    state = jax.eval_shape(lambda: create_state(network, recipe, 1, jnp.int32(0)))
    images = _inputs(network, batch_size, image_shape)
    labels = jax.ShapeDtypeStruct((batch_size, *target.shape), target.dtype)

    def step(member, opt_state, images, labels, key):
        options = {"key": key, "loss": recipe.loss, "metric": recipe.metric}
        (after, opt_state), metrics = train_step(network, tx, member, opt_state, images, labels, frozen, **options)
        return lax.optimization_barrier((after, opt_state)), metrics

    key = jax.eval_shape(lambda: jax.random.key(0))
    return lowered(step, state.member, state.opt_state, images, labels, key)


def training_flops(
    network: Network,
    image_shape: Sequence[int],
    train_images: int,
    recipe: Recipe,
    freeze: Sequence[int] = (),
    *,
    target: jax.ShapeDtypeStruct = CLASS,
) -> float:
    """Floating-point operations of all training steps of one member: `step_flops` of each; without validation.

    Args:
      network, image_shape, target: as of `step_flops`.
      train_images: how many there are.
      recipe: its epochs, batch size and optimizer.
      freeze: of `symjax.zoo.ZooConfig`.
    """
    steps = integer("train_images", train_images) // recipe.batch_size
    freeze = integers("freeze", freeze)
    counts = [freezing.frozen(freeze, epoch) for epoch in range(recipe.epochs)]
    return sum(steps * step_flops(network, image_shape, recipe, count, target=target) for count in counts)
