"""The exception that symjax raises for wrong input."""

import contextlib
import re
from collections.abc import Iterator


class InputError(ValueError):
    """Wrong input: an argument, a file or a flag.

    The message has the form "name: got X, expected Y". Commands print it on stderr and exit with code 2.
    """


@contextlib.contextmanager
def renamed(**names: str) -> Iterator[None]:
    """Rename arguments at the beginning of the message of an `InputError` that is raised in this context."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"^\w+", lambda name: names.get(name[0], name[0]), str(error))) from error
