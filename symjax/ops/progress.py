"""Progress bars on stderr."""

import sys

from tqdm import tqdm

from symjax.ops import hosts

LOG_INTERVAL = 30  # seconds between lines of a log


class LogLines(tqdm):
    """Progress in a log file: each update is a line without a bar."""

    def display(self, msg=None, pos=None):
        if msg != "":  # the text with which tqdm clears a bar
            print(self, end="" if self.disable else "\n", file=self.fp, flush=True)  # `close` ends the last line

    def clear(self, nolock=False):
        pass

    def set_postfix_str(self, s="", refresh=True):
        super().set_postfix_str(s, refresh=False)  # part of the next line


def progress_bar(**options) -> tqdm:
    """Return a progress bar as wide as the terminal, or `LogLines` without a terminal.

    It is shown by the first process of a job only.
    """
    options["disable"] = options.get("disable", False) or not hosts.is_first()
    if sys.stderr.isatty():
        return tqdm(dynamic_ncols=True, **options)
    return LogLines(ncols=0, mininterval=LOG_INTERVAL, maxinterval=LOG_INTERVAL, **options)


def warn(message: str) -> None:
    """Print a warning on stderr, above a progress bar if there is one on a terminal."""
    write = tqdm.write if sys.stderr.isatty() else print  # `tqdm.write` would repeat the last line of a log
    write(f"warning: {message}", file=sys.stderr)
