"""Built-in models: Flax NNX modules of stock layers, in a registry that each file of this package adds to."""

import importlib
import pkgutil

from symjax.models.registry import MODELS, Model, build, register
from symjax.models.registry import known_models as known_models
from symjax.models.segmented import Member as Member
from symjax.models.segmented import Network as Network
from symjax.models.segmented import Segmented as Segmented
from symjax.models.segmented import StitchPoint as StitchPoint
from symjax.models.segmented import branch as branch
from symjax.models.segmented import replace_branch as replace_branch

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["MODELS", "Model", "build", "register"]
