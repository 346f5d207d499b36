"""Ctrl-C and notices of preemption (SIGINT and SIGTERM): what is done is saved, then the process ends.

Files are written whole or not at all, so that a command may end wherever it is. What has more to save than is on the
disk, such as the training of a zoo, keeps the signal back meanwhile (`deferred`).
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 10.0  # seconds; schedulers wait for half a minute or more
MESSAGE = "the same command again goes on from what is saved"


class Ending(KeyboardInterrupt):
    """A signal has asked for the end of the process: computations under way need not be waited for.

    Attributes:
      number: of the signal.
      exit_code: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, number: int):
        self.number, self.exit_code = number, 128 + number
        super().__init__(f"{'interrupted' if number == signal.SIGINT else 'stopped by SIGTERM'}; {MESSAGE}")


class _First:
    """A handler that raises `Ending` and leaves further signals to the system, which ends the process."""

    def __init__(self):
        self.seen = threading.Event()
        self.handled: list[int] = []
        self.timer: threading.Timer | None = None  # that will send `number` once more
        self.number = 0

    def __call__(self, number: int, frame: object) -> None:
        self.seen.set()
        self.timer = None
        self.handled = [each for each in SIGNALS if signal.getsignal(each) is self]
        for each in self.handled:
            signal.signal(each, signal.SIG_DFL)
        raise Ending(number)

    def again(self, number: int) -> None:
        """Sends the signal once more, where Python has dropped what was raised."""
        self.seen.clear()
        for each in self.handled:
            signal.signal(each, self)
        self.timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
        self.number = number
        self.timer.start()


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Has the first signal raise `Ending` in the main thread; a second one ends the process at once.

    The interpreter sees a signal between two steps of Python only. Where the main thread is in a long computation or
    compilation, and has not seen it after `GRACE` seconds, the process ends with the signal's exit code all the same.

    A signal that is ignored, as Ctrl-C is by what a script runs in the background, stays so. In other threads than the
    main one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first, (read, write), hook = _First(), os.pipe(), sys.unraisablehook

    def unraisable(what):
        """In a callback of the garbage collector, or in a destructor, an exception has nowhere to go."""
        if isinstance(what.exc_value, Ending):
            first.again(what.exc_value.number)
        else:
            hook(what)

    os.set_blocking(write, False)
    watcher = threading.Thread(target=_watch, args=(read, first.seen), daemon=True)
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    watcher.start()
    try:
        sys.unraisablehook = unraisable
        for number in before:
            signal.signal(number, first)
        yield
        if first.timer is not None:
            raise Ending(first.number)
    finally:
        sys.unraisablehook = hook
        if first.timer is not None:
            first.timer.cancel()
        for number, handler in before.items():
            if signal.getsignal(number) is first:  # else it has come: a second one is to end the process
                signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(write)
        watcher.join()
        os.close(read)


def _watch(read: int, seen: threading.Event) -> None:
    """Reads the numbers of signals, which the system's own handler writes, until the pipe is closed."""
    while data := os.read(read, 1):
        if data[0] in SIGNALS and not seen.wait(GRACE):
            ended = Ending(data[0])
            print(f"\n{ended}", file=sys.stderr, flush=True)
            os._exit(ended.exit_code)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Keeps a signal back to the end of the block; what a `with` statement gets tells whether one has come.

    A second one ends the process at once. In other threads than the main one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    received: list[int] = []
    seen = next((handler.seen for handler in before.values() if hasattr(handler, "seen")), None)

    def later(number, _):
        if received:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        received.append(number)
        if seen is not None:
            seen.set()

    later.seen = seen  # for blocks in this one
    for number in before:
        signal.signal(number, later)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            before[received[0]](received[0], None)
