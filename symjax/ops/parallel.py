"""Execution of the member axis on the devices of this process.

A member axis (seeds, pairs, stitches) is a leading axis over which a pure function of one member is lifted. This module
makes three related decisions: whether members run under `vmap` or one after another in a `lax.map`, how convolutions
are computed, and how members are sharded over devices.

The defaults and their reasons:

* cpu: `lax.map`, convolutions in "mixed" form (see `symjax.network.rewrite`). A `vmap` over weights turns the native
  convolution into a grouped one (an order of magnitude slower), inside loops XLA computes gradients of convolutions on
  a slow path, and one member at a time stays in cache. `python -m benchmarks.layers` and `python -m benchmarks.sweep`
  measure this.
* gpu, tpu: `vmap`, convolutions as matrix products, which batch over members. This choice is not yet measured.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from symjax.checks import one_of, text
from symjax.errors import InputError
from symjax.ops.compiler import compiler_options

__all__ = ["Execution", "default_execution", "over_members", "use_cores"]

PyTree = Any


Form = Literal["native", "matmul", "mixed"]
FORMS = ("native", "matmul", "mixed")
"""The implementations of the operations of networks, see `symjax.network.rewrite`."""


@dataclass(frozen=True)
class Execution:
    """How members and convolutions run on one device.

    Attributes:
      members: "vmap", or "map" for one member after another.
      conv: the implementation of convolutions, one of `FORMS`.

    Raises:
      InputError: another value.

    Example:
      >>> from symjax.ops.parallel import Execution
      >>> Execution(members="vmap", conv="matmul").members
      'vmap'
    """

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
    """Return the execution for a backend.

    Args:
        backend: "cpu", "gpu" or "tpu"; by default that of JAX. Other backends have that of "gpu".

    Raises:
        InputError: `backend` is not text.

    Example:
        >>> from symjax.ops import parallel
        >>> parallel.default_execution("cpu")
        Execution(members='map', conv='mixed')
    """
    backend = jax.default_backend() if backend is None else text("backend", backend)
    return DEFAULTS.get(backend, DEFAULTS["gpu"])


def use_cores() -> None:
    """Make every CPU core a device, over which members are sharded; no effect on GPUs and TPUs.

    The small operations of a member rarely use more than one core. Call this function before JAX runs anything. It does
    not change a number of CPU devices that the user has set.

    With several CPU devices, do not decompose batches of matrices (a `vmap` of svd, qr or functions that call them,
    such as `symjax.cca`) on two of them concurrently: jaxlib 0.10 decomposes them on the threads that run the programs
    and waits there, which can deadlock. `lax.map` instead of `vmap` is safe; `symjax.pairwise` uses it.

    Example:
      >>> from symjax.ops import parallel
      >>> parallel.use_cores()  # doctest: +SKIP
    """
    if "JAX_NUM_CPU_DEVICES" not in os.environ and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        jax.config.update("jax_num_cpu_devices", cores)


def each(fn: Callable, execution: Execution) -> Callable:
    """Lift `fn(item)` over the leading axis of its argument, inside a program on one device."""
    # XLA unrolls a loop with a single iteration; without the loop it compiles faster.
    return jax.vmap(fn) if execution.members == "vmap" else _unless_single(fn, partial(lax.map, fn))


def batched(fn: Callable) -> Callable:
    """Lift `fn` over the leading axis of its arguments by `vmap`, except for a single item.

    Under `vmap` the iterations of a `while_loop` select between old and new values, which costs time, above all in
    compilation.
    """
    return _unless_single(fn, jax.vmap(fn))


def _unless_single(fn: Callable, lifted: Callable) -> Callable:
    """Return `lifted`, or `fn` where the leading axis has length 1."""

    def run(*items):
        if count_members(items) != 1:
            return lifted(*items)
        return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), fn(*take(items, 0)))

    return run


def each_stack(fn: Callable, stacks: Sequence[PyTree], execution: Execution) -> list[PyTree]:
    """Lift `fn` over several stacks of items and return the results of each; stacks of equal types run as one."""
    equal: dict[Any, list[int]] = {}
    for i, stacked in enumerate(stacks):
        leaves, structure = jax.tree.flatten(stacked)
        equal.setdefault((structure, *((leaf.shape[1:], leaf.dtype) for leaf in leaves)), []).append(i)
    results: list[PyTree] = [None] * len(stacks)
    for index in equal.values():
        joint = each(fn, execution)(concatenate([stacks[i] for i in index]))
        end = 0
        for i in index:
            start, end = end, end + count_members(stacks[i])
            results[i] = jax.tree.map(lambda leaf, rows=slice(start, end): leaf[rows], joint)
    return results


def over_members(
    fn: Callable[[PyTree, PyTree], PyTree], execution: Execution, *, devices=None, effort: int = 2
) -> Callable:
    """Lift `fn(member, shared)` over the leading axis of `member`, compiled and sharded over devices.

    Args:
      fn: a pure function of one member and of values that all members share.
      execution: how members run on a device.
      devices: the devices over which members are sharded; by default all local ones.
      effort: the effort of the compiler, see `compiler_options`.

    Returns:
      A compiled function of (members, shared), which returns the results with a leading member axis. The result of a
      member does not depend on the others. If the number of members is not a multiple of the number of devices, the
      members are padded with copies of the first one, whose results are dropped.

    Raises:
      InputError: when called with members whose leading axes differ in length.

    Example:
        >>> import jax.numpy as jnp
        >>> from symjax.ops import parallel
        >>> run = parallel.over_members(lambda member, shared: member @ shared, parallel.default_execution())
        >>> run(jnp.ones((3, 2)), jnp.ones(2)).tolist()
        [2.0, 2.0, 2.0]
    """
    devices = jax.local_devices() if devices is None else list(devices)
    mesh, num_devices = _mesh(devices), len(devices)

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
        results = sharded(_pad(members, num_devices), shared)
        return jax.tree.map(lambda a: a[:count], results) if count % num_devices else results

    compiled = jax.jit(run, compiler_options=compiler_options(effort))
    replicated, sharded_axis = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("members"))

    def placed(members, shared):
        # The same shardings at every call, so that one compilation serves all calls.
        sharding = replicated if count_members(members) % num_devices else sharded_axis
        return compiled(jax.device_put(members, sharding), jax.device_put(shared, replicated))

    return placed


def in_groups(run: Callable[[PyTree, PyTree], PyTree], size: int | None) -> Callable[[PyTree, PyTree], PyTree]:
    """Apply `run`, a result of `over_members`, to at most `size` members at a time (None: all); results on the host."""

    def grouped(members, shared):
        count = count_members(members)
        if size is None or count <= size:
            return jax.device_get(run(members, shared))
        results, members = [], jax.device_get(members)  # so that only one group is on a device
        for index, _ in groups(count, size):
            results.append(jax.device_get(run(take(members, index), shared)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *results)

    return grouped


def groups(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (indices of a group of `size` members, number of valid indices) for `count` members.

    A smaller last group is padded with its last index, so that it needs no separate compilation.
    """
    for first in range(0, count, size):
        yield np.minimum(np.arange(first, first + size), count - 1), min(size, count - first)


def replicate(shared: PyTree, devices=None) -> PyTree:
    """Copy values that all members share to each of `devices` (by default all local ones), for `over_members`."""
    devices = jax.local_devices() if devices is None else list(devices)
    if len(devices) == 1 and devices[0] == jax.local_devices()[0]:
        return jax.tree.map(jnp.asarray, shared)
    return jax.device_put(shared, NamedSharding(_mesh(devices), PartitionSpec()))


def shard(members: PyTree, devices=None) -> PyTree:
    """Shard members over `devices` (by default all local ones), for repeated calls of `over_members`.

    The number of members must be a multiple of the number of devices.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    if len(devices) == 1:
        return jax.device_put(members, devices[0])
    return jax.device_put(members, NamedSharding(_mesh(devices), PartitionSpec("members")))


def _mesh(devices: list) -> Mesh:
    return Mesh(np.asarray(devices), ("members",), axis_types=(AxisType.Auto,))


def _pad(members: PyTree, multiple: int) -> PyTree:
    """Pad the members with copies of the first one to a multiple."""
    missing = -count_members(members) % multiple
    if not missing:
        return members
    return jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[:1], missing, 0)]), members)


def count_members(members: PyTree) -> int:
    """Return the length of the leading axis that all leaves share."""
    lengths = {leaf.shape[0] if getattr(leaf, "ndim", 0) else None for leaf in jax.tree.leaves(members)}
    if len(lengths) != 1 or (length := next(iter(lengths))) is None:
        raise InputError(f"members: got leading axes of {sorted(lengths, key=str)}, expected one common length")
    return length


def stack(members: list[PyTree]) -> PyTree:
    """Stack members to one pytree of NumPy arrays with a leading member axis.

    It runs on the host, since on a device it would compile a program for every shape.
    """
    return jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(members))


def concatenate(stacks: Sequence[PyTree]) -> PyTree:
    """Concatenate stacks of members, inside a program."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *stacks)


def take(members: PyTree, index) -> PyTree:
    """Return the member at `index`, or the members at an array of indices."""
    return jax.tree.map(lambda leaf: leaf[index], members)
