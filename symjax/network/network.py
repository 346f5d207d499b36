"""Any JAX model, split at named values.

A `Network` is the static description of a model; `Member`s are its variables. All methods are pure functions of plain
pytrees, so `jit`, `vmap`, `grad`, `shard_map`, optax and checkpoints see arrays alone. What a method needs of the model
is cut out of the model's jaxpr (`symjax.network.split`), and evaluated with the operations that are fast on this
backend (`symjax.network.rewrite`).
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import random_key
from symjax.errors import InputError
from symjax.network.adapters import FunctionAdapter, LinenAdapter, Mode, require_arrays
from symjax.network.member import Member, select
from symjax.network.split import Trace
from symjax.network.traced import Traced, shape_of
from symjax.network.variables import checked_member
from symjax.ops.parallel import compiler_options

if TYPE_CHECKING:
    from flax import nnx

PyTree = Any


class Network(Traced):
    """A model that can be split at the values that it names. Hashable by identity; see the constructors.

    Attributes:
      name: in messages.
      example: shapes and types of an input, a pytree of `jax.ShapeDtypeStruct` with a leading axis over examples.
      points: the `StitchPoint`s, in program order.
    """

    @classmethod
    def from_nnx(
        cls,
        build: "Callable[[nnx.Rngs], nnx.Module]",
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
          name: the name in messages; by default that of `build`, or "model" for a lambda.
        """
        from symjax.network.nnx_adapter import NNXAdapter  # imports Flax, which takes half a second

        adapter = NNXAdapter(build, points)
        return cls(adapter, example, name or getattr(build, "__name__", "model").replace("<lambda>", "model"))

    @classmethod
    def from_linen(
        cls, module: Any, *, example: PyTree, points: Sequence[str] | None = None, name: str | None = None
    ) -> "Network":
        """Return the network of a Flax Linen module.

        The argument `train` (also `training`, `is_training`, `deterministic`) of the module's `__call__` is set by the
        mode. Random operations draw from the stream "dropout". Arguments are as of `from_nnx`.
        """
        require_arrays("example", example)
        example = jax.tree.map(shape_of, example)
        return cls(LinenAdapter(module, example, points), example, name or type(module).__name__)

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
        return cls(adapter, example, name or str(getattr(apply, "__name__", "model")))

    def __repr__(self):
        names = [point.name for point in self.points]
        points = names if len(names) <= 8 else f"{len(names)} from {names[0]} to {names[-1]}"
        return f"Network({self.name}, points={points}, parameters={self.num_parameters})"

    @property
    def num_parameters(self) -> int:
        """The number of trained numbers."""
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.shapes.params))

    def init(self, key: jax.Array) -> Member:
        """Return a fresh member; a pure function of the key, for use under `jit` and `vmap`.

        Outside of other programs it is compiled without optimizations, in a tenth of the time.
        """
        key = random_key("key", key)
        traced = isinstance(key, jax.core.Tracer) or isinstance(jnp.zeros(()), jax.core.Tracer)  # inside of a program
        return self.adapter.init(key) if traced else self._compiled_init(key)

    @cached_property
    def _compiled_init(self) -> Callable[[jax.Array], Member]:
        return jax.jit(self.adapter.init, compiler_options=compiler_options(effort=0))

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
        return checked_member(self, variables)

    def to_module(self, member: Member) -> Any:
        """Return the model with a member's variables: the inverse of `member`. An NNX module is in evaluation mode."""
        return self.adapter.from_member(member)

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
            x = jax.tree.unflatten(jax.tree.structure(self.example), [shape_of(value) for value in values])
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

    @property
    def has_init(self) -> bool:
        """Whether fresh members can be made: a function may come without `init`."""
        return self.adapter.has_init

    @property
    def needs_key(self) -> bool:
        """Whether modes other than "inference" need a key where operations are random.

        Flax NNX can switch random operations off alone; Linen and functions have one switch for all of training.
        """
        return self.adapter.needs_key

    def _read(self, trace: Trace, inputs: Sequence, outputs: Sequence) -> frozenset[str]:
        reads = set(self._program(trace, tuple(inputs), tuple(outputs)).reads)
        return frozenset(path for path, v in trace.members.items() if v in reads)

    def _activation_input(self, trace: Trace, name: str):
        source = trace.activation_input(name)
        if source is None:
            raise InputError(
                f"model: {self.name} has no activation alone before {name}: the value there is not an elementwise "
                "function of another one"
            )
        return source
