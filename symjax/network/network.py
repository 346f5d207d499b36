"""Any JAX model, split at named values.

A `Network` is the static description of a model; `Member`s are its variables. All methods are pure functions of plain
pytrees, so that `jit`, `vmap`, `grad`, `shard_map`, optax and checkpoints handle arrays only. Each method extracts the
part of the model's jaxpr that it needs (`symjax.network.split`) and evaluates it with the operations that are fast on
the backend (`symjax.network.rewrite`).
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import is_concrete, random_key
from symjax.errors import InputError
from symjax.network.adapters import Mode
from symjax.network.constructors import Constructors
from symjax.network.member import Member, select
from symjax.network.split import Trace
from symjax.network.traced import shape_of
from symjax.network.variables import checked_member
from symjax.ops.compiler import compiler_options

PyTree = Any


class Network(Constructors):
    """A model that can be split at its named values.

    `from_nnx`, `from_linen` and `from_function` make networks. Two networks are equal only if they are the same object.

    Attributes:
      name: the name of the model in messages.
      example: shapes and dtypes of an input, a pytree of `jax.ShapeDtypeStruct` with a leading axis over examples.
      points: the `StitchPoint`s, in program order.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, symjax
      >>> def mlp(params, x):
      ...     hidden = symjax.stitch_point(jax.nn.relu(x @ params["hidden"]), "relu1")
      ...     return hidden @ params["out"]
      >>> params = {"hidden": jnp.eye(3), "out": jnp.ones((3, 2))}
      >>> net = symjax.Network.from_function(mlp, params, example=np.zeros((1, 3), np.float32))
      >>> net
      Network(mlp, points=['relu1'], parameters=15)
      >>> member, x = net.member(params), jnp.array([[1.0, -1.0, 2.0]])
      >>> net.features(member, x)["relu1"].tolist()
      [[1.0, 0.0, 2.0]]
      >>> carried = net.front(member, x, "relu1")
      >>> net.tail(member, carried, "relu1").tolist() == net.apply(member, x).tolist()
      True
      >>> net.read_by_tail("relu1")
      frozenset({".params['out']"})
    """

    def __repr__(self):
        names = [point.name for point in self.points]
        points = names if len(names) <= 8 else f"{len(names)} from {names[0]} to {names[-1]}"
        return f"Network({self.name}, points={points}, parameters={self.num_parameters})"

    @property
    def num_parameters(self) -> int:
        """The number of entries of all trained parameters."""
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.shapes.params))

    def init(self, key: jax.Array) -> Member:
        """Return a new member, a pure function of the key that works under `jit` and `vmap`.

        Outside of `jit` and `vmap` it is compiled without optimizations, which takes a tenth of the time.

        Args:
          key: a JAX random key.

        Raises:
          InputError: the network was made by `from_function` without `init`.
        """
        key = random_key("key", key)
        # Inside `jit` a key can be a constant, but a new array is traced.
        is_outermost = is_concrete(key) and is_concrete(jnp.zeros(()))
        return self._compiled_init(key) if is_outermost else self.adapter.init(key)

    @cached_property
    def _compiled_init(self) -> Callable[[jax.Array], Member]:
        return jax.jit(self.adapter.init, compiler_options=compiler_options(effort=0))

    def symmetry(self, member: Member, x: PyTree):
        """Return the symmetry of the network's variables, discovered from its jaxpr: see `symjax.groups.discover`.

        Its elements act on members.

        Args:
          member: a member of the network.
          x: an input like `example`.
        """
        from symjax.groups import discover  # most uses of a network do not need it

        return discover(self.with_form("native").apply, member, x)

    def member(self, variables: Any) -> Member:
        """Return the member that holds the variables of a model.

        Args:
          variables: an NNX module; what Linen's `init` returns; the variables of a function; or a `Member`.

        Raises:
          InputError: paths or shapes differ from those of the network's variables, or the given model computes another
            function in evaluation mode, because of another activation or static field, for example.
        """
        return checked_member(self, variables)

    def to_module(self, member: Member) -> Any:
        """Return the model with a member's variables: the inverse of `member`. An NNX module is in evaluation mode."""
        return self.adapter.from_member(member)

    def apply(self, member: Member, x: PyTree, *, mode: Mode = "inference", key=None, with_state: bool = False):
        """Return the model's output.

        Args:
          member: the variables.
          x: an input like `example`, with any number of examples.
          mode: "inference" for evaluation; "train" for training; "moments" as "train", except that running means in the
            returned state are those of this batch, to which they would converge if every batch were this one (for
            exact re-estimation).
          key: a JAX random key for random operations such as dropout. Without a key, random operations of Flax NNX are
            off; Linen modules and functions need one for their random operations (`needs_key`).
          with_state: whether to return (output, state after the call) instead of the output.

        Raises:
          InputError: the mode is "moments" and the model corrects its running means by a count of steps; `x` or
            `member` does not fit.
        """
        key = None if key is None else random_key("key", key)
        trace = self._trace(mode, key, member, x)
        return self._tail(trace, "", trace.data, jax.tree.leaves(x), member, mode, key, with_state)

    def features(self, member: Member, x: PyTree, points: Sequence[str] | None = None) -> dict[str, jax.Array]:
        """Return the features at stitch points, in one pass in mode "inference".

        Args:
          member: the variables.
          x: an input like `example`, with any number of examples.
          points: names or indices of stitch points; all by default.

        Returns:
          {name: features (examples, ..., channels)}.
        """
        names = [self.points[self.index(p)].name for p in (range(len(self.points)) if points is None else points)]
        trace = self._trace("inference", None, member, x)
        outputs = tuple(trace.value(name) for name in names)
        return dict(zip(names, self._run(trace, trace.data, outputs, jax.tree.leaves(x), member), strict=True))

    def front(self, member: Member, x: PyTree, point: str | int) -> tuple[jax.Array, ...]:
        """Return the values that cross a split at `point`, the input of `tail`.

        They are the features at the point, then the other values of the front that the tail reads, such as the skip
        connection of a residual block.

        Args:
          member: the variables.
          x: an input like `example`, with any number of examples.
          point: name or index of the stitch point.
        """
        return self.fronts(member, x, [point])[0]

    def fronts(self, member: Member, x: PyTree, points: Sequence[str | int]) -> list[tuple[jax.Array, ...]]:
        """Return the results of `front` at several points, computed in one pass."""
        trace = self._trace("inference", None, member, x)
        carried = [tuple(trace.carried(self._name(point))) for point in points]
        outputs = tuple(dict.fromkeys(v for variables in carried for v in variables))
        values = dict(zip(outputs, self._run(trace, trace.data, outputs, jax.tree.leaves(x), member), strict=True))
        return [tuple(values[v] for v in variables) for variables in carried]

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
        """Return the output of the network from the values that `front` returned at `point`.

        Args:
          member: the variables; those that the tail does not read may be None.
          carried: the result of `front`; the features may be `LowRankFeatures` in place of an array. They belong to
            inputs with the shape of `example`, or with a shape for which this network was called before.
          point: name or index of the stitch point.
          mode, key, with_state: as in `apply`. State of the front is returned unchanged.

        Raises:
          InputError: `carried` has other shapes or dtypes, or it fits two shapes of inputs for which the tail computes
            different functions.
        """
        name, key = self._name(point), None if key is None else random_key("key", key)
        trace = self._trace_behind(mode, key, member, carried, name)
        return self._tail(trace, name, trace.carried(name), carried, member, mode, key, with_state)

    def activation(self, point: str | int) -> Callable[[jax.Array], jax.Array]:
        """Return the elementwise activation s at `point`: the features there are s(z), where z is `pre_activation`.

        Raises:
          InputError: the value at the point is not such a function of another value.
        """
        name = self._name(point)
        source = self._activation_input(self._trace("inference", None, self.shapes, self.example), name)

        def activation(z):
            def ends(trace):
                return (self._activation_input(trace, name),), (trace.value(name),)

            traces = self._known_traces("inference", None, self.shapes, z.shape[0])
            matching = [trace for trace in traces if ends(trace)[0][0].aval.shape == z.shape]
            if not matching:
                raise InputError(f"z: got shape {z.shape}, expected (examples, {source.aval.shape[1:]})")
            trace = self._unambiguous(matching, ends, "z", f"activation at {name}")
            inputs, outputs = ends(trace)
            return self._run(trace, inputs, outputs, [z.astype(inputs[0].aval.dtype)], self.shapes)[0]

        return activation

    def pre_activation(self, member: Member, x: PyTree, point: str | int) -> jax.Array:
        """Return the input z of the activation whose output is the value at `point`, in mode "inference".

        Raises:
          InputError: as in `activation`.
        """
        trace, name = self._trace("inference", None, member, x), self._name(point)
        return self._run(trace, trace.data, (self._activation_input(trace, name),), jax.tree.leaves(x), member)[0]

    def between(
        self, member: Member, values: Sequence[Any], start: int, stop: int, *, mode: Mode = "inference", key=None
    ) -> tuple[jax.Array, ...]:
        """Return the values that cross a split at point number `stop`, given those that cross at number `start`.

        Number -1 is the input; the number of points is the output. `mode` and `key` are as in `apply`.
        """
        if start < 0:
            x = jax.tree.unflatten(jax.tree.structure(self.example), [shape_of(value) for value in values])
            trace = self._trace(mode, key, member, x)
        else:
            trace = self._trace_behind(mode, key, member, values, self._name(start))
        inputs = trace.data if start < 0 else trace.carried(self._name(start))
        outputs = trace.outputs if stop >= len(self.points) else trace.carried(self._name(stop))
        return tuple(self._run(trace, tuple(inputs), tuple(outputs), values, member, key))

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
        """Return the member with None in place of the leaves that the tail behind `point` does not read."""
        return select(member, self.read_by_tail(point).__contains__)

    @property
    def has_init(self) -> bool:
        """Whether `init` can make members; a network of `from_function` may have no `init`."""
        return self.adapter.has_init

    @property
    def needs_key(self) -> bool:
        """Whether random operations need a key in all modes except "inference".

        They do in Linen modules and functions. Flax NNX modules can switch off random operations in training mode.
        """
        return self.adapter.needs_key

    def _read(self, trace: Trace, inputs: Sequence, outputs: Sequence) -> frozenset[str]:
        reads = set(self._program(trace, tuple(inputs), tuple(outputs)).reads)
        return frozenset(path for path, v in trace.members.items() if v in reads)

    def _activation_input(self, trace: Trace, name: str):
        source = trace.activation_input(name)
        if source is None:
            raise InputError(
                f"point: got {name!r}, expected the output of an elementwise activation without parameters"
            )
        return source
