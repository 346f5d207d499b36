"""Values of JAX models, from their jaxprs: values with names in the code, and outputs of submodules."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from symjax.errors import InputError
from symjax.jaxprs import inline
from symjax.network import Network
from symjax.network.adapters import MODE_FLAGS, accepted, called
from symjax.network.naming import SUBMODULE
from symjax.network.split import Trace
from symjax.spelling import described

PyTree = Any
Record = Callable[[str, Any], Any]


def chosen(points: Sequence[str] | None, named: Sequence[str], submodules: Sequence[str]) -> list[str]:
    """Return the points; by default the names in the code, or the submodules if the code names nothing."""
    known = [*named, *submodules]
    if not known:
        raise InputError("model: got one without named values or submodules, expected symjax.stitch_point(x, name)")
    if points is None:
        return list(named or submodules)
    if unknown := [point for point in points if point not in known]:
        raise InputError(f"points: got {', '.join(map(repr, unknown))}, expected some of {', '.join(known)}")
    return list(points)


def as_arrays(batch: PyTree) -> PyTree:
    """Return a batch of arrays of JAX's dtypes."""
    try:
        with np.errstate(over="raise"):
            return jax.tree.map(jnp.asarray, batch)
    except FloatingPointError:
        raise InputError("batches: got entries beyond the range of JAX's default dtype, expected others") from None


@contextlib.contextmanager
def errors_name_batches(batch: PyTree) -> Iterator[None]:
    """Raise an `InputError` with the shapes of the batch where tracing the model fails in this context."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # user code can raise anything
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise InputError(
            f"batches: got a batch {described(batch)} for which tracing the model fails ({reason}), expected inputs as "
            "the model takes them"
        ) from error


class JaxValues:
    """The values at points of `function(record, variables, x)`, which is traced for each shape of inputs.

    The function calls `record(path, output)` for outputs of submodules; its result is the output or a copy of it with a
    name. If `each` is true, it is a function of one example.
    """

    def __init__(self, function: Callable, variables: PyTree, points: Sequence[str] | None, *, each: bool = False):
        self._function, self._variables, self._points, self._each = function, variables, points, each
        self._programs: dict[Any, tuple[list[str], Callable]] = {}

    def __call__(self, batch: PyTree) -> dict[str, jax.Array]:
        batch = as_arrays(batch)
        leaves, structure = jax.tree.flatten(batch)
        key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if key not in self._programs:
            self._programs[key] = self._program(batch)
        names, run = self._programs[key]
        return dict(zip(names, run(jax.tree.leaves(self._variables), leaves), strict=True))

    def _program(self, batch: PyTree) -> tuple[list[str], Callable]:
        def is_features(value: Any) -> bool:
            return value.ndim >= 2 - self._each and jnp.issubdtype(value.dtype, jnp.floating)

        def record(path: str, value: Any) -> Any:
            recorded = isinstance(value, jax.Array) and is_features(value)
            return checkpoint_name(value, SUBMODULE + path) if recorded else value

        x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[self._each :], leaf.dtype), batch)
        with errors_name_batches(batch):
            traced = jax.make_jaxpr(partial(self._function, record))(self._variables, x)
        closed = _numbered(inline(traced))
        inputs = tuple(closed.jaxpr.invars)
        trace = Trace(closed, {}, inputs, (), tuple(closed.jaxpr.outvars), {}, None)
        usable = [name for name in trace.named if is_features(trace.value(name).aval)]  # in the order of computation
        named = [name for name in usable if not name.startswith(SUBMODULE)]
        places = {name.removeprefix(SUBMODULE): name for name in usable}
        places |= {name: name for name in named}  # the code's own names come first
        if not places:
            raise InputError(
                "model: got one without named values or submodules of floating type (examples, ...) for batches "
                f"{described(batch)}, expected symjax.stitch_point(x, name)"
            )
        points = chosen(self._points, named, [name for name in places if name not in named])
        names = [name for name in places if name in points]
        program = trace.program(inputs, [trace.value(places[name]) for name in names])
        reads = [inputs.index(v) for v in program.reads]

        def run(variables, x):
            values = [*variables, *x]
            return jaxpr_as_fun(program.closed)(*(values[i] for i in reads))

        return names, jax.jit(jax.vmap(run, (None, 0)) if self._each else run)


def _numbered(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Return the jaxpr with "#1", "#2", ... appended to names that occur again."""
    counts: Counter[str] = Counter()
    numbered = []
    for equation in closed.jaxpr.eqns:
        if equation.primitive.name == "name":
            name = equation.params["name"]
            if counts[name]:
                equation = equation.replace(params={**equation.params, "name": f"{name}#{counts[name]}"})
            counts[name] += 1
        numbered.append(equation)
    return closed.replace(jaxpr=closed.jaxpr.replace(eqns=numbered))


class NetworkValues:
    """The values of a `Network` at its stitch points."""

    def __init__(self, network: Network, variables: Any, points: Sequence[str] | None):
        names = chosen(points, [point.name for point in network.points], [])
        self._member = network.member(variables)
        self._run = jax.jit(lambda member, x: network.features(member, x, names))

    def __call__(self, batch: PyTree) -> dict[str, jax.Array]:
        batch = as_arrays(batch)
        with errors_name_batches(batch):
            jax.eval_shape(self._run, self._member, batch)
        return self._run(self._member, batch)


def function_values(function: Callable, variables: Sequence, points: Sequence[str] | None) -> JaxValues:
    """Return the values of function(*variables, batch)."""
    return JaxValues(lambda record, variables, x: called(partial(function, *variables), x), tuple(variables), points)


def nnx_values(module: Any, points: Sequence[str] | None) -> JaxValues:
    """Return the values of a module of Flax NNX."""
    from flax import nnx

    module = nnx.clone(module)
    module.eval()
    graph, state = nnx.split(module)

    def function(record: Record, state, x):
        copy = nnx.merge(graph, state)
        for path, child in nnx.iter_modules(copy):
            if path and callable(child):
                child.__class__ = _recording(type(child), ".".join(map(str, path)), record)
        return called(copy, x)

    return JaxValues(function, state, points)


def linen_values(module: Any, variables: Any, points: Sequence[str] | None) -> JaxValues:
    """Return the values of a module of Flax Linen, with those that it stores by `sow`."""
    flags = {name: name == "deterministic" for name in accepted(type(module).__call__, MODE_FLAGS)}

    def function(record: Record, variables, x):
        apply = partial(module.apply, variables, capture_intermediates=True, mutable=["intermediates"], **flags)
        output, state = called(apply, x)
        for path, values in jax.tree_util.tree_leaves_with_path(state, is_leaf=lambda leaf: isinstance(leaf, tuple)):
            keys = [key.key for key in path[1:] if key.key != "__call__"]
            for value in values if keys else ():
                record(".".join(keys), value)
        return output

    return JaxValues(function, variables, points)


def equinox_values(model: Any, points: Sequence[str] | None) -> JaxValues:
    """Return the values of an Equinox module, a function of one example."""
    import equinox as eqx

    arrays, static = eqx.partition(eqx.nn.inference_mode(model), eqx.is_array)

    class Recording(eqx.Module):
        """A submodule whose output is recorded."""

        child: Any
        path: str = eqx.field(static=True)
        record: Record = eqx.field(static=True)

        def __call__(self, *args, **kwargs):
            return self.record(self.path, self.child(*args, **kwargs))

        def __getattr__(self, name):
            return getattr(object.__getattribute__(self, "child"), name)

    def recorded(node, path, record):
        def is_child(part):
            return part is not node and isinstance(part, eqx.Module)

        children, structure = jax.tree_util.tree_flatten_with_path(node, is_leaf=is_child)
        named = [
            recorded(child, path + jax.tree_util.keystr(keys, simple=True, separator=".").split("."), record)
            if is_child(child)
            else child
            for keys, child in children
        ]
        node = jax.tree.unflatten(structure, named)
        return Recording(node, ".".join(path), record) if path and callable(node) else node

    def function(record: Record, arrays, x):
        return called(recorded(eqx.combine(arrays, static), [], record), x)

    return JaxValues(function, arrays, points, each=True)


def _recording(cls: type, path: str, record: Record) -> type:
    """Return a subclass that records its output."""

    def __call__(self, *args, **kwargs):
        return record(path, cls.__call__(self, *args, **kwargs))

    return type(cls)(cls.__name__, (cls,), {"__call__": __call__, "__module__": cls.__module__})
