"""Runs a command of `experiments` in a process of its own that is killed, or has no disk, from a chosen moment on.

What the process does with files below its folder is counted as Python's audit events tell it: opening for writing,
renaming, deleting, making folders, by whatever library. What is written inside an open file is not among them.
"""

import dataclasses
import errno
import importlib
import mmap
import multiprocessing
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable
from typing import Literal

COUNTED = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
ERRORS = {"full": errno.ENOSPC, "readonly": errno.EROFS}


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens before file operation number `at`, from 1.

    The process is killed; or the disk is "full", so that no file or folder can be made any more; or it is "readonly",
    so that nothing can be changed either.
    """

    kind: Literal["kill", "full", "readonly"]
    at: int


class Operations:
    """The number of file operations so far and the last of them, in memory that processes share."""

    def __init__(self):
        self._memory = mmap.mmap(-1, 4096)

    def write(self, count: int, last: str) -> None:
        self._memory.seek(0)
        self._memory.write(f"{count} {last}".encode()[:1000] + b"\0")

    def read(self) -> tuple[int, str]:
        text = self._memory[:].partition(b"\0")[0].decode(errors="replace")
        count, _, last = text.partition(" ")
        return int(count or 0), last


def start(
    command: str,
    argv: list[str],
    folder: pathlib.Path,
    log: pathlib.Path,
    fault: Fault | None = None,
    devices: int = 1,
):
    """Begins `python -m experiments.COMMAND ARGV` with what is imported here already.

    Args:
      command: name of a module of experiments.
      argv: its flags.
      folder: whose file operations count.
      log: takes stdout and stderr, after what it holds.
      fault: what goes wrong; nothing by default.
      devices: of the CPU, for JAX.

    Returns:
      The process (`multiprocessing.Process`) and its `Operations`. This process must not have used JAX yet.
    """
    operations = Operations()
    arguments = (command, argv, folder, log, fault, devices, operations)
    process = multiprocessing.get_context("fork").Process(target=_run, args=arguments)
    process.start()
    return process, operations


def call(function: Callable, *arguments):
    """What `function` returns in a process of its own, so that this one has not used JAX afterwards."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def _run(command, argv, folder, log, fault, devices, operations) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    os.environ["JAX_NUM_CPU_DEVICES"] = str(devices)  # which `parallel.use_cores` leaves alone
    _save_often()
    sys.addaudithook(_Watch(folder, fault, operations))
    module = importlib.import_module(f"experiments.{command}")
    sys.modules["experiments.command"].run_command(module.main, module.Settings, argv)


def _save_often() -> None:
    """Has zoos saved after each epoch, so that there is much to be disturbed."""
    from symjax import zoo

    zoo.jobs.SAVING_SHARE = float("inf")
    for module, name in ((zoo, "train"), (zoo, "train_together"), (zoo.training, "train_together")):
        train = getattr(module, name)
        train.__kwdefaults__["save_every_seconds"] = 0


class _Watch:
    """An audit hook that counts and disturbs."""

    def __init__(self, folder, fault, operations):
        self.folder, self.fault, self.operations = str(folder.resolve()), fault, operations
        self.count, self.process = 0, os.getpid()

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in COUNTED or os.getpid() != self.process:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        where = _whole_path(event, arguments)
        if where is None or not where.startswith(self.folder) or where.endswith(".lock"):
            return
        self.count += 1
        name = f"{event.removeprefix('os.')} {where.removeprefix(self.folder)}"
        if self.fault and self.count >= self.fault.at:
            if self.fault.kind == "kill":
                self.operations.write(self.count - 1, f"before {name}")
                os.kill(self.process, signal.SIGKILL)
                time.sleep(60)  # it comes at once, but to another thread it may
            if self.fault.kind == "readonly" or event in ("open", "os.mkdir"):
                self.operations.write(self.count, f"refused {name}")
                code = ERRORS[self.fault.kind]
                raise OSError(code, os.strerror(code), where)
        self.operations.write(self.count, f"after {name}")


def _whole_path(event: str, arguments: tuple) -> str | None:
    path = arguments[0]
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str | os.PathLike):  # a file that is open already
        return None
    path, folder = os.fspath(path), {"os.remove": 1, "os.mkdir": 2, "os.rmdir": 1}.get(event)
    if folder is not None and arguments[folder] >= 0:  # relative to an open folder, as of shutil.rmtree
        path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[folder]}"), path)
    return os.path.abspath(path)
