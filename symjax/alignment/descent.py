"""Block coordinate descent over the spaces of a symmetry: exact assignments, signs and rotations."""

from itertools import product

import numpy as np

from symjax.alignment.leaves import acts, apply, channels_of, inner, permutation_of, set_channels, squared

GAIN = {"float32": 2e-7, "float64": 1e-12}  # relative gain below which a step is rounding, or one of equal optima


class Descent:
    """Aligns parameters b to a, both dicts of (pairs, *shape), by permutations, signs and rotations, in place.

    It minimizes |a - g b|^2 = |a|^2 + |b|^2 - 2 <a, g b>, since these matrices change no norms. The term <a, g b> is
    linear in the matrix of each space, as long as no parameter holds the space on two dimensions, so a step for one
    space is a linear assignment (permutations, signs) or a polar decomposition (rotations) of the sum C of cross-grams
    of its axes. A step that does not increase <a, g b> is not taken, so the objective never increases.

    With correlations F of features (`symjax.alignment.features`), the objective is |a - g b|^2 / (|a|^2 + |b|^2) plus
    1 - sum <F, g> over the spaces, which is linear in each matrix likewise.

    Attributes:
      total: dict from space to its matrices (pairs, n, n). Those of a part that is permuted with others belong to the
        part's place in a.
    """

    def __init__(self, blocks, a, b, features=None, weight=1.0):
        self.blocks, self.a, self.b = blocks, a, b
        self.precision = next(iter(b.values())).dtype
        self.pairs, self.features = len(next(iter(b.values()))), dict(features or {})
        self.total = {
            space.name: np.tile(np.eye(space.size, dtype=_dtype(space)), (self.pairs, 1, 1))
            for block in blocks
            for space in block.spaces
        }
        self.norm = squared(a) + squared(b)
        self.weight = weight / np.maximum(self.norm, np.finfo(float).tiny) if features else np.ones(self.pairs)
        self.tied = [_tied(block) for block in blocks]
        self._unaligned = np.ones((len(blocks), self.pairs), bool)  # whether a step may gain

    def objective(self):
        """Return the objective for each pair."""
        return np.maximum(self.norm * self.weight + bool(self.features) - 2 * self._products(), 0)

    def _products(self):
        """Return what the steps maximize: half of what they reduce the objective by."""
        correlations = sum(_traces(cross).sum(0) for cross in self.features.values())
        return self.weight * inner(self.a, self.b) + correlations / 2

    def reset(self, a):
        """Replace a, to which b is aligned from now on."""
        self.a, self._unaligned[:] = a, True
        self.norm = squared(a) + squared(self.b)

    def start(self, rows):
        """Take one step for each block, first for blocks whose parameters depend on few others.

        Parameters that hold channels of blocks still to come are left out, since their products are noise.
        """
        waiting = dict(enumerate(self.blocks))
        sizes = {path: leaf[0].size if leaf.min() < leaf.max() else 0 for path, leaf in self.b.items()}
        while waiting:
            shares = {}
            for place, block in waiting.items():
                others = [waiting[i].paths for i in waiting if i != place]
                known = block.paths.difference(self.tied[place], *others)
                total = sum(sizes[path] for path in block.paths)
                shares[place] = sum(sizes[path] for path in known) / max(total, 1), known
            place = max(shares, key=lambda i: (shares[i][0], -i))
            block = waiting.pop(place)
            self._step(place, rows, shares[place][1] or block.paths, forced=True)

    def act(self, element):
        """Act on b by an element of permutations, {space: matrices (pairs, n, n)}."""
        for block in self.blocks:
            for space in block.spaces:
                self._act(space, element[space.name], np.arange(self.pairs))

    def shuffle(self, rng, rows, count):
        """Act on b in the given pairs by `count` random permutations of each space in turn."""
        for block in self.blocks:
            for space in block.spaces:
                orders = [rng.permutation(space.size) for _ in range(count)]
                matrices = np.eye(space.size)[np.array(orders, int).reshape(-1, space.size)]
                self._act(space, np.tile(matrices, (len(rows) // max(count, 1), 1, 1)), rows)

    def sweep(self, rng) -> np.ndarray:
        """Take a step for each block that can gain, in random order; return which pairs changed."""
        changed = np.zeros(self.pairs, bool)
        for place in rng.permutation(len(self.blocks)):
            rows = np.flatnonzero(self._unaligned[place])
            if len(rows):
                changed[self._step(place, rows, self.blocks[place].paths)] = True
        return changed

    def _step(self, place, rows, paths, forced=False):
        """Take the best step for a block in some pairs; return the pairs in which it gains."""
        block = self.blocks[place]
        self._unaligned[place, rows] = False
        if block.families:
            matrices, parts, gain, scale = self._parts_step(block, rows, paths)
        else:
            matrices, parts = None, {}
            cross = self._cross(block.space, block.space, rows, paths)
            matrices, best = solve(block.space.compact, cross)
            gain, scale = best - _traces(cross).sum(0), np.abs(cross).sum((0, 2, 3), dtype=float) + 1e-300
        better = np.ones(len(rows), bool) if forced else gain > GAIN[self.precision.name] * scale
        rows, matrices = rows[better], matrices[better]
        if not len(rows):
            return rows
        before = self._products() if self.tied[place] and not forced else None
        self._act(block.space, matrices, rows)
        for space, part in parts.items():
            self._act(space, part[better], rows)
        if before is not None:
            rows = self._undo(block.space, matrices, rows, before)
        for other, neighbor in enumerate(self.blocks):
            if (other != place or self.tied[place]) and neighbor.paths & block.paths:
                self._unaligned[other, rows] = True
        return rows

    def _undo(self, space, matrices, rows, before):
        """Undo steps without gain, which is not linear where a parameter holds the space on two dimensions."""
        after = self._products()
        worse = after[rows] <= before[rows] + GAIN[self.precision.name] * (self.norm * self.weight)[rows]
        self._act(space, matrices[worse].swapaxes(1, 2), rows[worse])
        return rows[~worse]

    def _act(self, space, matrices, rows):
        if not len(rows):
            return
        apply(self.b, space, matrices, rows)
        family = self._families_of(space)
        for parts in family:  # the matrices of parts move with them
            order = matrices.argmax(2)
            moved = np.stack([self.total[part.name][rows] for part in parts], 1)
            moved = np.take_along_axis(moved, order[:, :, None, None], 1)
            for i, part in enumerate(parts):
                self.total[part.name][rows] = moved[:, i]
        total = self.total[space.name]
        if space.compact == "orthogonal":
            total[rows] = matrices @ total[rows]
        else:
            order, entries = permutation_of(matrices)
            moved = total[rows[:, None], order]
            total[rows] = moved if space.compact == "permutation" else entries * moved
        if space.name in self.features:
            entries = np.abs(matrices) if space.monomial else matrices
            for cross, acting in zip(self.features[space.name], (entries, matrices), strict=True):
                cross[rows] = cross[rows] @ acting.swapaxes(1, 2)

    def _families_of(self, space):
        return next((block.families for block in self.blocks if block.space is space), ())

    def _cross(self, first, second, rows, paths, a=None):
        """Return cross-grams (kinds, pairs, n, n) of a space of a and a space of b.

        For signed permutations the kinds are even and odd powers; otherwise there is one.
        """
        signed = first.compact == "signed_permutation"
        cross = np.zeros((1 + signed, len(rows), first.size, second.size), float if self.features else self.precision)
        selected = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
        for axis, other in zip(first.axes, second.axes, strict=True):
            if axis.path in paths and acts(first, axis):
                left = channels_of((a or self.a)[axis.path], axis, selected)
                right = channels_of(self.b[other.path], other, selected)
                cross[int(signed and axis.exponent % 2 == 1)] += left @ right.swapaxes(1, 2)
        if self.features:
            cross *= self.weight[rows, None, None]
        if first.name in self.features:
            cross += self.features[first.name][: len(cross), rows] / 2
        return cross

    def _parts_step(self, block, rows, paths):
        """Assign parts to parts, by the best alignment inside of every two of them."""
        size = block.space.size
        gain, now = np.zeros((len(rows), size, size)), np.zeros(len(rows))
        best = {}
        scale = np.full(len(rows), 1e-300)
        for kind, family in enumerate(block.families):
            for i, j in product(range(size), repeat=2):
                cross = self._cross(family[i], family[j], rows, paths)
                best[kind, i, j], value = solve(family[i].compact, cross)
                gain[:, i, j] += value
                scale += np.abs(cross).sum((0, 2, 3))
                if i == j:
                    now += _traces(cross).sum(0)
        rest = {}
        for path in block.paths:  # entries that the permutation of parts moves, and no matrix of a part
            rest[path] = self.a[path].copy()
            for part in (part for family in block.families for part in family):
                for axis in part.axes:
                    if axis.path == path and acts(part, axis):
                        _set_zero(rest[path], axis)
        cross = self._cross(block.space, block.space, rows, paths, rest).sum(0)
        permutation, value = solve("permutation", (gain + cross)[None])
        order = permutation.argmax(2)
        parts = {}
        for kind, family in enumerate(block.families):
            for i, part in enumerate(family):
                parts[part] = np.stack([best[kind, i, j][row] for row, j in enumerate(order[:, i])])
        return permutation, parts, value - now - _traces(cross), scale


def _set_zero(leaf, axis):
    rows = np.arange(len(leaf))
    set_channels(leaf, axis, rows, np.zeros_like(channels_of(leaf, axis, rows)))


def _dtype(space):
    return np.float64 if space.compact == "orthogonal" else np.float32


def _tied(block):
    """Return the paths of parameters that hold the space on several dimensions, in which the objective is quadratic."""
    places = [path for path, _ in {(axis.path, axis.axis) for axis in block.space.axes}]
    return set() if block.families else {path for path in places if places.count(path) > 1}


def _traces(matrices):
    return np.einsum("...ii->...", matrices, dtype=float)


def solve(compact, cross):
    """Return the matrices K (pairs, n, n) that maximize <C, K>, and the maxima.

    C is the sum of cross (kinds, pairs, n, n). For signed permutations the kinds are even powers, in which the entries
    of K count by their absolute values, and odd powers.
    """
    if compact == "orthogonal":
        left, values, right = np.linalg.svd(cross.sum(0, dtype=float))
        return left @ right, values.sum(1)
    score = cross[0] + np.abs(cross[1]) if compact == "signed_permutation" else cross[0]
    places = (np.arange(len(score))[:, None], np.arange(score.shape[1]), _assignments(score))
    matrices = np.zeros_like(score)
    matrices[places] = 1
    if compact == "signed_permutation":
        matrices[places] = np.where(cross[1][places] < 0, -1, 1)
    return matrices, score[places].sum(1, dtype=float)


def _assignments(score):
    """Return the columns (pairs, n) with the largest sums."""
    from scipy.optimize import linear_sum_assignment  # imported here for a fast --help

    return np.array([linear_sum_assignment(one, maximize=True)[1] for one in score]).reshape(score.shape[:2])


def descend(descent: Descent, rng, max_sweeps: int):
    """Sweep until no pair changes; return the objective (pairs, sweeps + 1), and which pairs converged."""
    objectives = [descent.objective()]
    changed = np.ones(descent.pairs, bool)
    while changed.any() and len(objectives) <= max_sweeps:
        changed = descent.sweep(rng)
        objectives.append(descent.objective())
    return np.stack(objectives, 1), ~changed


def element_of(blocks, total, to_a=None, to_b=None) -> dict[str, np.ndarray]:
    """Return the elements that act by `to_b`, then by `total` of a `Descent`, then by the inverse of `to_a`."""
    element = {}

    def conjugated(matrices, target, source):
        if source.balanced and to_a is not None:
            matrices = np.linalg.solve(to_a[target.name], matrices) @ to_b[source.name]
        return matrices

    for block in blocks:
        space = block.space
        element[space.name] = conjugated(total[space.name], space, space)
        places = total[space.name].argmax(1)  # in a, of each part of b
        for family in block.families:
            for j, part in enumerate(family):
                options = [conjugated(total[target.name], target, part) for target in family]
                element[part.name] = np.stack([options[i][row] for row, i in enumerate(places[:, j])])
    return element
