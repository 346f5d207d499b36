"""Modules of Flax NNX as pure functions of a `Member`; see `symjax.network.adapters`.

A separate module, since importing Flax takes half a second.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from symjax.errors import InputError
from symjax.network.adapters import MODES, Adapter, Mode, inputs_of
from symjax.network.member import Member
from symjax.network.naming import stitch_point

PyTree = Any


class NNXAdapter(Adapter):
    """A module of Flax NNX; see `Network.from_nnx`."""

    needs_key = False

    def __init__(self, build: Callable[[nnx.Rngs], nnx.Module], points: Sequence[str] | None):
        if not callable(build):
            raise InputError(
                f"build: got {type(build).__name__}, expected a function of nnx.Rngs that returns a module"
            )
        self._build = build
        abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
        if not isinstance(abstract, nnx.Module):
            given = type(abstract).__name__
            raise InputError(f"build: got a function that returns {given}, expected one that returns a module of nnx")
        self._plain, *self._states = nnx.split(abstract, nnx.Param, nnx.RngState, ...)
        self._points, self._graphs = tuple(points or ()), {}
        for mode in MODES:
            module = self._with_names(nnx.merge(self._plain, *self._states))
            _set_mode(module, mode, random=False)
            self._graphs[mode, False] = nnx.split(module)[0]
            _set_mode(module, mode, random=True)
            self._graphs[mode, True] = nnx.split(module)[0]

    def init(self, key: jax.Array) -> Member:
        return self.to_member(self._build(nnx.Rngs(key)))

    def apply(self, member: Member, x: PyTree, mode: Mode, key: jax.Array | None):
        return _called(nnx.merge(self._graphs[mode, key is not None], *self._variables(member, key)), x)

    def apply_as_given(self, module: nnx.Module) -> Callable:
        module = self._with_names(nnx.clone(module))
        _set_mode(module, "inference", random=False)
        graph, *states = nnx.split(module, nnx.Param, nnx.RngState, ...)
        if graph == self._graphs["inference", False]:
            return self.apply
        params, rngs, state = states

        def apply(member: Member, x: PyTree, mode: Mode, key: None):
            return _called(nnx.merge(graph, _filled(params, member.params), rngs, _filled(state, member.state)), x)

        return apply

    def _with_names(self, module: nnx.Module) -> nnx.Module:
        for path in self._points:
            _name_output(module, path)
        return module

    def to_member(self, module: nnx.Module) -> Member:
        if not isinstance(module, nnx.Module):
            raise InputError(f"module: got {type(module).__name__}, expected a module of flax.nnx")
        _, *states = nnx.split(module, nnx.Param, nnx.RngState, ...)
        params, _, state = states
        return Member(nnx.to_pure_dict(params), nnx.to_pure_dict(state))

    def from_member(self, member: Member) -> nnx.Module:
        module = nnx.merge(self._plain, *self._variables(member, jax.random.key(0)))
        module.eval()
        return module

    def _variables(self, member: Member, key: jax.Array | None) -> tuple[nnx.State, nnx.State, nnx.State]:
        params, rngs, state = self._states
        return _filled(params, member.params), _seeded(rngs, key), _filled(state, member.state)


def _called(module: nnx.Module, x: PyTree) -> tuple[PyTree, PyTree]:
    """Return the output of a module, and its state after the call."""
    output = module(*inputs_of(x))
    _, *states = nnx.split(module, nnx.Param, nnx.RngState, ...)
    return output, nnx.to_pure_dict(states[2])


def _set_mode(module: nnx.Module, mode: Mode, *, random: bool) -> None:
    if mode == "inference":
        module.eval()
        return
    module.train()
    if not random:
        module.set_attributes(deterministic=True, raise_if_not_found=False)
    if mode == "moments":
        for _, child in nnx.iter_modules(module):
            if isinstance(child, nnx.BatchNorm):
                child.momentum = 0.0  # the next statistics are those of the batch, without rounding


def _filled(abstract: nnx.State, values: PyTree) -> nnx.State:
    """Return a copy of an abstract state with `values`."""
    state = jax.tree.map(lambda leaf: leaf, abstract)
    nnx.replace_by_pure_dict(state, values)
    return state


def _seeded(rngs: nnx.State, key: jax.Array | None) -> nnx.State:
    """Return the initial states of random streams, each with a different key."""
    key = jax.random.key(0) if key is None else key
    leaves, structure = jax.tree.flatten(rngs)

    def seeded(i, leaf):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)
        stream_key = jax.random.fold_in(key, i)
        return jax.random.split(stream_key, leaf.shape) if leaf.shape else stream_key

    return jax.tree.unflatten(structure, [seeded(i, leaf) for i, leaf in enumerate(leaves)])


def _name_output(module: nnx.Module, path: str) -> None:
    """Make the submodule at a path, such as "blocks.0.conv", name its output by the path."""
    child: Any = module
    for part in path.split("."):
        child = child[int(part)] if part.isdecimal() else getattr(child, part, None)
        if child is None:
            break
    if not isinstance(child, nnx.Module):
        known = [".".join(map(str, parts)) for parts, _ in nnx.iter_modules(module) if parts]
        raise InputError(f"points: got {path!r}, expected submodules: {', '.join(known) or 'none'}")
    child.__class__ = _naming_class(type(child), path)


@cache
def _naming_class(cls: type, path: str) -> type:
    """Return a subclass that names its output."""

    def __call__(self, *args, **kwargs):
        return stitch_point(cls.__call__(self, *args, **kwargs), path)

    return type(cls)(cls.__name__, (cls,), {"__call__": __call__, "__module__": cls.__module__})
