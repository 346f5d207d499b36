"""The registry of built-in models. A new model is a file of this package with a module decorated by `register`."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flax import nnx

from symjax.checks import integer, one_of, short
from symjax.errors import InputError, did_you_mean

DATA_OPTIONS = ("image_size", "channels", "classes")
"""Options that depend on the data. Models without such an option ignore it."""


@dataclass(frozen=True)
class Model:
    """A named model.

    Attributes:
        build: a function of `rngs` and options, all by keyword, that returns a module. The module maps images
            (examples, height, width, channels) to logits (examples, classes).
        defaults: all options of `build` with their values for this name.

    Example:
        >>> from symjax.models import MODELS
        >>> MODELS["resnet20"].defaults["blocks"]
        (3, 3, 3)
    """

    build: Callable[..., nnx.Module]
    defaults: Mapping[str, Any]


MODELS: dict[str, Model] = {}
"""Every registered model by name."""


def register(presets: Mapping[str, Mapping[str, Any]]) -> Callable:
    """Return a decorator that registers a module, or a function that builds one.

    Args:
        presets: {name: options that differ from the defaults of the decorated module}.

    Raises:
        InputError: `presets` is not a mapping.
        ValueError: a name is already registered, or the module has no such option.

    Example:
        >>> from flax import nnx
        >>> from symjax.models import MODELS, build
        >>> from symjax.models.registry import register
        >>> @register({"perceptron": {}, "wide_perceptron": {"width": 512}})
        ... class Perceptron(nnx.Module):
        ...     def __init__(self, *, width=64, channels=3, classes=10, rngs):
        ...         self.hidden = nnx.Linear(channels, width, rngs=rngs)
        ...         self.dense = nnx.Linear(width, classes, rngs=rngs)
        ...
        ...     def __call__(self, x):
        ...         return self.dense(nnx.relu(self.hidden(x.mean(axis=(1, 2)))))
        >>> build("wide_perceptron", classes=5, rngs=nnx.Rngs(0)).dense.kernel.shape
        (512, 5)
        >>> del MODELS["perceptron"], MODELS["wide_perceptron"]
    """

    if not isinstance(presets, Mapping) or not presets or not all(isinstance(p, Mapping) for p in presets.values()):
        raise InputError(
            f"presets: got {short(presets)}, expected a mapping of one name or more to mappings of options"
        )

    def add(build: Callable[..., nnx.Module]) -> Callable[..., nnx.Module]:
        parameters = inspect.signature(build.__init__ if inspect.isclass(build) else build).parameters
        options = {name: p.default for name, p in parameters.items() if name not in ("self", "rngs")}
        for name, preset in presets.items():
            if name in MODELS:
                raise ValueError(f"a model {name} is already registered")
            if unknown := set(preset) - set(options):
                raise ValueError(f"{name}: {build.__name__} has no option {', '.join(sorted(unknown))}")
            MODELS[name] = Model(build, {**options, **preset})
        return build

    return add


def known_models() -> str:
    """Return the names of all models as text for messages."""
    return ", ".join(MODELS)


def build(name: str, *, rngs: nnx.Rngs, **options) -> nnx.Module:
    """Return a new module of a registered model.

    Args:
        name: one of `MODELS`.
        rngs: random state for initial parameters and dropout.
        options: options of the model (see `MODELS[name].defaults`), such as `width`, `channels`, `classes` and `dtype`.
            `image_size`, `channels`, `classes` and `dtype` are accepted by every model.

    Raises:
        InputError: the name or an option is unknown, or a value is invalid for the model.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from symjax import models
        >>> cnn = models.build("mcnn_k", width=2, multiples=(1,), pools=(2,), classes=5, rngs=nnx.Rngs(0))
        >>> cnn(jnp.zeros((2, 8, 8, 3))).shape
        (2, 5)
    """
    if not isinstance(name, str) or name not in MODELS:
        raise InputError(f"model: got {name!r}{did_you_mean(name, MODELS)}, expected one of {known_models()}")
    if not isinstance(rngs, nnx.Rngs):
        raise InputError(f"rngs: got {short(rngs)}, expected nnx.Rngs")
    return MODELS[name].build(rngs=rngs, **model_options(name, options))


def model_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of a model, with defaults for those not given; raise an InputError for unknown options."""
    model = MODELS[name]
    for option in options:
        if option not in (*DATA_OPTIONS, "dtype"):
            one_of(f"option of {name}", option, model.defaults)
    for option in {"width", *DATA_OPTIONS} & set(options):
        integer(option, options[option], 1, 2**20)
    return {**model.defaults, **{o: v for o, v in options.items() if o in model.defaults}}
