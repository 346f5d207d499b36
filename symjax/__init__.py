"""symjax: symmetries of neural networks and of their internal representations, in JAX.

`__all__` lists the names of this module: measures of similarity, projections onto the Birkhoff polytope, and networks
and their stitching. Other public names are in `symjax.activations`, `symjax.alignment`, `symjax.birkhoff`,
`symjax.comparison`, `symjax.data`, `symjax.dissection`, `symjax.dynamics`, `symjax.extraction`, `symjax.flops`,
`symjax.freezing`, `symjax.groups`, `symjax.models`, `symjax.network`, `symjax.ops.memory`, `symjax.ops.parallel`,
`symjax.pairs`, `symjax.plots`, `symjax.projections`, `symjax.representations`, `symjax.rotation`, `symjax.similarity`,
`symjax.stitching`, `symjax.training` and `symjax.zoo`. A wrong argument raises an `InputError` that names the argument.
All other modules are internal and may change.
"""

import importlib
from types import ModuleType

from symjax import birkhoff, similarity
from symjax.birkhoff import *  # noqa: F403
from symjax.errors import InputError
from symjax.similarity import *  # noqa: F403

__all__ = ["InputError"]
__all__ += ["Comparison", "Network", "capture", "capture_batches", "compare", "stitch", "stitch_point"]  # noqa: F405
__all__ += birkhoff.__all__
__all__ += similarity.__all__

__version__ = "0.2.0"

# Imported when one of their names is first used, also after `from symjax import plots`: Flax, Matplotlib and pandas
# take a second.
_MODULES = (
    "activations alignment birkhoff comparison data dissection dynamics extraction flops freezing groups models "
    "network ops pairs plots projections representations rotation similarity stitching training zoo"
).split()
_NAMES = {
    "Comparison": "comparison",
    "Network": "network",
    "capture": "extraction",
    "capture_batches": "extraction",
    "compare": "comparison",
    "stitch": "stitching",
    "stitch_point": "network",
}


class _Package(ModuleType):
    """A reference to a package of symjax, which is imported when an attribute is first read."""

    def __getattr__(self, name: str):
        return getattr(importlib.import_module(self.__name__), name)

    def __setattr__(self, name: str, value):
        setattr(importlib.import_module(self.__name__), name, value)

    def __delattr__(self, name: str):
        delattr(importlib.import_module(self.__name__), name)

    @property
    def __dict__(self):  # vars() of the package, as monkeypatch reads it
        return vars(importlib.import_module(self.__name__))

    def __dir__(self):
        return dir(importlib.import_module(self.__name__))


def __getattr__(name: str):
    if name in _MODULES:
        return _Package(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__, *_MODULES})
