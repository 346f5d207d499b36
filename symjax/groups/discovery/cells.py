"""Spaces of channels that labels propose: channels that occur together on every axis of every variable."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from symjax.groups.discovery.action import Axis
from symjax.groups.discovery.probe import Probe


@dataclass(eq=False)
class Cell:
    """Channels that labels allow to permute, before anything is verified.

    Attributes:
      size: how many.
      axes: of parameters, in the order of the program; `leaves` are the numbers of the parameters.
      reads: for each axis, whether the program contracts it with data.
      points: name of a value to the positions (channels, each) on its last axis; None where it does not hold them.
      start: sorts cells by where the program uses them first.
      families: of a cell that permutes parts the names of the parts, one tuple for each kind.
      consistent: whether all parts have equal ones.
    """

    size: int
    axes: list[Axis]
    leaves: list[int]
    reads: list[bool]
    points: dict[str, np.ndarray | None]
    start: tuple
    name: str = ""
    families: tuple = ()
    consistent: bool = True


def find_cells(probe: Probe) -> list[Cell]:
    """Sets of channels that occur on the same axes of all variables, children before their parents."""
    labels = probe.labels
    rng, signature, rows = np.random.default_rng(0), np.zeros(labels.alive.shape, np.uint64), set()
    parents = defaultdict(set, {child: set(above) for child, above in labels.parents.items()})
    for children, above in labels.nested:
        for child, parent in zip(labels.classes[children].ravel(), labels.classes[above].ravel(), strict=True):
            parents[int(child)].add(int(parent))
    for v in labels.of:
        for d in range(len(labels.of[v])):
            for index, row in labels.rows(v, d):
                if labels.alive[row].any() or any(child in parents for child in row.tolist()):
                    above = {p for child in row.tolist() for p in labels.parents.get(child, ())} if not index else ()
                    for classes in (np.unique(row), np.array(sorted(above), int)):
                        if len(classes) and classes.tobytes() not in rows:
                            rows.add(classes.tobytes())
                            signature[classes] += rng.integers(2**64, dtype=np.uint64)
    first = np.full(labels.alive.shape, labels.count)
    np.minimum.at(first, labels.classes, np.arange(labels.count))
    places: dict = defaultdict(lambda: defaultdict(list))  # class to {axis of a parameter: positions}
    reads = defaultdict(set)  # leaf to labels; what is read is known by its own labels, not by those that tie to them
    for leaf, array in labels.reads:
        reads[leaf].update(array.ravel().tolist())
    reading = set()
    for leaf, v in enumerate(probe.closed.jaxpr.invars[: len(probe.paths)]):
        for d in range(v.aval.ndim) if probe.real[leaf] and probe.order[leaf] is not None else ():
            if labels.of[v][d] is not None and reads[leaf].intersection(labels.of[v][d].ravel().tolist()):
                reading.add((leaf, d))
            for index, row in labels.rows(v, d):
                fixed = {c for b, i in index.items() for _, other in labels.rows(v, b)[:1] for c in [int(other[i])]}
                _place(labels, places, row, fixed, (leaf, d, tuple(index.items())))
    located = {}
    for name, v in probe.points.items():
        rows_at = labels.rows(v, v.aval.ndim - 1) if v.aval.ndim else []
        located[name] = defaultdict(lambda: defaultdict(list))
        if len(rows_at) == 1:
            _place(labels, located[name], rows_at[0][1], set(), ())
    groups = defaultdict(list)
    for c in sorted(places, key=lambda c: first[c]):
        if labels.alive[c]:
            groups[signature[c]].append(c)
    cells, whose = [], {}
    for classes in groups.values():
        keys = sorted(places[classes[0]], key=lambda key: (probe.order[key[0]], key))
        wheres = [_where([places[c].get(key, []) for c in classes]) for key in keys]
        if any(where is None for where in wheres) or any(places[c].keys() != set(keys) for c in classes):
            continue
        axes = [
            Axis(probe.paths[leaf], d, index, where, 0) for (leaf, d, index, _), where in zip(keys, wheres, strict=True)
        ]
        points = {
            name: _where([[p for key in sorted(found[c]) for p in found[c][key]] for c in classes])
            if any(c in found for c in classes)
            else None
            for name, found in located.items()
        }
        reads, start = [key[:2] in reading for key in keys], (probe.order[keys[0][0]], first[classes[0]])
        cell = Cell(len(classes), axes, [key[0] for key in keys], reads, points, start)
        whose.update({c: (cell, i) for i, c in enumerate(classes)})
        cells.append(cell)
    cells.sort(key=lambda cell: cell.start)
    _families(cells, whose, parents)
    _name(cells, probe.points)
    return _independent(cells)


def _independent(cells: list[Cell]) -> list[Cell]:
    """The cells without those that meet others on an axis, unless it is to permute them; these come last."""
    acting, indexing, kept = defaultdict(set), defaultdict(set), []
    for cell in sorted(cells, key=lambda cell: (bool(cell.families), max(a.where.shape[1] for a in cell.axes))):
        places = {(a.path, a.axis, a.index, p) for a in cell.axes for p in a.where.ravel().tolist()}
        moved = {(path, axis, p) for path, axis, _, p in places}
        fixed = {(a.path, *pair) for a in cell.axes for pair in a.index}
        met = [acting[place] for place in (*places, *fixed)] + [indexing[place] for place in moved]
        parts = {part for family in cell.families for part in family}
        trivial = cell.families and cell.size == 1
        if not trivial and set().union(*met) <= parts <= {other.name for other in kept}:
            kept.append(cell)
            for place in (*places, *moved):
                acting[place].add(cell.name)
            for place in fixed:
                indexing[place].add(cell.name)
    return [*(cell for cell in cells if cell in kept and not cell.families), *(c for c in kept if c.families)]


def _place(labels, places, row, fixed, key):
    """Notes where each channel stands on an axis, by itself and as a part of others."""
    times = Counter()
    for position, c in enumerate(row.tolist()):
        known, new = set(), {c}
        while new:
            known |= new
            new = {p for child in new for p in labels.parents.get(child, ())} - known
        for whole in known - fixed - {c}:
            places[whole][*key, 0].append(position)
        places[c][*key, times[c]].append(position)  # each time with an exponent of its own
        times[c] += 1


def _where(positions: list[list[int]]) -> np.ndarray | None:
    """(channels, positions of each), None where channels have different numbers of positions."""
    sizes = {len(p) for p in positions}
    return np.array(positions) if len(sizes) == 1 and sizes != {0} else None


def _families(cells, whose, parents):
    """Notes which cells are moved by permuting their parents: heads move their channels."""
    children = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        above = [{p for p in parents.get(c, ()) if p in whose} for c in whose if whose[c][0] is cell]
        common = set.intersection(*above) if above else set()
        for p in common:
            parent, i = whose[p]
            children[id(parent)][i].append(cell)
    for cell in cells:
        if kids := children.get(id(cell)):
            counts = {tuple(kid.size for kid in kids.get(i, ())) for i in range(cell.size)}
            cell.consistent = len(counts) == 1
            cell.families = tuple(zip(*(kids[i] for i in range(cell.size)), strict=True)) if cell.consistent else ((),)


def _name(cells, points):
    used = set()
    for cell in cells:
        point = next((name for name in points if name not in used and cell.points[name] is not None), None)
        path = cell.axes[0].path
        base = point or (path.rpartition("/")[0] or path) + ("/heads" if cell.families else "")
        cell.name, number = base, 1
        while cell.name in used:
            number += 1
            cell.name = f"{base}/{number}"
        used.add(cell.name)
    for cell in cells:
        cell.families = tuple(tuple(kid.name for kid in family) for family in cell.families)
        cell.consistent &= all(cell.families)
