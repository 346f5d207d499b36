"""Candidate spaces: sets of channels that occur together on every axis of every variable.

In the example of attention in `labels` there are five, with positions on the axes of parameters:

    name      channels  axis 1 of q and k     axis 1 of v, axis 0 of o   families
    q         3         [0] [1] [2]
    q/2       3         [3] [4] [5]
    v         3                               [0] [1] [2]
    v/2       3                               [3] [4] [5]
    q/heads   2         [0 1 2] [3 4 5]       [0 1 2] [3 4 5]            (q, q/2), (v, v/2)

q0 to q5 occur together in (5, 6), but q0, q1, q2 are alone in the row of the first head of (5, 2, 3). A class therefore
has a signature, a hash of the rows in which it occurs, and a space has the classes of one signature. A head has no
positions itself: those of its channels are recorded for it. An exchange of the heads also exchanges q with q/2, and v
with v/2.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from symjax.groups.discovery.action import Axis
from symjax.groups.discovery.probe import Probe


@dataclass(eq=False)
class CandidateSpace:
    """Channels that labels allow to permute, before verification.

    Attributes:
      size: the number of channels.
      axes: axes of parameters, in program order.
      leaves: the indices of these parameters.
      reads: for each axis, whether the program contracts it with data.
      points: dict from the name of a value to positions (channels, positions each) on its last axis; None if the value
        does not hold the channels.
      start: the first use in the program, by which candidates are sorted.
      name: unique name.
      families: for a space that permutes parts, the names of the parts: one tuple per kind.
      shared: for a space that permutes parts, the spaces that act alike on all parts, such as the stream on the kernels
        (stream, heads, channels) of all heads.
      consistent: whether all parts have equal sizes.
    """

    size: int
    axes: list[Axis]
    leaves: list[int]
    reads: list[bool]
    points: dict[str, np.ndarray | None]
    start: tuple
    name: str = ""
    families: tuple = ()
    shared: tuple = ()
    consistent: bool = True


def find_candidate_spaces(probe: Probe) -> list[CandidateSpace]:
    """Return sets of channels that occur in the same rows of all variables, parts (channels) before wholes (heads)."""
    labels = probe.labels
    rng, signature, rows = np.random.default_rng(0), np.zeros(labels.usable.shape, np.uint64), set()
    parents = defaultdict(set, {child: set(above) for child, above in labels.parents.items()})
    for children, above in labels.nested:
        for child, parent in zip(labels.classes[children].ravel(), labels.classes[above].ravel(), strict=True):
            parents[int(child)].add(int(parent))
    for v in labels.of:
        for d in range(len(labels.of[v])):
            for index, row in labels.rows(v, d):
                if labels.usable[row].any() or any(child in parents for child in row.tolist()):
                    above = {p for child in row.tolist() for p in labels.parents.get(child, ())} if not index else ()
                    for classes in (np.unique(row), np.array(sorted(above), int)):
                        if len(classes) and classes.tobytes() not in rows:
                            rows.add(classes.tobytes())
                            signature[classes] += rng.integers(2**64, dtype=np.uint64)
    first = np.full(labels.usable.shape, labels.count)
    np.minimum.at(first, labels.classes, np.arange(labels.count))
    places: dict = defaultdict(lambda: defaultdict(list))  # class to {axis of a parameter: positions}
    reads = defaultdict(set)  # leaf to labels; not to classes, which also hold labels of axes that write
    for leaf, array in labels.reads:
        reads[leaf].update(array.ravel().tolist())
    reading = set()
    for leaf, v in enumerate(probe.closed.jaxpr.invars[: len(probe.paths)]):
        for d in range(v.aval.ndim) if probe.real[leaf] and probe.order[leaf] is not None else ():
            if labels.of[v][d] is not None and reads[leaf].intersection(labels.of[v][d].ravel().tolist()):
                reading.add((leaf, d))
            for index, row in labels.rows(v, d):
                fixed = {c for b, i in index.items() for _, other in labels.rows(v, b)[:1] for c in [int(other[i])]}
                _record_positions(labels, places, row, fixed, (leaf, d, tuple(index.items())))
    point_positions: dict[str, Any] = {}
    for name, v in probe.points.items():
        rows_at = labels.rows(v, v.aval.ndim - 1) if v.aval.ndim else []
        point_positions[name] = defaultdict(lambda: defaultdict(list))
        if len(rows_at) == 1:
            _record_positions(labels, point_positions[name], rows_at[0][1], set(), ())
    classes_by_signature = defaultdict(list)
    for c in sorted(places, key=lambda c: first[c]):
        if labels.usable[c]:
            classes_by_signature[signature[c]].append(c)
    candidates, owner = [], {}
    for classes in classes_by_signature.values():
        keys = sorted(places[classes[0]], key=lambda key: (probe.order[key[0]], key))
        position_arrays = [_position_array([places[c].get(key, []) for c in classes]) for key in keys]
        whole = [positions for positions in position_arrays if positions is not None]
        if len(whole) < len(keys) or any(places[c].keys() != set(keys) for c in classes):
            continue
        axes = [
            Axis(probe.paths[leaf], d, index, positions, 0, (leaf, d) in reading)
            for (leaf, d, index, _), positions in zip(keys, whole, strict=True)
        ]
        points = {
            name: _position_array([[p for key in sorted(classes_at[c]) for p in classes_at[c][key]] for c in classes])
            if any(c in classes_at for c in classes)
            else None
            for name, classes_at in point_positions.items()
        }
        reads, start = [key[:2] in reading for key in keys], (probe.order[keys[0][0]], first[classes[0]])
        candidate = CandidateSpace(len(classes), axes, [key[0] for key in keys], reads, points, start)
        owner.update({c: (candidate, i) for i, c in enumerate(classes)})
        candidates.append(candidate)
    candidates.sort(key=lambda candidate: candidate.start)
    _families(candidates, owner, parents)
    _name(candidates, probe.points)
    return _independent(candidates)


def _independent(candidates: list[CandidateSpace]) -> list[CandidateSpace]:
    """Return the candidates without those that share positions with others, except q/heads with its parts q, q/2, ...,
    and with spaces that act alike on all parts.

    Spaces that permute parts come last.
    """
    acting_at: dict[Any, set] = defaultdict(set)
    indexing_at: dict[Any, set] = defaultdict(set)
    independent: list[CandidateSpace] = []
    for candidate in sorted(
        candidates, key=lambda candidate: (bool(candidate.families), max(a.positions.shape[1] for a in candidate.axes))
    ):
        places = {(a.path, a.axis, a.index, p) for a in candidate.axes for p in a.positions.ravel().tolist()}
        moved = {(path, axis, p) for path, axis, _, p in places}
        fixed = {(a.path, *pair) for a in candidate.axes for pair in a.index}
        conflicts = [acting_at[place] for place in (*places, *fixed)] + [indexing_at[place] for place in moved]
        parts = {part for family in candidate.families for part in family} | {other.name for other in candidate.shared}
        trivial = candidate.families and candidate.size == 1
        if not trivial and set().union(*conflicts) <= parts <= {other.name for other in independent}:
            independent.append(candidate)
            for place in (*places, *moved):
                acting_at[place].add(candidate.name)
            for place in fixed:
                indexing_at[place].add(candidate.name)
    return [
        *(candidate for candidate in candidates if candidate in independent and not candidate.families),
        *(c for c in independent if c.families),
    ]


def _record_positions(labels, places, row, fixed, key):
    """Record the positions of each channel on an axis, for the channel and for its ancestors: for q0 and for h0."""
    times = Counter()
    for position, c in enumerate(row.tolist()):
        ancestors, new = set(), {c}
        while new:
            ancestors |= new
            new = {p for child in new for p in labels.parents.get(child, ())} - ancestors
        for ancestor in ancestors - fixed - {c}:
            places[ancestor][*key, 0].append(position)
        places[c][*key, times[c]].append(position)  # each occurrence has its own exponent
        times[c] += 1


def _position_array(positions: list[list[int]]) -> np.ndarray | None:
    """Return (channels, positions of each), or None where channels have different numbers of positions."""
    sizes = {len(p) for p in positions}
    return np.array(positions) if len(sizes) == 1 and sizes != {0} else None


def _families(candidates, owner, parents):
    """Set the families: the candidates that a permutation of their parents moves, as heads move their channels."""
    children = defaultdict(lambda: defaultdict(list))
    for candidate in candidates:
        above = [{p for p in parents.get(c, ()) if p in owner} for c in owner if owner[c][0] is candidate]
        common = [owner[p] for p in set.intersection(*above)] if above else []
        for parent, i in common:
            if sum(other is parent for other, _ in common) == 1:
                children[id(parent)][i].append(candidate)
            elif candidate not in parent.shared:
                parent.shared += (candidate,)
    for candidate in candidates:
        if parts_at := children.get(id(candidate)):
            counts = {tuple(kid.size for kid in parts_at.get(i, ())) for i in range(candidate.size)}
            candidate.consistent = len(counts) == 1
            candidate.families = (
                tuple(zip(*(parts_at[i] for i in range(candidate.size)), strict=True))
                if candidate.consistent
                else ((),)
            )


def _name(candidates, points):
    used = set()
    for candidate in candidates:
        point = next((name for name in points if name not in used and candidate.points[name] is not None), None)
        path = candidate.axes[0].path
        base = point or (path.rpartition("/")[0] or path) + ("/heads" if candidate.families else "")
        candidate.name, number = base, 1
        while candidate.name in used:
            number += 1
            candidate.name = f"{base}/{number}"
        used.add(candidate.name)
    for candidate in candidates:
        candidate.families = tuple(tuple(kid.name for kid in family) for family in candidate.families)
        candidate.consistent &= all(candidate.families)
