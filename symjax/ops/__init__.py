"""What commands need beside mathematics: files of runs, processes, devices, memory, interruption and progress.

`symjax.ops.memory` and `symjax.ops.parallel` are public; the other modules serve the commands.
"""

import importlib

__all__ = ["memory", "parallel"]


def __getattr__(name: str):
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
