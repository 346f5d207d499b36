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
from jax import lax

from symjax.data import normalize, statistics
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.parallel import concatenate, count_members, each_stack, take
from symjax.stitching.fit import Plan
from symjax.stitching.junction import carried_to, junction, point_pair
from symjax.stitching.stitched import Pair, Stitch, aligned, stitched_output
from symjax.training.evaluation import Batches, pad_batches, pool_moments, total_score
from symjax.training.task import cross_entropy

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
    """Per point and family, B's statistics on one batch of A's features, stitched by each of a stack of stitches.

    Where the network needs a key it is the same in all batches.
    """
    fronts = carried_to(plan.junctions, plan.network, pair.a, normalize(images, mean, std))
    key = jax.random.key(0) if plan.network_b.needs_key else None

    def statistics(point, carried, stitch):
        return stitched_output(plan.network_b, pair.b, carried, stitch, point, "moments", key=key)[1]

    return [
        each_stack(partial(statistics, at.b, carried), aligned(of_point), plan.execution)
        for at, carried, of_point in zip(plan.junctions, fronts, stitches, strict=True)
    ]


class Scores(NamedTuple):
    """Sums over the examples of one batch, each (stitches,): one family's after the other's."""

    score: jax.Array  # of the metric: how many are classified rightly, where it is the default
    loss: jax.Array


def batch_scores(plan: Plan, pair: Pair, stitches, stats, batch: Batches, mean, std) -> list[Scores]:
    """Per point, how well each stitch does on the examples of one batch; stitches and stats per point and family."""
    fronts = carried_to(plan.junctions, plan.network, pair.a, normalize(batch.images, mean, std))
    loss_of, metric = plan.config.loss or cross_entropy, plan.config.metric

    def loss_of_example(output, target):
        one = jax.tree.map(lambda leaf: leaf[None], (output, target))
        return loss_of(*one).astype(batch.mask.dtype)

    def score(point, carried, item):
        stitch, state = item
        tail = Member(pair.b.params, state)
        outputs, _ = stitched_output(plan.network_b, tail, carried, stitch, point, "inference")
        losses = jax.vmap(loss_of_example)(outputs, batch.labels)  # since padding is no part of a mean
        return Scores(total_score(outputs, batch.labels, batch.mask, metric), jnp.sum(losses * batch.mask))

    scores = []
    for at, carried, of_point, states in zip(plan.junctions, fronts, stitches, stats, strict=True):
        items = list(zip(aligned(of_point), states, strict=True))
        scores.append(concatenate(each_stack(partial(score, at.b, carried), items, plan.execution)))
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
    point: int | str | tuple,
    split,
    mean,
    std,
    *,
    batch_size=32,
    network_b: Network | None = None,
    metric: Callable | None = None,
) -> float:
    """Accuracy in percent of one saved stitch on a data split, or the mean score of another metric.

    Args:
      network: of both members, or of A.
      a, b: front and tail.
      stitch, stats: as `symjax.stitching.results.load_stitch` returns them.
      point: of the stitch, by name or index; (point of A, point of B) where they differ.
      split: images and labels (`symjax.data.Split`).
      mean, std: of the data set.
      batch_size: of the passes; the one of the original evaluation repeats it exactly.
      network_b: of B, where it is not A's.
      metric: as of `FitConfig`.
    """
    network_b = network if network_b is None else network_b
    first, second = point_pair(point)
    points = network.index(first), network_b.index(second)
    if (shape := np.shape(stitch.matrix)) != (expected := junction(network, network_b, *points).shape):
        raise InputError(f"stitch, point: got a matrix {shape} at {point}, expected {expected}")
    mean, std = statistics(mean, std, split.images.shape[-1:])
    if stitch.bias is not None and not np.any(stitch.bias):
        stitch = stitch._replace(bias=None)  # as in the original evaluation, where there was none
    data, tail = pad_batches(split, batch_size), Member(b.params, stats)
    score = partial(_stitched_score, (network, network_b), points, metric, Pair(a, tail), stitch)
    return _mean_score(score, data, mean, std, metric)


def evaluate_member(network: Network, member: Member, split, mean, std, *, batch_size=32, metric=None) -> float:
    """Accuracy in percent of a network without a stitch, or the mean score of another metric; see `evaluate_stitch`."""
    mean, std = statistics(mean, std, split.images.shape[-1:])
    return _mean_score(partial(_score, network, metric, member), pad_batches(split, batch_size), mean, std, metric)


def _mean_score(score: Callable, data: Batches, mean, std, metric) -> float:
    total = sum(float(score(take(data, i), mean, std)) for i in range(len(data.images)))
    return (100 if metric is None else 1) * total / float(data.mask.sum())


@partial(jax.jit, static_argnums=(0, 1, 2))
def _stitched_score(networks, points, metric, pair: Pair, stitch: Stitch, batch: Batches, mean, std):
    """The score of one stitch on one batch; compiled once for all stitches of a point."""
    at = junction(*networks, *points)
    (carried,) = carried_to([at], networks[0], pair.a, normalize(batch.images, mean, std))
    outputs, _ = stitched_output(networks[1], pair.b, carried, stitch, at.b, "inference")
    return total_score(outputs, batch.labels, batch.mask, metric)


@partial(jax.jit, static_argnums=(0, 1))
def _score(network: Network, metric, member: Member, batch: Batches, mean, std):
    outputs = network.apply(member, normalize(batch.images, mean, std))
    return total_score(outputs, batch.labels, batch.mask, metric)
