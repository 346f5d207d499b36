"""Permutations learned by gradients: the straight-through method and Sinkhorn re-basin."""

from collections.abc import Callable
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import optax

from symjax.alignment.descent import Descent, descend, element_of
from symjax.birkhoff import nearest_permutation, permutation_matrix, sinkhorn
from symjax.groups import Space, Symmetry

BATCH = 128
MAX_SWEEPS = 20  # of an assignment within one step of the straight-through method
STEPS = 10  # in an epoch of Sinkhorn re-basin without data
TEMPERATURE, ITERATIONS = 0.1, 20
WEIGHTS_OPTIMIZER, SCORES_OPTIMIZER = optax.adam(1e-3), optax.adam(0.05)


class Midpoint:
    """The loss at the midpoint of two members.

    Attributes:
      loss: function of (member a, member b, inputs, targets) to a scalar. Batch norms normalize by the batch.
    """

    def __init__(self, network, loss: Callable, data):
        self.data, self.examples = data, len(jax.tree.leaves(data)[0])
        mode = "inference" if network.needs_key else "train"

        def of(a, b, x, y):
            middle = jax.tree.map(_middle, a, b)
            return loss(network.apply(middle, x, mode=mode), y)

        self.loss, self._compiled = of, jax.jit(of)

    def batches(self, rng=None):
        order = np.arange(self.examples) if rng is None else rng.permutation(self.examples)
        for start in range(0, self.examples, min(BATCH, self.examples)):
            rows = order[start : start + BATCH]
            if rng is None or len(rows) == min(BATCH, self.examples):  # one shape while learning
                yield jax.tree.map(lambda leaf: leaf[rows], self.data)  # noqa: B023

    def mean(self, a, b) -> float:
        """Return the mean loss over all data."""
        return sum(float(self._compiled(a, b, *batch)) * len(batch[1]) for batch in self.batches()) / self.examples


def _middle(a, b):
    return (a + b) / 2 if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a


def permuting(symmetry: Symmetry) -> Symmetry:
    """Return a symmetry whose matrices multiply all axes that they permute: `act` is then linear in each matrix."""
    spaces = {}
    for name, space in symmetry.spaces.items():
        if space.verified:
            general = space.group in ("general_linear", "orthogonal")
            axes = tuple(axis._replace(exponent=1) for axis in space.axes if axis.exponent or not general)
            spaces[name] = Space(name, space.size, "general_linear", axes, True, space.families)
    return Symmetry(spaces, symmetry.treedef, symmetry.shapes, {}, {})


class Learner:
    """Learns permutations of b for pairs of balanced members, or of pytrees, a and b; compiled once for all pairs.

    Attributes:
      symmetry, blocks, paths: of the alignment; the paths are those of the parameters that are aligned.
      permuting: the result of `permuting` for the symmetry.
      midpoint: the loss; None for the distance of parameters.
    """

    def __init__(self, symmetry: Symmetry, blocks, paths, midpoint: Midpoint | None):
        self.symmetry, self.blocks, self.paths = symmetry, blocks, paths
        self.permuting, self.midpoint = permuting(symmetry), midpoint

    def _held(self, tree):
        leaves = dict(zip(self.symmetry.shapes, jax.tree.leaves(tree), strict=True))
        return {path: jnp.asarray(leaves[path]) for path in self.paths}

    def _stacked(self, leaves):
        return {path: np.asarray(leaf, np.float64)[None] for path, leaf in leaves.items()}

    def _descent(self, a, b) -> Descent:
        return Descent(self.blocks, self._stacked(self._held(a)), self._stacked(self._held(b)))

    def _moved(self, b, descent: Descent):
        """Return b after the permutations of `descent`."""
        element = element_of(self.blocks, descent.total)
        return self.permuting.act(b, {name: matrix[0] for name, matrix in element.items()})

    @cached_property
    def _straight_through_step(self):
        def loss(held, a, moved, batch):
            """Return the midpoint loss for b `moved`, with some of its parameters replaced by `held`."""
            leaves = dict(zip(self.symmetry.shapes, jax.tree.leaves(moved), strict=True)) | held
            return self.midpoint.loss(a, jax.tree.unflatten(self.symmetry.treedef, list(leaves.values())), *batch)

        def step(a, moved, weights, state, batch):
            gradient = jax.grad(loss)(self._held(moved), a, moved, batch)
            updates, state = WEIGHTS_OPTIMIZER.update(gradient, state)
            return optax.apply_updates(weights, updates), state

        return jax.jit(step)

    def straight_through(self, a, b, epochs: int, rng):
        """Learn weights whose matching with b, by coordinate descent, makes the midpoint loss small.

        The forward pass uses the matched b; its gradient changes the weights (Ainsworth et al. 2023, section 3.3).

        Returns:
          Matrices by space of the epoch with the smallest loss; the smallest loss up to each epoch; whether the last
          assignment converged.
        """
        assert self.midpoint is not None
        descent, weights, best = self._descent(a, b), self._held(a), Best()
        state = WEIGHTS_OPTIMIZER.init(weights)
        descent.start(np.arange(1))
        for _ in range(epochs):
            for batch in self.midpoint.batches(rng):
                descent.reset(self._stacked(weights))
                converged = descend(descent, rng, MAX_SWEEPS)[1]
                weights, state = self._straight_through_step(a, self._moved(b, descent), weights, state, batch)
            best.add(self.midpoint.mean(a, self._moved(b, descent)), descent.total)
        return best.total, np.array(best.losses), converged

    @cached_property
    def _sinkhorn_step(self):
        def loss(scores, a, b, norm, batch):
            heights = {name: x - x.max(1, keepdims=True) for name, x in scores.items()}  # so that no row underflows
            soft = {name: sinkhorn(jnp.exp(x / TEMPERATURE), ITERATIONS) for name, x in heights.items()}
            moved = self.permuting.act(b, soft)
            if self.midpoint is not None:
                return self.midpoint.loss(a, moved, *batch)
            held = self._held(a)
            return sum(((held[path] - leaf) ** 2).sum() for path, leaf in self._held(moved).items()) / norm

        def step(scores, a, b, norm, state, batch):
            updates, state = SCORES_OPTIMIZER.update(jax.grad(loss)(scores, a, b, norm, batch), state)
            return optax.apply_updates(scores, updates), state

        return jax.jit(step)

    def sinkhorn(self, a, b, epochs: int, rng):
        """Learn scores X, a matrix for each space, with a small loss of b under the matrices Sinkhorn(exp(X / t)).

        The permutations nearest to X are the result (Peña et al. 2023). Without data the loss is the squared distance
        of the parameters, relative to their norms, and the permutations are then improved by coordinate descent.

        Returns:
          As `straight_through`; without data, the objective of `descend`.
        """
        dtype, spaces = jnp.result_type(float), self.permuting.spaces
        scores = {name: jnp.asarray(rng.normal(size=2 * [space.size]) / 100, dtype) for name, space in spaces.items()}
        state, best, norm = SCORES_OPTIMIZER.init(scores), Best(), float(self._descent(a, b).norm[0])
        for _ in range(epochs):
            for batch in [()] * STEPS if self.midpoint is None else self.midpoint.batches(rng):
                scores, state = self._sinkhorn_step(scores, a, b, norm, state, batch)
            if self.midpoint is not None:
                descent = self._rounded(a, b, scores)
                best.add(self.midpoint.mean(a, self._moved(b, descent)), descent.total)
        if self.midpoint is not None:
            return best.total, np.array(best.losses), np.ones(1, bool)
        descent = self._rounded(a, b, scores)
        objective, converged = descend(descent, rng, MAX_SWEEPS)
        return descent.total, objective[0], converged

    def _rounded(self, a, b, scores) -> Descent:
        descent = self._descent(a, b)
        descent.act({name: np.asarray(permutation_matrix(nearest_permutation(x)))[None] for name, x in scores.items()})
        return descent


class Best:
    """The matrices with the smallest loss so far, and the smallest losses."""

    def __init__(self):
        self.total, self.losses = {}, []

    def add(self, loss: float, total):
        if not self.total or loss < self.losses[-1]:
            self.total = {name: matrices.copy() for name, matrices in total.items()}
        self.losses.append(min([loss, *self.losses[-1:]]))
