"""Losses, metrics and optimizers of the caller: checks of their results, and fingerprints of their programs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from symjax.errors import InputError
from symjax.network import Network
from symjax.network.structure import program_fingerprint
from symjax.spelling import described
from symjax.training.loop import apply_gradients, tree_types
from symjax.training.recipe import Recipe, optimizer

PyTree = Any
CHECK_BATCH = 7  # the batch size of checks; few widths equal it, so that functions that confuse axes fail


def check_task(recipe: Recipe, network: Network, example: PyTree, targets: jax.ShapeDtypeStruct, classes: int | None):
    """Raise an InputError unless a recipe can train and evaluate a network; nothing is compiled.

    Args:
      recipe: the recipe, with its loss and metric.
      network: the network to train.
      example: shapes and dtypes of inputs with examples along the first axis.
      targets: shapes and dtypes of the targets, likewise.
      classes: the number of classes; None if targets are not classes.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(network.shapes.params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            where = f"{jax.tree_util.keystr(path)} of {leaf.dtype}"
            raise InputError(
                f"network: got parameter {where}, expected floats; arrays that are not trained belong to state="
            )
    outputs = jax.eval_shape(network.apply, network.shapes, example)
    check_functions(recipe.loss, recipe.metric, network, outputs, targets, classes)
    if recipe.own_optimizer:
        try:
            _, types = _abstract_update(recipe, network, 1)
        except InputError:
            raise
        except Exception as error:  # any error of the caller's code
            raise InputError(
                f"optimizer: got one that cannot train {network.name} ({error}), expected another"
            ) from error
        for before, after in types:  # they must be equal in a loop over steps
            if tree_types(before) != tree_types(after):
                changed = f"from {described(before)} to {described(after)}"
                raise InputError(
                    f"optimizer: got types or shapes that change in a step, {changed}, expected equal ones"
                )


def check_functions(
    loss: Callable | None,
    metric: Callable | None,
    network: Network,
    outputs: PyTree,
    targets: jax.ShapeDtypeStruct,
    classes: int | None,
) -> None:
    """Raise an InputError unless a loss and a metric take these outputs and targets and return the required arrays.

    Args:
      loss, metric: as in `Recipe`; None: cross-entropy and accuracy, which take logits and classes.
      network: the network of the outputs.
      outputs, targets: shapes and dtypes with examples along the first axis.
      classes: the number of classes; None if targets are not classes.
    """
    count, functions = targets.shape[0], {"loss": loss, "metric": metric}
    for name, function in functions.items():
        if function is None:
            _check_classes(name, network, outputs, targets.shape, classes)
    for name, function in functions.items():
        if function is None:
            continue
        try:
            result = jax.eval_shape(function, outputs, targets)
        except Exception as error:  # any error of the caller's code
            given = f"outputs {described(outputs)} and targets {described(targets)}"
            raise InputError(f"{name}: got one that cannot take {given} ({error}), expected another") from error
        shape = () if name == "loss" else (count,)
        expected = "a number, the mean over examples" if name == "loss" else f"a score for each example, {shape}"
        has_shape = getattr(result, "shape", None) == shape
        if not has_shape or (name == "loss" and not jnp.issubdtype(result.dtype, jnp.floating)):
            raise InputError(f"{name}: got {described(result)} for {count} examples, expected {expected}")


def _check_classes(name: str, network: Network, outputs: PyTree, targets: tuple[int, ...], classes: int | None) -> None:
    default = "cross-entropy" if name == "loss" else "accuracy"
    if classes is None:
        raise InputError(
            f"{name}: got none for targets that are not classes, expected a function: {default} takes classes"
        )
    shape = getattr(outputs, "shape", None)
    if shape is None or shape[:-1] != targets or shape[-1] < classes:
        expected = f"({', '.join(map(str, targets))}, {classes}), a logit for each class, or {name}="
        raise InputError(
            f"network: got {described(outputs)} from {network.name} for {targets[0]} examples, expected {expected}"
        )


def fingerprints(
    recipe: Recipe, network: Network, example: PyTree, targets: jax.ShapeDtypeStruct, steps_per_epoch: int
) -> dict[str, str]:
    """Return the fingerprints of the loss, metric and optimizer that the caller gives, by name.

    A fingerprint is that of the operations that JAX traces on such outputs and targets, or on the parameters of the
    network. It includes constants of the function, such as a learning rate.
    """
    results = {}
    for name in recipe.functions:
        if name == "optimizer":
            results[name] = program_fingerprint(*_abstract_update(recipe, network, steps_per_epoch)[0])
        else:
            outputs = jax.eval_shape(network.apply, network.shapes, example)
            results[name] = program_fingerprint(jax.make_jaxpr(getattr(recipe, name))(outputs, targets))
    return results


def _abstract_update(recipe: Recipe, network: Network, steps_per_epoch: int):
    """Trace the optimizer of a recipe.

    Returns:
      The jaxprs of (init, update), and shapes and dtypes of ((state, next state), (parameters, next parameters)).
    """
    tx, params = optimizer(recipe, steps_per_epoch), network.shapes.params
    with jax.numpy_dtype_promotion("standard"):
        init, state = jax.make_jaxpr(tx.init, return_shape=True)(params)
        update = jax.make_jaxpr(tx.update)(params, state, params)
    new, after = jax.eval_shape(partial(apply_gradients, tx), params, state, params)
    return (init, update), ((state, after), (params, new))
