"""Trace a model, and evaluate parts of its jaxprs."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from symjax.checks import is_integer, one_of, short
from symjax.errors import InputError, renamed
from symjax.jaxprs import inline
from symjax.network import rewrite, statistics
from symjax.network.adapters import MODES, Adapter, Mode, require_arrays
from symjax.network.member import Member, leaves_by_path, update
from symjax.network.naming import StitchPoint
from symjax.network.split import Program, Trace
from symjax.network.structure import program_fingerprint
from symjax.ops.parallel import FORMS, Form, default_execution

PyTree = Any


class Traced:
    """A model with its jaxprs, one for each mode, shape of inputs and dtype of variables. Each is traced once.

    Attributes:
      adapter: the model.
      name: the name of the model in messages.
      example: shapes and dtypes of an input, a pytree of `jax.ShapeDtypeStruct` with a leading axis over examples.
      points: the `StitchPoint`s, in program order.
    """

    def __init__(self, adapter: Adapter, example: PyTree, name: str):
        require_arrays("example", example)
        self.adapter, self.name = adapter, name
        self._form: Form | None = None
        self.example = jax.tree.map(shape_of, example)
        if not jax.tree.leaves(self.example):
            raise InputError("example: got no array, expected an input of the model, examples along the first axis")
        self._known_inputs = [self.example]  # calls append inputs of other shapes
        self._in_form: dict[Form, Self] = {}
        self._traces: dict[Any, Trace] = {}
        self._programs: dict[Any, Program] = {}
        self._fingerprints: dict[Program, str] = {}
        self._statistics: dict[Any, statistics.Groups] = {}

    def with_form(self, form: Form) -> Self:
        """Return the same model with operations in this form, one of `symjax.ops.parallel.FORMS`.

        By default a network's operations run in the form that is fast on this backend (`default_execution().conv`).
        """
        one_of("form", form, FORMS)
        if form not in self._in_form:
            model = self._in_form[form] = copy.copy(self)  # shares traces and programs
            model._form = form
        return self._in_form[form]

    @cached_property
    def shapes(self) -> Member:
        """A member with shapes and dtypes (`jax.ShapeDtypeStruct`) in place of its arrays."""
        if self.adapter.variables is not None:
            return jax.tree.map(shape_of, self.adapter.variables)
        shapes = jax.eval_shape(self.adapter.init, jax.eval_shape(lambda: jax.random.key(0)))
        return jax.tree.map(shape_of, shapes)  # without shardings of the program that evaluates it first

    @cached_property
    def points(self) -> tuple[StitchPoint, ...]:
        trace = self._trace("inference", None, self.shapes, self.example)
        avals = {name: trace.value(name).aval for name in trace.named}
        for name, aval in avals.items():
            if aval.ndim < 2:
                given = f"{aval.dtype}{list(aval.shape)}"
                raise InputError(f"x: got {given} at stitch point {name!r}, expected (examples, ..., channels)")
        return tuple(StitchPoint(name, aval.shape[1:], len(trace.carried(name)) > 1) for name, aval in avals.items())

    def index(self, point: str | int) -> int:
        """Return the index of a stitch point given by name or by index."""
        names = [p.name for p in self.points]
        if isinstance(point, str) and point in names:
            return names.index(point)
        if is_integer(point) and 0 <= point < len(names):
            return int(point)
        raise InputError(
            f"point: got {short(point)}, expected a stitch point of {self.name}: {', '.join(names) or 'none'}"
        )

    def parse_points(self, text: str) -> tuple[int, ...]:
        """Return the indices of points given as "all" or as comma-separated names, in program order."""
        if not isinstance(text, str):
            raise InputError(f"layers: got {text!r}, expected comma-separated names of stitch points, or all")
        if text == "all":
            return tuple(range(len(self.points)))
        with renamed(point="layers"):
            indices = {self.index(name.strip()) for name in text.split(",") if name.strip()}
        if not indices:
            raise InputError(f"layers: got none, expected {', '.join(point.name for point in self.points)}, or all")
        return tuple(sorted(indices))

    def _name(self, point: str | int) -> str:
        return self.points[self.index(point)].name

    def jaxpr(self, member: Member, x: PyTree, *, mode: Mode = "inference", random: bool = False) -> ClosedJaxpr:
        """Return the model's jaxpr with inlined calls: a function of a member, an input and, if `random`, a key."""
        key = jax.eval_shape(lambda: jax.random.key(0)) if random else None
        return self._trace(mode, key, member, x).closed

    def _known_traces(self, mode: Mode, key, member: Member, examples: int) -> Iterator[Trace]:
        """Yield the traces for `examples` inputs of each known shape, that of `example` first."""
        for inputs in list(self._known_inputs):
            yield self._trace(mode, key, member, _with_examples(inputs, examples))

    def _trace_behind(self, mode: Mode, key, member: Member, carried, name: str) -> Trace:
        """Return the trace for inputs whose values at a point have the shapes and dtypes of `carried`."""

        def ends(trace):
            return trace.carried(name), (*trace.outputs, *trace.state_after(name).values())

        traces = list(self._known_traces(mode, key, member, carried[0].shape[0]))
        like = _types(carried)
        matching = [trace for trace in traces if _types(v.aval for v in trace.carried(name)) == like]
        if matching:
            return self._unambiguous(matching, ends, "carried", f"tail behind {name}")
        given, expected = (
            ", ".join(f"{dtype}{list(shape)}" for shape, dtype in types)
            for types in (like, _types(v.aval for v in traces[0].carried(name)))
        )
        raise InputError(f"carried: got {given}, expected {expected} for the tail behind {name} of {self.name}")

    def _unambiguous(self, traces: Sequence[Trace], ends: Callable, argument: str, part: str) -> Trace:
        """Return the first trace; raise an InputError if parts of the traces compute different functions.

        `ends(trace)` returns the inputs and the outputs of the part.
        """
        fingerprints = {self._fingerprint(trace, *ends(trace)) for trace in traces} if len(traces) > 1 else ()
        if len(fingerprints) > 1:
            sizes = " and ".join(
                ", ".join(f"{v.aval.dtype}{list(v.aval.shape)}" for v in trace.data) for trace in traces
            )
            raise InputError(
                f"{argument}: got a shape that belongs to inputs {sizes}, for which the {part} of {self.name} computes "
                "different functions; expected a Network for each shape of inputs"
            )
        return traces[0]

    def _fingerprint(self, trace: Trace, inputs: Sequence, outputs: Sequence) -> str:
        program = self._program(trace, tuple(inputs), tuple(outputs))
        if program not in self._fingerprints:
            names = {v: path for path, v in trace.members.items()} | {v: f"{i}" for i, v in enumerate(inputs)}
            order = [names.get(v, "") for v in program.reads]
            self._fingerprints[program] = program_fingerprint(program.closed, names=order)
        return self._fingerprints[program]

    def _tail(self, trace: Trace, name: str, inputs, values, member: Member, mode, key, with_state: bool):
        state: dict[str, Any] = {}
        groups: statistics.Groups = []
        if with_state and mode != "inference":
            state = trace.state_after(name) if name else trace.state
        if mode == "moments" and state:
            groups = self._running(trace, name, state)
        reads = tuple(dict.fromkeys(v for leaf in (groups[0].values() if groups else ()) for v in leaf.reads))
        outputs = (*trace.outputs, *state.values(), *reads)
        results = self._run(trace, tuple(inputs), outputs, values, member, key)
        count, ends = len(trace.outputs), len(trace.outputs) + len(state)
        output = jax.tree.unflatten(trace.structure, results[:count])
        if not with_state:
            return output
        updated = dict(zip(state, results[count:ends], strict=True))
        if groups:
            read_values = dict(zip(reads, results[ends:], strict=True))
            values = dict(zip(inputs, values, strict=True))

            def run(known, outputs, member, form):
                network = self.with_form(form) if form else self
                return network._run(trace, tuple(known), outputs, list(known.values()), member, key)

            updated |= statistics.batch_values(run, trace, groups, values, read_values, member)
        return output, update(member.state, updated)

    def _running(self, trace: Trace, name: str, state) -> statistics.Groups:
        """Return the running statistics of the tail behind a point, or of the whole model for the name ""."""
        if (trace, name) not in self._statistics:
            statistics.refuse_corrected(trace, self._trace("inference", None, self.shapes, self.example))
            self._statistics[trace, name] = statistics.running(trace, state)
        return self._statistics[trace, name]

    def _run(self, trace: Trace, inputs: tuple, outputs: tuple, values: Sequence[Any], member: Member, key=None):
        program = self._program(trace, inputs, outputs)
        known = dict(zip(inputs, values, strict=True))
        known |= dict(zip(trace.keys, () if key is None else (key,), strict=True))
        leaves = leaves_by_path(member)
        known |= {v: leaves[path] for path, v in trace.members.items() if path in leaves}
        try:
            arguments = [known[v] for v in program.reads]
        except KeyError:
            paths = [path for path, v in trace.members.items() if v in program.reads and v not in known]
            raise InputError(
                f"member: got no array at {', '.join(paths)}, expected a member, as network.member returns"
            ) from None
        return rewrite.evaluate(program.closed, arguments, self._form or default_execution().conv)

    def _program(self, trace: Trace, inputs: tuple, outputs: tuple) -> Program:
        key = (trace, inputs, tuple(map(id, outputs)))
        if key not in self._programs:
            self._programs[key] = trace.program(inputs, outputs)
        return self._programs[key]

    def _trace(self, mode: Mode, key, member: Member, x: PyTree) -> Trace:
        """Return the model's jaxpr in a mode, for inputs and variables of these shapes and dtypes."""
        one_of("mode", mode, MODES)
        require_arrays("x", x)
        given = leaves_by_path(member)
        shapes = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jax.ShapeDtypeStruct(
                leaf.shape, getattr(given.get(jax.tree_util.keystr(path)), "dtype", leaf.dtype)
            ),
            self.shapes,
        )
        x = jax.tree.map(shape_of, x)
        config: Any = jax.config  # its flags have no types
        precision, mesh = str(config.jax_default_matmul_precision), jax.sharding.get_abstract_mesh()
        context = config.jax_enable_x64, precision, mesh
        key = jax.tree.map(shape_of, key)
        index = (mode, context, *map(_as_key, (shapes, x, key)))
        if index not in self._traces:
            self._traces[index] = self._new_trace(mode, key, shapes, x)
            like = _with_examples(x, jax.tree.leaves(self.example)[0].shape[0])
            if like not in self._known_inputs:
                self._known_inputs.append(like)
        return self._traces[index]

    def _new_trace(self, mode: Mode, key, shapes: Member, x: PyTree) -> Trace:
        self._check_inputs(x)

        def function(member, x, key):
            output, state = self.adapter.apply(member, x, mode, key)
            if jax.tree.structure(state) != jax.tree.structure(member.state):
                raise InputError(f"state: got a structure that a call of {self.name} changes, expected the same one")
            return output, state

        closed, out = jax.make_jaxpr(function, return_shape=True)(shapes, x, key)
        closed = inline(closed)
        members, data = list(leaves_by_path(shapes)), len(jax.tree.leaves(x))
        variables, results = closed.jaxpr.invars, closed.jaxpr.outvars
        outputs = len(jax.tree.leaves(out[0]))
        return Trace(
            closed,
            dict(zip(members, variables, strict=False)),
            tuple(variables[len(members) : len(members) + data]),
            tuple(variables[len(members) + data :]),
            tuple(results[:outputs]),
            dict(zip(leaves_by_path(shapes.state), results[outputs:], strict=True)),
            jax.tree.structure(out[0]),
        )

    def _check_inputs(self, x: PyTree) -> None:
        expected: Any = jax.tree.structure(self.example)
        if expected != (given := jax.tree.structure(x)):
            raise InputError(f"x: got {given}, expected {expected} as in the network's example")
        for leaf, like in zip(jax.tree.leaves(x), jax.tree.leaves(self.example), strict=True):
            if len(leaf.shape) != len(like.shape):
                raise InputError(f"x: got shape {leaf.shape}, expected {like.shape} with any number of examples")


def _with_examples(inputs: PyTree, count: int) -> PyTree:
    """Return shapes and dtypes of `count` inputs like these."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), inputs)


def _types(arrays) -> list[tuple]:
    return [(tuple(array.shape), array.dtype) for array in arrays]


def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    dtype = getattr(leaf, "dtype", None) or jnp.result_type(leaf)
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True))


def _as_key(tree: PyTree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
