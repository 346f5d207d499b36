"""Floating-point operations of networks, as XLA counts them before optimization; nothing is compiled or run.

XLA counts the body of a loop once. Here the body of a scan counts once for each iteration; that of a `while_loop`,
whose number of iterations is not known, counts once.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Jaxpr, jaxpr_as_fun, jaxprs_in_params
from jax.interpreters import partial_eval as pe

from symjax import freezing
from symjax.checks import integer, integers
from symjax.errors import InputError
from symjax.network import Network
from symjax.training import Recipe, create_state
from symjax.training.loop import optimizer, train_step

__all__ = ["step_flops", "training_flops"]

CLASS = jax.ShapeDtypeStruct((), jnp.int32)  # the target of one example


def segment_flops(network: Network, image: Sequence[int]) -> list[float]:
    """Return the operations of each segment between consecutive stitch points for one input.

    The last segment ends at the output. Convolutions are counted as direct convolutions, whatever the form in which
    they run. Where XLA does not count operations, each segment counts as one.

    Args:
      network: the network.
      image: the shape of one input, (height, width, channels) for images.
    """
    network = network.with_form("native")
    crossing, counts = (_inputs(network, 1, image),), []
    for i in range(len(network.points) + 1):
        run = partial(network.between, start=i - 1, stop=i)
        counts.append(float(lower_on_cpu(run, network.shapes, crossing).cost_analysis().get("flops", 1.0)))
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
    """Return the floating-point operations of one training step with the first `frozen` segments frozen.

    They are counted by XLA before optimization and comprise forward pass, loss, gradients and the update of the
    optimizer, without augmentation. Convolutions are counted as direct convolutions, whatever the form in which they
    run.

    Args:
      network: the network.
      image_shape: the shape of one input, (height, width, channels) for images.
      recipe: batch size, loss and optimizer.
      frozen: number of frozen segments, as in `symjax.training.loop.train_step`.
      target: shape and dtype of the target of one example; a class by default.

    Raises:
      InputError: the network cannot take these inputs; XLA does not count operations for this backend.

    Example:
      >>> import jax.numpy as jnp, numpy as np, symjax
      >>> from symjax.flops import step_flops
      >>> from symjax.training import Recipe
      >>> def linear(params, x):
      ...     return x @ params["w"]
      >>> def init(key):
      ...     return {"w": jnp.ones((3, 2))}
      >>> net = symjax.Network.from_function(linear, init=init, example=np.zeros((1, 3), np.float32))
      >>> step_flops(net, (3,), Recipe(batch_size=8)) < 2 * step_flops(net, (3,), Recipe(batch_size=16))
      True
    """
    image_shape = integers("image_shape", image_shape, 1)
    (example,) = jax.tree.leaves(network.example)
    if len(image_shape) != example.ndim - 1:
        expected = "height, width and channels" if example.ndim == 4 else f"such as {example.shape[1:]}"
        raise InputError(f"image_shape: got {image_shape}, expected {expected}")
    try:
        jax.eval_shape(network.apply, network.shapes, _inputs(network, 1, image_shape))
    except Exception as error:  # which one depends on the layer
        raise InputError(f"image_shape: got {image_shape}, expected a shape of inputs of {network.name}") from error
    return _step_flops(
        network.with_form("native"), image_shape, recipe, integer("frozen", frozen, 0, len(network.points)), target
    )


@lru_cache
def _step_flops(network: Network, image_shape: tuple[int, ...], recipe: Recipe, frozen: int, target) -> float:
    return count_flops(lower_step(network, image_shape, recipe, frozen, target))


def _inputs(network: Network, count: int, shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of `count` inputs of the network."""
    (example,) = jax.tree.leaves(network.example)
    return jax.ShapeDtypeStruct((count, *shape), example.dtype)


@dataclass(frozen=True)
class CountedProgram:
    """A lowered program, and the operations of further iterations of its loops, which XLA leaves out."""

    lowered: Any
    repeated: float

    def cost_analysis(self) -> dict[str, float]:
        """Return the costs that XLA counts, with all iterations of scans."""
        costs = dict(self.lowered.cost_analysis() or {})
        return {**costs, "flops": costs["flops"] + self.repeated} if "flops" in costs else costs

    def compile(self):
        """Return the compiled program."""
        return self.lowered.compile()


def lower_on_cpu(fn, *arguments) -> CountedProgram:
    """Lower `fn` for the CPU if available: accelerators do not count operations."""
    with contextlib.ExitStack() as contexts:
        if jax.default_backend() != "cpu":
            with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS excludes the CPU
                contexts.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
        traced = jax.jit(fn).trace(*arguments)
        jaxpr = traced.jaxpr.jaxpr
        used, _ = pe.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # as XLA counts it
        return CountedProgram(traced.lower(), _repeated_flops(used))


def _repeated_flops(jaxpr: Jaxpr) -> float:
    """Return the operations of all iterations of scans that XLA does not count."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name != "scan":
            total += sum(map(_repeated_flops, jaxprs_in_params(equation.params)))
            continue
        body = equation.params["jaxpr"]
        program = lower_on_cpu(jaxpr_as_fun(body), *body.in_avals)
        every, once = (
            (costs or {}).get("flops", 0.0) for costs in (program.cost_analysis(), program.lowered.cost_analysis())
        )
        length, unroll = equation.params["length"], equation.params["unroll"]
        # A loop that is unrolled in part has `unroll` copies of its body, and those of the remaining iterations.
        copies = length if unroll >= length else unroll + length % unroll
        total += length * every - copies * once
    return total


def count_flops(program) -> float:
    """Return the operations of a lowered program; raise an InputError if XLA does not count them."""
    costs = program.cost_analysis() or {}
    if "flops" not in costs:
        backend = jax.default_backend()
        raise InputError(
            f"flops: got the backend {backend}, for which XLA does not count operations, expected JAX_PLATFORMS=cpu"
        )
    return float(costs["flops"])


def lower_step(
    network: Network,
    image_shape: Sequence[int],
    recipe: Recipe,
    frozen: int = 0,
    target: jax.ShapeDtypeStruct = CLASS,
):
    """Return the lowered training step of `step_flops`."""
    batch_size = recipe.batch_size
    tx = optimizer(recipe, steps_per_epoch=1)
    state = jax.eval_shape(lambda: create_state(network, recipe, 1, jnp.int32(0)))
    images = _inputs(network, batch_size, image_shape)
    labels = jax.ShapeDtypeStruct((batch_size, *target.shape), target.dtype)

    def step(member, opt_state, images, labels, key):
        options = {"key": key, "loss": recipe.loss, "metric": recipe.metric}
        (updated, opt_state), metrics = train_step(network, tx, member, opt_state, images, labels, frozen, **options)
        return lax.optimization_barrier((updated, opt_state)), metrics

    key = jax.eval_shape(lambda: jax.random.key(0))
    return lower_on_cpu(step, state.member, state.opt_state, images, labels, key)


def training_flops(
    network: Network,
    image_shape: Sequence[int],
    train_images: int,
    recipe: Recipe,
    freeze: Sequence[int] = (),
    *,
    target: jax.ShapeDtypeStruct = CLASS,
) -> float:
    """Return the floating-point operations of all training steps of one member, without validation.

    Args:
      network, image_shape, target: as in `step_flops`.
      train_images: number of training images.
      recipe: epochs, batch size, loss and optimizer.
      freeze: for each segment, the number of epochs after which it is frozen, as in `symjax.zoo.ZooConfig`.

    Raises:
      InputError: as in `step_flops`, or an argument is not an integer in its range.

    Example:
      >>> import jax.numpy as jnp, numpy as np, symjax
      >>> from symjax.flops import step_flops, training_flops
      >>> from symjax.training import Recipe
      >>> def linear(params, x):
      ...     return x @ params["w"]
      >>> def init(key):
      ...     return {"w": jnp.ones((3, 2))}
      >>> net = symjax.Network.from_function(linear, init=init, example=np.zeros((1, 3), np.float32))
      >>> recipe = Recipe(epochs=2, batch_size=8)
      >>> training_flops(net, (3,), 80, recipe) == 2 * 10 * step_flops(net, (3,), recipe)
      True
    """
    steps = integer("train_images", train_images) // recipe.batch_size
    freeze = integers("freeze", freeze)
    counts = [freezing.num_frozen(freeze, epoch) for epoch in range(recipe.epochs)]
    return sum(steps * step_flops(network, image_shape, recipe, count, target=target) for count in counts)
