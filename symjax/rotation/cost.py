"""Floating-point operations of a retraining, counted before it begins."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from symjax.data import Dataset
from symjax.flops import count_flops, lower_on_cpu
from symjax.rotation.plan import RotationPlan
from symjax.rotation.tail import RotatedTail
from symjax.training.loop import optimizer, train_step


def retraining_flops(plan: RotationPlan, point: int, dataset: Dataset, cases: int, blocks: int = 1) -> float:
    """Return the floating-point operations of retraining `cases` matrices behind one member's frozen front.

    The front runs once for all matrices. With `max_device_memory` cases may run in several groups, and a front whose
    features are not cached then runs once for each group; these repetitions are not counted.

    Args:
      plan: the retraining. Convolutions are counted as direct convolutions.
      point: one of the plan's points.
      dataset: the images.
      cases: number of matrices.
      blocks: number of blocks, as `symjax.rotation.features.count_blocks` returns it.

    Raises:
      InputError: XLA does not count operations for this backend.
    """
    epochs, train, held_out = plan.recipe.epochs, len(dataset.train), len(dataset.validation)
    front_images = train * (1 if blocks == 1 and not plan.augment else epochs)
    front_images += held_out * (1 if blocks == 1 else epochs) + len(dataset.test)
    front, step, forward = parts_flops(plan, point, dataset)
    steps = blocks * (train // blocks // plan.recipe.batch_size)
    return front_images * front + cases * (epochs * (steps * step + held_out * forward) + len(dataset.test) * forward)


def parts_flops(plan: RotationPlan, point: int, dataset: Dataset) -> tuple[float, float, float]:
    """Return the operations of (the front for one image, one training step of the tail, the tail for one image).

    The matrix and the activation after it belong to the tail.
    """
    return _parts_flops(plan, point, dataset.train.images.shape[1:])


@lru_cache
def _parts_flops(plan: RotationPlan, point: int, image: tuple[int, int, int]) -> tuple[float, float, float]:
    """Cached: the counts are the same for all members."""
    network, batch = plan.network.with_form("native"), plan.recipe.batch_size
    member = network.shapes
    tail, tx, channels = network.tail_of(member, point), optimizer(plan.recipe, 1), network.points[point].channels
    opt_state = jax.eval_shape(tx.init, tail.params)
    matrix = jax.ShapeDtypeStruct((channels, channels), np.float32)
    front = partial(network.pre_activation, point=point)
    one_image = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    one_feature = jax.eval_shape(front, member, one_image)
    features = jax.ShapeDtypeStruct((batch, *one_feature.shape[1:]), one_feature.dtype)
    labels = jax.ShapeDtypeStruct((batch,), np.int32)

    def step(tail, opt_state, matrix, features, labels):
        updated, metrics = train_step(RotatedTail(network, point, matrix), tx, tail, opt_state, features, labels)
        return jax.lax.optimization_barrier(updated), metrics

    def forward(tail, matrix, features):
        return RotatedTail(network, point, matrix).apply(tail, features)

    return (
        count_flops(lower_on_cpu(front, member, one_image)),
        count_flops(lower_on_cpu(step, tail, opt_state, matrix, features, labels)),
        count_flops(lower_on_cpu(forward, tail, matrix, one_feature)),
    )
