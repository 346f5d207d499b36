"""One job of several processes, on one host or on many: who computes what, and how the processes agree.

Members (seeds, pairs, repeats) never talk to each other, so no program crosses hosts. The member axis is laid out over
a mesh of all devices of all processes, and each process runs the members that its devices hold, over its own devices.
Folders lie on a file system that all hosts see: every process writes the files of its own members, and the first
process alone what there is one of (tables, figures).

The processes go through the same steps and meet between them. They meet in the coordination service of
`jax.distributed`, not in a program on the devices: there a process may wait for the others for hours, and be
interrupted, where JAX's collectives on CPUs give up after half an hour. Where one fails, all others end at the next
meeting, with its message. In a process that is alone nothing of this happens.
"""

import contextlib
import hashlib
import json
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from symjax import interruption
from symjax.errors import InputError

Item = TypeVar("Item")
# What is read where no cluster is found; of the first, JAX knows itself.
COORDINATOR, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
PATIENCE = 60.0  # seconds within which what one host has written is seen by all
_POLL = 1000  # milliseconds between two looks at what interrupts a wait


class Left(Exception):
    """Raised by `leave_to_first` where the first process goes on alone."""


class FailedElsewhere(InputError):
    """Another process has failed, and all have been told; or none can be."""


# --- processes ---


def initialize() -> None:
    """Joins the processes of a job; before anything touches a device.

    SLURM, TPU pods and Open MPI are found by `jax.distributed.initialize`. Elsewhere the environment says where process
    0 listens and which of how many processes this is: JAX_COORDINATOR_ADDRESS (HOST:PORT), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID (from 0).

    Raises:
      InputError: no such job is found, the variables contradict each other, or the processes do not meet.
    """
    if jax.distributed.is_initialized():
        return
    given = _from_environment()
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"distributed: the processes of this job could not be joined ({reason}), expected a SLURM job step (srun), "
            f"a TPU pod, Open MPI (mpirun), or {COORDINATOR}, {PROCESSES} and {PROCESS} in the environment"
        ) from None


def _from_environment() -> dict[str, Any]:
    values = {name: os.environ.get(name) for name in (PROCESSES, PROCESS)}
    there = [name for name, value in values.items() if value is not None]
    if not there:
        return {}
    if len(there) < 2 or not os.environ.get(COORDINATOR):
        raise InputError(f"distributed: {' and '.join(there)} given, expected {COORDINATOR}, {PROCESSES} and {PROCESS}")
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
    """How many processes there are."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """The number of this one, from 0."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes and prints what there is one of."""
    return index() == 0


# --- who computes what ---


def places(count: int, devices: Sequence | None = None) -> dict[int, list[int]]:
    """The places of a member axis of length `count` that each process's devices hold, ascending.

    The axis is filled up to a multiple of the number of devices, cut into rounds of one member for each device, and
    sharded over a mesh of all devices, in which neighbours belong to different processes as far as possible. So
    processes with as many devices each differ by one member at most.

    Args:
      count: of members.
      devices: of all processes, by default all that JAX sees.
    """
    devices = jax.devices() if devices is None else devices
    turns: dict[int, int] = defaultdict(int)
    ranked = []
    for device in devices:
        ranked.append((turns[device.process_index], device.process_index, len(ranked)))
        turns[device.process_index] += 1
    ordered = [devices[place] for _, _, place in sorted(ranked)]
    shape = (-(-count // len(ordered)), len(ordered))
    axis = np.arange(shape[0] * shape[1]).reshape(shape)
    layout = NamedSharding(Mesh(np.asarray(ordered, object), ("members",)), PartitionSpec(None, "members"))
    held: dict[int, list[int]] = {process: [] for process in turns}
    for device, where in layout.devices_indices_map(shape).items() if count else ():
        held[device.process_index] += [int(place) for place in axis[where].ravel() if place < count]
    return {process: sorted(theirs) for process, theirs in held.items()}


def own(items: Sequence[Item]) -> list[Item]:
    """Those of `items` that are this process's to compute; all where it is alone."""
    items = list(items)
    return items if count() == 1 else [items[place] for place in places(len(items))[index()]]


def own_name(name: str) -> str:
    """`name`, different in each process: of a file of rows to which several would add."""
    return name if is_first() else f"{name}+{index()}"


# --- meetings ---


def gather(step: str, value: Any = None) -> list[Any]:
    """What each process gives, in their order; each waits for all others.

    Args:
      step: what has been done; the same in all processes.
      value: JSON-able, and small.

    Raises:
      InputError: another process has failed, or cannot be reached any more.
    """
    return [value] if count() == 1 else _meet({"step": step, "value": value})


def together(step: str) -> None:
    """Waits until all processes are here, see `gather`."""
    gather(step)


def from_first(step: str, make: Callable[[], Any]) -> Any:
    """What `make` gives in the first process, JSON-able and small; the others do not call it."""
    return gather(step, make() if is_first() else None)[0]


def agreed(step: str, look: Callable[[], Item], tell: Callable[[Item], Any] = lambda found: found) -> Item:
    """What `look` finds in files that other hosts may have written, when all processes find the same.

    Args:
      step: what it looks at; the same in all processes.
      look: finds it.
      tell: makes something JSON-able of what `look` finds, to compare; however large.

    Raises:
      InputError: after a minute they still do not find the same.
    """
    began = time.monotonic()
    while count() > 1:
        found = look()
        text = json.dumps(tell(found), sort_keys=True)
        # The first decides on the time, since clocks differ.
        answers = gather(step, [hashlib.sha256(text.encode()).hexdigest(), time.monotonic() - began > PATIENCE])
        if len({digest for digest, _ in answers}) == 1:
            return found
        if answers[0][1]:
            raise FailedElsewhere(
                f"folder: {step}: the processes do not see the same files; expected a folder on a file system that all "
                "hosts share"
            )
        time.sleep(1)
    return look()


def complete(step: str, look: Callable[[], Item], tell: Callable[[Item], Any] = lambda found: found) -> None:
    """Waits for all processes, which then find by `look` that nothing is missing; see `agreed`.

    Raises:
      InputError: something is: `look` finds what is not empty.
    """
    together(step)
    if missing := agreed(step, look, tell):
        raise InputError(
            f"folder: {step}, but {str(tell(missing))[:200]} are missing; the same command again makes them"
        )


def leave_to_first(step: str) -> None:
    """Waits for all; then the first process goes on alone, and in the others `job` ends."""
    together(step)
    if not is_first():
        raise Left


@contextlib.contextmanager
def job() -> Iterator[None]:
    """What all processes do together: ends when all have ended; where one fails, all others do with its message."""
    try:
        yield
    except Left:
        pass
    except FailedElsewhere:
        raise
    except BaseException as error:
        tell(error)
        raise
    together("the end")


def tell(error: BaseException) -> None:
    """Tells the others, when they come to their next meeting, that this process has failed."""
    if count() == 1 or isinstance(error, (Left, FailedElsewhere, GeneratorExit)) or getattr(error, "told", False):
        return
    error.told = True
    message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(FailedElsewhere):
        # One that is to end at once does not wait until the others are there.
        wait = not isinstance(error, interruption.Interrupted)
        _meet({"error": f"process {index()} on {socket.gethostname()} has failed: {message}"}, wait)


_met = iter(range(2**62))  # like the connection that it numbers the meetings of, there is one in a process


def _client() -> Any:
    """The connection to the coordination service, to which JAX has no public way; asked for where processes meet."""
    try:
        from jax._src.distributed import global_state

        return global_state.client
    except (ImportError, AttributeError):
        raise FailedElsewhere(  # which nobody can be told
            f"distributed: JAX {jax.__version__} has its coordination service in another place than JAX 0.10, so that "
            "processes cannot meet; expected JAX 0.10, or one process"
        ) from None


def _meet(mine: dict[str, Any], wait: bool = True) -> list[Any]:
    number, client = next(_met), _client()
    client.key_value_set(f"symjax/{number}/{index()}", json.dumps(mine))
    if not wait:
        return []
    answers = [json.loads(_wait(client, f"symjax/{number}/{process}", process)) for process in range(count())]
    if number:
        client.key_value_delete(f"symjax/{number - 1}/{index()}")  # who is here has read it
    errors = [answer["error"] for answer in answers if "error" in answer]
    if errors:
        raise FailedElsewhere(errors[0])
    steps = {answer["step"] for answer in answers}
    if len(steps) > 1:
        raise FailedElsewhere(f"distributed: the processes do different things ({', '.join(sorted(steps))})")
    return [answer["value"] for answer in answers]


def _wait(client, key: str, process: int) -> str:
    while True:
        try:
            return client.blocking_key_value_get(key, _POLL)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                reason = str(error).splitlines()[0]
                raise FailedElsewhere(f"distributed: process {process} cannot be reached any more ({reason})") from None
