"""Sweeps within a device memory budget: estimate the memory of a plan, and split it until every part fits."""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache, partial

import jax

from symjax.data import Dataset
from symjax.data.dataset import with_augmentation
from symjax.errors import InputError
from symjax.ops.memory import MemoryEstimate, estimate_memory, spell_bytes
from symjax.stitching import fit
from symjax.stitching.partition import count_images, partition, plan_flops
from symjax.stitching.plan import Plan
from symjax.training.loop import data_shapes


def estimate(plan: Plan, dataset: Dataset) -> MemoryEstimate:
    """Return the device memory for training one pair of a plan; compiles two programs.

    The passes without gradients that follow need less, unless their batches are larger (`FitConfig.eval_batch_size`;
    one call processes up to `shard.BATCHES` of them).
    """
    plan = dataclasses.replace(plan, config=with_augmentation(plan.config, dataset))
    leaves, structure = jax.tree.flatten(data_shapes(dataset, None))
    return _estimate(plan, tuple(leaves), structure)


@lru_cache
def _estimate(plan: Plan, leaves: tuple[jax.ShapeDtypeStruct, ...], structure) -> MemoryEstimate:
    """Compute `estimate`. It is cached since a sweep needs it twice: for a dry run or a check, and for the run."""
    shared, config = jax.tree.unflatten(structure, leaves), plan.config
    pair, (count, *image) = plan.pair_shapes, shared.images.shape
    batch = config.eval_batch_size
    steps = max(1, min(config.matching_images, count) // batch)
    images = jax.ShapeDtypeStruct((steps, min(batch, count), *image), shared.images.dtype)
    labels = jax.ShapeDtypeStruct((*images.shape[:2], *shared.labels.shape[1:]), shared.labels.dtype)
    pair_moments = partial(fit.pair_moments, plan)
    matching = (images, shared.mean, shared.std, labels)
    estimates = [estimate_memory(lambda pair, shared: pair_moments(pair, *shared), plan.execution, pair, matching)]
    if plan.trained:
        key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        moments = jax.eval_shape(pair_moments, pair, *matching)
        state = jax.eval_shape(partial(fit.initialize, plan), pair, key, moments)
        estimates.append(estimate_memory(partial(fit.fit_epoch, plan), plan.execution, state, shared))
    return max(estimates, key=lambda one: one.bytes_for(1))


def largest_parts(parts: Sequence[Plan]) -> list[Plan]:
    """Return for each range of points in a `partition` the plan with most families, which may need the most memory."""
    largest: dict[tuple, Plan] = {}
    for part in parts:
        other = largest.setdefault(part.points, part)
        if (len(part.trained), len(part.families)) > (len(other.trained), len(other.families)):
            largest[part.points] = part
    return list(largest.values())


def split_to_fit(plan: Plan, dataset: Dataset, limit: float) -> tuple[list[Plan], MemoryEstimate]:
    """Split a plan into parts, each of which needs at most `limit` bytes of a device.

    The number of parts is doubled until every part fits.

    Returns:
      The parts, and the largest memory estimate among them.

    Raises:
      InputError: a single stitch needs more memory.
    """
    flops, flops_b = plan_flops(plan, dataset.example_shape)
    images = count_images(plan, dataset)
    count, max_count = 1, len(plan.points) * len(plan.families)
    while True:
        parts = partition(plan, count, flops, images, flops_b)
        largest = max((estimate(part, dataset) for part in largest_parts(parts)), key=lambda one: one.bytes_for(1))
        if largest.bytes_for(1) <= limit:
            return parts, largest
        if count == max_count:
            raise InputError(
                f"max_device_memory: got {spell_bytes(limit)}, expected {spell_bytes(largest.bytes_for(1))} or more, "
                "which a single stitch needs"
            )
        count = min(2 * count, max_count)
