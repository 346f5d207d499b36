"""Own losses, metrics and optimizers: what they are asked to return, and fingerprints of what they compute."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from symjax.errors import InputError
from symjax.network import Network
from symjax.network.structure import program_fingerprint
from symjax.spelling import described
from symjax.training.loop import Recipe, apply_gradients, optimizer, tree_types

PyTree = Any
EXAMPLES = 7  # by which functions are tried: not a width, so that one that mixes up axes fails


def check_task(recipe: Recipe, network: Network, example: PyTree, targets: jax.ShapeDtypeStruct, classes: int | None):
    """Raise an InputError unless a network can be trained and judged as a recipe says; nothing is compiled.

    Args:
      recipe: with its loss and metric.
      network: what is trained.
      example: shapes and types of an input, examples along the first axis.
      targets: likewise of its targets.
      classes: how many there are; None where targets are not classes.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(network.shapes.params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            where = f"{jax.tree_util.keystr(path)} is {leaf.dtype}"
            raise InputError(f"network: its parameter {where}, expected floats; what is not trained belongs to state=")
    outputs = jax.eval_shape(network.apply, network.shapes, example)
    check_functions(recipe.loss, recipe.metric, network, outputs, targets, classes)
    if recipe.own_optimizer:
        try:
            _, types = _abstract_update(recipe, network, 1)
        except InputError:
            raise
        except Exception as error:  # whatever the caller's code raises
            raise InputError(f"optimizer: it cannot train {network.name} ({error})") from error
        for before, after in types:  # or no loop can go from step to step
            if tree_types(before) != tree_types(after):
                changed = f"from {described(before)} to {described(after)}"
                raise InputError(f"optimizer: types or shapes change in a step, {changed}; expected the same ones")


def check_functions(
    loss: Callable | None,
    metric: Callable | None,
    network: Network,
    outputs: PyTree,
    targets: jax.ShapeDtypeStruct,
    classes: int | None,
) -> None:
    """Raise an InputError unless a loss and a metric take these outputs and targets and return what they are to.

    Args:
      loss, metric: as of `Recipe`; None: cross-entropy and accuracy, which take logits and classes.
      network: whose outputs they are.
      outputs, targets: shapes and types, examples along the first axis.
      classes: how many there are; None where targets are not classes.
    """
    count, functions = targets.shape[0], {"loss": loss, "metric": metric}
    for name, function in functions.items():
        if function is None:
            _check_classes(name, network, outputs, count, classes)
    for name, function in functions.items():
        if function is None:
            continue
        try:
            result = jax.eval_shape(function, outputs, targets)
        except Exception as error:  # whatever the caller's code raises
            given = f"outputs {described(outputs)} and targets {described(targets)}"
            raise InputError(f"{name}: it cannot take {given} ({error})") from error
        shape = () if name == "loss" else (count,)
        expected = "a number, the mean over examples" if name == "loss" else f"a score for each example, {shape}"
        shaped = getattr(result, "shape", None) == shape
        if not shaped or (name == "loss" and not jnp.issubdtype(result.dtype, jnp.floating)):
            raise InputError(f"{name}: it returned {described(result)} for {count} examples, expected {expected}")


def _check_classes(name: str, network: Network, outputs: PyTree, count: int, classes: int | None) -> None:
    default = "cross-entropy" if name == "loss" else "accuracy"
    if classes is None:
        raise InputError(
            f"{name}: got none for targets that are not classes, expected a function: {default} takes classes"
        )
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != count or shape[1] < classes:
        expected = f"({count}, {classes}), a logit for each class, or {name}="
        raise InputError(
            f"network: {network.name} returns {described(outputs)} for {count} examples, expected {expected}"
        )


def fingerprints(
    recipe: Recipe, network: Network, example: PyTree, targets: jax.ShapeDtypeStruct, steps_per_epoch: int
) -> dict[str, str]:
    """Return a fingerprint of each loss, metric and optimizer that is the caller's, by name.

    It is of the operations, as JAX traces them, on outputs and targets like these, or on the network's parameters.
    Numbers that a function was made with, such as a learning rate, are part of them.
    """
    prints = {}
    for name in recipe.functions:
        if name == "optimizer":
            prints[name] = program_fingerprint(*_abstract_update(recipe, network, steps_per_epoch)[0])
        else:
            outputs = jax.eval_shape(network.apply, network.shapes, example)
            prints[name] = program_fingerprint(jax.make_jaxpr(getattr(recipe, name))(outputs, targets))
    return prints


def _abstract_update(recipe: Recipe, network: Network, steps_per_epoch: int):
    """Return an optimizer's beginning and its update of the network's parameters.

    They are (jaxpr of either), and the types of (state, state after), (parameters, parameters after).
    """
    tx, params = optimizer(recipe, steps_per_epoch), network.shapes.params
    with jax.numpy_dtype_promotion("standard"):
        init, state = jax.make_jaxpr(tx.init, return_shape=True)(params)
        update = jax.make_jaxpr(tx.update)(params, state, params)
    new, after = jax.eval_shape(partial(apply_gradients, tx), params, state, params)
    return (init, update), ((state, after), (params, new))
