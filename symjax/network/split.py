"""Split a jaxpr at named values.

The front at a point consists of the equations before the one that names the point, in program order; the tail is the
rest. The tail reads the named value, and may read other values of the front, such as the skip connection of a residual
block: all of these are *carried* across the split. Equations that do not depend on the inputs belong to both parts.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxprs_in_params

from symjax.errors import InputError
from symjax.jaxprs import ELEMENTWISE, Variable, equations, is_variable
from symjax.network.naming import SUBMODULE

IN_ACTIVATIONS = ELEMENTWISE | {"broadcast_in_dim", "custom_jvp_call", "custom_vjp_call"}
"""The operations of which an activation may consist."""


@dataclass(frozen=True, eq=False)
class Program:
    """A part of a jaxpr: `closed` computes its outputs from the values of the variables `reads`."""

    closed: ClosedJaxpr
    reads: tuple[Variable, ...]


@dataclass(frozen=True, eq=False)
class Trace:
    """A model's jaxpr with inlined calls, and what its variables stand for.

    Attributes:
      closed: the jaxpr.
      members: {path of a leaf of the member: its variable}.
      data: variables of the inputs.
      keys: variables of the random key; empty without a key.
      outputs: variables (or literals) of the model's output.
      state: {path of a leaf of the member's state: the variable (or literal) of its value after the call}.
      structure: the pytree structure of the output.
    """

    closed: ClosedJaxpr
    members: dict[str, Variable]
    data: tuple[Variable, ...]
    keys: tuple[Variable, ...]
    outputs: tuple[Any, ...]
    state: dict[str, Any]
    structure: Any

    @property
    def jaxpr(self) -> Jaxpr:
        return self.closed.jaxpr

    @cached_property
    def producers(self) -> dict[Variable, int]:
        """{variable: number of the equation that computes it}."""
        return {v: i for i, equation in enumerate(self.jaxpr.eqns) for v in equation.outvars}

    @cached_property
    def readers(self) -> dict[Variable, list[int]]:
        """{variable: numbers of the equations that read it}."""
        readers: dict[Variable, list[int]] = {}
        for i, equation in enumerate(self.jaxpr.eqns):
            for v in dict.fromkeys(filter(is_variable, equation.invars)):
                readers.setdefault(v, []).append(i)
        return readers

    @cached_property
    def dependent(self) -> set[Variable]:
        """The variables that depend on the inputs."""
        return self.affected(self.data)

    def affected(
        self, sources: Iterable[Variable], *, stop: Collection[Variable] = (), skip: Collection[int] = ()
    ) -> set[Variable]:
        """Return the variables that depend on `sources`, including these.

        Args:
          sources: variables.
          stop: variables whose readers are ignored.
          skip: numbers of equations that are ignored.
        """
        affected, stack = set(), list(sources)
        while stack:
            v = stack.pop()
            if v in affected:
                continue
            affected.add(v)
            if v not in stop:
                stack += [out for i in self.readers.get(v, ()) if i not in skip for out in self.jaxpr.eqns[i].outvars]
        return affected

    def equations_between(self, start: Variable, end: Variable) -> frozenset[int]:
        """Return the numbers of the equations on all paths from one variable to another."""
        affected, numbers, stack = self.affected([start]), set(), [end]
        while stack:
            v = stack.pop()
            i = self.producers.get(v)
            if v in affected and i is not None and i not in numbers:
                numbers.add(i)
                stack += filter(is_variable, self.jaxpr.eqns[i].invars)
        return frozenset(numbers)

    @cached_property
    def named(self) -> dict[str, int]:
        """{name of a value: number of the equation that names it}, in program order.

        Raises:
          InputError: a name used twice, or a name inside of a loop, a branch or a custom derivative.
        """
        named = {}
        for i, equation in enumerate(self.jaxpr.eqns):
            if equation.primitive.name == "name":
                name = equation.params["name"]
                if name in named:
                    raise InputError(f"points: got two values named {name!r}, expected a name for each")
                named[name] = i
            else:
                _refuse_names_inside(equation)
        return named

    def value(self, point: str) -> Variable:
        """Return the variable that a point names."""
        return self.jaxpr.eqns[self.named[point]].outvars[0]

    def needed(self, outputs: Iterable[Any], known: Collection[Variable] = ()) -> list[int]:
        """Return the numbers of the equations that compute `outputs` from the variables `known`, ascending."""
        numbers: set[int] = set()
        stack = [v for v in outputs if is_variable(v)]
        while stack:
            v = stack.pop()
            i = self.producers.get(v)
            if v in known or i is None or i in numbers:
                continue
            numbers.add(i)
            stack += [v for v in self.jaxpr.eqns[i].invars if is_variable(v)]
        return sorted(numbers)

    def carried(self, point: str) -> list[Variable]:
        """Return the named value, then the other values of the front that the outputs need, in program order.

        Raises:
          InputError: no output depends on the named value.
        """
        at, named = self.named[point], self.value(point)
        needed = [self.jaxpr.eqns[i] for i in self.needed(self.outputs) if i > at]
        reads = {v for equation in needed for v in equation.invars if is_variable(v)}
        reads.update(v for v in self.outputs if is_variable(v))
        if named not in reads:
            raise InputError(
                f"points: got {point!r}, which no output depends on, expected a use of the result of stitch_point"
            )
        before = [*self.data, *(v for equation in self.jaxpr.eqns[:at] for v in equation.outvars)]
        return [named, *(v for v in before if v in reads and v in self.dependent)]

    def state_after(self, point: str) -> dict[str, Any]:
        """Return the part of `state` that the tail computes from the carried values."""
        carried, at = set(self.carried(point)), self.named[point]

        def is_of_tail(v) -> bool:
            if not is_variable(v) or self.producers.get(v, -1) <= at:
                return False
            reads = [a for i in self.needed([v], carried) for a in self.jaxpr.eqns[i].invars if is_variable(a)]
            front = {a for a in reads if a in self.dependent and self.producers.get(a, -1) <= at}
            return front <= carried

        return {path: v for path, v in self.state.items() if is_of_tail(v)}

    def activation_input(self, point: str) -> Variable | None:
        """Return the variable z of which the named value is an elementwise function s(z) without parameters.

        If there are several, it is the one computed first; if there is none, the result is None.
        """
        frontier, earliest = {self.value(point)}, None
        while True:
            last = max(frontier, key=lambda v: self.producers.get(v, -1))
            i = self.producers.get(last)
            equation = None if i is None else self.jaxpr.eqns[i]
            if equation is None or equation.primitive.name not in IN_ACTIVATIONS:
                return earliest
            reads = [v for v in equation.invars if is_variable(v)]
            if not all(self._is_constant(v) or v.aval.shape == last.aval.shape for v in reads):
                return earliest
            frontier = frontier - {last} | {v for v in reads if not self._is_constant(v)}
            if not frontier or any(v not in self.dependent for v in frontier):
                return earliest
            if len(frontier) == 1 and equation.primitive.name not in ("name", "convert_element_type"):
                earliest = next(iter(frontier))

    def _is_constant(self, v: Variable) -> bool:
        """Return whether a variable depends neither on inputs nor on the member."""
        sources = {a for i in self.needed([v]) for a in self.jaxpr.eqns[i].invars if is_variable(a)} | {v}
        return sources.isdisjoint([*self.members.values(), *self.data, *self.keys])

    def program(self, inputs: Sequence[Variable], outputs: Sequence[Any]) -> Program:
        """Return the part of the jaxpr that computes `outputs` from `inputs`, the member and the key."""
        equations = [self.jaxpr.eqns[i] for i in self.needed(outputs, set(inputs))]
        reads = {v for equation in equations for v in equation.invars if is_variable(v)}
        reads.update(v for v in outputs if is_variable(v))
        order = dict.fromkeys([*self.members.values(), *self.keys, *inputs])
        invars = tuple(v for v in order if v in reads)
        consts = [(v, c) for v, c in zip(self.jaxpr.constvars, self.closed.consts, strict=True) if v in reads]
        jaxpr = self.jaxpr.replace(
            constvars=[v for v, _ in consts],
            invars=list(invars),
            outvars=list(outputs),
            eqns=equations,
            debug_info=self.jaxpr.debug_info.with_unknown_names(),
        )
        return Program(ClosedJaxpr(jaxpr, [c for _, c in consts]), invars)


def _refuse_names_inside(equation: JaxprEqn) -> None:
    for inner in jaxprs_in_params(equation.params):
        for inner_equation in equations(inner):
            if inner_equation.primitive.name == "name" and not inner_equation.params["name"].startswith(SUBMODULE):
                raise InputError(
                    f"points: got {inner_equation.params['name']!r} inside of {equation.primitive.name}, expected "
                    "names outside of it; write the loop in Python to name values in it"
                )
