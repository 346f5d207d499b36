"""Objects of the user's own modules, named in text."""

import importlib
import os
import re
import sys
from typing import Any

from symjax.errors import InputError

_NAME = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*)")


def is_import_name(name: Any) -> bool:
    """Whether a text has the form "package.module:name"."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def import_named(argument: str, name: str) -> Any:
    """Return what "package.module:name" names, of an installed module or of one in the current folder.

    Raises:
      InputError: of `argument`: the module cannot be imported, or lacks the name.
    """
    module, attribute = _NAME.fullmatch(name).group("module", "attribute")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` has it
    importlib.invalidate_caches()  # the file may be new
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # whatever its code raises
        given = f"{argument}: got {name!r}, and {module} cannot be imported ({error})"
        raise InputError(f"{given}; expected a module that is installed or in the current folder.") from error
    if not hasattr(imported, attribute):
        raise InputError(f"{argument}: got {name!r}, and {module} has no {attribute}.")
    return getattr(imported, attribute)
