"""What a program over members will need of a device's memory: from the compiler, before anything runs.

A program over members (see `symjax.parallel`) holds on each device what all members share, its members, before and
after, and workspace. With n members there it needs

    fixed + n * member   bytes,

which `need_of` finds by compiling it for one member, or two. Members then run in groups that fit (`Need.fitting`).
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from symjax.birkhoff.checks import scalar
from symjax.errors import InputError
from symjax.parallel import Execution, compiler_options, each

__all__ = ["Need", "need_of", "parse_bytes"]

PyTree = Any

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class Need(NamedTuple):
    """Bytes on one device: whatever the number of members there, and for each of them."""

    fixed: int
    member: int

    def of(self, members: int) -> int:
        """With so many members on the device."""
        return self.fixed + members * self.member

    def fitting(self, limit: float, what: str = "member") -> int:
        """The most members that `limit` bytes of a device hold; `what` is what the message of an error calls one.

        Raises:
          InputError: they do not hold one.
        """
        limit = check_limit(limit)
        if limit < self.of(1):
            raise InputError(
                f"max_device_memory: got {spell_bytes(limit)}, wanted {spell_bytes(self.of(1))} or more, which is what "
                f"one {what} needs"
            )
        return int((limit - self.fixed) // self.member)


def need_of(fn: Callable[[PyTree, PyTree], PyTree], execution: Execution, member: PyTree, shared: PyTree) -> Need:
    """What `parallel.over_members(fn, execution)` needs of each device, compiled for one or two members, not run.

    One after another, members take turns in the workspace; under `vmap` each has its own. Fragmentation and what the
    backend itself holds are not in it.

    Args:
      fn: a pure function of one member and of what all members share.
      execution: how members run.
      member: one member, arrays or their shapes (`jax.ShapeDtypeStruct`).
      shared: likewise.

    Raises:
      InputError: the backend's compiler does not tell.
    """
    batched = execution.members == "vmap"
    count = 2 if batched else 1  # one alone is compiled otherwise than several under `vmap`
    members = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), member)

    def run(members, shared):
        return each(lambda member: fn(member, shared), execution)(members)

    compiled = jax.jit(run, compiler_options=compiler_options()).lower(members, shared).compile()
    told = compiled.memory_analysis()
    if told is None:
        raise InputError(f"max_device_memory: the compiler for {jax.default_backend()} does not tell what it needs")
    before, after, workspace = num_bytes(members), told.output_size_in_bytes, told.temp_size_in_bytes
    if batched:
        return Need(num_bytes(shared), -(-(before + after + workspace) // count))
    # The loop over members holds one more in its hands.
    return Need(num_bytes(shared) + workspace + before, before + after)


def check_limit(limit: float | None) -> float | None:
    """A number of bytes, or None; an InputError for anything else."""
    if limit is None:
        return None
    return scalar("max_device_memory", limit, "a positive number of bytes", lambda value: 0 < value < float("inf"))


def most(needs: Iterable[Need]) -> Need:
    """For programs that take the same members in turn: enough for each of them, whatever the number of members."""
    needs = list(needs)
    return Need(max(need.fixed for need in needs), max(need.member for need in needs))


def num_bytes(tree: PyTree) -> int:
    """Of all arrays, or shapes of arrays, in a pytree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def parse_bytes(text: str) -> int:
    """Bytes from a number with a unit: 16GB, 1.5 GiB, 800MB.

    Raises:
      InputError: it is no positive number with one of the units.
    """
    match = re.fullmatch(r"\s*([0-9]{0,15}\.?[0-9]{1,15})\s*([A-Za-z]+)\s*", text) if isinstance(text, str) else None
    units = {name.lower(): size for name, size in UNITS.items()}
    if not match or match[2].lower() not in units or not float(match[1]):
        raise InputError(f"max_device_memory: got {text!r}, wanted a number with a unit of {', '.join(UNITS)}: 16GB")
    return round(float(match[1]) * units[match[2].lower()])


def spell_bytes(count: float) -> str:
    """For people: 1.23 GB."""
    for unit in ("TB", "GB", "MB"):
        if count >= UNITS[unit]:
            return f"{count / UNITS[unit]:.3g} {unit}"
    return f"{count / 1000:.3g} KB"


def advice(error: BaseException) -> str | None:
    """What to do about an error of a device whose memory is exhausted; None for another error."""
    if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
        return None
    return "the device's memory is exhausted; --max-device-memory makes networks and what is done to them go in groups"
