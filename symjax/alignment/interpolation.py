"""Networks on the line between two networks, and the barrier of loss and accuracy there."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax.alignment.evaluation import BATCH, Examples, examples_of, over_items
from symjax.alignment.inputs import count_pairs, stacked
from symjax.alignment.repair import has_statistics, moments_of, rescale, reset
from symjax.checks import integer, is_integer, numpy_array, one_of, real, require_finite
from symjax.data import normalize
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.ops import parallel
from symjax.ops.memory import check_limit
from symjax.spelling import one_line
from symjax.training import Recipe
from symjax.training.evaluation import total_score
from symjax.training.task import cross_entropy

STATISTICS = ("reset", "repair", "interpolated")


class Barrier(NamedTuple):
    """Loss and score on the line between networks.

    Attributes:
      ts: the positions on the line, (ts,): 0 is a, 1 is b.
      train_loss, test_loss: mean loss, (ts,), or (pairs, ts) for stacked pairs.
      train_accuracy, test_accuracy: shares of correct predictions in [0, 1], or mean scores, of the same shape.

    Example:
      >>> import numpy as np
      >>> from symjax.alignment import Barrier
      >>> loss, accuracy = np.array([0.25, 1.0, 0.5]), np.array([0.75, 0.5, 0.75])
      >>> line = Barrier(np.array([0.0, 0.5, 1.0]), loss, accuracy, loss, accuracy)
      >>> float(line.height("test_loss")), float(line.height("test_accuracy"))
      (0.625, 0.25)
    """

    ts: np.ndarray
    train_loss: np.ndarray
    train_accuracy: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray

    def __repr__(self):
        return one_line(self)

    def height(self, curve: str = "test_loss") -> np.ndarray:
        """Return the barrier of a curve: the largest distance to the straight line between its ends, () or (pairs,).

        For a loss it is max_t L(t) - (1 - t) L(0) - t L(1), for an accuracy the largest loss of accuracy likewise. It
        is 0 or more, since the ends are on the line.
        """
        values = np.asarray(getattr(self, one_of("curve", curve, self._fields[1:])), float)
        return height_over_line(self.ts, -values if curve.endswith("accuracy") else values)


def height_over_line(ts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the largest excess of values (..., ts) over the straight line between their ends."""
    return (values - (1 - ts) * values[..., :1] - ts * values[..., -1:]).max(-1)


def interpolate(a: Any, b: Any, t: Any) -> Any:
    """Return (1 - t) a + t b for the real leaves of two pytrees; other leaves are those of a.

    Args:
      a, b: members, or any pytrees of one structure and of equal shapes.
      t: a number; or (n,), which gives each leaf a leading axis of n.

    Raises:
      InputError: pytrees of different structures or shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from symjax.alignment import interpolate
      >>> interpolate({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, 0.25)["w"].tolist()
      [0.25, 0.25]
      >>> interpolate({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, jnp.array([0.0, 0.5, 1.0]))["w"].shape
      (3, 2)
    """
    structure: Any = jax.tree.structure(a)
    if jax.tree.structure(b) != structure:
        raise InputError("b: got another structure than a, expected networks of one structure")
    t = real("t", t)
    require_finite("t", t)
    if t.ndim > 1:
        raise InputError(f"t: got shape {t.shape}, expected a number or (n,)")

    def between(first, second):
        if jnp.shape(first) != jnp.shape(second):
            raise InputError(f"b: got a leaf of shape {jnp.shape(second)}, expected {jnp.shape(first)} as in a")
        first, second = jnp.asarray(first), jnp.asarray(second)
        if not jnp.issubdtype(first.dtype, jnp.floating):
            return jnp.broadcast_to(first, (*t.shape, *first.shape))
        share = t.reshape(*t.shape, *[1] * first.ndim).astype(first.dtype)
        return (1 - share) * first + share * second

    return jax.tree.map(between, a, b)


def barrier(
    network: Network,
    a: Any,
    b: Any,
    data: Any,
    ts: Any = 25,
    *,
    statistics: Literal["reset", "repair", "interpolated"] = "reset",
    examples: int | None = None,
    loss: Callable[[Any, jax.Array], jax.Array] | None = None,
    metric: Callable[[Any, jax.Array], jax.Array] | None = None,
    max_device_memory: float | None = None,
) -> Barrier:
    """Return loss and accuracy on the line between two networks, of all positions and pairs in one program.

    Args:
      network: the network of both.
      a, b: members; with a leading axis on every leaf they are several pairs. Either may be a single one.
      data: a `symjax.data.Dataset`, or a mapping of arrays as `symjax.data.load` takes it.
      ts: the number of equally spaced positions from 0 to 1, from 2; or the positions, from 0 to 1.
      statistics: "reset": running statistics are computed anew at each position, on the training inputs; "repair":
        where a network has none, its units are rescaled (`repair`); "interpolated": the values between a's and b's.
      examples: the number of training examples; all by default. Those beyond full batches of 256 are left out.
      loss, metric: as in `symjax.training.Recipe`; by default cross-entropy and accuracy.
      max_device_memory: bytes on each device; positions are evaluated in groups that need no more.

    Returns:
      The `Barrier`, of NumPy arrays.

    Raises:
      InputError: networks of another structure, with NaN or infinite variables, or of unequal counts; wrong `ts`, loss
        or metric; memory for less than one position.

    Example:
      >>> import jax.numpy as jnp, numpy as np, symjax
      >>> from symjax.alignment import barrier
      >>> def linear(params, x):
      ...     return x @ params["w"]
      >>> x = np.eye(2, dtype=np.float32)
      >>> data = {"x_train": x, "y_train": np.arange(2), "x_test": x, "y_test": np.arange(2)}
      >>> net = symjax.Network.from_function(linear, {"w": jnp.eye(2)}, example=x)
      >>> a, b = net.member({"w": jnp.eye(2)}), net.member({"w": 2 * jnp.eye(2) - 1})
      >>> barrier(net, a, b, data, ts=3).test_accuracy.tolist()
      [1.0, 1.0, 1.0]
    """
    one_of("statistics", statistics, STATISTICS)
    Recipe(loss=loss, metric=metric)  # checks both
    check_limit(max_device_memory)
    ts = _positions(ts)
    (a, stacked_a), (b, stacked_b) = stacked("a", network, a), stacked("b", network, b)
    pairs = count_pairs(*map(parallel.count_members, (a, b)))
    parts, limit = examples_of(data, BATCH, examples), max_device_memory
    targets = None
    if statistics == "repair" and not has_statistics(network):
        targets = tuple(over_items(network, moments_of, members, parts.train, limit=limit) for members in (a, b))
    elif statistics != "interpolated":
        statistics = "reset" if has_statistics(network) else "interpolated"
    ends = tuple((members, None if targets is None else targets[side]) for side, members in enumerate((a, b)))
    row, t = (grid.ravel() for grid in np.meshgrid(np.arange(pairs, dtype=np.int32), ts, indexing="ij"))
    items, options = (row, t.astype(np.float32)), (statistics, loss, metric)
    scores = over_items(network, _scores, items, (ends, parts), options, limit)
    scores = [np.asarray(values, np.float64).reshape(pairs, len(ts)) for values in scores]
    return Barrier(ts, *(scores if stacked_a or stacked_b else (values[0] for values in scores)))


def _positions(ts: Any) -> np.ndarray:
    if is_integer(ts):
        return np.linspace(0, 1, integer("ts", ts, 2))
    ts = np.asarray(real("ts", numpy_array("ts", ts)), float)
    if ts.ndim != 1 or len(ts) < 2 or ts[0] != 0 or ts[-1] != 1 or not (np.diff(ts) > 0).all():
        raise InputError(f"ts: got {ts.tolist()}, expected a number from 2, or ascending positions from 0 to 1")
    return ts


def _scores(network: Network, item: tuple, shared: tuple, statistics: str, loss, metric):
    """Return the scores of one position of one pair: train loss and score, test loss and score."""
    (row, t), (ends, parts) = item, shared
    sides: list[Any] = []
    for side in ends:
        index = row if parallel.count_members(side[0]) > 1 else 0
        sides.append(jax.tree.map(lambda leaf: leaf[index], side))  # noqa: B023
    member, targets = interpolate(sides[0], sides[1], t)
    if statistics == "reset":
        member = reset(network, member, parts.train)
    elif statistics == "repair":
        member = rescale(network, member, targets, parts.train)
    return tuple(
        score for part in parts for score in _mean_scores(network, member, part, loss or cross_entropy, metric)
    )


def _mean_scores(network: Network, member: Member, examples: Examples, loss, metric):
    def one(output, target):
        example = jax.tree.map(lambda leaf: leaf[None], (output, target))
        return loss(*example).astype(jnp.float32)

    def step(totals, batch):
        outputs = network.apply(member, normalize(batch.images, examples.mean, examples.std))
        losses = jnp.sum(jax.vmap(one)(outputs, batch.labels) * batch.mask)
        score = total_score(outputs, batch.labels, batch.mask, metric)
        return (totals[0] + losses, totals[1] + score), None

    totals, _ = jax.lax.scan(step, (jnp.float32(0), jnp.float32(0)), examples.batches)
    return [total / jnp.sum(examples.batches.mask) for total in totals]
