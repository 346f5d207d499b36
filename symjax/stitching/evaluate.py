"""Evaluating stitches: the tail's batch-norm statistics re-estimated exactly, then accuracy over examples.

The running statistics of B's batch norms belong to B's own features. Before every evaluation they are replaced by those
of the stitched features: a pass without gradients over training batches, each normalised by its own statistics, pooled
exactly over batches (`training.pool_moments`). Matrices, the factors where a stitch acts by them, biases and these
statistics are what is saved, so a loaded stitch reproduces its reported accuracy.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from symjax.checks import integer
from symjax.data import normalize, statistics
from symjax.network import Member, Network
from symjax.parallel import concatenate, count_members, each_stack, take
from symjax.stitching.fit import Plan
from symjax.stitching.stitched import Pair, Stitch, aligned, stitched_output
from symjax.training.evaluation import Batches, count_correct, pad_batches, pool_moments

PyTree = Any


def several(of_batch: Callable, members: PyTree, shared: PyTree) -> PyTree:
    """`of_batch(*members, batch, ...)` for several batches in one program.

    Args:
      of_batch: `batch_statistics` or `batch_scores` of a plan.
      members: what comes first to it.
      shared: batches, stacked; how many of them count (the others cost nothing); what else comes to `of_batch`.

    Returns:
      What it returns, with a leading axis over batches; zeros for those that do not count.
    """
    batches, count, *others = shared

    def at(i):
        return of_batch(
            *members, jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), batches), *others
        )

    def step(i, found):
        return jax.tree.map(lambda rows, new: lax.dynamic_update_index_in_dim(rows, new, i, 0), found, at(i))

    length, shapes = count_members(batches), jax.eval_shape(at, jnp.int32(0))
    return lax.fori_loop(0, count, step, jax.tree.map(lambda s: jnp.zeros((length, *s.shape), s.dtype), shapes))


def batch_statistics(plan: Plan, pair: Pair, stitches: list[list[Stitch]], images: jax.Array, mean, std):
    """Per point and family, B's statistics on one batch of A's features, stitched by each of a stack of stitches."""
    fronts = plan.network.fronts(pair.a, normalize(images, mean, std), plan.points)

    def statistics(point, travelling, stitch):
        return stitched_output(plan.network, pair.b, travelling, stitch, point, "moments")[1]

    return [
        each_stack(partial(statistics, point, travelling), aligned(of_point), plan.execution)
        for point, travelling, of_point in zip(plan.points, fronts, stitches, strict=True)
    ]


class Scores(NamedTuple):
    """Sums over the examples of one batch, each (stitches,): one family's after the other's."""

    right: jax.Array  # how many are classified rightly
    loss: jax.Array  # cross-entropy


def batch_scores(plan: Plan, pair: Pair, stitches, stats, batch: Batches, mean, std) -> list[Scores]:
    """Per point, how well each stitch classifies the examples of one batch; stitches and stats per point and family."""
    fronts = plan.network.fronts(pair.a, normalize(batch.images, mean, std), plan.points)

    def score(point, travelling, item):
        stitch, their_stats = item
        tail = Member(pair.b.params, their_stats)
        logits, _ = stitched_output(plan.network, tail, travelling, stitch, point, "inference")
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return Scores(count_correct(logits, batch.labels, batch.mask), jnp.sum(losses * batch.mask))

    scores = []
    for point, travelling, of_point, their_stats in zip(plan.points, fronts, stitches, stats, strict=True):
        items = list(zip(aligned(of_point), their_stats, strict=True))
        scores.append(concatenate(each_stack(partial(score, point, travelling), items, plan.execution)))
    return scores


def pool(found: list[list[list[PyTree]]]) -> list[list[PyTree]]:
    """Statistics of several calls, on the host and each (pairs, batches, ...), pooled over all batches."""
    together = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1).swapaxes(0, 1), *found)
    return [[pool_moments(of_family) for of_family in of_point] for of_point in together]


def evaluate_stitch(
    network: Network,
    a: Member,
    b: Member,
    stitch: Stitch,
    stats: PyTree,
    point: int,
    split,
    mean,
    std,
    *,
    batch_size=32,
) -> float:
    """Accuracy in percent of one saved stitch on a data split.

    Args:
      network: of both members.
      a, b: front and tail.
      stitch, stats: as `symjax.stitching.results.load_stitch` returns them.
      point: index of the stitch point.
      split: images and labels (`symjax.data.Split`).
      mean, std: of the data set.
      batch_size: of the passes; the one of the original evaluation repeats it exactly.
    """
    integer("point", point, 0, len(network.points) - 1)
    mean, std = statistics(mean, std, split.images.shape[-1:])
    if stitch.bias is not None and not np.any(stitch.bias):
        stitch = stitch._replace(bias=None)  # as in the original evaluation, where there was none
    data, tail = pad_batches(split, batch_size), Member(b.params, stats)
    steps = range(len(data.images))
    total = sum(float(_correct(network, point, a, tail, stitch, take(data, i), mean, std)) for i in steps)
    return 100 * total / float(data.mask.sum())


@partial(jax.jit, static_argnums=(0, 1))
def _correct(network: Network, point: int, a: Member, tail: Member, stitch: Stitch, batch: Batches, mean, std):
    """How many examples of one batch one stitch classifies rightly; compiled once for all stitches of a point."""
    travelling = network.front(a, normalize(batch.images, mean, std), point)
    logits, _ = stitched_output(network, tail, travelling, stitch, point, "inference")
    return count_correct(logits, batch.labels, batch.mask)
