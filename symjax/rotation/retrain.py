"""Retraining: all matrices at one point of one member at once, on features of the one frozen front."""

import dataclasses
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax.birkhoff.checks import scalar
from symjax.checks import flag, integer, one_of
from symjax.data import Dataset, Split
from symjax.errors import InputError
from symjax.memory import Need, check_limit, most, need_of, num_bytes
from symjax.models import Member, Network
from symjax.parallel import Execution, groups, over_members, stack, take
from symjax.rotation.features import Features, FrontProgram, count_blocks
from symjax.rotation.matrices import sample_rotation
from symjax.rotation.tail import RotatedTail, tail_of
from symjax.training import Recipe, TrainState, accuracy, percent, train_epoch
from symjax.training.evaluation import Batches
from symjax.training.loop import TrainData, optimizer

PyTree = Any


@dataclass(frozen=True)
class Plan:
    """What is retrained and how.

    Attributes:
      network, point: the rotation stands before the activation that ends at this stitch point.
      recipe: of the retraining; `flip` and `translate` count where `augment` is set.
      start: "continue" from the trained tail, or "fresh" from a random one.
      augment: augment training images, the same for all cases; the front then runs anew every epoch.
      budget: bytes of features on each device; see `Features`.
      execution: how cases run.

    Raises:
      InputError: the model has no activation of its own at the point, an unknown start, a budget that is not positive.
    """

    network: Network
    point: int
    recipe: Recipe
    execution: Execution
    start: Literal["continue", "fresh"] = "continue"
    augment: bool = False
    budget: float = 2**31

    def __post_init__(self):
        self.network.require_activation(integer("point", self.point, 0, len(self.network.points) - 1))
        one_of("start", self.start, ("continue", "fresh"))
        flag("augment", self.augment)
        scalar("budget", self.budget, "a positive number of bytes", lambda value: 0 < value < math.inf)


class Case(NamedTuple):
    """One matrix: its kind, and which draw of it. Kinds of one repeat see their training images in the same order."""

    kind: str
    repeat: int


@dataclass(frozen=True)
class Found:
    """What came of one case.

    Attributes:
      case: which.
      accuracy, val_accuracy: on test and validation images at the end, in percent.
      history: a dict per epoch: epoch (from 1), loss, accuracy and val_accuracy (percent).
      matrix: (channels, channels).
      tail: the retrained segments, as NumPy arrays.
    """

    case: Case
    accuracy: float
    val_accuracy: float
    history: list[dict]
    matrix: np.ndarray
    tail: Member


class Retraining:
    """Compiled once, run for any number of members.

    Args:
      plan: what is to be retrained.
      dataset: the images.
      devices: that cases spread over; all local ones by default.
      max_device_memory: bytes on each device; cases train in groups, one after another, that need no more (`need`),
        and find the same. By default all train at once.

    Raises:
      InputError: there are no validation images, or fewer training images than a batch has; memory that does not hold
        one case.
    """

    def __init__(self, plan: Plan, dataset: Dataset, *, devices=None, max_device_memory: float | None = None):
        check_limit(max_device_memory)
        if not len(dataset.validation):
            raise InputError("validation: the data set has no validation images; wanted a fraction over 0")
        if plan.recipe.batch_size > len(dataset.train):
            size, images = plan.recipe.batch_size, len(dataset.train)
            raise InputError(f"batch_size: {size} is more than the {images} training images")
        self.plan, self._dataset = plan, dataset
        self._devices = jax.local_devices() if devices is None else list(devices)
        self._front = FrontProgram(plan.network, plan.point, plan.recipe, plan.execution, self._devices)
        self.blocks = blocks = count_blocks(self._front, dataset, plan.budget, plan.recipe.batch_size)
        # To the loop a block is an epoch: so the step size goes over the whole run.
        recipe = dataclasses.replace(plan.recipe, epochs=plan.recipe.epochs * blocks, flip=False, translate=0)
        steps = len(dataset.train) // blocks // recipe.batch_size
        self._optimizer = optimizer(recipe, steps)
        lift = partial(over_members, execution=plan.execution, devices=self._devices)

        def begin(case, _):
            tail, seed = case
            return TrainState(tail, self._optimizer.init(tail.params), seed, jnp.int32(0))

        def one_block(case, features):
            state, matrix = case
            return train_epoch(RotatedTail(plan.network, plan.point, matrix), recipe, state, features)

        def evaluate(case, chunk):
            tail, matrix = case
            network = RotatedTail(plan.network, plan.point, matrix)
            return accuracy(lambda features: network.logits(tail, features)[0], chunk)

        self._begin = lift(begin, optimise=False)
        self._block, self._evaluate = lift(one_block), lift(evaluate)
        self._programs = one_block, evaluate
        self._size = None
        if max_device_memory is not None:
            self._size = len(self._devices) * self.need().fitting(max_device_memory, "matrix")

    def rounds(self, cases: int) -> int:
        """In how many groups so many cases train."""
        return -(-cases // (self._size or cases))

    @property
    def feature_bytes(self) -> int:
        """Of the features of all training images."""
        return len(self._dataset.train) * self._front.bytes_per_image(self._dataset)

    def need(self) -> Need:
        """The device memory that cases take; compiles the programs for one case, or two.

        Enough for training, for evaluation, and for making the features.
        """
        plan, (block, evaluate), dataset = self.plan, self._programs, self._dataset
        tail, one = tail_of(plan.network.shapes, plan.point), jax.ShapeDtypeStruct((), np.float32)
        number = self._matrix_shape()
        count, image = jax.ShapeDtypeStruct((), np.int32), dataset.train.images.shape[1:]
        state = TrainState(tail, jax.eval_shape(self._optimizer.init, tail.params), count, count)

        def features(images: int, *leading: int):
            found = self._front.features_of(images, image)
            labels = jax.ShapeDtypeStruct((*leading, images), np.int32)
            return jax.ShapeDtypeStruct((*leading, *found.shape), found.dtype), labels

        images = len(dataset.train) // self.blocks
        shared = TrainData(*features(images), one, one, None)
        chunk = Batches(
            *features(self._front.batch_size, 1), jax.ShapeDtypeStruct((1, self._front.batch_size), np.float32)
        )
        batches = -(-len(dataset.validation) // self._front.batch_size) if self.blocks == 1 else 0
        beside = batches * num_bytes(chunk)  # kept all the while
        training = need_of(block, plan.execution, (state, number), shared)
        passing = need_of(evaluate, plan.execution, (tail, number), chunk)
        return most(
            [
                Need(training.fixed + beside, training.member),
                Need(passing.fixed + beside + num_bytes(shared), passing.member + num_bytes(state.opt_state)),
                # A block lies beside the batches that it is put together from.
                Need(
                    self._front.need(image, plan.augment).of(1) + beside + 2 * num_bytes(shared),
                    num_bytes((state, number)),
                ),
            ]
        )

    def run(
        self,
        member: Member,
        cases: Sequence[Case],
        *,
        key: jax.Array,
        on_epoch: Callable[[dict], None] = lambda metrics: None,
    ) -> list[Found]:
        """Retrains the tail of `member` behind each case's matrix; the member itself stays as it is.

        Args:
          member: a trained member of the plan's network.
          cases: which matrices. What comes of one depends on the key and on itself alone, but for rounding.
          key: of this member, for matrices, orders and random starts.
          on_epoch: called after each epoch of each group with the mean loss and accuracies of its cases.
        """
        plan, dataset = self.plan, self._dataset
        keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(("matrix", "order", "start", "front"))}
        features = Features(self._front, member, dataset, self.blocks, augment=plan.augment, key=keys["front"])
        found = []
        for index, kept in groups(len(cases), min(self._size or len(cases), len(cases))):
            found += self._run(member, features, keys, [cases[i] for i in index], on_epoch)[:kept]
        return found

    def _run(self, member: Member, features: Features, keys, cases: Sequence[Case], on_epoch) -> list[Found]:
        """A group of cases."""
        plan, dataset = self.plan, self._dataset
        matrices = np.stack([self._matrix(keys["matrix"], case) for case in cases])
        orders = np.stack([_seed(jax.random.fold_in(keys["order"], case.repeat)) for case in cases])
        tails = stack([self._tail(member, keys["start"], case) for case in cases])
        state = self._begin((tails, orders), ())
        histories: list[list[dict]] = [[] for _ in cases]
        for epoch in range(plan.recipe.epochs):
            of_blocks = []
            for block in features.training(epoch):
                state, metrics = self._block((state, matrices), block)
                of_blocks.append(jax.device_get(metrics))
            loss, right = (np.mean([metrics[name] for metrics in of_blocks], axis=0) for name in ("loss", "accuracy"))
            validation = self._percent(state, matrices, features, dataset.validation)
            for i, history in enumerate(histories):
                row = {"epoch": epoch + 1, "loss": float(loss[i]), "accuracy": 100 * float(right[i])}
                history.append({**row, "val_accuracy": float(validation[i])})
            means = {"loss": loss, "accuracy": right, "validation": validation / 100}
            on_epoch({name: float(np.mean(values)) for name, values in means.items()})
        test = self._percent(state, matrices, features, dataset.test)
        tails = jax.device_get(state.member)
        return [
            Found(case, float(test[i]), history[-1]["val_accuracy"], history, matrices[i], take(tails, i))
            for i, (case, history) in enumerate(zip(cases, histories, strict=True))
        ]

    def _percent(self, state, matrices, features: Features, split: Split) -> np.ndarray:
        """Accuracy of all cases on a split, over its examples."""
        right = 0
        for chunk in features.evaluation(split):
            count = float(np.sum(chunk.mask))
            right = right + np.rint(np.asarray(self._evaluate((state.member, matrices), chunk), np.float64) * count)
        return percent(right / len(split), len(split))

    def _matrix_shape(self) -> jax.ShapeDtypeStruct:
        channels = self.plan.network.points[self.plan.point].channels
        return jax.ShapeDtypeStruct((channels, channels), np.float32)

    def _matrix(self, key, case: Case) -> np.ndarray:
        # The point too: layers of one width get matrices of their own.
        for part in (self.plan.point, case.repeat, zlib.crc32(case.kind.encode())):
            key = jax.random.fold_in(key, part)
        return np.asarray(_sample(key, case.kind, self.plan.network.points[self.plan.point].channels))

    def _tail(self, member: Member, key, case: Case) -> Member:
        if self.plan.start == "fresh":
            member = _fresh(self.plan.network, jax.random.fold_in(key, case.repeat))
        return tail_of(member, self.plan.point)


_sample = jax.jit(sample_rotation, static_argnums=(1, 2))


@partial(jax.jit, static_argnums=0)
def _fresh(network: Network, key) -> Member:
    return network.init(key)


def _seed(key) -> jax.Array:
    """A seed of training from a key."""
    return jax.random.bits(key, (), jnp.uint32).astype(jnp.int32) & jnp.int32(2**31 - 1)
