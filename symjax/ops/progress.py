"""Progress bars on stderr."""

import sys

from tqdm import tqdm

from symjax.ops import hosts


def progress_bar(**options) -> tqdm:
    """Return a progress bar as wide as the terminal, shown by the first process of a job only.

    Without a terminal every update is a separate line, so updates are at least 15 s apart.
    """
    options["disable"] = options.get("disable", False) or not hosts.is_first()
    return tqdm(mininterval=0.1 if sys.stderr.isatty() else 15, dynamic_ncols=True, **options)


def warn(message: str) -> None:
    """Print a warning on stderr, above a progress bar if there is one."""
    tqdm.write(f"warning: {message}", file=sys.stderr)
