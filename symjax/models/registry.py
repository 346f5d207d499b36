"""Every model by name. A new one is one file with a `build` and one line here."""

import inspect
from functools import lru_cache, partial
from typing import Any

import jax.numpy as jnp

from symjax.checks import can_be_key, integer, one_of
from symjax.errors import InputError
from symjax.models import cct, myrtle, resnet18, resnet_cifar
from symjax.models.segmented import Network
from symjax.network.operations.conv import FORMS as CONV_METHODS

MODELS: dict[str, tuple[Any, int, dict]] = {
    # name: (build function, default width, its settings)
    **{name: (myrtle.build, spec.width, {"spec": spec}) for name, spec in myrtle.SPECS.items()},
    **{f"resnet{depth}": (resnet_cifar.build, 16, {"depth": depth}) for depth in resnet_cifar.DEPTHS},
    "resnet18": (resnet18.build, 64, {}),
    **{name: (cct.build, spec.size.width, {"spec": spec}) for name, spec in cct.SPECS.items()},
}


def known_models() -> str:
    """The names for a message, those of transformers by example."""
    plain = [name for name in MODELS if name not in cct.SPECS or name.removeprefix("cct").isdecimal()]
    return f"{', '.join(plain)} (also as cct7_3x2, cct7_sine, cct7_nodrop, cct7_3x2_sine_nodrop)"


def create(
    name: str,
    *,
    width: int | None = None,
    image_size: int = 32,
    channels: int = 3,
    classes: int = 10,
    method: str = "native",
    dtype=jnp.float32,
) -> Network:
    """The network `name` of the registry.

    Args:
      name: one of `MODELS`.
      width: channels of the first convolution, of a transformer those of its tokens; the published one by default.
      image_size: height and width of the images; only models whose parameters depend on it (transformers) look at it.
      channels: of the images.
      classes: number of logits.
      method: how convolutions run, one of `CONV_METHODS` (see `symjax.network.operations.conv`); the parameters are
        the same.
      dtype: of activations; parameters, statistics and logits stay float32.

    Raises:
      InputError: for an unknown name, method or a width under 1, or one that the model cannot have.
    """
    if not isinstance(name, str) or name not in MODELS:
        raise InputError(f"model: {name!r} is unknown; known: {known_models()}")
    one_of("method", method, CONV_METHODS)
    width = MODELS[name][1] if width is None else width
    sizes = {"width": width, "image_size": image_size, "channels": channels, "classes": classes}
    sizes = {argument: integer(argument, value, 1, 2**20) for argument, value in sizes.items()}
    build, _, settings = MODELS[name]
    settings = tuple(settings.items())
    make = _create if can_be_key(settings) else _create.__wrapped__
    return make(name, build, settings, method=method, dtype=dtype, **sizes)


@lru_cache
def _create(name, build, settings, *, width, image_size, channels, classes, method, dtype) -> Network:
    """Remembered: equal arguments, however they were given, have one network, which is compiled for once."""
    settings = dict(settings)
    if "image_size" in inspect.signature(build).parameters:
        settings = {**settings, "image_size": image_size}
    build = partial(build, **settings, width=width, channels=channels, classes=classes, method=method)
    return Network(build, name=f"{name} (width {width})", dtype=dtype)
