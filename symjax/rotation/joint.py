"""Compiled programs that train several points of one network together, and their memory."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symjax.data import Dataset
from symjax.errors import InputError
from symjax.ops.memory import MemoryEstimate, combined_estimate, estimate_memory, num_bytes
from symjax.ops.parallel import over_members
from symjax.rotation.features import FrontFeatures, FrontProgram
from symjax.rotation.plan import RotationPlan
from symjax.rotation.tail import RotatedTail
from symjax.training import TrainState, accuracy, train_epoch
from symjax.training.evaluation import Batches
from symjax.training.loop import TrainData, optimizer


class JointRetraining:
    """The programs of several points of a plan, compiled once for any number of members.

    The programs are mapped over cases. The data of a case are tuples with one state (or tail) and one matrix for each
    point. All cases share a tuple with the features of each point. Points are independent of each other.

    Args:
      plan: the retraining.
      fronts: the fronts of the points.
      blocks: number of blocks of training images of each front.
      dataset: the images.
      devices: the devices over which cases are spread.

    Attributes:
      points: the points of the fronts.
      begin: maps (tails, seeds of the data order) and () to states.
      block: maps (states, matrices) and a block of training data to states and metrics.
      evaluate: maps (tails, matrices) and a batch to accuracies in [0, 1].
    """

    def __init__(self, plan: RotationPlan, fronts: Sequence[FrontProgram], blocks: int, dataset: Dataset, devices):
        self._plan, self._fronts, self.blocks, self._dataset = plan, tuple(fronts), blocks, dataset
        self.points = tuple(front.point for front in self._fronts)
        if plan.recipe.epochs * blocks >= 10**6:
            epochs = plan.recipe.epochs
            raise InputError(f"budget: got {epochs} epochs of {blocks} blocks, expected under a million blocks in all")
        # `train_epoch` trains on one block, so the schedule of the learning rate has an epoch for each block.
        recipe = dataclasses.replace(plan.recipe, epochs=plan.recipe.epochs * blocks, flip=False, translate=0)
        self._optimizer = optimizer(recipe, len(dataset.train) // blocks // recipe.batch_size)
        lift = partial(over_members, execution=plan.execution, devices=devices)

        def begin(case, _):
            tails, seed = case
            return tuple(TrainState(tail, self._optimizer.init(tail.params), seed, jnp.int32(0)) for tail in tails)

        def block(case, features):
            trained = [
                train_epoch(network, recipe, state, data)
                for (state, network), data in zip(self._rotated(*case), features, strict=True)
            ]
            return tuple(zip(*trained, strict=True))

        def evaluate(case, chunks):
            return tuple(
                accuracy(lambda images, tail=tail, network=network: network.apply(tail, images), chunk)
                for (tail, network), chunk in zip(self._rotated(*case), chunks, strict=True)
            )

        self.begin = lift(begin, effort=0)
        self.block, self.evaluate = lift(block), lift(evaluate)
        self._programs = block, evaluate

    def _rotated(self, states, matrices) -> Iterator[tuple]:
        """Yield for each point its state (or tail) and the network with its matrix."""
        for point, state, matrix in zip(self.points, states, matrices, strict=True):
            yield state, RotatedTail(self._plan.network, point, matrix)

    def features(self, member, key) -> list[FrontFeatures]:
        """Return the features of a member at each point."""
        common = {"augment": self._plan.augment, "key": key}
        return [FrontFeatures(front, member, self._dataset, self.blocks, **common) for front in self._fronts]

    @cached_property
    def memory(self) -> MemoryEstimate:
        """The device memory of cases in training, in evaluation and while features are computed.

        The programs are compiled for one or two cases.
        """
        plan, (train, evaluate), dataset = self._plan, self._programs, self._dataset
        image = dataset.train.images.shape[1:]
        scalar: Any = jax.ShapeDtypeStruct((), np.float32)  # shapes in place of arrays, here and below
        count: Any = jax.ShapeDtypeStruct((), np.int32)
        tails = tuple(plan.network.tail_of(plan.network.shapes, point) for point in self.points)
        states = tuple(
            TrainState(tail, jax.eval_shape(self._optimizer.init, tail.params), count, count) for tail in tails
        )
        channels = [plan.network.points[point].channels for point in self.points]
        matrices = tuple(jax.ShapeDtypeStruct((size, size), np.float32) for size in channels)

        def examples(front, images: int, *leading: int) -> tuple[Any, Any]:
            features = front.features_shape(images, image)
            labels = jax.ShapeDtypeStruct((*leading, images), np.int32)
            return jax.ShapeDtypeStruct((*leading, *features.shape), features.dtype), labels

        images, batch = len(dataset.train) // self.blocks, self._fronts[0].batch_size
        shared = tuple(TrainData(*examples(front, images), scalar, scalar, None) for front in self._fronts)
        mask: Any = jax.ShapeDtypeStruct((1, batch), np.float32)
        chunks = tuple(Batches(*examples(front, batch, 1), mask) for front in self._fronts)
        batches = -(-len(dataset.validation) // batch) if self.blocks == 1 else 0
        chunk = num_bytes(chunks)
        validation = batches * chunk  # cached during the whole run
        training = estimate_memory(train, plan.execution, (states, matrices), shared)
        evaluation = estimate_memory(evaluate, plan.execution, (tails, matrices), chunks)
        cached = validation + num_bytes(shared)
        moments = num_bytes([state.opt_state for state in states])
        # A block is in memory together with the batches from which it is assembled.
        fronts = zip(self._fronts, shared, strict=True)
        assembly = [
            front.memory(image, plan.augment).bytes_for(1) + max(num_bytes(block), chunk) for front, block in fronts
        ]
        return combined_estimate(
            [
                MemoryEstimate(training.fixed + validation, training.per_member),
                MemoryEstimate(evaluation.fixed + cached, evaluation.per_member + moments),
                MemoryEstimate(max(assembly) + cached, num_bytes((states, matrices))),
            ]
        )
