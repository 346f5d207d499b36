"""Cut a jaxpr at values that have names.

The front at a point is what the function computes before it names the point, in program order; the tail is the rest.
What the tail reads of the front, besides the named value, is carried across: the skip of a residual block, for example.
Equations that do not depend on the inputs (of parameters alone) belong to both.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxprs_in_params

from symjax.errors import InputError
from symjax.jaxprs import Variable, equations, is_variable

ELEMENTWISE = set(
    "add sub mul div max min pow exp exp2 log log1p expm1 tanh logistic erf erfc erf_inv rsqrt sqrt cbrt neg abs sign "
    "integer_pow square convert_element_type select_n stop_gradient copy sin cos tan atan2 sinh cosh asinh gt lt ge "
    "le eq ne and or not is_finite clamp optimization_barrier custom_jvp_call custom_vjp_call".split()
)
"""Operations that an activation may consist of."""


@dataclass(frozen=True, eq=False)
class Program:
    """A part of a jaxpr: `closed` computes the outputs of the part from the values of `reads`."""

    closed: ClosedJaxpr
    reads: tuple[Variable, ...]


@dataclass(frozen=True, eq=False)
class Trace:
    """A model's jaxpr without calls, and which of its variables are what.

    Attributes:
      closed: the jaxpr.
      members: path of a leaf of the member to its variable.
      data: variables of the inputs.
      keys: variables of the random key; none where nothing is random.
      outputs: what the model returns.
      state: path of a leaf of the member's state to the variable (or literal) that holds it after the call.
      structure: of the outputs, as a pytree.
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
        """The number of the equation that computes a variable."""
        return {v: i for i, equation in enumerate(self.jaxpr.eqns) for v in equation.outvars}

    @cached_property
    def readers(self) -> dict[Variable, list[int]]:
        """The numbers of the equations that read a variable."""
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
        """The variables that depend on `sources`, these included.

        Args:
          sources: variables.
          stop: variables whose readers do not count.
          skip: numbers of equations that do not count.
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

    def way(self, start: Variable, end: Variable) -> frozenset[int]:
        """The numbers of the equations on all ways from one variable to another."""
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
        """Names of values, in program order, and the numbers of the equations that name them.

        Raises:
          InputError: a name used twice, or a name inside of a loop, a branch or a custom derivative.
        """
        named = {}
        for i, equation in enumerate(self.jaxpr.eqns):
            if equation.primitive.name == "name":
                name = equation.params["name"]
                if name in named:
                    raise InputError(f"points: the model names two values {name!r}; expected a name for each")
                named[name] = i
            else:
                _refuse_names_inside(equation)
        return named

    def value(self, point: str) -> Variable:
        """The variable that a point names."""
        return self.jaxpr.eqns[self.named[point]].outvars[0]

    def needed(self, outputs: Iterable[Any], known: Collection[Variable] = ()) -> list[int]:
        """The numbers of the equations that compute `outputs` where the variables `known` are given, ascending."""
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
        """The named value, then what else the outputs need of the front, in program order.

        Raises:
          InputError: no output depends on the named value.
        """
        at, named = self.named[point], self.value(point)
        needed = [self.jaxpr.eqns[i] for i in self.needed(self.outputs) if i > at]
        reads = {v for equation in needed for v in equation.invars if is_variable(v)}
        reads.update(v for v in self.outputs if is_variable(v))
        if named not in reads:
            raise InputError(f"points: no output of the model depends on {point!r}; use the result of stitch_point")
        before = [*self.data, *(v for equation in self.jaxpr.eqns[:at] for v in equation.outvars)]
        return [named, *(v for v in before if v in reads and v in self.dependent)]

    def state_after(self, point: str) -> dict[str, Any]:
        """The part of `state` that the tail computes from what is carried."""
        carried, at = set(self.carried(point)), self.named[point]

        def is_of_tail(v) -> bool:
            if not is_variable(v) or self.producers.get(v, -1) <= at:
                return False
            reads = [a for i in self.needed([v], carried) for a in self.jaxpr.eqns[i].invars if is_variable(a)]
            front = {a for a in reads if a in self.dependent and self.producers.get(a, -1) <= at}
            return front <= carried

        return {path: v for path, v in self.state.items() if is_of_tail(v)}

    def activation_input(self, point: str) -> Variable | None:
        """The variable z of which the named value is an elementwise function s(z) without parameters; None for none.

        Of several such variables it is the one computed first.
        """
        frontier, earliest = {self.value(point)}, None
        while True:
            last = max(frontier, key=lambda v: self.producers.get(v, -1))
            i = self.producers.get(last)
            equation = None if i is None else self.jaxpr.eqns[i]
            if equation is None or equation.primitive.name not in ELEMENTWISE | {"name", "broadcast_in_dim"}:
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
        """Whether a variable depends on neither inputs nor the member."""
        sources = {a for i in self.needed([v]) for a in self.jaxpr.eqns[i].invars if is_variable(a)} | {v}
        return sources.isdisjoint([*self.members.values(), *self.data, *self.keys])

    def program(self, inputs: Sequence[Variable], outputs: Sequence[Any]) -> Program:
        """The part that computes `outputs` where `inputs` are given, and the member, and the key."""
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
        for one in equations(inner):
            if one.primitive.name == "name":
                raise InputError(
                    f"points: {one.params['name']!r} is named inside of {equation.primitive.name}, where no model can "
                    "be split; name the value outside, or write the loop in Python"
                )
