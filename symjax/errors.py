"""The exception that symjax raises for wrong input."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator


class InputError(ValueError):
    """Wrong input: an argument, a file or a flag.

    The message has the form "name: got X, expected Y". Commands print it on stderr and exit with code 2.
    """


@contextlib.contextmanager
def renamed(**names: str) -> Iterator[None]:
    """Rename the argument at the beginning of the message of an `InputError` that is raised in this context."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"^\w+", lambda name: names.get(name[0], name[0]), str(error))) from error


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return " (did you mean x?)" for the known string x most similar to `value`, or "" if none is similar."""
    similar = difflib.get_close_matches(str(value), [*known], 1)
    return f" (did you mean {similar[0]}?)" if similar else ""
