"""Evaluate, inline and inspect jaxprs with the public interface `jax.extend`."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeGuard

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxprs_in_params

CALLS = {"jit", "pjit", "closed_call", "core_call"}
"""Primitives that only call a jaxpr."""

ELEMENTWISE = set(
    "add add_any sub mul div rem max min pow exp exp2 log tanh sinh cosh tan sin cos asin acos atan atan2 asinh acosh "
    "atanh logistic erf erfc erf_inv lgamma digamma rsqrt sqrt cbrt neg abs sign floor ceil round integer_pow "
    "convert_element_type select_n stop_gradient name copy copy_p square gt lt ge le eq ne and or xor not is_finite "
    "clamp optimization_barrier log1p expm1 nextafter reduce_precision real imag conj".split()
)
"""Primitives that act on each position of their operands alone."""

REMATERIALIZATIONS = {"checkpoint", "remat", "remat2"}

Variable = Any
"""A `jax.extend.core.Var`, for whose `aval` JAX declares neither shape nor dtype."""

Rule = Callable[[JaxprEqn, Sequence[Any]], Sequence[Any] | None]


def closed_body(equation: JaxprEqn) -> ClosedJaxpr:
    """Return the jaxpr that a call, a rematerialization or a custom derivative evaluates."""
    params = equation.params
    body = next(params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if params.get(name) is not None)
    return body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())


def bind(equation: JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
    """Apply an unchanged equation to values, by evaluating a jaxpr of this equation alone.

    The way in which primitives take parameters differs between versions of JAX; `jax.core.eval_jaxpr` handles it.
    """
    inputs = {atom: value for atom, value in zip(equation.invars, values, strict=True) if is_variable(atom)}
    single = _empty().replace(invars=list(inputs), outvars=equation.outvars, eqns=[equation])
    return jax.core.eval_jaxpr(single, (), *inputs.values())


@cache
def _empty() -> Jaxpr:
    return jax.make_jaxpr(lambda: ())().jaxpr


def evaluate(closed: ClosedJaxpr, arguments: Sequence[Any], rule: Rule = lambda equation, values: None) -> list[Any]:
    """Evaluate a jaxpr on the leaves of its arguments.

    Bodies of calls, and of rematerialized functions that name a value, are evaluated recursively. For every other
    equation `rule(equation, values)` may return results that replace those of the equation, or None to keep it.
    """
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *arguments], strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        if _is_entered(equation):
            results = evaluate(closed_body(equation), operands, rule)
        else:
            results = rule(equation, operands)
            if results is None:
                results = bind(equation, operands)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def inline(closed: ClosedJaxpr, rule: Rule = lambda equation, values: None) -> ClosedJaxpr:
    """Return an equivalent jaxpr without calls, with the replacements of `rule`."""
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars]
    return jax.make_jaxpr(lambda *arguments: evaluate(closed, arguments, rule))(*shapes)


def _is_entered(equation: JaxprEqn) -> bool:
    name = equation.primitive.name
    if name in REMATERIALIZATIONS:
        return any(inner.primitive.name == "name" for inner in equations(closed_body(equation).jaxpr))
    return name in CALLS


def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Yield all equations of a jaxpr, including those of inner jaxprs."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def is_variable(atom: Any) -> TypeGuard[Variable]:
    """Return whether an operand of an equation is a variable and not a literal."""
    return isinstance(atom, Var)
