"""Accuracy over examples, and exact batch-norm statistics pooled over batches."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.checks import integer
from symjax.data import Split, batches
from symjax.spelling import one_line


class Batches(NamedTuple):
    """A data set cut into equal batches; the mask is 0 on examples that only fill up the last one."""

    images: jax.Array | np.ndarray  # (steps, batch, height, width, channels), uint8
    labels: jax.Array | np.ndarray  # (steps, batch), int32
    mask: jax.Array | np.ndarray  # (steps, batch), float32

    __repr__ = one_line


def pad_batches(split: Split, batch_size: int) -> Batches:
    """Every example of `split` once, in order, as NumPy arrays."""
    batch_size = min(integer("batch_size", batch_size, 1), len(split))
    (images, labels), mask = batches((split.images, split.labels), batch_size)
    return Batches(images, labels, mask.astype(np.float32))


def count_correct(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """How many of the examples with mask 1 have their largest logit at their label; NaN where logits are not finite."""
    count = jnp.sum((jnp.argmax(logits, axis=-1) == labels).astype(mask.dtype) * mask)
    return jnp.where(jnp.isfinite(logits).all(), count, jnp.nan)  # padding repeats an example


def accuracy(logits_of: Callable[[jax.Array], jax.Array], data: Batches) -> jax.Array:
    """Share of examples classified rightly, in [0, 1]: over examples, not over batches.

    NaN where logits are not finite: the largest of them is none.

    Args:
      logits_of: images (batch, height, width, channels) as stored to logits (batch, classes).
      data: what `pad_batches` returns.
    """

    def step(correct, batch):
        return correct + count_correct(logits_of(batch.images), batch.labels, batch.mask), None

    correct, _ = lax.scan(step, jnp.float32(0), data)
    return correct / jnp.sum(data.mask)


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
