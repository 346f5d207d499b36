"""What a retraining costs in floating-point operations, counted before it begins."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from symjax.data import Dataset
from symjax.flops import counted, lowered
from symjax.rotation.plan import Plan
from symjax.rotation.tail import RotatedTail
from symjax.training.loop import optimizer, train_step


def retraining_flops(plan: Plan, point: int, dataset: Dataset, cases: int, blocks: int = 1) -> float:
    """Operations of retraining `cases` matrices behind one member's frozen front: of the front, which runs once for
    all of them, and of what trains. Where `max_device_memory` cuts cases into groups, a front that is not kept runs for
    each group, which is not counted.

    Args:
      plan: of the retraining. Convolutions are counted plainly.
      point: one of the plan's.
      dataset: the images.
      cases: how many matrices.
      blocks: of `symjax.rotation.features.count_blocks`.

    Raises:
      InputError: the compiler counts no operations for this backend.
    """
    epochs, train, held_out = plan.recipe.epochs, len(dataset.train), len(dataset.validation)
    seen = train * (1 if blocks == 1 and not plan.augment else epochs)
    seen += held_out * (1 if blocks == 1 else epochs) + len(dataset.test)
    front, step, forward = parts_flops(plan, point, dataset)
    steps = blocks * (train // blocks // plan.recipe.batch_size)
    return seen * front + cases * (epochs * (steps * step + held_out * forward) + len(dataset.test) * forward)


def parts_flops(plan: Plan, point: int, dataset: Dataset) -> tuple[float, float, float]:
    """Operations of the front for one image, of a training step of what is behind it, and of its forward pass likewise.

    The matrix and the activation after it belong to what is behind.
    """
    return _parts_flops(plan, point, dataset.train.images.shape[1:])


@lru_cache
def _parts_flops(plan: Plan, point: int, image: tuple[int, int, int]) -> tuple[float, float, float]:
    """Remembered, since all members have the same."""
    network, batch = plan.network.with_form("native"), plan.recipe.batch_size
    member = network.shapes
    tail, tx, channels = network.tail_of(member, point), optimizer(plan.recipe, 1), network.points[point].channels
    opt_state = jax.eval_shape(tx.init, tail.params)
    matrix = jax.ShapeDtypeStruct((channels, channels), np.float32)
    front = partial(network.pre_activation, point=point)
    one = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    of_one = jax.eval_shape(front, member, one)
    features = jax.ShapeDtypeStruct((batch, *of_one.shape[1:]), of_one.dtype)
    labels = jax.ShapeDtypeStruct((batch,), np.int32)

    def step(tail, opt_state, matrix, features, labels):
        after, metrics = train_step(RotatedTail(network, point, matrix), tx, tail, opt_state, features, labels)
        return jax.lax.optimization_barrier(after), metrics

    def forward(tail, matrix, features):
        return RotatedTail(network, point, matrix).apply(tail, features)

    return (
        counted(lowered(front, member, one)),
        counted(lowered(step, tail, opt_state, matrix, features, labels)),
        counted(lowered(forward, tail, matrix, of_one)),
    )
