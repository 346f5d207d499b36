"""Progress bars on stderr."""

import sys

from tqdm import tqdm

from symjax import hosts


def progress_bar(**options) -> tqdm:
    """A bar as wide as the terminal; without one, where every update is a line of its own, it is told every 15 s.

    Of the processes of a job the first one alone shows it.
    """
    options["disable"] = options.get("disable", False) or not hosts.is_first()
    return tqdm(mininterval=0.1 if sys.stderr.isatty() else 15, dynamic_ncols=True, **options)


def warn(message: str) -> None:
    """Print a warning on stderr, above a progress bar if there is one."""
    tqdm.write(f"warning: {message}", file=sys.stderr)
