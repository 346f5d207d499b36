"""The statistics of one batch, of a model that keeps running ones.

A model in training returns its next state. A running mean s becomes m s + (1 - m) b, where b is the batch's own value.
It is the fixed point of the update, to which s would go if every batch were this one. Here it is found of the update
alone, whatever the code of the model.
"""

from collections.abc import Callable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from symjax.errors import InputError
from symjax.jaxprs import is_variable
from symjax.network.member import Member, leaves_by_path, update
from symjax.network.split import Trace

Groups = Sequence[Mapping[str, "Running"]]


class Running(NamedTuple):
    """A leaf of the state that training updates by what it computes of the inputs.

    Attributes:
      old, new: the variables that hold it before and after.
      way: the numbers of the equations on all ways from `old` to `new`.
      reads: what these read of the rest of the model; `new` itself where there is no way.
    """

    old: Var
    new: Var
    way: frozenset[int]
    reads: tuple[Var, ...]


def running(trace: Trace, state: Mapping[str, Any]) -> Groups:
    """Return the running statistics among leaves of the state, by path, in groups.

    Statistics depend on those of earlier groups alone. Where they depend on each other all are in one group.

    Args:
      trace: of the model in training.
      state: path of a leaf to the variable that holds it afterwards.
    """
    every = {path: _running(trace, trace.members[f".state{path}"], new) for path, new in state.items()}
    leaves = {path: leaf for path, leaf in every.items() if leaf is not None}
    sorter, groups = TopologicalSorter(dict.fromkeys(leaves, ())), []
    for path, leaf in leaves.items():
        affected = trace.affected([leaf.old, leaf.new])
        for other in leaves:
            if other != path and not affected.isdisjoint(leaves[other].reads):
                sorter.add(other, path)
    try:
        sorter.prepare()
    except CycleError:
        return [leaves]
    while sorter.is_active():
        ready = set(sorter.get_ready())
        groups.append({path: leaf for path, leaf in leaves.items() if path in ready})
        sorter.done(*ready)
    return groups


def _running(trace: Trace, old: Var, new: Any) -> Running | None:
    is_updated = is_variable(new) and new is not old and new in trace.dependent
    if not is_updated or not jnp.issubdtype(old.aval.dtype, jnp.floating):
        return None
    way = trace.way(old, new)
    if not way:
        return Running(old, new, way, (new,))
    on_way = {v for i in way for v in trace.jaxpr.eqns[i].outvars}
    known = {*on_way, *trace.members.values(), *trace.keys, *trace.jaxpr.constvars}
    reads = dict.fromkeys(v for i in sorted(way) for v in trace.jaxpr.eqns[i].invars if is_variable(v))
    return Running(old, new, way, tuple(v for v in reads if v not in known))


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

        def uses(path, trace=trace, skip=skip, after=after, free=free) -> set[Var]:
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
    run: Callable, trace: Trace, groups: Groups, values: Mapping[Var, Any], given: Mapping[Var, Any], member: Member
) -> dict[str, jax.Array]:
    """Return the batch's own values of running statistics, by path.

    Those of a group are computed with the statistics of earlier groups in place of the member's: a model that reads a
    statistic in training is evaluated as it is once that statistic is the batch's own. Where no such value exists, as
    of a largest value so far, the leaf is what the model returns.

    Args:
      run: (known values by variable, outputs, member, form) to values of the outputs; form None is the network's own.
      trace: of the model in training.
      groups: of `running`.
      values: of the inputs.
      given: values of what the first group reads.
      member: the variables.
    """
    own: dict[str, jax.Array] = {}
    news: dict[Var, jax.Array] = {}
    for number, group in enumerate(groups):
        now = member._replace(state=update(member.state, own))
        if number:
            reads = tuple(dict.fromkeys(v for leaf in group.values() for v in leaf.reads))
            given = dict(zip(reads, run({**values, **news}, reads, now, None), strict=True))
        for path, leaf in group.items():
            own[path] = _own_value(run, {v: given[v] for v in leaf.reads}, path, leaf, now)
        news |= {leaf.new: own[path] for path, leaf in group.items()}
    return own


def _own_value(run: Callable, reads: Mapping[Var, Any], path: str, leaf: Running, member: Member) -> jax.Array:
    """The fixed point b of the update m s + (1 - m) b, where m is the derivative by s; else what the model returns."""
    if not leaf.way:
        return reads[leaf.new]

    def after(value):
        changed = member._replace(state=update(member.state, {path: value}))
        return run(reads, (leaf.new,), changed, "native")[0]  # the one form that has derivatives in forward mode

    def with_slope(value):
        return jax.jvp(after, (value,), (jnp.ones_like(value),))

    current = leaves_by_path(member.state)[path]
    rounding = 64 * jnp.finfo(current.dtype).eps
    (updated, slope), (at_zero, slope_at_zero) = with_slope(current), with_slope(jnp.zeros_like(current))
    weight = jnp.where(slope == 1, 1, 1 - slope)
    is_linear = jnp.abs(slope_at_zero - slope) <= rounding  # then nothing cancels at zero
    own = jnp.where(slope == 1, updated, jnp.where(is_linear, at_zero, updated - slope * current) / weight)
    again, slope_again = with_slope(own)
    is_fixed = jnp.abs(again - own) <= rounding * jnp.max(jnp.abs(own), initial=0)
    is_fixed &= jnp.abs(slope_again - slope) <= rounding
    return jnp.where(jnp.all(is_fixed), own, updated)
