"""The statistics of one batch, of a model that keeps running ones.

A model in training returns its next state. A running mean s becomes m s + (1 - m) b, where b is the batch's own value.
It is the fixed point of the update, to which s would go if every batch were this one. Here it is found of the update
alone, whatever the code of the model.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from symjax.errors import InputError
from symjax.jaxprs import Variable, is_variable
from symjax.network.member import Member, leaves_by_path, update
from symjax.network.split import Trace

Groups = Sequence[Mapping[str, "Running"]]


class Running(NamedTuple):
    """A leaf of the state that training updates by what it computes of the inputs.

    Attributes:
      old, new: the variables that hold it before and after.
      way: the numbers of the equations on all ways from `old` to `new`.
      reads: what these read of the rest of the model; `new` itself where there is no way.
      is_affine: whether `new` is m s + c of each element s of `old`, whatever the values are.
    """

    old: Variable
    new: Variable
    way: frozenset[int]
    reads: tuple[Variable, ...]
    is_affine: bool = True


def running(trace: Trace, state: Mapping[str, Any]) -> Groups:
    """Return the running statistics among leaves of the state, by path, in groups that depend on earlier ones alone.

    Statistics that depend on each other, such as codebooks and how often their entries are used, are left out.

    Args:
      trace: of the model in training.
      state: path of a leaf to the variable that holds it afterwards.
    """
    every = {path: _running(trace, trace.members[f".state{path}"], new) for path, new in state.items()}
    leaves = {path: leaf for path, leaf in every.items() if leaf is not None}
    before: dict[str, set[str]] = {path: set() for path in leaves}
    for path, leaf in leaves.items():
        affected = trace.affected([leaf.old, leaf.new])
        for other in leaves.keys() - {path}:
            reads = {v for i in leaves[other].way for v in trace.jaxpr.eqns[i].invars if is_variable(v)}
            if not affected.isdisjoint(reads.union(leaves[other].reads)):
                before[other].add(path)
    cyclic = {path for path in leaves if path in _reached(before, path)}
    before = {path: paths - cyclic for path, paths in before.items() if path not in cyclic}
    depth: dict[str, int] = {}
    for path in TopologicalSorter(before).static_order():
        depth[path] = max((depth[other] + 1 for other in before[path]), default=0)
    count = max(depth.values(), default=-1) + 1
    return [{path: leaves[path] for path in before if depth[path] == i} for i in range(count)]


def _reached(before: Mapping[str, Collection[str]], path: str) -> set[str]:
    reached, stack = set(), list(before[path])
    while stack:
        path = stack.pop()
        if path not in reached:
            reached.add(path)
            stack += before[path]
    return reached


def _running(trace: Trace, old: Variable, new: Any) -> Running | None:
    is_updated = is_variable(new) and new is not old and new in trace.dependent
    if not is_updated or not jnp.issubdtype(old.aval.dtype, jnp.floating):
        return None
    way = trace.way(old, new)
    if not way:
        return Running(old, new, way, (new,))
    on_way = {v for i in way for v in trace.jaxpr.eqns[i].outvars}
    known = {*on_way, *trace.members.values(), *trace.keys, *trace.jaxpr.constvars}
    reads = dict.fromkeys(v for i in sorted(way) for v in trace.jaxpr.eqns[i].invars if is_variable(v))
    return Running(old, new, way, tuple(v for v in reads if v not in known), _is_affine(trace, way, {old, *on_way}))


AFFINE = {"add": 2, "sub": 2, "add_any": 2, "neg": 1, "mul": 1, "div": 1, "convert_element_type": 1, "copy": 1}
"""Elementwise operations, and of how many operands at once they are affine functions."""


def _is_affine(trace: Trace, way: Collection[int], on_way: Collection[Variable]) -> bool:
    def is_affine(equation) -> bool:
        moving = [is_variable(atom) and atom in on_way for atom in equation.invars]
        name, shapes = equation.primitive.name, {v.aval.shape for v in equation.outvars}
        shapes |= {atom.aval.shape for atom, moves in zip(equation.invars, moving, strict=True) if moves}
        return (
            len(shapes) == 1
            and all(jnp.issubdtype(v.aval.dtype, jnp.floating) for v in equation.outvars)
            and (not moving[0] if name == "select_n" else sum(moving) <= AFFINE.get(name, 0))
            and not (name == "div" and moving[1])
        )

    return all(is_affine(trace.jaxpr.eqns[i]) for i in way)


def refuse_corrected(training: Trace, inference: Trace) -> None:
    """Raise where the model corrects a running statistic by what else training changes, such as a number of steps.

    An average that starts at zero and is divided by 1 - m ** steps is an example. No state of it is that of one batch.
    """
    leaves = {path: leaf for group in running(training, training.state) for path, leaf in group.items()}
    others = {
        path: new
        for path, new in training.state.items()
        if path not in leaves and new is not training.members[f".state{path}"]
    }
    ways, updated = {i for leaf in leaves.values() for i in leaf.way}, {leaf.new for leaf in leaves.values()}
    for trace, skip, stop in ((training, ways, updated), (inference, (), ())):
        after = training.state if trace is training else {}
        ends = [*trace.outputs, *(after[path] for path in (*leaves, *others) if path in after)]
        of_data = trace.affected(trace.data, stop=stop)
        free = {v for i in trace.needed(ends) for v in trace.jaxpr.eqns[i].outvars} - of_data

        def uses(path, trace=trace, skip=skip, after=after, free=free) -> set[Variable]:
            sources = filter(is_variable, [trace.members[f".state{path}"], *([after[path]] if path in after else [])])
            return trace.affected(sources, skip=skip) & free

        of_others = {path: uses(path) for path in others}
        for path in leaves if of_others else ():
            of_leaf = uses(path)
            for other, shared in of_others.items():
                if not of_leaf.isdisjoint(shared):
                    raise InputError(
                        f'mode: "moments" cannot tell the batch\'s own value of the state at {path}, which the model '
                        f"combines with that at {other}, as where an average that starts at zero is divided by "
                        "1 - momentum ** steps; expected running means that are read as they are"
                    )


def batch_values(
    run: Callable,
    trace: Trace,
    groups: Groups,
    values: Mapping[Variable, Any],
    given: Mapping[Variable, Any],
    member: Member,
) -> dict[str, jax.Array]:
    """Return the batch's own values of running statistics, by path.

    Those of a group are computed with the statistics of earlier groups in place of the member's: a model that reads a
    statistic in training is evaluated as it is once that statistic is the batch's own. Where no such value exists, as
    of a least value so far, the leaf is what the model returns.

    Args:
      run: (known values by variable, outputs, member, form) to values of the outputs; form None is the network's own.
      trace: of the model in training.
      groups: of `running`.
      values: of the inputs.
      given: values of what the first group reads.
      member: the variables.
    """
    own: dict[str, jax.Array] = {}
    news: dict[Variable, jax.Array] = {}
    for number, group in enumerate(groups):
        now = member._replace(state=update(member.state, own))
        if number:
            reads = tuple(dict.fromkeys(v for leaf in group.values() for v in leaf.reads))
            given = dict(zip(reads, run({**values, **news}, reads, now, None), strict=True))
        own |= _own_values(run, group, given, now)
        news |= {leaf.new: own[path] for path, leaf in group.items()}
    return own


def _own_values(run: Callable, group: Mapping[str, Running], given: Mapping[Variable, Any], member: Member) -> dict:
    """Of each update m s + (1 - m) b the fixed point b, where m is the derivative by s; else what the model returns."""
    current = leaves_by_path(member.state)
    current = {path: current[path] for path, leaf in group.items() if leaf.way}

    def with_slope(values):
        """The updates of statistics from these values, and their derivatives; each depends on its own value alone."""
        leaves = [group[path] for path in values]
        reads = {v: given[v] for leaf in leaves for v in leaf.reads}

        def after(values):
            changed = member._replace(state=update(member.state, values))
            outputs = tuple(leaf.new for leaf in leaves)
            return dict(zip(values, run(reads, outputs, changed, "native"), strict=True))  # the form with derivatives

        return jax.jvp(after, (values,), (jax.tree.map(jnp.ones_like, values),))

    at_zero, slopes_at_zero = with_slope(jax.tree.map(jnp.zeros_like, current))
    own = {path: given[leaf.new] for path, leaf in group.items() if not leaf.way}
    own |= {path: _fixed(at_zero[path] + s, at_zero[path], slopes_at_zero[path]) for path, s in current.items()}
    others = {path: s for path, s in current.items() if not group[path].is_affine}
    if not others:
        return own
    updated, slopes = with_slope(others)
    for path, slope in slopes.items():
        is_linear = jnp.abs(slopes_at_zero[path] - slope) <= _rounding(slope)  # then nothing cancels at zero
        rest = jnp.where(is_linear, at_zero[path], updated[path] - slope * current[path])
        own[path] = _fixed(updated[path], rest, slope)
    again, slopes_again = with_slope({path: own[path] for path in others})
    for path, slope in slopes.items():
        is_fixed = jnp.abs(again[path] - own[path]) <= _rounding(slope) * jnp.max(jnp.abs(own[path]), initial=0)
        is_fixed &= jnp.abs(slopes_again[path] - slope) <= _rounding(slope)
        own[path] = jnp.where(jnp.all(is_fixed), own[path], updated[path])
    return own


def _fixed(updated, rest, slope):
    """The fixed point of m s + rest, where m is the slope; `updated` where m is 1 and there is none."""
    return jnp.where(slope == 1, updated, rest / jnp.where(slope == 1, 1, 1 - slope))


def _rounding(values) -> float:
    return 64 * float(jnp.finfo(values.dtype).eps)
