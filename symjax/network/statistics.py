"""The statistics of one batch, for a model that keeps running statistics.

A model in training returns its next state. A running mean s becomes m s + (1 - m) b, where b is the value of the batch.
This b is the fixed point of the update: s would converge to it if every batch were this one. This module computes it
from the update alone, for any code of the model.
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
    """A leaf of the state whose update in training depends on the inputs.

    Attributes:
      old, new: the variables of the leaf before and after the update.
      equations: the numbers of the equations on all paths from `old` to `new`.
      reads: the variables of the rest of the model that these equations read; `new` itself if there are none.
      is_affine: whether each element of `new` is m s + c for the element s of `old`, for all values.
    """

    old: Variable
    new: Variable
    equations: frozenset[int]
    reads: tuple[Variable, ...]
    is_affine: bool = True


def running(trace: Trace, state: Mapping[str, Any]) -> Groups:
    """Return the running statistics among leaves of the state, by path, in groups that depend on earlier groups only.

    Statistics that depend on each other, such as a codebook and the counts of its entries, are omitted.

    Args:
      trace: the jaxpr of the model in training.
      state: {path of a leaf: the variable of its value after the call}.
    """
    candidates = {path: _running(trace, trace.members[f".state{path}"], new) for path, new in state.items()}
    leaves = {path: leaf for path, leaf in candidates.items() if leaf is not None}
    before: dict[str, set[str]] = {path: set() for path in leaves}
    for path, leaf in leaves.items():
        affected = trace.affected([leaf.old, leaf.new])
        for other in leaves.keys() - {path}:
            reads = {v for i in leaves[other].equations for v in trace.jaxpr.eqns[i].invars if is_variable(v)}
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
    """Return the paths on which `path` depends, directly or through others."""
    reached, stack = set(), list(before[path])
    while stack:
        path = stack.pop()
        if path not in reached:
            reached.add(path)
            stack += before[path]
    return reached


def _running(trace: Trace, old: Variable, new: Any) -> Running | None:
    """Return a leaf as a running statistic; None if its update does not depend on the inputs."""
    is_updated = is_variable(new) and new is not old and new in trace.dependent
    if not is_updated or not jnp.issubdtype(old.aval.dtype, jnp.floating):
        return None
    equations = trace.equations_between(old, new)
    if not equations:
        return Running(old, new, equations, (new,))
    computed = {v for i in equations for v in trace.jaxpr.eqns[i].outvars}
    known = {*computed, *trace.members.values(), *trace.keys, *trace.jaxpr.constvars}
    reads = dict.fromkeys(v for i in sorted(equations) for v in trace.jaxpr.eqns[i].invars if is_variable(v))
    is_affine = _is_affine(trace, equations, {old, *computed})
    return Running(old, new, equations, tuple(v for v in reads if v not in known), is_affine)


AFFINE = {"add": 2, "sub": 2, "add_any": 2, "neg": 1, "mul": 1, "div": 1, "convert_element_type": 1, "copy": 1}
"""Elementwise operations, and the number of operands in which they are jointly affine."""


def _is_affine(trace: Trace, equations: Collection[int], dependent: Collection[Variable]) -> bool:
    """Return whether the equations of an update are affine in its `dependent` variables, element by element."""

    def is_affine(equation) -> bool:
        depends = [is_variable(atom) and atom in dependent for atom in equation.invars]
        name, shapes = equation.primitive.name, {v.aval.shape for v in equation.outvars}
        shapes |= {atom.aval.shape for atom, is_dependent in zip(equation.invars, depends, strict=True) if is_dependent}
        return (
            len(shapes) == 1
            and all(jnp.issubdtype(v.aval.dtype, jnp.floating) for v in equation.outvars)
            and (not depends[0] if name == "select_n" else sum(depends) <= AFFINE.get(name, 0))
            and not (name == "div" and depends[1])
        )

    return all(is_affine(trace.jaxpr.eqns[i]) for i in equations)


def refuse_corrected(training: Trace, inference: Trace) -> None:
    """Raise an InputError if the model combines a running statistic with other state, such as a count of steps.

    An example is an average from zero with a correction: s_t = m s_{t-1} + (1 - m) b_t with s_0 = 0, of which the model
    reads s_t / (1 - m^t). For equal batches b this is b, since s_t = (1 - m^t) b. With the fixed point b in place of
    s_t (`batch_values`) the model would read b / (1 - m^t), which also depends on the count t of steps.

    The model combines two leaves of the state if a value that is independent of the data depends on both. In
    `training`, the updated statistics count as independent of the data.
    """
    leaves = {path: leaf for group in running(training, training.state) for path, leaf in group.items()}
    others = {
        path: new
        for path, new in training.state.items()
        if path not in leaves and new is not training.members[f".state{path}"]
    }
    updates, updated = {i for leaf in leaves.values() for i in leaf.equations}, {leaf.new for leaf in leaves.values()}
    for trace, skip, stop in ((training, updates, updated), (inference, (), ())):
        after = training.state if trace is training else {}
        ends = [*trace.outputs, *(after[path] for path in (*leaves, *others) if path in after)]
        computed = {v for i in trace.needed(ends) for v in trace.jaxpr.eqns[i].outvars}
        independent = computed - trace.affected(trace.data, stop=stop)

        def uses(path, trace=trace, skip=skip, after=after, independent=independent) -> set[Variable]:
            sources = filter(is_variable, [trace.members[f".state{path}"], *([after[path]] if path in after else [])])
            return trace.affected(sources, skip=skip) & independent

        uses_of_others = {path: uses(path) for path in others}
        for path in leaves if uses_of_others else ():
            uses_of_leaf = uses(path)
            for other, uses_of_other in uses_of_others.items():
                if not uses_of_leaf.isdisjoint(uses_of_other):
                    raise InputError(
                        f'mode: got "moments" for a model that combines its state at {path} with that at {other}, such '
                        "as an average that starts at zero and is divided by 1 - momentum ** steps; expected running "
                        "means that the model reads without such a correction"
                    )


def batch_values(
    run: Callable,
    trace: Trace,
    groups: Groups,
    values: Mapping[Variable, Any],
    read: Mapping[Variable, Any],
    member: Member,
) -> dict[str, jax.Array]:
    """Return the values of running statistics for this batch alone, by path.

    A model may read a statistic in training. Each group is therefore computed with the batch's values of earlier
    groups. Where a batch has no value of its own, as for a running minimum, the result is the leaf that the model
    returns.

    Args:
      run: a function of (known values by variable, outputs, member, form) that returns the values of the outputs; form
        None is that of the network.
      trace: the jaxpr of the model in training.
      groups: the result of `running`.
      values: the values of the inputs, by variable.
      read: the values that the first group reads, by variable.
      member: the variables.
    """
    results: dict[str, jax.Array] = {}
    updated: dict[Variable, jax.Array] = {}
    for number, group in enumerate(groups):
        current = member._replace(state=update(member.state, results))
        if number:
            reads = tuple(dict.fromkeys(v for leaf in group.values() for v in leaf.reads))
            read = dict(zip(reads, run({**values, **updated}, reads, current, None), strict=True))
        results |= _fixed_points(run, group, read, current)
        updated |= {leaf.new: results[path] for path, leaf in group.items()}
    return results


def _fixed_points(run: Callable, group: Mapping[str, Running], read: Mapping[Variable, Any], member: Member) -> dict:
    """Return the fixed point b of each update m s + (1 - m) b, with the derivative m; else the updated value."""
    current = leaves_by_path(member.state)
    current = {path: current[path] for path, leaf in group.items() if leaf.equations}

    def with_slope(values):
        """Return the updates of these values, and their derivatives; each update depends on its own value only."""
        leaves = [group[path] for path in values]
        reads = {v: read[v] for leaf in leaves for v in leaf.reads}

        def after(values):
            changed = member._replace(state=update(member.state, values))
            outputs = tuple(leaf.new for leaf in leaves)
            return dict(zip(values, run(reads, outputs, changed, "native"), strict=True))  # jvp needs this form

        return jax.jvp(after, (values,), (jax.tree.map(jnp.ones_like, values),))

    at_zero, slopes_at_zero = with_slope(jax.tree.map(jnp.zeros_like, current))
    fixed = {path: read[leaf.new] for path, leaf in group.items() if not leaf.equations}
    fixed |= {path: _fixed_point(at_zero[path] + s, at_zero[path], slopes_at_zero[path]) for path, s in current.items()}
    others = {path: s for path, s in current.items() if not group[path].is_affine}
    if not others:
        return fixed
    updated, slopes = with_slope(others)
    for path, slope in slopes.items():
        is_linear = jnp.abs(slopes_at_zero[path] - slope) <= _rounding(slope)  # the update at 0 has no cancellation
        rest = jnp.where(is_linear, at_zero[path], updated[path] - slope * current[path])
        fixed[path] = _fixed_point(updated[path], rest, slope)
    again, slopes_again = with_slope({path: fixed[path] for path in others})
    for path, slope in slopes.items():
        is_fixed = jnp.abs(again[path] - fixed[path]) <= _rounding(slope) * jnp.max(jnp.abs(fixed[path]), initial=0)
        is_fixed &= jnp.abs(slopes_again[path] - slope) <= _rounding(slope)
        fixed[path] = jnp.where(jnp.all(is_fixed), fixed[path], updated[path])
    return fixed


def _fixed_point(updated, rest, slope):
    """Return the fixed point of m s + rest, where m is the slope; `updated` if m is 1, since there is none."""
    return jnp.where(slope == 1, updated, rest / jnp.where(slope == 1, 1, 1 - slope))


def _rounding(values) -> float:
    return 64 * float(jnp.finfo(values.dtype).eps)
