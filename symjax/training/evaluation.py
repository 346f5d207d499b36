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
    """A data set cut into equal batches; the mask is 0 on examples that only fill up the last one."""

    images: jax.Array | np.ndarray  # (steps, batch, ...)
    labels: jax.Array | np.ndarray  # (steps, batch, ...)
    mask: jax.Array | np.ndarray  # (steps, batch), float32

    __repr__ = one_line


def pad_batches(split: Split, batch_size: int) -> Batches:
    """Every example of `split` once, in order, as NumPy arrays."""
    batch_size = min(integer("batch_size", batch_size, 1), len(split))
    (images, labels), mask = batches((split.images, split.labels), batch_size)
    return Batches(images, labels, mask.astype(np.float32))


def total_score(
    outputs: Any, targets: jax.Array, mask: jax.Array, metric: Callable[[Any, jax.Array], jax.Array] | None = None
) -> jax.Array:
    """Return the sum of a metric's scores over the examples with mask 1; NaN where outputs are not finite.

    By default it is the number of examples whose largest logit is at their class.
    """
    total = jnp.sum((metric or accuracy_scores)(outputs, targets).astype(mask.dtype) * mask)
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs)]
    return jnp.where(jnp.stack(finite).all(), total, jnp.nan)  # padding repeats an example


def accuracy(
    outputs_of: Callable[[jax.Array], Any], data: Batches, metric: Callable[[Any, jax.Array], jax.Array] | None = None
) -> jax.Array:
    """Return the share of examples classified rightly, in [0, 1]: over examples, not over batches.

    NaN where outputs are not finite: the largest of them is none.

    Args:
      outputs_of: inputs (batch, ...) as stored to outputs; logits (batch, classes) for the default metric.
      data: what `pad_batches` returns.
      metric: a function of outputs and targets with a score for each example, (batch,). The mean of its scores is
        returned in place of the share.
    """

    def step(total, batch):
        return total + total_score(outputs_of(batch.images), batch.labels, batch.mask, metric), None

    total, _ = lax.scan(step, jnp.float32(0), data)
    return total / jnp.sum(data.mask)


def percent(shares, count: int) -> np.ndarray:
    """Shares of `count` examples in percent, free of the rounding of float32: accuracies are compared for equality."""
    return 100 * np.rint(np.asarray(shares, np.float64) * count) / count


def pool_moments(stats_per_batch):
    """Statistics of equal batches, pooled exactly: mean of means; mean of variances plus variance of means.

    Takes a state pytree whose leaves have a leading batch axis, as `mode="moments"` leaves them, and returns it without
    that axis. Dicts of "mean" and "var" are batch statistics; of other leaves floating ones are averaged, and the last
    is taken of the rest. In NumPy or JAX, as its leaves are.
    """

    def is_layer(node):
        return isinstance(node, dict) and set(node) == {"mean", "var"}

    def pool(layer):
        if not is_layer(layer):
            return layer.mean(axis=0) if jnp.issubdtype(layer.dtype, jnp.floating) else layer[-1]
        mean, var = layer["mean"], layer["var"]
        return {"mean": mean.mean(axis=0), "var": var.mean(axis=0) + mean.var(axis=0)}

    return jax.tree.map(pool, stats_per_batch, is_leaf=is_layer)
