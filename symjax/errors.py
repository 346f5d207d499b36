"""The one exception that symjax raises for a caller's mistake."""


class InputError(ValueError):
    """A mistake of the caller's: a bad argument, file or flag.

    The message names the argument, what was seen and what is wanted. Commands print it on stderr and exit with code 2.
    """
