"""The alignment of several pairs by one method."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from symjax.alignment.balance import balance
from symjax.alignment.descent import Descent, descend, element_of
from symjax.alignment.features import correlations
from symjax.alignment.gradients import Learner, Midpoint
from symjax.alignment.leaves import channels_of, on_host, products
from symjax.alignment.spaces import Block
from symjax.groups import Symmetry
from symjax.spelling import one_line
from symjax.training.task import cross_entropy

LEARNED = ("straight_through", "sinkhorn")
MAX_SWEEPS = 100


class MatchInfo(NamedTuple):
    """How a `match` was found. For pairs of stacked networks all arrays have a leading axis of pairs.

    Attributes:
      objective: the objective after the first assignment of each space and after each sweep, for "activations" before
        and after the assignments, (sweeps + 1,), NumPy float64; never increasing. Pairs that converge earlier keep
        their last value.
      converged: whether a sweep changed nothing before `MAX_SWEEPS`, and the balancing of scales converged.
      gain: {space: cosine between its parameters in a and in the aligned b, minus that before the alignment}, in
        network order.
      restart: which restart has the smallest objective, 0 being the first. For "activations", which assigns spaces at
        stitch points exactly, it is the restart of the other spaces.
    """

    objective: np.ndarray
    converged: np.ndarray
    gain: dict[str, np.ndarray]
    restart: np.ndarray

    def __repr__(self):
        return one_line(self)


class Task(NamedTuple):
    """The arguments of `match`, for all pairs."""

    network: Any
    symmetry: Symmetry
    blocks: list[Block]
    method: str
    restarts: int
    epochs: int
    loss: Callable | None
    data: Any
    precision: Any
    rng: np.random.Generator

    def run(self, a, b, members_a=(), members_b=()):
        """Return elements and `MatchInfo` for dicts of (pairs, *shape), and for the members that other methods need."""
        pairs = len(next(iter(b.values())))
        (to_a, converged_a), (to_b, converged_b) = balance(a, self.blocks), balance(b, self.blocks)
        largest = max(np.abs(leaf).max(initial=0) for leaf in (*a.values(), *b.values()))
        precision = self.precision if 1e-12 < largest < 1e15 else np.float64  # products neither vanish nor overflow
        a, b = ({path: leaf.astype(precision, copy=False) for path, leaf in tree.items()} for tree in (a, b))
        before = _cosines(self.blocks, a, b)
        if self.method in LEARNED:
            total, objective, converged = self._learn(to_a, to_b, members_a, members_b, list(a))
            Descent(self.blocks, a, b).act(element_of(self.blocks, total))
            best = np.zeros(pairs, int)
        else:
            features = None
            if self.method != "weights":
                members = list(zip(members_a, members_b, strict=True))
                features = correlations(self.network, self.symmetry, self.blocks, members, self.data, to_a, to_b)
            b, total, objective, converged, best = self._descend(a, b, features)
        after = _cosines(self.blocks, a, b)
        gain = {name: after[name] - before[name] for name in after}
        info = MatchInfo(objective, converged & converged_a & converged_b, gain, best)
        return element_of(self.blocks, total, to_a, to_b), info

    def _descend(self, a, b, features):
        """Return for the best restart of each pair the aligned b, matrices, objectives, convergence and its number."""
        pairs, rows = len(next(iter(b.values()))), np.repeat(np.arange(len(next(iter(b.values())))), self.restarts)
        if self.restarts > 1:
            a, b = ({path: leaf[rows] for path, leaf in tree.items()} for tree in (a, b))
        features = {name: cross[:, rows] for name, cross in features.items()} if features else None
        blocks, first, fixed = self.blocks, np.arange(len(rows)) % self.restarts == 0, {}
        if self.method == "activations":  # those of spaces that no stitch point holds are matched by their weights
            shown = [block for block in blocks if block.space.name in features]
            descent = Descent(shown, a, b, features, 0.0)
            objectives = [descent.objective()]
            descent.start(np.arange(len(rows)))
            objectives.append(descent.objective())
            blocks, b, fixed, features = (
                [block for block in blocks if block not in shown],
                descent.b,
                descent.total,
                None,
            )
        if blocks:
            descent = Descent(blocks, a, b, features)
            descent.shuffle(self.rng, np.flatnonzero(~first), self.restarts - 1)  # the same for all pairs
            descent.start(np.flatnonzero(first))
            objective, converged = descend(descent, self.rng, MAX_SWEEPS)
        else:
            objective, converged = np.stack(objectives, 1), np.ones(len(rows), bool)
        best = objective[:, -1].reshape(pairs, self.restarts).argmin(1)
        objective = np.stack(objectives, 1) if fixed else objective
        chosen = np.arange(pairs) * self.restarts + best
        total = {name: matrices[chosen] for name, matrices in (descent.total | fixed).items()}
        b = {path: leaf[chosen] if self.restarts > 1 else leaf for path, leaf in b.items()}
        return b, total, objective[chosen], converged[chosen], best

    def _learn(self, to_a, to_b, members_a, members_b, paths):
        loss = self.loss or cross_entropy
        midpoint = None if self.data is None else Midpoint(self.network, loss, self.data)
        learner = Learner(self.symmetry, self.blocks, paths, midpoint)
        totals, objectives, converged = [], [], []
        for row, pair in enumerate(zip(members_a, members_b, strict=True)):
            balanced = [
                self.symmetry.act(on_host(member), {name: matrices[row] for name, matrices in to.items()})
                for member, to in zip(pair, (to_a, to_b), strict=True)
            ]
            total, objective, done = getattr(learner, self.method)(*balanced, self.epochs, self.rng)
            totals.append(total), objectives.append(objective), converged.append(done)
        sweeps = max(map(len, objectives))
        objectives = [np.pad(objective, (0, sweeps - len(objective)), "edge") for objective in objectives]
        return (
            jax.tree.map(lambda *parts: np.concatenate(parts), *totals),
            np.stack(objectives),
            np.concatenate(converged),
        )


def _cosines(blocks, a, b):
    """Return cosines between the parameters that hold each space, (pairs,) by name."""
    kinds = ((a, b), (a, a), (b, b))
    sums = {path: np.stack([products(first[path], second[path]) for first, second in kinds]) for path in b}
    cosines = {}
    for space in (space for block in blocks for space in block.spaces):
        total = np.zeros((3, len(next(iter(b.values())))))
        for axis in space.axes:
            if axis.index or axis.positions.size < b[axis.path].shape[axis.axis + 1]:
                parts = {id(tree): channels_of(tree[axis.path], axis) for tree in (a, b)}
                total += np.stack([products(parts[id(first)], parts[id(second)]) for first, second in kinds])
            else:
                total += sums[axis.path]
        cosines[space.name] = total[0] / np.sqrt(np.maximum(total[1] * total[2], np.finfo(float).tiny))
    return cosines
