"""Networks by name: built-in models, and models of the user as "package.module:build"."""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from symjax.checks import can_be_key, integer
from symjax.errors import InputError
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
    """Return the network of a built-in model or of one of your own.

    Args:
      name: one of `MODELS`; or "package.module:build", where `build` is called with `rngs=`, and with those of
        `width`, `image_size`, `channels`, `classes`, `dtype` and `options` that its signature has. It returns an NNX
        module, a Linen module or a `Network`.
      width: channels of the first convolution, of a transformer those of its tokens; by default the model's own.
      image_size: height and width of the images.
      channels: of the images.
      classes: number of logits; None where targets are not classes.
      example: shape and type of a batch of other inputs, in place of `image_size` and `channels`.
      dtype: of computations; parameters and state stay float32.
      options: further ones of the model, see `MODELS[name].defaults`.

    Raises:
      InputError: an unknown name or option, or a value that the model cannot have.

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
    sizes = {argument: integer(argument, value, 1, 2**20) for argument, value in sizes.items() if value is not None}
    if example is None:
        example = jax.ShapeDtypeStruct((2, image_size, image_size, channels), jnp.float32)
    check_name(name)
    options = tuple(sorted({**sizes, "dtype": jnp.dtype(dtype), **options}.items()))
    if name not in MODELS:
        make, key = _own, (name, options, example)
    else:
        options = tuple(model_options(name, dict(options)).items())
        make, key = _built_in, (name, MODELS[name].build, options, example)
    return (make if can_be_key(key) else make.__wrapped__)(*key)


def check_name(name: Any) -> None:
    """An InputError unless `name` is a built-in model, or names a builder by its module."""
    if not isinstance(name, str) or not (name in MODELS or is_import_name(name)):
        raise InputError(f"model: {name!r} is unknown; known: {known_models()}, or package.module:build for your own")


@lru_cache
def _built_in(name: str, build: Callable, options: tuple, example: jax.ShapeDtypeStruct) -> Network:
    """Remembered: equal arguments have one network, which is compiled for once."""
    options = dict(options)
    shown = f"{name} (width {options['width']})" if "width" in options else name
    return Network.from_nnx(_builder(build, options), example=example, name=shown)


@lru_cache
def _own(name: str, options: tuple, example: jax.ShapeDtypeStruct) -> Network:
    options, function = dict(options), import_named("model", name)
    if isinstance(function, Network):
        return function
    options = _accepted(function, name, options)
    try:
        if "rngs" in _parameters(function):
            return Network.from_nnx(_builder(function, options), example=example, name=name)
        made = function(**options)
        return made if isinstance(made, Network) else Network.from_linen(made, example=example, name=name)
    except Exception as error:  # whatever the caller's code raises
        raise InputError(f"model: {name} cannot be built ({type(error).__name__}: {error})") from error


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """What a builder takes; the signature of a class of Flax NNX would be that of its metaclass."""
    parameters = inspect.signature(function.__init__ if inspect.isclass(function) else function).parameters
    return {name: p for name, p in parameters.items() if name != "self"}


def _builder(function: Callable, options: dict[str, Any]) -> Callable[[nnx.Rngs], nnx.Module]:
    return lambda rngs: function(rngs=rngs, **options)


def _accepted(function: Callable, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options that a builder takes; an InputError for one that was asked for and that it does not take."""
    if not callable(function):
        raise InputError(f"model: {name} is {type(function).__name__}, expected a function or a Network")
    parameters = _parameters(function)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return options
    unknown = set(options) - set(parameters) - {*DATA_OPTIONS, "dtype"}
    if unknown:
        raise InputError(f"model: {name} takes no {', '.join(sorted(unknown))}; it takes {', '.join(parameters)}")
    return {option: value for option, value in options.items() if option in parameters}
