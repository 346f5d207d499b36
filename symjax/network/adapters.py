"""Models of Flax NNX, of Flax Linen and plain functions, each as pure functions of a `Member`.

Each `Adapter` defines

    init(key) -> Member
    apply(member, x, mode, key) -> (output, state), with the key None if nothing is random
    to_member(variables) -> Member
    from_member(member) -> variables
    apply_as_given(variables) -> the function `apply` of a given model, whose static parts may differ
"""

import inspect
import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from symjax.checks import short
from symjax.errors import InputError
from symjax.network.member import Member, leaves_by_path
from symjax.network.naming import stitch_point

PyTree = Any
Mode = Literal["inference", "batch", "train", "moments"]
MODES = ("inference", "batch", "train", "moments")


class Adapter:
    """The interface of a model to `Network`, with the defaults of most models.

    Attributes:
      variables: a member with the shapes and dtypes of all members; None if `init` determines them.
      has_init: whether `init` can make members.
      needs_key: see `Network.needs_key`.
    """

    variables: Member | None = None
    has_init = True
    needs_key = True

    def apply_as_given(self, variables: Any) -> Callable:
        """Return the `apply` of the model of `variables`; `self.apply` if they consist of arrays only."""
        return self.apply


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
        _, params, _, state = nnx.split(module, nnx.Param, nnx.RngState, ...)
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
    output = module(*_inputs(x))
    return output, nnx.to_pure_dict(nnx.split(module, nnx.Param, nnx.RngState, ...)[3])


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
                child.momentum = 0.0  # its statistics become the batch's own, without rounding


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


class LinenAdapter(Adapter):
    """A module of Flax Linen; see `Network.from_linen`."""

    def __init__(self, module: Any, example: PyTree, points: Sequence[str] | None):
        import flax.linen
        from flax.core import unfreeze

        if not isinstance(module, flax.linen.Module):
            raise InputError(f"module: got {type(module).__name__}, expected a module of flax.linen")
        self._module, self._example, self._linen = module, example, flax.linen
        self._unfrozen = unfreeze
        self._paths, self._called = frozenset(points or ()), {}
        # JAX caches traces of functions in `flax.linen.jit`; the number separates those of networks with other names.
        self._number = next(_numbers) if points else 0
        self._names = _accepted(type(module).__call__, ("train", "training", "is_training", "deterministic"))

    def init(self, key: jax.Array) -> Member:
        params, dropout = jax.random.split(key)
        example = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self._example)
        streams = {"params": params, "dropout": dropout}
        return self.to_member(self._module.init(streams, *_inputs(example), **self._flags(False)))

    def apply(self, member: Member, x: PyTree, mode: Mode, key: jax.Array | None):
        variables = {"params": member.params, **member.state}
        train = mode != "inference"
        streams = {} if key is None else {"dropout": jax.random.fold_in(key, 0)}
        changing, called = list(member.state) if train else [], self._called

        def name_outputs(next_fun, args, kwargs, context):
            output, path = next_fun(*args, **kwargs), ".".join(context.module.path)
            if context.method_name != "__call__" or not path:
                return output
            called[path] = True
            return stitch_point(output, path) if path in self._paths else output

        with _naming(self._number), self._linen.intercept_methods(name_outputs):
            output, changed = self._module.apply(
                variables, *_inputs(x), rngs=streams, mutable=changing, **self._flags(train)
            )
        if missing := self._paths - called.keys():
            known = ", ".join(called) or "none"
            raise InputError(f"points: got {', '.join(sorted(missing))}, expected submodules that are called: {known}")
        return output, {**member.state, **changed}

    def to_member(self, variables: Any) -> Member:
        if not isinstance(variables, dict) and not hasattr(variables, "items"):
            raise InputError(f"variables: got {type(variables).__name__}, expected what the module's init returns")
        variables = self._unfrozen(dict(variables))
        return Member(variables.pop("params", {}), variables)

    def from_member(self, member: Member) -> dict:
        return {"params": member.params, **member.state}

    def _flags(self, train: bool) -> dict[str, bool]:
        return {name: not train if name == "deterministic" else train for name in self._names}


class FunctionAdapter(Adapter):
    """A function of variables and inputs; see `Network.from_function`."""

    def __init__(self, apply: Callable, variables: PyTree, init: Callable | None, state: PyTree | None):
        if not callable(apply):
            raise InputError(f"apply: got {type(apply).__name__}, expected a function of variables and x")
        self._apply, self._init = apply, init
        self._has_state, self.has_init = state is not None, init is not None
        require_arrays("variables", variables)
        require_arrays("state", state)
        self.variables = None if variables is None else Member(variables, {} if state is None else state)
        self._names = _accepted(apply, ("train", "key"))

    def init(self, key: jax.Array) -> Member:
        if self._init is None:
            raise InputError(
                "init: got none, expected Network.from_function(init=...), a function of a key that returns variables "
                "(or variables and state)"
            )
        made = self._init(key)
        require_arrays("init", made)
        return Member(*made) if self._has_state else Member(made, {})

    def apply(self, member: Member, x: PyTree, mode: Mode, key: jax.Array | None):
        options = {"train": mode != "inference", "key": key}
        options = {name: options[name] for name in self._names}
        if not self._has_state:
            return self._apply(member.params, x, **options), member.state
        return self._apply(member.params, member.state, x, **options)

    def to_member(self, variables: PyTree) -> Member:
        return Member(*variables) if self._has_state else Member(variables, {})

    def from_member(self, member: Member) -> PyTree:
        return tuple(member) if self._has_state else member.params


def _accepted(function: Callable, names: Sequence[str]) -> list[str]:
    """Return the names among `names` that a function takes as keyword arguments."""
    params = inspect.signature(function).parameters
    return [name for name in names if name in params]


def require_arrays(name: str, tree: PyTree) -> None:
    """Raise an InputError if a leaf of a pytree is neither an array nor a number."""
    for path, leaf in leaves_by_path(tree).items():
        if not hasattr(leaf, "dtype") and not isinstance(leaf, (bool, int, float, complex)):
            hint = "; equinox.filter(module, equinox.is_array) has the arrays of a module" if callable(leaf) else ""
            raise InputError(f"{name}: got {short(leaf)}{path and f' at {path}'}, expected arrays{hint}")


_naming, _numbers = jax.make_user_context(0), itertools.count(1)


def _inputs(x: PyTree) -> tuple:
    return x if isinstance(x, tuple) else (x,)
