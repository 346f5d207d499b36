"""Handle Ctrl-C and preemption notices (SIGINT and SIGTERM): save the completed work, then end the process.

Files are written completely or not at all, so that a command can end at any point. Code with unsaved results, such as
the training of a zoo, defers the signal until they are saved (`deferred`).
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 10.0  # seconds; schedulers wait for half a minute or more
MESSAGE = "run the same command again to continue from the saved state"


class Interrupted(KeyboardInterrupt):
    """Raised after SIGINT or SIGTERM. Callers need not wait for running computations.

    Attributes:
      number: number of the signal.
      exit_code: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, number: int):
        self.number, self.exit_code = number, 128 + number
        super().__init__(f"{'interrupted' if number == signal.SIGINT else 'stopped by SIGTERM'}; {MESSAGE}")


class _SignalHandler:
    """Raise `Interrupted` at the first signal and restore default handlers, so that a second one ends the process."""

    def __init__(self) -> None:
        self.received = threading.Event()
        self.handled: list[int] = []
        self.timer: threading.Timer | None = None  # sends `number` again
        self.number = 0

    def __call__(self, number: int, frame: object) -> None:
        self.received.set()
        self.timer = None
        self.handled = [signum for signum in SIGNALS if signal.getsignal(signum) is self]
        for signum in self.handled:
            signal.signal(signum, signal.SIG_DFL)
        raise Interrupted(number)

    def resend(self, number: int) -> None:
        """Send the signal again after Python has discarded the exception."""
        self.received.clear()
        for signum in self.handled:
            signal.signal(signum, self)
        self.timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
        self.number = number
        self.timer.start()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the main thread at the first signal; a second signal ends the process at once.

    Python handles a signal between two bytecode instructions only. If the main thread is in a long computation or
    compilation and has not handled the signal after `GRACE` seconds, the process ends with the exit code of the signal.

    Ignored signals stay ignored, such as Ctrl-C in background jobs of a script. In threads other than the main one this
    is a no-op.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first, (read, write), hook = _SignalHandler(), os.pipe(), sys.unraisablehook

    def unraisable(event):
        """Handle exceptions in destructors and callbacks of the garbage collector, which Python discards."""
        if isinstance(event.exc_value, Interrupted):
            first.resend(event.exc_value.number)
        else:
            hook(event)

    os.set_blocking(write, False)
    watcher = threading.Thread(target=_watch, args=(read, first.received), daemon=True)
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    watcher.start()
    try:
        sys.unraisablehook = unraisable
        for number in before:
            signal.signal(number, first)
        yield
        if first.timer is not None:
            raise Interrupted(first.number)
    finally:
        sys.unraisablehook = hook
        if first.timer is not None:
            first.timer.cancel()
        for number, handler in before.items():
            if signal.getsignal(number) is first:  # otherwise the signal has come, and a second one ends the process
                signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(write)
        watcher.join()
        os.close(read)


def _watch(read: int, received: threading.Event) -> None:
    """Read signal numbers from the wakeup pipe until it is closed; end the process if one is not handled in time."""
    while data := os.read(read, 1):
        if data[0] in SIGNALS and not received.wait(GRACE):
            interrupted = Interrupted(data[0])
            print(f"\n{interrupted}", file=sys.stderr, flush=True)
            os._exit(interrupted.exit_code)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Defer a signal to the end of the block; yield a function that returns whether a signal has come.

    A second signal ends the process at once. In threads other than the main one this is a no-op.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    before: dict[int, Any] = {number: handler for number, handler in handlers.items() if callable(handler)}
    numbers: list[int] = []
    received = next((handler.received for handler in before.values() if hasattr(handler, "received")), None)

    def later(number, _):
        if numbers:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        numbers.append(number)
        if received is not None:
            received.set()

    vars(later)["received"] = received  # for nested blocks
    for number in before:
        signal.signal(number, later)
    try:
        yield lambda: bool(numbers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if numbers:
            before[numbers[0]](numbers[0], None)
