"""A sweep within a bound of device memory: what a plan needs of it, and plans cut until each part fits."""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache, partial

import jax

from symjax.data import Dataset
from symjax.data.dataset import with_augmentation
from symjax.errors import InputError
from symjax.memory import MemoryEstimate, estimate_memory, spell_bytes
from symjax.stitching import fit
from symjax.stitching.division import divide, plan_flops, work_of
from symjax.stitching.fit import Plan
from symjax.stitching.stitched import Pair
from symjax.training.loop import data_shapes


def need(plan: Plan, dataset: Dataset) -> MemoryEstimate:
    """The device memory that one pair of a plan takes in training; compiles two programs.

    The passes without gradients that follow hold less at once, unless batches are larger in them
    (`FitConfig.eval_batch_size`, of whose images up to `lane.BATCHES` batches are sent at a time).
    """
    plan = dataclasses.replace(plan, config=with_augmentation(plan.config, dataset))
    leaves, structure = jax.tree.flatten(data_shapes(dataset, None))
    return _need(plan, tuple(leaves), structure)


@lru_cache
def _need(plan: Plan, leaves: tuple[jax.ShapeDtypeStruct, ...], structure) -> MemoryEstimate:
    """Remembered: a sweep is looked at before anything is trained, and again when it runs."""
    shared, config = jax.tree.unflatten(structure, leaves), plan.config
    pair, (count, *image) = Pair(plan.network.shapes, plan.network_b.shapes), shared.images.shape
    batch = config.eval_batch_size
    steps = max(1, min(config.matching_images, count) // batch)
    images = jax.ShapeDtypeStruct((steps, min(batch, count), *image), shared.images.dtype)
    moments = partial(fit.pair_moments, plan)
    needs = [
        estimate_memory(
            lambda pair, shared: moments(pair, *shared), plan.execution, pair, (images, shared.mean, shared.std)
        )
    ]
    if plan.trained:
        key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        found = jax.eval_shape(moments, pair, images, shared.mean, shared.std)
        state = jax.eval_shape(partial(fit.begin, plan), pair, key, found)
        needs.append(estimate_memory(partial(fit.fit_epoch, plan), plan.execution, state, shared))
    return max(needs, key=lambda one: one.bytes_for(1))


def largest(parts: Sequence[Plan]) -> list[Plan]:
    """Of the plans that `divide` gives, those that may need most: of each stretch of points the most families."""
    most: dict[tuple[int, ...], Plan] = {}
    for part in parts:
        known = most.setdefault(part.points, part)
        if (len(part.trained), len(part.families)) > (len(known.trained), len(known.families)):
            most[part.points] = part
    return list(most.values())


def fitting(plan: Plan, dataset: Dataset, limit: float) -> list[Plan]:
    """The plans of `fitted`."""
    return fitted(plan, dataset, limit)[0]


def fitted(plan: Plan, dataset: Dataset, limit: float) -> tuple[list[Plan], MemoryEstimate]:
    """Plans that together are `plan`, none of which needs more than `limit` bytes of a device.

    It is cut into twice as many, until each fits.

    Returns:
      The plans, and the most that one of them needs.

    Raises:
      InputError: a single stitch needs more.
    """
    flops, work = plan_flops(plan, dataset.example_shape), work_of(plan, dataset)
    count, most = 1, len(plan.points) * len(plan.families)
    while True:
        parts = divide(plan, count, flops[0], work, flops[1])
        needed = max((need(part, dataset) for part in largest(parts)), key=lambda one: one.bytes_for(1))
        if needed.bytes_for(1) <= limit:
            return parts, needed
        if count == most:
            raise InputError(
                f"max_device_memory: got {spell_bytes(limit)}, expected {spell_bytes(needed.bytes_for(1))} or more, "
                "which is what a single stitch needs"
            )
        count = min(2 * count, most)
