"""Progress bars on stderr."""

import sys

from tqdm import tqdm


def progress_bar(**options) -> tqdm:
    """A bar as wide as the terminal; without one, where every update is a line of its own, it is told every 15 s."""
    return tqdm(mininterval=0.1 if sys.stderr.isatty() else 15, dynamic_ncols=True, **options)
