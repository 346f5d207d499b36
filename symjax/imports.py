"""Import objects of user modules by name, as "package.module:name"."""

import importlib
import os
import re
import sys
from typing import Any

from symjax.errors import InputError

_NAME = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*)")


def is_import_name(name: Any) -> bool:
    """Return whether a string has the form "package.module:name"."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def import_named(argument: str, name: str) -> Any:
    """Import the object "package.module:name" from an installed module or from one in the current folder.

    Raises:
      InputError: the module cannot be imported, or lacks the name; the message begins with `argument`.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    importlib.invalidate_caches()  # the file may be new
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # the code of the module can raise anything
        given = f"{argument}: got {name!r}, and {module} cannot be imported ({error})"
        raise InputError(f"{given}, expected a module that is installed or in the current folder") from error
    if not hasattr(imported, attribute):
        raise InputError(f"{argument}: got {name!r}, expected an attribute of {module}, which has no {attribute}")
    return getattr(imported, attribute)
