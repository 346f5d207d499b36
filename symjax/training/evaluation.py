"""Accuracy over examples, and exact batch-norm statistics pooled over batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.checks import integer
from symjax.data import Split, batches
from symjax.spelling import one_line
from symjax.training.task import accuracy_scores


class Batches(NamedTuple):
    """A data set in batches of equal size; the mask is 0 on examples that pad the last one."""

    images: jax.Array | np.ndarray  # (steps, batch, ...)
    labels: jax.Array | np.ndarray  # (steps, batch, ...)
    mask: jax.Array | np.ndarray  # (steps, batch), float32

    def __repr__(self):
        return one_line(self)


def pad_batches(split: Split, batch_size: int) -> Batches:
    """Return all examples of `split` in order, in batches of NumPy arrays.

    Args:
      split: inputs (n, ...) and labels (n, ...).
      batch_size: an integer from 1; at most n is used.

    Raises:
      InputError: a batch size that is not a positive integer.

    Example:
        >>> import numpy as np
        >>> from symjax import data, training
        >>> training.pad_batches(data.Split(np.eye(3), np.arange(3)), 2).mask.tolist()
        [[1.0, 1.0], [1.0, 0.0]]
    """
    batch_size = min(integer("batch_size", batch_size, 1), len(split))
    (images, labels), mask = batches((split.images, split.labels), batch_size)
    return Batches(images, labels, mask.astype(np.float32))


def total_score(
    outputs: Any, targets: Any, mask: Any, metric: Callable[[Any, jax.Array], jax.Array] | None = None
) -> jax.Array:
    """Return the sum of the scores of a metric over the examples with mask 1; NaN if an output is not finite.

    The default metric gives the number of correctly classified examples.
    """
    total = jnp.sum((metric or accuracy_scores)(outputs, targets).astype(mask.dtype) * mask)
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs)]
    return jnp.where(jnp.stack(finite).all(), total, jnp.nan)  # padding counts too: it repeats an example


def accuracy(
    outputs_of: Callable[[jax.Array], Any], data: Batches, metric: Callable[[Any, jax.Array], jax.Array] | None = None
) -> jax.Array:
    """Return the accuracy over all examples, in [0, 1]; NaN if an output is not finite.

    Args:
      outputs_of: a function from stored inputs (batch, ...) to outputs; logits (batch, classes) for the default metric.
      data: the result of `pad_batches`.
      metric: a function of outputs and targets that returns a score per example, (batch,). Its mean score replaces the
        accuracy.

    Example:
        >>> import numpy as np
        >>> from symjax import data, training
        >>> batches = training.pad_batches(data.Split(np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0])), 3)
        >>> float(training.accuracy(lambda x: x, batches))
        0.75
    """

    def step(total, batch):
        return total + total_score(outputs_of(batch.images), batch.labels, batch.mask, metric), None

    total, _ = lax.scan(step, jnp.float32(0), data)
    return total / jnp.sum(data.mask)


def percent(shares, count: int) -> np.ndarray:
    """Return float32 shares k / count in percent, rounded to integer k, so that equal shares compare equal."""
    return 100 * np.rint(np.asarray(shares, np.float64) * count) / count


def pool_moments(stats_per_batch):
    """Pool the statistics of batches of equal size exactly: mean = E[mean_i], var = E[var_i] + Var[mean_i].

    Args:
      stats_per_batch: a state whose leaves have a leading axis over batches, as returned in `mode="moments"`. Dicts of
        "mean" and "var" are batch statistics. Other leaves of floats are averaged; of all others the last entry is
        taken.

    Returns:
      The state without that axis, as NumPy or JAX arrays like the leaves.
    """

    def is_layer(node):
        return isinstance(node, dict) and set(node) == {"mean", "var"}

    def pool(layer):
        if not is_layer(layer):
            return layer.mean(axis=0) if jnp.issubdtype(layer.dtype, jnp.floating) else layer[-1]
        mean, var = layer["mean"], layer["var"]
        return {"mean": mean.mean(axis=0), "var": var.mean(axis=0) + mean.var(axis=0)}

    return jax.tree.map(pool, stats_per_batch, is_leaf=is_layer)
