"""Built-in models: Flax NNX modules of standard layers, registered by the files of this package."""

import importlib
import pkgutil

from symjax.models.create import check_name as check_name
from symjax.models.create import create
from symjax.models.registry import MODELS, Model, build, register
from symjax.models.registry import known_models as known_models

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["MODELS", "Model", "build", "create", "register"]
