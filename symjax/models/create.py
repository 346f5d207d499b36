"""Create networks by name: built-in models, and user models as "package.module:build"."""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from symjax.checks import can_be_key, integer
from symjax.errors import InputError, did_you_mean
from symjax.imports import import_named, is_import_name
from symjax.models.registry import DATA_OPTIONS, MODELS, known_models, model_options
from symjax.network import Network


def create(
    name: str,
    *,
    width: int | None = None,
    image_size: int = 32,
    channels: int = 3,
    classes: int | None = 10,
    example: jax.ShapeDtypeStruct | None = None,
    dtype=jnp.float32,
    **options,
) -> Network:
    """Return the network of a built-in model or a user model.

    Args:
      name: a name in `MODELS`; or "package.module:build", where `build` is called with `rngs` and with those of
        `width`, `image_size`, `channels`, `classes`, `dtype` and `options` that its signature has. It returns an NNX
        module, a Linen module or a `Network`.
      width: channels of the first convolution, or of the tokens of a transformer; by default that of the model.
      image_size: height and width of the images.
      channels: channels of the images.
      classes: number of logits; None if targets are not classes.
      example: shape and dtype of a batch of inputs, which replaces `image_size` and `channels`.
      dtype: dtype of computations; parameters and state are float32.
      options: further options of the model, see `MODELS[name].defaults`.

    Returns:
      The `Network`; the same object for equal arguments.

    Raises:
      InputError: the name or an option is unknown, or a value is invalid for the model.

    Example:
      >>> from symjax import models
      >>> models.create("mcnn", width=4).points[0]
      StitchPoint(name='relu1', shape=(32, 32, 4), starred=False)
    """
    sizes = {"width": width, "image_size": image_size, "channels": channels, "classes": classes}
    if example is not None:
        is_image = len(example.shape) == 4
        square = is_image and example.shape[1] == example.shape[2]
        sizes |= {
            "image_size": example.shape[1] if square else None,
            "channels": example.shape[-1] if is_image else None,
        }
    if example is None:
        sizes |= {argument: integer(argument, sizes[argument], 1, 2**20) for argument in ("image_size", "channels")}
    sizes = {argument: integer(argument, value, 1, 2**20) for argument, value in sizes.items() if value is not None}
    if example is None:
        example = jax.ShapeDtypeStruct((2, image_size, image_size, channels), jnp.float32)
    check_name(name)
    options = tuple(sorted({**sizes, "dtype": jnp.dtype(dtype), **options}.items()))
    if name not in MODELS:
        make, key = _user_model, (name, options, example)
    else:
        options = tuple(model_options(name, dict(options)).items())
        make, key = _built_in, (name, MODELS[name].build, options, example)
    return (make if can_be_key(key) else make.__wrapped__)(*key)


def check_name(name: Any) -> None:
    """Raise an InputError unless `name` is a built-in model or has the form "package.module:build"."""
    if not isinstance(name, str) or not (name in MODELS or is_import_name(name)):
        got = f"{name!r}{did_you_mean(name, MODELS)}"
        raise InputError(f"model: got {got}, expected one of {known_models()}, or package.module:build")


@lru_cache
def _built_in(name: str, build: Callable, options: tuple, example: jax.ShapeDtypeStruct) -> Network:
    """Return the network of a built-in model; cached, so that programs of equal models are compiled once."""
    options = dict(options)
    label = f"{name} (width {options['width']})" if "width" in options else name
    return Network.from_nnx(_builder(build, options), example=example, name=label)


@lru_cache
def _user_model(name: str, options: tuple, example: jax.ShapeDtypeStruct) -> Network:
    options, function = dict(options), import_named("model", name)
    if isinstance(function, Network):
        return function
    options = _accepted(function, name, options)
    try:
        if "rngs" in _parameters(function):
            return Network.from_nnx(_builder(function, options), example=example, name=name)
        made = function(**options)
        return made if isinstance(made, Network) else Network.from_linen(made, example=example, name=name)
    except Exception as error:  # user code can raise anything
        raise InputError(
            f"model: got {name}, which raises {type(error).__name__}: {error}; expected a function that builds a model"
        ) from error


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """Return the parameters of a builder. The signature of a class of Flax NNX is that of its metaclass."""
    parameters = inspect.signature(function.__init__ if inspect.isclass(function) else function).parameters
    return {name: p for name, p in parameters.items() if name != "self"}


def _builder(function: Callable, options: dict[str, Any]) -> Callable[[nnx.Rngs], nnx.Module]:
    return lambda rngs: function(rngs=rngs, **options)


def _accepted(function: Callable, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that a builder takes; raise an InputError for an explicit option that it does not take."""
    if not callable(function):
        raise InputError(f"model: got {name}, which is a {type(function).__name__}, expected a function or a Network")
    parameters = _parameters(function)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return options
    unknown = set(options) - set(parameters) - {*DATA_OPTIONS, "dtype"}
    if unknown:
        raise InputError(f"model: got {', '.join(sorted(unknown))} for {name}, expected {', '.join(parameters)}")
    return {option: value for option, value in options.items() if option in parameters}
