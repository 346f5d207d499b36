"""Jobs of several processes, on one host or several: which process computes what, and how processes synchronize.

Members (seeds, pairs, repeats) are independent, so no program spans several hosts. The member axis is sharded over a
mesh of all devices of all processes, and each process runs the members of its own devices. Folders are on a file system
that all hosts share: every process writes the files of its members, and the first process writes everything else
(tables, figures).

All processes execute the same steps and synchronize between them through the coordination service of `jax.distributed`.
A process can wait there for hours and be interrupted, whereas JAX's collectives on CPUs time out after half an hour.
If a process fails, all others end at their next synchronization, with its message. In a single process all of these
functions are no-ops.
"""

import contextlib
import hashlib
import itertools
import json
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from symjax.errors import InputError
from symjax.ops import interruption

Item = TypeVar("Item")
# Environment variables for jobs that JAX does not detect. JAX itself reads the first one.
COORDINATOR, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
AGREEMENT_TIMEOUT = 60.0  # seconds within which files written by one host become visible to all
_POLL = 1000  # milliseconds after which a wait checks for interruptions


class ContinuesOnFirst(Exception):
    """Raised by `continue_on_first` in all processes but the first."""


class RemoteFailure(InputError):
    """Another process has failed and all processes have its message, or the coordination service is not available."""


# --- processes ---


def initialize() -> None:
    """Join the processes of a job; call it before JAX uses a device.

    `jax.distributed.initialize` detects SLURM, TPU pods and Open MPI. Otherwise environment variables describe the job:
    JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0).

    Raises:
      InputError: no job is detected, the variables contradict each other, or the processes cannot connect.
    """
    if jax.distributed.is_initialized():
        return
    options = _from_environment()
    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"distributed: got processes that cannot be joined ({reason}), expected a SLURM job step (srun), "
            f"a TPU pod, Open MPI (mpirun), or {COORDINATOR}, {PROCESSES} and {PROCESS} in the environment"
        ) from None


def _from_environment() -> dict[str, Any]:
    values = {name: os.environ[name] for name in (PROCESSES, PROCESS) if name in os.environ}
    if not values:
        return {}
    if len(values) < 2 or not os.environ.get(COORDINATOR):
        raise InputError(f"distributed: got {' and '.join(values)}, expected {COORDINATOR}, {PROCESSES} and {PROCESS}")
    if not all(value.isdecimal() for value in values.values()) or not int(values[PROCESS]) < int(values[PROCESSES]):
        listed = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise InputError(f"distributed: got {listed}, expected a number of processes and one from 0 to below it")
    host, _, port = os.environ[COORDINATOR].rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"distributed: got {COORDINATOR}={os.environ[COORDINATOR]!r}, expected HOST:PORT")
    return {
        "coordinator_address": f"{host}:{port}",
        "num_processes": int(values[PROCESSES]),
        "process_id": int(values[PROCESS]),
    }


def count() -> int:
    """Return the number of processes."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Return the number of this process, from 0."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def is_first() -> bool:
    """Return whether this process writes and prints the common results."""
    return index() == 0


# --- partition of the work ---


def member_indices(count: int, devices: Sequence | None = None) -> dict[int, list[int]]:
    """Return the ascending indices of a member axis of length `count` that belong to each process.

    The axis is padded to a multiple of the number of devices, split into rows of one member per device, and sharded
    over a mesh of all devices. Neighbors in the mesh belong to different processes as far as possible, so that
    processes with equally many devices have equally many members up to one.

    Args:
      count: the number of members.
      devices: the devices of all processes, by default `jax.devices()`.
    """
    devices = jax.devices() if devices is None else devices
    num_ranked: dict[int, int] = defaultdict(int)  # by process
    ranked: list[tuple[int, int, int]] = []
    for device in devices:
        ranked.append((num_ranked[device.process_index], device.process_index, len(ranked)))
        num_ranked[device.process_index] += 1
    ordered = [devices[position] for _, _, position in sorted(ranked)]
    shape = (-(-count // len(ordered)), len(ordered))
    axis = np.arange(shape[0] * shape[1]).reshape(shape)
    layout = NamedSharding(Mesh(np.asarray(ordered, object), ("members",)), PartitionSpec(None, "members"))
    members: dict[int, list[int]] = {process: [] for process in num_ranked}
    regions: Mapping[Any, Any] = layout.devices_indices_map(shape) if count else {}
    for device, region in regions.items():
        members[device.process_index] += [int(member) for member in axis[region].ravel() if member < count]
    return {process: sorted(indices) for process, indices in members.items()}


def local_shard(items: Sequence[Item]) -> list[Item]:
    """Return the items that this process computes; all items in a single process."""
    items = list(items)
    return items if count() == 1 else [items[i] for i in member_indices(len(items))[index()]]


def local_name(name: str) -> str:
    """Return a file name that is different in each process, for files that would otherwise be shared."""
    return name if is_first() else f"{name}+{index()}"


# --- synchronization ---


def gather(step: str, value: Any = None) -> list[Any]:
    """Wait for all processes and return their values in the order of the processes.

    Args:
      step: a description of the completed step, equal in all processes.
      value: small and JSON-able.

    Raises:
      InputError: another process has failed or cannot be reached.
    """
    return [value] if count() == 1 else _exchange({"step": step, "value": value})


def barrier(step: str) -> None:
    """Wait for all processes, see `gather`."""
    gather(step)


def from_first(step: str, make: Callable[[], Any]) -> Any:
    """Call `make` in the first process and return its small, JSON-able result in all processes."""
    return gather(step, make() if is_first() else None)[0]


def all_agree(step: str, read: Callable[[], Item], to_json: Callable[[Item], Any] = lambda value: value) -> Item:
    """Return the result of `read`, which reads shared files, as soon as it is equal in all processes.

    Args:
      step: a description of the result, equal in all processes.
      read: reads the files.
      to_json: a function from the result to a JSON-able value of any size, for the comparison.

    Raises:
      InputError: the results still differ after `AGREEMENT_TIMEOUT` seconds.
    """
    start = time.monotonic()
    while count() > 1:
        result = read()
        text = json.dumps(to_json(result), sort_keys=True)
        # The first process decides on the timeout, since clocks differ.
        answers = gather(
            step, [hashlib.sha256(text.encode()).hexdigest(), time.monotonic() - start > AGREEMENT_TIMEOUT]
        )
        if len({digest for digest, _ in answers}) == 1:
            return result
        if answers[0][1]:
            raise RemoteFailure(
                f"folder: got different files in the processes ({step}), expected a folder on a file system that all "
                "hosts share"
            )
        time.sleep(1)
    return read()


def check_complete(step: str, read: Callable[[], Item], to_json: Callable[[Item], Any] = lambda value: value) -> None:
    """Wait for all processes and raise an InputError unless `read` returns an empty result; see `all_agree`."""
    barrier(step)
    if missing := all_agree(step, read, to_json):
        raise InputError(
            f"folder: {step}, but {str(to_json(missing))[:200]} are missing; the same command again computes them"
        )


def continue_on_first(step: str) -> None:
    """Wait for all processes; then the first one continues, and the block of `job` ends in the others."""
    barrier(step)
    if not is_first():
        raise ContinuesOnFirst


@contextlib.contextmanager
def job() -> Iterator[None]:
    """Run a block that ends when it has ended in all processes; if one process fails, all raise its message."""
    try:
        yield
    except ContinuesOnFirst:
        pass
    except RemoteFailure:
        raise
    except BaseException as error:
        report_failure(error)
        raise
    barrier("the end")


def report_failure(error: BaseException) -> None:
    """Send the failure of this process to the others, which raise it at their next synchronization."""
    is_reported = isinstance(error, (ContinuesOnFirst, RemoteFailure)) or getattr(error, "reported", False)
    if count() == 1 or is_reported or isinstance(error, GeneratorExit):
        return
    vars(error)["reported"] = True
    message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(RemoteFailure):
        # A process that must end immediately does not wait for the others.
        wait = not isinstance(error, interruption.Interrupted)
        _exchange({"error": f"process {index()} on {socket.gethostname()} has failed: {message}"}, wait)


_exchanges = itertools.count()  # numbers the exchanges of this process


def _client() -> Any:
    """Return the client of the coordination service. JAX has no public interface to it."""
    try:
        from jax._src.distributed import global_state

        return global_state.client
    except (ImportError, AttributeError):
        raise RemoteFailure(  # which cannot be reported to other processes
            f"distributed: got JAX {jax.__version__}, whose coordination service is not where JAX 0.10 has it, "
            "expected JAX 0.10, or one process"
        ) from None


def _exchange(message: dict[str, Any], wait: bool = True) -> list[Any]:
    number, client = next(_exchanges), _client()
    client.key_value_set(f"symjax/{number}/{index()}", json.dumps(message))
    if not wait:
        return []
    answers = [json.loads(_wait(client, f"symjax/{number}/{process}", process)) for process in range(count())]
    if number:
        client.key_value_delete(f"symjax/{number - 1}/{index()}")  # all processes have read it
    errors = [answer["error"] for answer in answers if "error" in answer]
    if errors:
        raise RemoteFailure(errors[0])
    steps = {answer["step"] for answer in answers}
    if len(steps) > 1:
        raise RemoteFailure(
            f"distributed: got different steps ({', '.join(sorted(steps))}), expected one in all processes"
        )
    return [answer["value"] for answer in answers]


def _wait(client, key: str, process: int) -> str:
    while True:
        try:
            return client.blocking_key_value_get(key, _POLL)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                reason = str(error).splitlines()[0]
                raise RemoteFailure(f"distributed: process {process} cannot be reached ({reason})") from None
