"""Estimate the device memory of a program over members by the compiler, before anything runs.

A program over members (see `symjax.ops.parallel`) holds the shared data, its members as inputs and as outputs, and
workspace on each device. With n members on the device it needs

    fixed + n * per_member   bytes.

`estimate_memory` determines both numbers by compiling the program for one or two members. `MemoryEstimate.max_members`
then gives the size of the groups in which members run. Programs that symjax runs itself are `MemberProgram`s.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax

from symjax.checks import scalar
from symjax.errors import InputError
from symjax.ops import parallel
from symjax.ops.parallel import Execution, compiler_options, each

__all__ = ["MemoryEstimate", "estimate_memory", "parse_bytes"]

PyTree = Any

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class MemoryEstimate(NamedTuple):
    """The memory that a program needs on one device.

    Attributes:
      fixed: bytes for any number of members.
      per_member: further bytes for each member.

    Example:
      >>> from symjax.ops.memory import MemoryEstimate
      >>> estimate = MemoryEstimate(fixed=1000, per_member=500)
      >>> estimate.bytes_for(4), estimate.max_members(2600)
      (3000, 3)
    """

    fixed: int
    per_member: int

    def bytes_for(self, members: int) -> int:
        """Return the bytes for `members` members on the device."""
        return self.fixed + members * self.per_member

    def max_members(self, limit: float, what: str = "member") -> int:
        """Return the largest number of members that fit in `limit` bytes; `what` is the word for a member in errors.

        Raises:
          InputError: one member does not fit.
        """
        check_limit(limit)
        limit = float(limit)  # a JAX integer of 32 bits would overflow
        if limit < self.bytes_for(1):
            raise InputError(
                f"max_device_memory: got {spell_bytes(limit)}, expected {spell_bytes(self.bytes_for(1))} or more, "
                f"which one {what} needs"
            )
        return int((limit - self.fixed) // self.per_member)


def estimate_memory(
    fn: Callable[[PyTree, PyTree], PyTree], execution: Execution, member: PyTree, shared: PyTree
) -> MemoryEstimate:
    """Estimate the memory of `parallel.over_members(fn, execution)` on each device; the program is compiled, not run.

    Members that run one after another use the same workspace; under `vmap` each member has its own. Fragmentation and
    the memory of the backend itself are not included.

    Args:
      fn: a pure function of one member and of the shared data.
      execution: how members run.
      member: a pytree of arrays or of `jax.ShapeDtypeStruct`: one member.
      shared: a pytree of arrays or of `jax.ShapeDtypeStruct`: the shared data.

    Returns:
      The `MemoryEstimate` of one device.

    Raises:
      InputError: the compiler of the backend reports no memory analysis.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from symjax.ops.memory import estimate_memory
      >>> from symjax.ops.parallel import Execution
      >>> member = jax.ShapeDtypeStruct((100,), jnp.float32)
      >>> estimate = estimate_memory(lambda member, shared: member + shared, Execution("map", "native"), member, member)
      >>> estimate.per_member  # input and output of a member
      800
    """
    batched = execution.members == "vmap"
    count = 2 if batched else 1  # under `vmap` the program of a single member is compiled differently
    members = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), member)

    def run(members, shared):
        return each(lambda member: fn(member, shared), execution)(members)

    # The fastest compilation: the memory is that of effort 1, and the level of LLVM does not change it.
    compiled = jax.jit(run, compiler_options=compiler_options(effort=0)).lower(members, shared).compile()
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise InputError(f"max_device_memory: the compiler for {jax.default_backend()} reports no memory analysis")
    inputs, outputs, workspace = num_bytes(members), analysis.output_size_in_bytes, analysis.temp_size_in_bytes
    if batched:
        return MemoryEstimate(num_bytes(shared), -(-(inputs + outputs + workspace) // count))
    # The loop over members needs memory for one additional member.
    return MemoryEstimate(num_bytes(shared) + workspace + inputs, inputs + outputs)


@dataclass(frozen=True, eq=False)
class MemberProgram:
    """A program over members, with the memory that it needs. It stores compiled functions, so callers cache it.

    Attributes:
      fn: a pure function of one member and of the shared data.
      execution: how members run.
      member, shared: shapes and dtypes of the arguments of `fn`.
    """

    fn: Callable[[PyTree, PyTree], PyTree]
    execution: Execution
    member: PyTree
    shared: PyTree
    _compiled: dict[tuple, Callable] = field(default_factory=dict)

    @cached_property
    def memory(self) -> MemoryEstimate:
        """The memory on each device; the program is compiled when this is first read."""
        return estimate_memory(self.fn, self.execution, self.member, self.shared)

    def within(self, limit: float | None, devices: tuple) -> Callable[[PyTree, PyTree], PyTree]:
        """Return the program as a function of (members, shared), in groups for which `limit` bytes suffice.

        All members run at once if the limit is None.

        Raises:
          InputError: one member does not fit.
        """
        if devices not in self._compiled:
            self._compiled[devices] = parallel.over_members(self.fn, self.execution, devices=devices)
        size = None if limit is None else len(devices) * self.memory.max_members(limit)
        return parallel.in_groups(self._compiled[devices], size)


def check_limit(limit: float | None) -> None:
    """Raise an InputError unless `limit` is a positive number of bytes or None."""
    if limit is not None:
        scalar("max_device_memory", limit, "a positive number of bytes", lambda value: 0 < value < float("inf"))


def combined_estimate(estimates: Iterable[MemoryEstimate]) -> MemoryEstimate:
    """Return an upper bound for programs that run one after another on the same members, for any number of members."""
    estimates = list(estimates)
    return MemoryEstimate(max(one.fixed for one in estimates), max(one.per_member for one in estimates))


def num_bytes(tree: PyTree) -> int:
    """Return the bytes of all arrays, or shapes of arrays, in a pytree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def parse_bytes(text: str) -> int:
    """Return the number of bytes in a text with a unit: 16GB, 1.5 GiB, 800MB.

    Args:
      text: a positive number and one of the units KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (powers of 1024).

    Raises:
      InputError: the text is not a positive number with one of the units.

    Example:
      >>> from symjax.ops.memory import parse_bytes
      >>> parse_bytes("1.5 GB")
      1500000000
    """
    match = re.fullmatch(r"\s*([0-9]{0,15}\.?[0-9]{1,15})\s*([A-Za-z]+)\s*", text) if isinstance(text, str) else None
    units = {name.lower(): size for name, size in UNITS.items()}
    if not match or match[2].lower() not in units or not float(match[1]):
        raise InputError(
            f"max_device_memory: got {text!r}, expected a number with a unit ({', '.join(UNITS)}), such as 16GB"
        )
    return round(float(match[1]) * units[match[2].lower()])


def spell_bytes(count: float) -> str:
    """Return a readable text of a number of bytes, such as 1.23 GB."""
    for unit in ("TB", "GB", "MB"):
        if count >= UNITS[unit]:
            return f"{count / UNITS[unit]:.3g} {unit}"
    return f"{count / 1000:.3g} KB"


def advice(error: BaseException) -> str | None:
    """Return advice for an error of exhausted device memory; None for other errors."""
    if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
        return None
    return "the device memory is exhausted; --max-device-memory runs networks in smaller groups"
