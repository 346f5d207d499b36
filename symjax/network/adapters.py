"""Modules of Flax Linen and plain functions as pure functions of a `Member`; Flax NNX is in `nnx_adapter`.

Each `Adapter` defines

    init(key) -> Member
    apply(member, x, mode, key) -> (output, state), with the key None if nothing is random
    to_member(variables) -> Member
    from_member(member) -> variables
    apply_as_given(model) -> the function `apply` of another model of the same kind, whose static parts may differ
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from symjax.checks import short
from symjax.errors import InputError
from symjax.network.member import Member, leaves_by_path
from symjax.network.naming import stitch_point

PyTree = Any
Mode = Literal["inference", "train", "moments"]
MODE_FLAGS = ("train", "training", "is_training", "deterministic")
MODES: tuple[Mode, ...] = ("inference", "train", "moments")


class Adapter:
    """The interface between a model and `Network`.

    Attributes:
      variables: a member with the shapes and dtypes of all members; None if `init` determines them.
      has_init: whether `init` can make members.
      needs_key: see `Network.needs_key`.
    """

    variables: Member | None = None
    has_init = True
    needs_key = True
    init: Callable[..., Any]
    apply: Callable[..., Any]
    to_member: Callable[[Any], Member]
    from_member: Callable[[Member], Any]

    def apply_as_given(self, model: Any) -> Callable:
        """Return the `apply` of another model; `self.apply` if it consists of arrays only."""
        return self.apply


class LinenAdapter(Adapter):
    """A module of Flax Linen; see `Network.from_linen`."""

    def __init__(self, module: Any, example: PyTree, points: Sequence[str] | None):
        import flax.linen
        from flax.core import unfreeze

        if not isinstance(module, flax.linen.Module):
            raise InputError(f"module: got {type(module).__name__}, expected a module of flax.linen")
        self._module, self._example, self._linen = module, example, flax.linen
        self._unfrozen = unfreeze
        self._paths = frozenset(points or ())
        self._called: dict[str, bool] = {}
        # JAX caches traces of functions in `flax.linen.jit`; the number separates networks with different points.
        self._number = next(_numbers) if points else 0
        self._names = accepted(type(module).__call__, MODE_FLAGS)

    def init(self, key: jax.Array) -> Member:
        params, dropout = jax.random.split(key)
        example = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self._example)
        streams = {"params": params, "dropout": dropout}
        return self.to_member(self._module.init(streams, *inputs_of(example), **self._flags(False)))

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
                variables, *inputs_of(x), rngs=streams, mutable=changing, **self._flags(train)
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

    def _flags(self, train: bool) -> dict[str, Any]:
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
        self._names = accepted(apply, ("train", "key"))

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


def accepted(function: Callable, names: Sequence[str]) -> list[str]:
    """Return those of `names` that a function takes as keyword arguments."""
    params = inspect.signature(function).parameters
    return [name for name in names if name in params]


def require_arrays(name: str, tree: PyTree) -> None:
    """Raise an InputError if a leaf of a pytree is neither an array nor a number."""
    for path, leaf in leaves_by_path(tree).items():
        if not hasattr(leaf, "dtype") and not isinstance(leaf, (bool, int, float, complex)):
            hint = "; equinox.filter(module, equinox.is_array) has the arrays of a module" if callable(leaf) else ""
            raise InputError(f"{name}: got {short(leaf)}{path and f' at {path}'}, expected arrays{hint}")


_naming, _numbers = jax.make_user_context(0), itertools.count(1)


def called(model: Callable, x: Any, **options) -> Any:
    """Call a model with a mapping as keyword arguments, a tuple as positional ones, or one input."""
    return model(**x, **options) if isinstance(x, Mapping) else model(*inputs_of(x), **options)


def inputs_of(x: PyTree) -> tuple:
    """Return the positional arguments of a call: the items of a tuple, or the single input."""
    return x if isinstance(x, tuple) else (x,)
