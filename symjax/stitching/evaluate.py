"""Evaluate stitches: re-estimate the batch-norm statistics of the tail, then compute scores over examples.

The running statistics of B's batch norms belong to B's own features. Before every evaluation they are replaced by those
of the stitched features: a pass without gradients over training batches, in which each batch is normalized by its own
statistics, and these are pooled exactly over batches (`training.pool_moments`). The saved stitch contains its matrix,
factors, bias and these statistics, so that a loaded stitch reproduces its reported accuracy.
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
from symjax.ops.parallel import concatenate, count_members, each_stack, take
from symjax.stitching.junction import carried_values, each_tail, make_junction, point_pair
from symjax.stitching.plan import Plan
from symjax.stitching.stitched import Pair, Stitch, pad_factors, stitched_output
from symjax.training.evaluation import Batches, pad_batches, pool_moments, total_score
from symjax.training.task import cross_entropy

PyTree = Any


def over_batches(fn: Callable, members: PyTree, shared: PyTree) -> PyTree:
    """Compute `fn(*members, batch, ...)` for several batches in one program.

    Args:
      fn: `batch_statistics` or `batch_scores` of a plan.
      members: its first arguments.
      shared: stacked batches, the number of batches to process, and the remaining arguments of `fn`.

    Returns:
      The results with a leading axis over batches; zeros for the batches that are not processed.
    """
    batches, count, *others = shared

    def at_batch(i):
        batch = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), batches)
        return fn(*members, batch, *others)

    def step(i, results):
        return jax.tree.map(lambda rows, new: lax.dynamic_update_index_in_dim(rows, new, i, 0), results, at_batch(i))

    length, shapes = count_members(batches), jax.eval_shape(at_batch, jnp.int32(0))
    return lax.fori_loop(0, count, step, jax.tree.map(lambda s: jnp.zeros((length, *s.shape), s.dtype), shapes))


def batch_statistics(plan: Plan, pair: Pair, stitches: list[list[Stitch]], batch: tuple, mean, std):
    """Return the statistics of B on one batch of stitched features, per point for all stitches in one stack.

    The batch is (images, labels). A network that needs a key gets the same one in all batches. The host splits the
    stack into families (`pool_statistics`), since arrays of each family would double the time of compilation.
    """
    images, labels = batch
    fronts = carried_values(plan.junctions, plan.network, pair, normalize(images, mean, std), labels)
    key = jax.random.key(0) if plan.network_b.needs_key else None

    def statistics(point, carried, stitch):
        return stitched_output(plan.network_b, pair.b, carried, stitch, point, "moments", key=key)[1]

    def of_tail(junction, item):
        carried, point_stitches = item
        return concatenate(each_stack(partial(statistics, junction.b, carried), point_stitches, plan.execution))

    items = list(zip(fronts, map(pad_factors, stitches), strict=True))
    return each_tail(of_tail, plan.junctions, items, plan.execution)


class Scores(NamedTuple):
    """Sums over the examples of one batch, each (stitches,), family by family."""

    score: jax.Array  # of the metric; by default the number of correctly classified examples
    loss: jax.Array
    agreement: jax.Array | None = None  # number of examples whose predicted class is that of B alone


def batch_scores(plan: Plan, pair: Pair, stitches, stats, batch: Batches, mean, std) -> list[Scores]:
    """Return the scores of all stitches of each point on one batch; `stitches` and `stats` are per point and family."""
    images = normalize(batch.images, mean, std)
    fronts = carried_values(plan.junctions, plan.network, pair, images, batch.labels)
    loss_of, metric = plan.config.loss or cross_entropy, plan.config.metric
    classes_b = jnp.argmax(plan.network_b.apply(pair.b, images), axis=-1) if plan.config.agreement else None

    def example_loss(output, target):
        example = jax.tree.map(lambda leaf: leaf[None], (output, target))
        return loss_of(*example).astype(batch.mask.dtype)

    def score(point, carried, item):
        stitch, state = item
        tail = Member(pair.b.params, state)
        outputs, _ = stitched_output(plan.network_b, tail, carried, stitch, point, "inference")
        # Per example, since means exclude padding.
        losses = jax.vmap(example_loss)(outputs, batch.labels)
        agreement = None if classes_b is None else total_score(outputs, classes_b, batch.mask)
        return Scores(total_score(outputs, batch.labels, batch.mask, metric), jnp.sum(losses * batch.mask), agreement)

    def of_tail(junction, item):
        carried, *stacks = item
        pairs = list(zip(*stacks, strict=True))
        return concatenate(each_stack(partial(score, junction.b, carried), pairs, plan.execution))

    items = list(zip(fronts, map(pad_factors, stitches), stats, strict=True))
    return each_tail(of_tail, plan.junctions, items, plan.execution)


def pool_statistics(plan: Plan, results: list[list[PyTree]]) -> list[list[PyTree]]:
    """Pool statistics over all batches of several calls, and split them into the families of each point.

    Leaves of `results` are (pairs, batches, stitches, ...) on the host, those of the result (pairs, candidates, ...).
    """
    batches = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1).swapaxes(0, 1), *results)
    pooled = map(pool_moments, batches)
    return [[jax.tree.map(lambda leaf, r=r: leaf[:, r], stats) for r in plan.candidate_slices] for stats in pooled]


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
    """Return the accuracy of one stitch on a data split in percent, or the mean score of another metric.

    Args:
      network: the network of both members, or of A.
      a, b: the members of the front and of the tail.
      stitch, stats: the stitch and the state of B, as returned by `load_stitch`.
      point: the point of the stitch, by name or index; (point of A, point of B) if these differ.
      split: images (n, ...) as stored and labels (`symjax.data.Split`).
      mean, std: those of the data set, (channels,); None for inputs that are not normalized.
      batch_size: examples in a batch; the batch size of the original evaluation reproduces it exactly.
      network_b: the network of B, if it is not that of A.
      metric: as in `FitConfig`.

    Raises:
      InputError: a point does not exist, or the shape of the matrix is not (channels of B, channels of A).

    Example:
        >>> import jax, jax.numpy as jnp, symjax
        >>> from symjax import data, stitching
        >>> def mlp(weight, x):
        ...     return symjax.stitch_point(jax.nn.relu(x), "relu1") @ weight
        >>> network = symjax.Network.from_function(mlp, jnp.eye(2), example=jnp.ones((1, 2)))
        >>> member = network.member(jnp.eye(2))
        >>> split = data.Split(jnp.eye(2), jnp.array([0, 1]))
        >>> stitch = stitching.Stitch(jnp.eye(2))
        >>> stitching.evaluate_stitch(network, member, member, stitch, member.state, "relu1", split, None, None)
        100.0
    """
    network_b = network if network_b is None else network_b
    point_a, point_b = point_pair(point)
    points = network.index(point_a), network_b.index(point_b)
    if (shape := np.shape(stitch.matrix)) != (expected := make_junction(network, network_b, *points).shape):
        raise InputError(f"stitch, point: got a matrix {shape} at {point}, expected {expected}")
    mean, std = statistics(mean, std, split.images.shape[-1:])
    if stitch.bias is not None and not np.any(stitch.bias):
        stitch = stitch._replace(bias=None)  # saved biases of zeros are None in the original evaluation
    data, tail = pad_batches(split, batch_size), Member(b.params, stats)
    score = partial(_stitched_score, (network, network_b), points, metric, Pair(a, tail), stitch)
    return _mean_score(score, data, mean, std, metric)


def evaluate_member(network: Network, member: Member, split, mean, std, *, batch_size=32, metric=None) -> float:
    """Return the accuracy in percent of a network, or the mean score of another metric; see `evaluate_stitch`."""
    mean, std = statistics(mean, std, split.images.shape[-1:])
    return _mean_score(partial(_score, network, metric, member), pad_batches(split, batch_size), mean, std, metric)


def _mean_score(score: Callable, data: Batches, mean, std, metric) -> float:
    total = sum(float(score(take(data, i), mean, std)) for i in range(len(data.images)))
    return (100 if metric is None else 1) * total / float(data.mask.sum())


@partial(jax.jit, static_argnums=(0, 1, 2))
def _stitched_score(networks, points, metric, pair: Pair, stitch: Stitch, batch: Batches, mean, std):
    """Return the score of one stitch on one batch; compiled once for all stitches of a point."""
    junction = make_junction(*networks, *points)
    (carried,) = carried_values([junction], networks[0], pair, normalize(batch.images, mean, std))
    outputs, _ = stitched_output(networks[1], pair.b, carried, stitch, junction.b, "inference")
    return total_score(outputs, batch.labels, batch.mask, metric)


@partial(jax.jit, static_argnums=(0, 1))
def _score(network: Network, metric, member: Member, batch: Batches, mean, std):
    outputs = network.apply(member, normalize(batch.images, mean, std))
    return total_score(outputs, batch.labels, batch.mask, metric)
