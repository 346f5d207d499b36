"""Evaluating stitches: the tail's batch-norm statistics re-estimated exactly, then accuracy over examples.

The running statistics of B's batch norms belong to B's own features. Before every evaluation they are replaced by those
of the stitched features: a pass without gradients over training batches, each normalised by its own statistics, pooled
exactly over batches (`training.pool_moments`). Matrices, biases and these statistics are what is saved, so a loaded
stitch reproduces its reported accuracy.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from symjax.checks import integer
from symjax.data import normalize, statistics
from symjax.models import Member, Network
from symjax.parallel import each, take
from symjax.stitching.fit import Plan
from symjax.stitching.stitched import Pair, Stitch, stitched_logits
from symjax.training.evaluation import Batches, count_correct, pad_batches, pool_moments

PyTree = Any


def batch_statistics(plan: Plan, pair: Pair, stitches: list[Stitch], images: jax.Array, mean, std) -> list[PyTree]:
    """Per point, B's statistics on one batch of A's stitched features, stacked over stitches."""
    fronts = plan.network.features(pair.a, normalize(images, mean, std), plan.points)

    def statistics(point, travelling, stitch):
        return stitched_logits(plan.network, pair.b, travelling, stitch, point, "moments")[1]

    return [
        each(partial(statistics, point, travelling), plan.execution)(of_point)
        for point, travelling, of_point in zip(plan.points, fronts, stitches, strict=True)
    ]


class Scores(NamedTuple):
    """Sums over the examples of one batch, each (stitches,)."""

    right: jax.Array  # how many are classified rightly
    loss: jax.Array  # cross-entropy


def batch_scores(plan: Plan, pair: Pair, stitches, stats, batch: Batches, mean, std) -> list[Scores]:
    """Per point, how well each stitch classifies the examples of one batch."""
    fronts = plan.network.features(pair.a, normalize(batch.images, mean, std), plan.points)

    def score(point, travelling, item):
        stitch, their_stats = item
        tail = Member(pair.b.params, their_stats)
        logits, _ = stitched_logits(plan.network, tail, travelling, stitch, point, "inference")
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return Scores(count_correct(logits, batch.labels, batch.mask), jnp.sum(losses * batch.mask))

    return [
        each(partial(score, point, travelling), plan.execution)(items)
        for point, travelling, *items in zip(plan.points, fronts, stitches, stats, strict=True)
    ]


def pool(stats_per_batch: list[list[PyTree]]) -> list[PyTree]:
    """Statistics of several batches, as `batch_statistics` gives them but on the host, pooled."""
    return [
        pool_moments(jax.tree.map(lambda *leaves: np.stack(leaves), *of_point))
        for of_point in zip(*stats_per_batch, strict=True)
    ]


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
    data, tail = pad_batches(split, batch_size), Member(b.params, stats)
    steps = range(len(data.images))
    total = sum(float(_correct(network, point, a, tail, stitch, take(data, i), mean, std)) for i in steps)
    return 100 * total / float(data.mask.sum())


@partial(jax.jit, static_argnums=(0, 1))
def _correct(network: Network, point: int, a: Member, tail: Member, stitch: Stitch, batch: Batches, mean, std):
    """How many examples of one batch one stitch classifies rightly; compiled once for all stitches of a point."""
    travelling = network.front(a, normalize(batch.images, mean, std), point)
    logits, _ = stitched_logits(network, tail, travelling, stitch, point, "inference")
    return count_correct(logits, batch.labels, batch.mask)
