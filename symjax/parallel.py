"""How the member axis executes on this backend: the one place that knows.

A member axis (seeds, pairs, stitches) is a leading axis over which a pure function of one member is lifted. Three
decisions belong to it, and they hang together: whether members run under `vmap` or one after another in a `lax.map`,
how convolutions are computed, and that members spread over all devices.

The defaults, and why:

* cpu: `lax.map`, convolutions as matrix products. A `vmap` over weights turns the native convolution into a grouped one
  (an order of magnitude slower), and XLA runs native convolutions inside loops on one slow path, but matrix products at
  full speed wherever they stand; one member at a time also stays in cache. `python -m benchmarks.execution` measures it.
* gpu, tpu: `vmap`, convolutions as matrix products, which batch over members. Chosen by reasoning, not yet measured.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from symjax.errors import InputError
from symjax.models.layers import ConvMethod

PyTree = Any


@dataclass(frozen=True)
class Execution:
    """How members run on one device, and how convolutions do."""

    members: Literal["vmap", "map"]
    conv: ConvMethod


DEFAULTS = {
    "cpu": Execution(members="map", conv="matmul"),
    "gpu": Execution(members="vmap", conv="matmul"),
    "tpu": Execution(members="vmap", conv="matmul"),
}


def default_execution(backend: str | None = None) -> Execution:
    """The execution for `backend`, by default the one that JAX runs on."""
    return DEFAULTS.get(backend or jax.default_backend(), DEFAULTS["gpu"])


def each(fn: Callable, execution: Execution) -> Callable:
    """Lifts `fn(item)` over the leading axis of its argument, inside a program: on one device, no compilation."""
    return jax.vmap(fn) if execution.members == "vmap" else lambda items: lax.map(fn, items)


def over_members(fn: Callable[[PyTree, PyTree], PyTree], execution: Execution, *, devices=None) -> Callable:
    """Lifts `fn(member, shared)` over the leading axis of `member`, compiled, spread over all devices.

    Args:
      fn: a pure function of one member and of what all members share.
      execution: how members of one device run.
      devices: the devices to spread over; all local ones by default.

    Returns:
      A compiled function of (members, shared). Where the number of members is not a multiple of the number of devices,
      copies of the first member fill up and are dropped from the result; a member's result depends on itself alone.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    mesh = _mesh(devices)

    def on_one_device(members, shared):
        return each(lambda member: fn(member, shared), execution)(members)

    if len(devices) == 1:
        elsewhere = devices[0] != jax.local_devices()[0]
        return jax.jit(on_one_device, **({"in_shardings": NamedSharding(mesh, PartitionSpec())} if elsewhere else {}))
    spread = jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(PartitionSpec("members"), PartitionSpec()),
        out_specs=PartitionSpec("members"),
        check_vma=False,
    )

    def run(members, shared):
        count = count_members(members)
        missing = -count % len(devices)
        if missing:
            members = jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[:1], missing, 0)]), members)
        results = spread(members, shared)
        return jax.tree.map(lambda a: a[:count], results) if missing else results

    return jax.jit(run)


def replicate(shared: PyTree, devices=None) -> PyTree:
    """What all members share, sent once to each of `devices` (all local ones by default) for `over_members`."""
    devices = jax.local_devices() if devices is None else list(devices)
    if len(devices) == 1 and devices[0] == jax.local_devices()[0]:
        return jax.tree.map(jnp.asarray, shared)
    return jax.device_put(shared, NamedSharding(_mesh(devices), PartitionSpec()))


def _mesh(devices: list) -> Mesh:
    return Mesh(devices, ("members",), axis_types=(AxisType.Auto,))


def count_members(members: PyTree) -> int:
    """The length of the leading axis that all leaves share."""
    lengths = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(members)}
    if len(lengths) != 1 or None in lengths:
        raise InputError(f"members: leading axes of {sorted(lengths, key=str)}, wanted one common length")
    return lengths.pop()


def stack(members: list[PyTree]) -> PyTree:
    """Members given one by one, as one pytree with a leading member axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def take(members: PyTree, index) -> PyTree:
    """The member, or with an array of indices the members, at `index`."""
    return jax.tree.map(lambda leaf: leaf[index], members)
