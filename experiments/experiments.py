"""What `import experiments` finds first where a command runs as a script, `python experiments/zoo.py`.

There Python looks for modules in the script's folder, not in the one above it, where the packages are. This module puts
that folder in place and the package in its own.
"""

import importlib
import pathlib
import sys

if __name__ == "experiments":
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    del sys.modules[__name__]
    importlib.import_module(__name__)
