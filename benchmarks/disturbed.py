"""Run a command of `experiments` in a process that is killed, or whose disk fails, at a given file operation.

File operations of the process below its folder are counted by Python's audit events: opening files for writing,
renaming and deleting files, creating and deleting folders, by any library. Writes to an open file are not counted.
"""

import dataclasses
import errno
import importlib
import mmap
import multiprocessing
import os
import pathlib
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Literal

TIME_LIMIT = 1800  # seconds, for a busy machine
COUNTED = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
ERRORS = {"full": errno.ENOSPC, "readonly": errno.EROFS}


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault before file operation number `at`, counted from 1.

    "kill" kills the process. With "full" no file or folder can be created from then on; with "readonly" nothing can be
    changed either.
    """

    kind: Literal["kill", "full", "readonly"]
    at: int


class Operations:
    """The number of file operations and the last of them, in shared memory."""

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
    """Start `python -m experiments.COMMAND ARGV` in a forked process, which inherits the imported modules.

    The calling process must not have used JAX yet.

    Args:
      command: name of a module of experiments.
      argv: flags of the command.
      folder: the folder whose file operations are counted.
      log: file to which stdout and stderr are appended.
      fault: the fault; None for none.
      devices: number of CPU devices for JAX.

    Returns:
      The process (`multiprocessing.Process`) and its `Operations`.
    """
    operations = Operations()
    arguments = (command, argv, folder, log, fault, devices, operations)
    process = multiprocessing.get_context("fork").Process(target=_run, args=arguments)
    process.start()
    return process, operations


def call(function: Callable, *arguments):
    """Return the result of `function` in a separate process, so that the calling process does not use JAX."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def _run(command, argv, folder, log, fault, devices, operations) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    os.environ["JAX_NUM_CPU_DEVICES"] = str(devices)  # keeps `parallel.use_cores` from setting another number
    _save_often()
    sys.addaudithook(_Watch(folder, fault, operations))
    module = importlib.import_module(f"experiments.{command}")
    sys.modules["experiments.command"].run_command(module.main, module.Settings, argv)


def _save_often() -> None:
    """Let zoos be saved after every epoch, so that faults hit many file operations."""
    from symjax import zoo

    zoo.jobs.SAVING_SHARE = float("inf")
    for module, name in ((zoo, "train"), (zoo, "train_together"), (zoo.training, "train_together")):
        train = getattr(module, name)
        train.__kwdefaults__["save_every_seconds"] = 0


class _Watch:
    """An audit hook that counts file operations and causes the fault."""

    def __init__(self, folder, fault, operations):
        self.folder, self.fault, self.operations = str(folder.resolve()), fault, operations
        self.count, self.process = 0, os.getpid()

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in COUNTED or os.getpid() != self.process:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        where = _absolute_path(event, arguments)
        if where is None or not where.startswith(self.folder) or where.endswith(".lock"):
            return
        self.count += 1
        name = f"{event.removeprefix('os.')} {where.removeprefix(self.folder)}"
        if self.fault and self.count >= self.fault.at:
            if self.fault.kind == "kill":
                self.operations.write(self.count - 1, f"before {name}")
                os.kill(self.process, signal.SIGKILL)
                time.sleep(60)  # the signal may be delivered to another thread
            if self.fault.kind == "readonly" or event in ("open", "os.mkdir"):
                self.operations.write(self.count, f"refused {name}")
                code = ERRORS[self.fault.kind]
                raise OSError(code, os.strerror(code), where)
        self.operations.write(self.count, f"after {name}")


def _absolute_path(event: str, arguments: tuple) -> str | None:
    path = arguments[0]
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str | os.PathLike):  # a file descriptor
        return None
    path, folder = os.fspath(path), {"os.remove": 1, "os.mkdir": 2, "os.rmdir": 1}.get(event)
    if folder is not None and arguments[folder] >= 0:  # relative to an open folder, as in shutil.rmtree
        path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[folder]}"), path)
    return os.path.abspath(path)


def wait_until(condition: Callable[[], bool], process) -> None:
    """Wait until the condition holds or the process has ended."""
    while process.exitcode is None and not condition():
        process.join(0.005)


def cpu_seconds(process) -> float:
    """Return the CPU time of all threads of a process in seconds."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_cpu_seconds() -> float:
    """Return the CPU time of all ended child processes in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def finish(process) -> int:
    """Wait for a process and return its exit code; it is killed after `TIME_LIMIT`."""
    process.join(TIME_LIMIT)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode
