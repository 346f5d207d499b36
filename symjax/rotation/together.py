"""The programs in which several points of one network train together, and what these need."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from symjax.data import Dataset
from symjax.errors import InputError
from symjax.memory import Need, most, need_of, num_bytes
from symjax.parallel import over_members
from symjax.rotation.features import Features, FrontProgram
from symjax.rotation.plan import Plan
from symjax.rotation.tail import RotatedTail
from symjax.training import TrainState, accuracy, train_epoch
from symjax.training.evaluation import Batches
from symjax.training.loop import TrainData, optimizer


class Together:
    """Some points of a plan, compiled once for any number of members.

    What the programs map over is a case at all these points: of each a state (or a tail) and a matrix, in tuples. What
    cases share is a tuple of the features of each point. Points do not see each other: what comes of one is the same
    alone.

    Args:
      plan: what is to be retrained.
      fronts: of the points.
      blocks: into how many the training images of each are cut.
      dataset: the images.
      devices: that cases spread over.

    Attributes:
      points: of the fronts.
      begin: (tails, seeds of orders) and nothing to states.
      block: (states, matrices) and a block of training data to states and metrics.
      evaluate: (tails, matrices) and a batch to accuracies in [0, 1].
    """

    def __init__(self, plan: Plan, fronts: Sequence[FrontProgram], blocks: int, dataset: Dataset, devices):
        self._plan, self._fronts, self.blocks, self._dataset = plan, tuple(fronts), blocks, dataset
        self.points = tuple(front.point for front in self._fronts)
        if plan.recipe.epochs * blocks >= 10**6:
            epochs = plan.recipe.epochs
            raise InputError(f"budget: {epochs} epochs of {blocks} blocks each, wanted under a million blocks in all")
        # To the loop a block is an epoch: so the step size goes over the whole run.
        recipe = dataclasses.replace(plan.recipe, epochs=plan.recipe.epochs * blocks, flip=False, translate=0)
        self._optimizer = optimizer(recipe, len(dataset.train) // blocks // recipe.batch_size)
        lift = partial(over_members, execution=plan.execution, devices=devices)

        def begin(case, _):
            tails, seed = case
            return tuple(TrainState(tail, self._optimizer.init(tail.params), seed, jnp.int32(0)) for tail in tails)

        def block(case, features):
            trained = [
                train_epoch(network, recipe, state, seen)
                for (state, network), seen in zip(self._rotated(*case), features, strict=True)
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
        """What is given of each point, and the network behind its matrix."""
        for point, state, matrix in zip(self.points, states, matrices, strict=True):
            yield state, RotatedTail(self._plan.network, point, matrix)

    def features(self, member, key) -> list[Features]:
        """Of a member, at each point."""
        common = {"augment": self._plan.augment, "key": key}
        return [Features(front, member, self._dataset, self.blocks, **common) for front in self._fronts]

    @cached_property
    def need(self) -> Need:
        """The device memory that cases take; compiles the programs for one case, or two.

        Enough for training, for evaluation, and for making the features.
        """
        plan, (train, evaluate), dataset = self._plan, self._programs, self._dataset
        image, one = dataset.train.images.shape[1:], jax.ShapeDtypeStruct((), np.float32)
        count = jax.ShapeDtypeStruct((), np.int32)
        tails = tuple(plan.network.tail_of(plan.network.shapes, point) for point in self.points)
        states = tuple(
            TrainState(tail, jax.eval_shape(self._optimizer.init, tail.params), count, count) for tail in tails
        )
        channels = [plan.network.points[point].channels for point in self.points]
        matrices = tuple(jax.ShapeDtypeStruct((size, size), np.float32) for size in channels)

        def seen(front, images: int, *leading: int):
            found = front.features_of(images, image)
            labels = jax.ShapeDtypeStruct((*leading, images), np.int32)
            return jax.ShapeDtypeStruct((*leading, *found.shape), found.dtype), labels

        images, batch = len(dataset.train) // self.blocks, self._fronts[0].batch_size
        shared = tuple(TrainData(*seen(front, images), one, one, None) for front in self._fronts)
        mask = jax.ShapeDtypeStruct((1, batch), np.float32)
        chunks = tuple(Batches(*seen(front, batch, 1), mask) for front in self._fronts)
        batches = -(-len(dataset.validation) // batch) if self.blocks == 1 else 0
        chunk = num_bytes(chunks)
        beside = batches * chunk  # kept all the while
        training = need_of(train, plan.execution, (states, matrices), shared)
        passing = need_of(evaluate, plan.execution, (tails, matrices), chunks)
        kept = beside + num_bytes(shared)
        moments = num_bytes([state.opt_state for state in states])
        # A block lies beside the batches that it is put together from.
        fronts = zip(self._fronts, shared, strict=True)
        making = [front.need(image, plan.augment).of(1) + max(num_bytes(block), chunk) for front, block in fronts]
        return most(
            [
                Need(training.fixed + beside, training.member),
                Need(passing.fixed + kept, passing.member + moments),
                Need(max(making) + kept, num_bytes((states, matrices))),
            ]
        )
