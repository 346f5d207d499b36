"""Any JAX model, split at named values.

A `Network` is the static description of a model; `Member`s are its variables. All methods are pure functions of plain
pytrees, so `jit`, `vmap`, `grad`, `shard_map`, optax and checkpoints see arrays alone. What a method needs of the model
is cut out of the model's jaxpr (`symjax.network.split`), and evaluated with the operations that are fast on this
backend (`symjax.network.rewrite`).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr

from symjax.checks import is_integer, one_of, random_key, short
from symjax.errors import InputError, renamed
from symjax.jaxprs import inline
from symjax.network import rewrite, statistics
from symjax.network.adapters import MODES, FunctionAdapter, LinenAdapter, Mode, NNXAdapter, require_arrays
from symjax.network.member import Member, leaves_by_path, select, update
from symjax.network.split import Program, Trace
from symjax.network.structure import program_fingerprint
from symjax.parallel import FORMS, compiler_options, default_execution

PyTree = Any


@dataclass(frozen=True)
class StitchPoint:
    """A named value of a model.

    Attributes:
      name: by which methods and commands take it.
      shape: of the features of one example, channels last.
      starred: whether more than the features crosses a split there, as inside a residual block.
    """

    name: str
    shape: tuple[int, ...]
    starred: bool = False

    @property
    def channels(self) -> int:
        """The size of the last axis, on which a stitch acts."""
        return self.shape[-1]


class Network:
    """A model that can be split at the values that it names. Hashable by identity; see the constructors.

    Attributes:
      name: in messages.
      example: shapes and types of an input, a pytree of `jax.ShapeDtypeStruct` with a leading axis over examples.
      points: the `StitchPoint`s, in program order.
    """

    def __init__(self, adapter, example: PyTree, *, name: str):
        require_arrays("example", example)
        self._adapter, self.name, self._form = adapter, name, None
        self.example = jax.tree.map(_shape_of, example)
        if not jax.tree.leaves(self.example):
            raise InputError("example: got no array, expected an input of the model, examples along the first axis")
        self._known_inputs = [self.example]  # of other shapes too, once the network has been given them
        self._twins: dict[str, Network] = {}
        self._traces: dict[Any, Trace] = {}
        self._programs: dict[Any, Program] = {}
        self._fingerprints: dict[Program, str] = {}
        self._statistics: dict[Any, statistics.Groups] = {}

    @classmethod
    def from_nnx(
        cls,
        build: Callable[[nnx.Rngs], nnx.Module],
        *,
        example: PyTree,
        points: Sequence[str] | None = None,
        name: str | None = None,
    ) -> "Network":
        """Return the network of a Flax NNX module.

        Args:
          build: makes a module from random streams: `lambda rngs: CNN(rngs=rngs)`.
          example: an input or its shape, with examples along the first axis; a tuple for a module of several inputs.
          points: paths of submodules, such as "conv1" or "blocks.0", whose outputs are stitch points, beside the
            values that the code names by `symjax.stitch_point`.
          name: in messages; the module's class by default.
        """
        adapter = NNXAdapter(build, points)
        return cls(adapter, example, name=name or getattr(build, "__name__", "model").replace("<lambda>", "model"))

    @classmethod
    def from_linen(
        cls, module: Any, *, example: PyTree, points: Sequence[str] | None = None, name: str | None = None
    ) -> "Network":
        """Return the network of a Flax Linen module.

        The argument `train` (also `training`, `is_training`, `deterministic`) of the module's `__call__` is set by the
        mode. Random operations draw from the stream "dropout". Arguments are as of `from_nnx`.
        """
        require_arrays("example", example)
        example = jax.tree.map(_shape_of, example)
        return cls(LinenAdapter(module, example, points), example, name=name or type(module).__name__)

    @classmethod
    def from_function(
        cls,
        apply: Callable,
        variables: PyTree = None,
        *,
        example: PyTree,
        init: Callable[[jax.Array], PyTree] | None = None,
        state: PyTree = None,
        name: str | None = None,
    ) -> "Network":
        """Return the network of a function `apply(variables, x)`.

        Args:
          apply: the model. Where it takes them, `train` (a bool) and `key` (a random key or None) are given by keyword.
            With a `state` it is `apply(variables, state, x)`, which returns the output and the next state.
          variables: parameters of any pytree type, of arrays; may be left out where `init` makes them.
          example: an input or its shape, with examples along the first axis.
          init: makes fresh variables of a key, or variables and state; without it no zoo can be trained.
          state: what is not trained, such as batch statistics.
          name: in messages; the function's name by default.
        """
        if variables is None and init is None:
            raise InputError("variables: got none, expected the variables of the model, or init=")
        adapter = FunctionAdapter(apply, variables, init, state)
        return cls(adapter, example, name=name or getattr(apply, "__name__", "model"))

    def __repr__(self):
        names = [point.name for point in self.points]
        points = names if len(names) <= 8 else f"{len(names)} from {names[0]} to {names[-1]}"
        return f"Network({self.name}, points={points}, parameters={self.num_parameters})"

    def with_form(self, form: str) -> "Network":
        """Return the same model with operations in this form, one of `symjax.parallel.FORMS`.

        By default a network's operations run in the form that is fast on this backend (`default_execution().conv`).
        """
        one_of("form", form, FORMS)
        if form not in self._twins:
            twin = self._twins[form] = copy.copy(self)  # which shares all that is traced
            twin._form = form
        return self._twins[form]

    @cached_property
    def shapes(self) -> Member:
        """A member's shapes and types (`jax.ShapeDtypeStruct`) in place of its arrays."""
        if self._adapter.variables is not None:
            return jax.tree.map(_shape_of, self._adapter.variables)
        return jax.eval_shape(self.init, jax.eval_shape(lambda: jax.random.key(0)))

    @property
    def num_parameters(self) -> int:
        """The number of trained numbers."""
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.shapes.params))

    @cached_property
    def points(self) -> tuple[StitchPoint, ...]:
        trace = self._trace("inference", None, self.shapes, self.example)
        return tuple(
            StitchPoint(name, trace.value(name).aval.shape[1:], len(trace.carried(name)) > 1) for name in trace.named
        )

    def index(self, point: str | int) -> int:
        """Return the index of a stitch point given by name or by index."""
        names = [p.name for p in self.points]
        if isinstance(point, str) and point in names:
            return names.index(point)
        if is_integer(point) and 0 <= point < len(names):
            return int(point)
        raise InputError(
            f"point: {short(point)} is not a stitch point of {self.name}; known: {', '.join(names) or 'none'}"
        )

    def parse_points(self, text: str) -> tuple[int, ...]:
        """Return the indices of points given as "all" or as names with commas between, in program order."""
        if not isinstance(text, str):
            raise InputError(f"layers: got {text!r}, expected names of stitch points with commas between, or all")
        if text == "all":
            return tuple(range(len(self.points)))
        with renamed(point="layers"):
            indices = {self.index(name.strip()) for name in text.split(",") if name.strip()}
        if not indices:
            raise InputError(f"layers: got none; known: {', '.join(point.name for point in self.points)}, or all")
        return tuple(sorted(indices))

    def init(self, key: jax.Array) -> Member:
        """Return a fresh member; a pure function of the key, for use under `jit` and `vmap`.

        Outside of other programs it is compiled without optimizations, in a tenth of the time.
        """
        key = random_key("key", key)
        traced = isinstance(key, jax.core.Tracer) or isinstance(jnp.zeros(()), jax.core.Tracer)  # inside of a program
        return self._adapter.init(key) if traced else self._compiled_init(key)

    @cached_property
    def _compiled_init(self) -> Callable[[jax.Array], Member]:
        return jax.jit(self._adapter.init, compiler_options=compiler_options(optimise=False))

    def symmetry(self, member: Member, x: PyTree):
        """Return the symmetry of the network's variables, discovered from its jaxpr: see `symjax.groups.discover`.

        Its elements act on members.
        """
        from symjax.groups import discover  # most uses of a network need none

        return discover(self.with_form("native").apply, member, x)

    def member(self, variables: Any) -> Member:
        """Return the member that holds the variables of a model.

        Args:
          variables: an NNX module; what Linen's `init` returns; the variables of a function; or a `Member`.

        Raises:
          InputError: paths or shapes are not those of the network's variables, or what comes with them, such as an
            activation of the module or a static field of Equinox, makes the model another function in evaluation mode.
        """
        apply = self._adapter.apply
        if isinstance(variables, Member):
            member = variables
        else:
            member = self._adapter.to_member(variables)
            require_arrays("variables", member)
            apply = self._adapter.apply_as_given(variables)
        self._check_member(member)
        structure = jax.tree.structure(self.shapes)
        if apply != self._adapter.apply or jax.tree.structure(member) != structure:
            self._check_function(apply, member)
            member = update(self.shapes, leaves_by_path(member))
        return member

    def to_module(self, member: Member) -> Any:
        """Return the model with a member's variables: the inverse of `member`. An NNX module is in evaluation mode."""
        return self._adapter.from_member(member)

    def apply(self, member: Member, x: PyTree, *, mode: Mode = "inference", key=None, with_state: bool = False):
        """Return the model's output.

        Args:
          member: its variables.
          x: an input like `example`, with any number of examples.
          mode: "inference" for evaluation; "train" for training; "batch" as "train", for a state that is not kept;
            "moments" as "train", with running means in the state that become those of this batch (for exact
            re-estimation): what training would end at if every batch were this one. Other state is as in "train".
          key: of `jax.random`, for random operations such as dropout. Without one nothing is random where the library
            can tell.
          with_state: return (output, state after the call).

        Raises:
          InputError: of "moments", where the model corrects its running means by a count of steps.
        """
        key = None if key is None else random_key("key", key)
        trace = self._trace(mode, key, member, x)
        return self._tail(trace, "", trace.data, jax.tree.leaves(x), member, mode, key, with_state)

    def features(self, member: Member, x: PyTree, points: Sequence[str] | None = None) -> dict[str, jax.Array]:
        """Return the features at points (all by default), in one pass in mode "inference"."""
        names = [self.points[self.index(p)].name for p in (range(len(self.points)) if points is None else points)]
        trace = self._trace("inference", None, member, x)
        outputs = tuple(trace.value(name) for name in names)
        return dict(zip(names, self._run(trace, trace.data, outputs, jax.tree.leaves(x), member), strict=True))

    def front(self, member: Member, x: PyTree, point: str | int) -> tuple[jax.Array, ...]:
        """Return what crosses a split at `point`: the features there, then what else the tail reads of the front."""
        return self.fronts(member, x, [point])[0]

    def fronts(self, member: Member, x: PyTree, points: Sequence[str | int]) -> list[tuple[jax.Array, ...]]:
        """Return `front` of several points, in one pass."""
        trace = self._trace("inference", None, member, x)
        carried = [tuple(trace.carried(self._name(point))) for point in points]
        outputs = tuple(dict.fromkeys(v for of_point in carried for v in of_point))
        values = dict(zip(outputs, self._run(trace, trace.data, outputs, jax.tree.leaves(x), member), strict=True))
        return [tuple(values[v] for v in of_point) for of_point in carried]

    def tail(
        self,
        member: Member,
        carried: Sequence[Any],
        point: str | int,
        *,
        mode: Mode = "inference",
        key=None,
        with_state: bool = False,
    ):
        """Return the output that the tail behind `point` makes of what `front` returned.

        Args:
          member: its variables; those that the tail does not read may be None.
          carried: the features, an array or `LowRankFeatures`, and what else crosses, of inputs like `example` or like
            those that this network was given before.
          point: name or index.
          mode, key, with_state: as of `apply`. State that belongs to the front is returned as it is.

        Raises:
          InputError: shapes or types are of no such inputs, or of inputs of two sizes, for which the tail differs.
        """
        name, key = self._name(point), None if key is None else random_key("key", key)
        trace = self._trace_behind(mode, key, member, carried, name)
        return self._tail(trace, name, trace.carried(name), carried, member, mode, key, with_state)

    def activation(self, point: str | int) -> Callable[[jax.Array], jax.Array]:
        """Return the elementwise activation s of which the features at `point` are s(z), z the `pre_activation`."""
        name = self._name(point)
        source = self._activation_input(self._trace("inference", None, self.shapes, self.example), name)

        def activation(z):
            def ends(trace):
                return (self._activation_input(trace, name),), (trace.value(name),)

            traces = self._known_traces("inference", None, self.shapes, z.shape[0])
            matching = [trace for trace in traces if ends(trace)[0][0].aval.shape == z.shape]
            if not matching:
                raise InputError(f"z: got shape {z.shape}, expected (examples, {source.aval.shape[1:]})")
            trace = self._only(matching, ends, "z", f"activation at {name}")
            inputs, outputs = ends(trace)
            return self._run(trace, inputs, outputs, [z.astype(inputs[0].aval.dtype)], self.shapes)[0]

        return activation

    def pre_activation(self, member: Member, x: PyTree, point: str | int) -> jax.Array:
        """Return what enters the activation that ends at `point`, in mode "inference"."""
        trace, name = self._trace("inference", None, member, x), self._name(point)
        return self._run(trace, trace.data, (self._activation_input(trace, name),), jax.tree.leaves(x), member)[0]

    def between(self, member: Member, values: Sequence[Any], start: int, stop: int) -> tuple[jax.Array, ...]:
        """Return what crosses at point number `stop` where `values` cross at `start`.

        Number -1 stands for the input, the number of points for the output.
        """
        if start < 0:
            x = jax.tree.unflatten(jax.tree.structure(self.example), [_shape_of(value) for value in values])
            trace = self._trace("inference", None, member, x)
        else:
            trace = self._trace_behind("inference", None, member, values, self._name(start))
        inputs = trace.data if start < 0 else trace.carried(self._name(start))
        outputs = trace.outputs if stop >= len(self.points) else trace.carried(self._name(stop))
        return tuple(self._run(trace, tuple(inputs), tuple(outputs), values, member))

    def read_by_front(self, point: str | int) -> frozenset[str]:
        """Return the paths of the leaves of a member that the front up to `point` reads, in mode "inference"."""
        trace, name = self._trace("inference", None, self.shapes, self.example), self._name(point)
        return self._read(trace, trace.data, trace.carried(name))

    def read_by_tail(self, point: str | int) -> frozenset[str]:
        """Return the paths of the leaves of a member that the tail behind `point` reads or updates, in any mode."""
        name, key = self._name(point), jax.eval_shape(lambda: jax.random.key(0))
        inference = self._trace("inference", None, self.shapes, self.example)
        training = self._trace("train", key, self.shapes, self.example)
        state = training.state_after(name)
        read = self._read(inference, inference.carried(name), inference.outputs)
        read |= self._read(training, training.carried(name), (*training.outputs, *state.values()))
        return read.union(f".state{path}" for path in state)

    def tail_of(self, member: Member, point: str | int) -> Member:
        """Return the part of a member that the tail behind `point` reads, with None in place of other leaves."""
        return select(member, self.read_by_tail(point).__contains__)

    def jaxpr(self, member: Member, x: PyTree, *, mode: Mode = "inference", random: bool = False) -> ClosedJaxpr:
        """Return the model's jaxpr, without calls, of the leaves of a member, an input and, if `random`, a key."""
        key = jax.eval_shape(lambda: jax.random.key(0)) if random else None
        return self._trace(mode, key, member, x).closed

    @property
    def has_init(self) -> bool:
        """Whether fresh members can be made: a function may come without `init`."""
        return self._adapter.has_init

    @property
    def needs_key(self) -> bool:
        """Whether modes other than "inference" need a key where operations are random.

        Flax NNX can switch random operations off alone; Linen and functions have one switch for all of training.
        """
        return self._adapter.needs_key

    def _read(self, trace: Trace, inputs: Sequence, outputs: Sequence) -> frozenset[str]:
        reads = set(self._program(trace, tuple(inputs), tuple(outputs)).reads)
        return frozenset(path for path, v in trace.members.items() if v in reads)

    def _name(self, point: str | int) -> str:
        return self.points[self.index(point)].name

    def _activation_input(self, trace: Trace, name: str):
        source = trace.activation_input(name)
        if source is None:
            raise InputError(
                f"model: {self.name} has no activation alone before {name}: the value there is not an elementwise "
                "function of another one"
            )
        return source

    def _check_member(self, member: Member) -> None:
        expected, given = leaves_by_path(self.shapes), leaves_by_path(member)
        for path in expected | given:
            if path not in given or path not in expected:
                where = "lacks" if path not in given else "has, beside what is expected,"
                raise InputError(f"variables: the model {where} {path}")
            if jnp.shape(given[path]) != expected[path].shape:
                shapes = f"got shape {jnp.shape(given[path])}, expected {expected[path].shape}"
                raise InputError(f"variables: {shapes} at {path}")

    def _check_function(self, apply: Callable, member: Member) -> None:
        """Raise where a model as it was given computes another function than the network's, in mode "inference"."""
        shapes = jax.tree.map(_shape_of, member)
        try:
            given = inline(jax.make_jaxpr(lambda member, x: apply(member, x, "inference", None))(shapes, self.example))
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"variables: {self.name} cannot be evaluated with their structure: {error}") from None
        if program_fingerprint(given) != program_fingerprint(self.jaxpr(shapes, self.example)):
            raise InputError(
                f"variables: the model that they come with computes another function than {self.name} was built of; "
                "expected the same one, such as activations and other settings"
            )

    def _known_traces(self, mode: Mode, key, member: Member, examples: int) -> Iterator[Trace]:
        """Traces for so many inputs like `example`, then like others that the network was given."""
        for inputs in list(self._known_inputs):
            yield self._trace(mode, key, member, _with_examples(inputs, examples))

    def _trace_behind(self, mode: Mode, key, member: Member, carried, name: str) -> Trace:
        """The trace for inputs of which `carried` crosses at a point."""

        def ends(trace):
            return trace.carried(name), (*trace.outputs, *trace.state_after(name).values())

        traces = list(self._known_traces(mode, key, member, carried[0].shape[0]))
        like = _types(carried)
        matching = [trace for trace in traces if _types(v.aval for v in trace.carried(name)) == like]
        if matching:
            return self._only(matching, ends, "carried", f"tail behind {name}")
        given, expected = (
            ", ".join(f"{dtype}{list(shape)}" for shape, dtype in types)
            for types in (like, _types(v.aval for v in traces[0].carried(name)))
        )
        raise InputError(f"carried: the tail behind {name} of {self.name} reads {expected}, got {given}")

    def _only(self, traces: Sequence[Trace], ends: Callable, argument: str, part: str) -> Trace:
        """The first of traces whose parts between `ends` compute the same."""
        prints = {self._fingerprint(trace, *ends(trace)) for trace in traces} if len(traces) > 1 else ()
        if len(prints) > 1:
            sizes = " and ".join(
                ", ".join(f"{v.aval.dtype}{list(v.aval.shape)}" for v in trace.data) for trace in traces
            )
            raise InputError(
                f"{argument}: inputs {sizes}, which {self.name} was given before, lead to values of these shapes, and "
                f"the {part} depends on which it is; expected another Network for each size of inputs"
            )
        return traces[0]

    def _fingerprint(self, trace: Trace, inputs: Sequence, outputs: Sequence) -> str:
        program = self._program(trace, tuple(inputs), tuple(outputs))
        if program not in self._fingerprints:
            variables = {v: path for path, v in trace.members.items()}
            order = [variables.get(v, "") for v in program.reads]
            self._fingerprints[program] = program_fingerprint(program.closed, names=order)
        return self._fingerprints[program]

    def _tail(self, trace: Trace, name: str, inputs, values, member: Member, mode, key, with_state: bool):
        state, groups = {}, []
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
            given, values = dict(zip(reads, results[ends:], strict=True)), dict(zip(inputs, values, strict=True))

            def run(known, outputs, member, form):
                network = self.with_form(form) if form else self
                return network._run(trace, tuple(known), outputs, list(known.values()), member, key)

            updated |= statistics.batch_values(run, trace, groups, values, given, member)
        return output, update(member.state, updated)

    def _running(self, trace: Trace, name: str, state) -> statistics.Groups:
        """The running statistics of the tail behind a point, or of the whole."""
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
            raise InputError(f"member: it lacks {', '.join(paths)}, which is read here") from None
        return rewrite.evaluate(program.closed, arguments, self._form or default_execution().conv)

    def _program(self, trace: Trace, inputs: tuple, outputs: tuple) -> Program:
        key = (trace, inputs, tuple(map(id, outputs)))
        if key not in self._programs:
            self._programs[key] = trace.program(inputs, outputs)
        return self._programs[key]

    def _trace(self, mode: Mode, key, member: Member, x: PyTree) -> Trace:
        """The model's jaxpr in a mode, for inputs and variables of these shapes and types."""
        one_of("mode", mode, MODES)
        require_arrays("x", x)
        given = leaves_by_path(member)
        shapes = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jax.ShapeDtypeStruct(
                leaf.shape, getattr(given.get(jax.tree_util.keystr(path)), "dtype", leaf.dtype)
            ),
            self.shapes,
        )
        x = jax.tree.map(_shape_of, x)
        precision, mesh = str(jax.config.jax_default_matmul_precision), jax.sharding.get_abstract_mesh()
        context = jax.config.jax_enable_x64, precision, mesh
        key = jax.tree.map(_shape_of, key)
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
            output, state = self._adapter.apply(member, x, mode, key)
            if jax.tree.structure(state) != jax.tree.structure(member.state):
                raise InputError(f"state: {self.name} returned a state of another structure than it was given")
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
        expected, given = jax.tree.structure(self.example), jax.tree.structure(x)
        if expected != given:
            raise InputError(f"x: got {given}, expected {expected} as of the network's example")
        for leaf, like in zip(jax.tree.leaves(x), jax.tree.leaves(self.example), strict=True):
            if len(leaf.shape) != len(like.shape):
                raise InputError(f"x: got shape {leaf.shape}, expected {like.shape} with any number of examples")


def _with_examples(inputs: PyTree, count: int) -> PyTree:
    """Shapes and types of so many inputs like these."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), inputs)


def _types(arrays) -> list[tuple]:
    return [(tuple(array.shape), array.dtype) for array in arrays]


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    dtype = getattr(leaf, "dtype", None) or jnp.result_type(leaf)
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True))


def _as_key(tree: PyTree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
