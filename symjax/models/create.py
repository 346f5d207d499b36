"""Networks by name: built-in models, and models of the user as "package.module:build"."""

import importlib
import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from symjax.checks import can_be_key, integer
from symjax.errors import InputError
from symjax.models.registry import DATA_OPTIONS, MODELS, build, known_models
from symjax.network import Network


def create(
    name: str,
    *,
    width: int | None = None,
    image_size: int = 32,
    channels: int = 3,
    classes: int = 10,
    dtype=jnp.float32,
    **options,
) -> Network:
    """Return the network of a built-in model or of one of your own, on images.

    Args:
      name: one of `MODELS`; or "package.module:build", where `build` is called with `rngs=`, and with those of
        `width`, `image_size`, `channels`, `classes`, `dtype` and `options` that its signature has. It returns an NNX
        module, a Linen module or a `Network`.
      width: channels of the first convolution, of a transformer those of its tokens; by default the model's own.
      image_size: height and width of the images.
      channels: of the images.
      classes: number of logits.
      dtype: of computations; parameters and state stay float32.
      options: further ones of the model, see `MODELS[name].defaults`.

    Raises:
      InputError: an unknown name or option, or a value that the model cannot have.

    Example:
      >>> from symjax import models
      >>> models.create("mcnn", width=4).points[0]
      StitchPoint(name='relu1', shape=(32, 32, 4), starred=False)
    """
    sizes = {"image_size": image_size, "channels": channels, "classes": classes}
    if width is not None:
        sizes["width"] = width
    sizes = {argument: integer(argument, value, 1, 2**20) for argument, value in sizes.items()}
    options = tuple(sorted({**sizes, "dtype": jnp.dtype(dtype), **options}.items()))
    check_name(name)
    make = _create if can_be_key(options) else _create.__wrapped__
    return make(name, options)


def check_name(name: Any) -> None:
    """An InputError unless `name` is a built-in model, or names a builder by its module."""
    if not isinstance(name, str) or not (name in MODELS or ":" in name):
        raise InputError(f"model: {name!r} is unknown; known: {known_models()}, or package.module:build for your own")


def find_builder(name: str) -> Any:
    """Return what "package.module:name" names.

    Raises:
      InputError: no such module, or nothing of this name in it.
    """
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{name}: {module} cannot be imported ({error})") from None
    if not hasattr(found, attribute):
        raise InputError(f"{name}: {module} has no {attribute}")
    return getattr(found, attribute)


@lru_cache
def _create(name: str, options: tuple[tuple[str, Any], ...]) -> Network:
    """Remembered: equal arguments have one network, which is compiled for once."""
    options = dict(options)
    size, channels = options["image_size"], options["channels"]
    example = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    if name in MODELS:
        width = options.get("width", MODELS[name].defaults.get("width"))
        shown = f"{name} (width {width})"
        return Network.from_nnx(_builder(partial(build, name), options), example=example, name=shown)
    function = find_builder(name)
    if isinstance(function, Network):
        return function
    options = _accepted(function, name, options)
    if "rngs" in inspect.signature(function).parameters:
        return Network.from_nnx(_builder(function, options), example=example, name=name)
    made = function(**options)
    return made if isinstance(made, Network) else Network.from_linen(made, example=example, name=name)


def _builder(function: Callable, options: dict[str, Any]) -> Callable[[nnx.Rngs], nnx.Module]:
    return lambda rngs: function(rngs=rngs, **options)


def _accepted(function: Callable, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options that a builder takes; an InputError for one that was asked for and that it does not take."""
    if not callable(function):
        raise InputError(f"model: {name} is {type(function).__name__}, expected a function or a Network")
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return options
    unknown = set(options) - set(parameters) - {*DATA_OPTIONS, "dtype"}
    if unknown:
        raise InputError(f"model: {name} takes no {', '.join(sorted(unknown))}; it takes {', '.join(parameters)}")
    return {option: value for option, value in options.items() if option in parameters}
