"""How the member axis executes on this backend: the one place that knows.

A member axis (seeds, pairs, stitches) is a leading axis over which a pure function of one member is lifted. Three
decisions belong to it, and they hang together: whether members run under `vmap` or one after another in a `lax.map`,
how convolutions are computed, and that members spread over all devices.

The defaults, and why:

* cpu: `lax.map`, convolutions in "mixed" form (see `symjax.network.rewrite`). A `vmap` over weights turns the native
  convolution into a grouped one (an order of magnitude slower), and inside loops XLA runs its own gradients of
  convolutions on a slow path; one member at a time also stays in cache.
  `python -m benchmarks.layers` and `python -m benchmarks.sweep` measure it.
* gpu, tpu: `vmap`, convolutions as matrix products, which batch over members. Chosen by reasoning, not yet measured.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from symjax.checks import integer, one_of, text
from symjax.errors import InputError
from symjax.interruption import Interrupted

__all__ = ["Execution", "default_execution", "over_members", "use_cores"]

PyTree = Any


Form = Literal["native", "matmul", "mixed"]
FORMS = ("native", "matmul", "mixed")
"""In which operations of networks run, see `symjax.network.rewrite`."""


@dataclass(frozen=True)
class Execution:
    """How members run on one device, and how convolutions do."""

    members: Literal["vmap", "map"]
    conv: Form

    def __post_init__(self):
        one_of("members", self.members, ("vmap", "map"))
        one_of("conv", self.conv, FORMS)


DEFAULTS = {
    "cpu": Execution(members="map", conv="mixed"),
    "gpu": Execution(members="vmap", conv="matmul"),
    "tpu": Execution(members="vmap", conv="matmul"),
}


def default_execution(backend: str | None = None) -> Execution:
    """The execution for `backend`, by default the one that JAX runs on."""
    backend = jax.default_backend() if backend is None else text("backend", backend)
    return DEFAULTS.get(backend, DEFAULTS["gpu"])


def use_cores(count: int | None = None) -> None:
    """Makes every CPU core a device of its own, over which members spread; no effect on GPUs and TPUs.

    A member's small operations keep one core busy, seldom two. To be called before anything runs; a number of CPU
    devices that the user has set already is left alone.

    With several CPU devices, do not decompose batches of matrices (a `vmap` of svd, qr or of what calls them, such as
    `symjax.cca`) on two of them at once: jaxlib (0.10) does that on the threads that run the programs and waits there,
    so that both can wait for ever. `lax.map` in place of `vmap` is safe; `symjax.pairwise` keeps to it.
    """
    if count is not None:
        integer("count", count, 1)
    if "JAX_NUM_CPU_DEVICES" not in os.environ and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        jax.config.update("jax_num_cpu_devices", count or cores)


def each(fn: Callable, execution: Execution) -> Callable:
    """Lifts `fn(item)` over the leading axis of its argument, inside a program of one member, on one device."""
    if execution.members == "vmap":
        return jax.vmap(fn)

    def mapped(items):
        if count_members(items) != 1:
            return lax.map(fn, items)
        # A loop of one round is unrolled by XLA anyway, and compiles more slowly.
        return jax.tree.map(lambda leaf: leaf[None], fn(take(items, 0)))

    return mapped


def each_stack(fn: Callable, stacks: Sequence[PyTree], execution: Execution) -> list[PyTree]:
    """`each` for several stacks of items: those whose items are of one shape run as one. Results stack by stack."""
    alike: dict[Any, list[int]] = {}
    for i, stacked in enumerate(stacks):
        leaves, structure = jax.tree.flatten(stacked)
        alike.setdefault((structure, *((leaf.shape[1:], leaf.dtype) for leaf in leaves)), []).append(i)
    found: list[PyTree] = [None] * len(stacks)
    for index in alike.values():
        results = each(fn, execution)(concatenate([stacks[i] for i in index]))
        end = 0
        for i in index:
            start, end = end, end + count_members(stacks[i])
            found[i] = jax.tree.map(lambda leaf, mine=slice(start, end): leaf[mine], results)
    return found


def over_members(
    fn: Callable[[PyTree, PyTree], PyTree], execution: Execution, *, devices=None, effort: int = 2
) -> Callable:
    """Lifts `fn(member, shared)` over the leading axis of `member`, compiled, spread over all devices.

    Args:
      fn: a pure function of one member and of what all members share.
      execution: how members run.
      devices: the devices to spread over; all local ones by default.
      effort: of the compiler, see `compiler_options`.

    Returns:
      A compiled function of (members, shared). Where the number of members is not a multiple of the number of devices,
      copies of the first member fill up and are dropped from the result; a member's result depends on itself alone.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    mesh, places = _mesh(devices), len(devices)

    def on_one_device(members, shared):
        return each(lambda member: fn(member, shared), execution)(members)

    if len(devices) == 1:
        compiled = jax.jit(on_one_device, compiler_options=compiler_options(effort))
        return lambda members, shared: compiled(*jax.device_put((members, shared), devices[0]))
    sharded = jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(PartitionSpec("members"), PartitionSpec()),
        out_specs=PartitionSpec("members"),
        check_vma=False,
    )

    def run(members, shared):
        count = count_members(members)
        results = sharded(_fill_up(members, places), shared)
        return jax.tree.map(lambda a: a[:count], results) if count % places else results

    compiled = jax.jit(run, compiler_options=compiler_options(effort))
    everywhere, apart = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("members"))

    def placed(members, shared):
        # Placed alike at every call, wherever they come from, so that one compilation serves all calls.
        place = everywhere if count_members(members) % places else apart
        return compiled(jax.device_put(members, place), jax.device_put(shared, everywhere))

    return placed


def in_groups(run: Callable[[PyTree, PyTree], PyTree], size: int | None) -> Callable[[PyTree, PyTree], PyTree]:
    """`run`, which `over_members` gives, with at most `size` members at a time (None: all); results on the host."""

    def grouped(members, shared):
        count = count_members(members)
        if size is None or count <= size:
            return jax.device_get(run(members, shared))
        found, members = [], jax.device_get(members)  # they are not to wait on a device for their turn
        for index, _ in groups(count, size):
            found.append(jax.device_get(run(take(members, index), shared)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *found)

    return grouped


def groups(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """The indices of `count` members in groups of `size`, and how many of each group count.

    A last, smaller group is filled up with copies of its last member, so that it needs no compilation of its own.
    """
    for first in range(0, count, size):
        yield np.minimum(np.arange(first, first + size), count - 1), min(size, count - first)


class Stopped(Exception):
    """What `go_on` raises in a task of `at_once` that is to end."""


def at_once(tasks: Sequence[Callable]) -> list:
    """Runs tasks side by side, each in a thread of its own; their results, in order.

    For programs on different devices that need not wait for each other. A thread has the settings of JAX that contexts
    such as `jax.enable_x64` have made here. One task alone runs in this thread.

    Args:
      tasks: functions of `go_on`, which they call without arguments now and then: it raises `Stopped` where another
        task has failed or the user has interrupted.

    Raises:
      The first task's error that there is, when all have ended; `interruption.Interrupted` at once.
    """
    if len(tasks) == 1:
        return [tasks[0](lambda: None)]
    stop, settings = threading.Event(), {name: getattr(jax.config, name) for name in _CONTEXTS}

    def go_on():
        if stop.is_set():
            raise Stopped

    def run(task):
        with contextlib.ExitStack() as contexts:
            for name, value in settings.items():
                contexts.enter_context(_CONTEXTS[name](value))
            return task(go_on)

    pool, leave = ThreadPoolExecutor(len(tasks)), False
    try:
        futures = [pool.submit(run, task) for task in tasks]
        done, going = set(), futures
        while going and not any(future.exception() for future in done):
            # Wakes up now and then: an interruption that another thread has received is seen by this one alone.
            done, going = wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION)
    except Interrupted:
        leave = True
        raise
    finally:
        stop.set()
        pool.shutdown(wait=not leave)
    errors = [future.exception() for future in futures]
    for error in sorted(filter(None, errors), key=lambda error: isinstance(error, Stopped)):
        raise error
    return [future.result() for future in futures]


# A thread starts with JAX's global settings, not with those of the contexts around the thread that makes it.
_CONTEXTS = {
    "jax_enable_x64": jax.enable_x64,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_debug_nans": jax.debug_nans,
    "jax_numpy_dtype_promotion": jax.numpy_dtype_promotion,
}


def compiler_options(effort: int = 2) -> dict | None:
    """Return options of the compiler for programs on this backend; none where it is not a CPU.

    On a CPU `optimization_barrier`s are kept. The compiler would drop them before it fuses, and then compute a pooling
    gradient or a convolution's tiles again in every fusion that reads them. Options that the installed compiler does
    not know are left out.

    Args:
      effort: 2, code that is fast: LLVM's first level, whose code is as fast here as that of the higher ones and
        compiles in 3/4 of the time. 1, for programs of many small operations: without XLA's newer way to write kernels,
        in half of the time. 0, for what runs once: at LLVM's level zero as well.
    """
    if jax.default_backend() != "cpu":
        return None
    level = min(integer("effort", effort, 0, 2), 1)
    options = {"xla_backend_optimization_level": level, "xla_disable_hlo_passes": "cse_barrier_expander"}
    options |= {} if effort == 2 else {"xla_cpu_use_fusion_emitters": False}
    return {name: value for name, value in options.items() if _knows(name, value)}


@lru_cache
def _knows(name: str, value: Any) -> bool:
    """Whether the compiler has this option; asked by compiling next to nothing."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False
    return True


def replicate(shared: PyTree, devices=None) -> PyTree:
    """What all members share, sent once to each of `devices` (all local ones by default) for `over_members`."""
    devices = jax.local_devices() if devices is None else list(devices)
    if len(devices) == 1 and devices[0] == jax.local_devices()[0]:
        return jax.tree.map(jnp.asarray, shared)
    return jax.device_put(shared, NamedSharding(_mesh(devices), PartitionSpec()))


def spread(members: PyTree, devices=None) -> PyTree:
    """Members sent to the devices that will work on them, one part to each, once for many calls of `over_members`.

    Their number is a multiple of the number of devices, all local ones by default.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    if len(devices) == 1:
        return jax.device_put(members, devices[0])
    return jax.device_put(members, NamedSharding(_mesh(devices), PartitionSpec("members")))


def _mesh(devices: list) -> Mesh:
    return Mesh(np.asarray(devices), ("members",), axis_types=(AxisType.Auto,))


def _fill_up(members: PyTree, multiple: int) -> PyTree:
    """Members with copies of the first behind them, up to a multiple."""
    missing = -count_members(members) % multiple
    if not missing:
        return members
    return jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[:1], missing, 0)]), members)


def count_members(members: PyTree) -> int:
    """The length of the leading axis that all leaves share."""
    lengths = {leaf.shape[0] if getattr(leaf, "ndim", 0) else None for leaf in jax.tree.leaves(members)}
    if len(lengths) != 1 or None in lengths:
        raise InputError(f"members: leading axes of {sorted(lengths, key=str)}, expected one common length")
    return lengths.pop()


def stack(members: list[PyTree]) -> PyTree:
    """Members given one by one, as one pytree of NumPy arrays with a leading member axis.

    On the host, since a device would compile a little program for every shape.
    """
    return jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(members))


def concatenate(stacks: Sequence[PyTree]) -> PyTree:
    """Stacks of members, one behind the other, inside a program."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *stacks)


def take(members: PyTree, index) -> PyTree:
    """The member, or with an array of indices the members, at `index`."""
    return jax.tree.map(lambda leaf: leaf[index], members)
