"""Make `import experiments` import the package when a command runs as a script, as in `python experiments/zoo.py`.

Python then searches modules in the folder of the script, where it finds this module under the name of the package. This
module replaces that folder in `sys.path` by its parent, and itself by the package.
"""

import importlib
import pathlib
import sys

if __name__ == "experiments":
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    del sys.modules[__name__]
    importlib.import_module(__name__)
