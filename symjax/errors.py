"""The one exception that symjax raises for a caller's mistake."""

import contextlib
import re
from collections.abc import Iterator


class InputError(ValueError):
    """A mistake of the caller's: a bad argument, file or flag.

    The message names the argument, what was seen and what is wanted. Commands print it on stderr and exit with code 2.
    """


@contextlib.contextmanager
def renamed(**names: str) -> Iterator[None]:
    """Within it an `InputError` that begins with one of these arguments begins with the name given for it."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"^\w+", lambda name: names.get(name[0], name[0]), str(error))) from error
