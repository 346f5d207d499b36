"""Retrain all tails of one member together, for all matrices and points, on features of the frozen fronts."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symjax.data import Dataset, Split
from symjax.data.dataset import with_augmentation
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.ops.memory import check_limit
from symjax.ops.parallel import groups, stack, take
from symjax.rotation.features import FrontFeatures, FrontProgram, group_fronts
from symjax.rotation.joint import JointRetraining
from symjax.rotation.matrices import sample_rotation
from symjax.rotation.plan import CaseResult, RotationCase, RotationPlan
from symjax.training import percent


class Retraining:
    """A retraining that is compiled once and runs for any number of members.

    Points whose features fit in the budget of the plan together are trained together.

    Args:
      plan: the retraining.
      dataset: the images.
      devices: the devices over which cases are spread; all local ones by default.
      max_device_memory: bytes on each device. Fewer points are trained together if one case at all of them needs
        more, and cases are trained in groups, one after another. Results are the same. By default all are trained at
        once.

    Attributes:
      programs: one `JointRetraining` for each set of points that are trained together; they run one after another.

    Raises:
      InputError: there are no validation images, or fewer training images than a batch has; the memory does not hold
        one case at one point.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, symjax
      >>> from symjax.ops.parallel import Execution
      >>> from symjax.rotation import Retraining, RotationCase, RotationPlan
      >>> def mlp(params, x):
      ...     x = x.reshape(len(x), 1, 1, 16)
      ...     return (symjax.stitch_point(jax.nn.relu(x @ params["hidden"]), "relu1") @ params["out"])[:, 0, 0]
      >>> params = {"hidden": jnp.eye(16), "out": jnp.ones((16, 2))}
      >>> net = symjax.Network.from_function(mlp, params, example=np.zeros((1, 4, 4, 1), np.float32))
      >>> images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1))
      >>> labels = np.arange(40) % 2
      >>> arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
      >>> recipe = symjax.training.Recipe(epochs=1, batch_size=9)
      >>> plan = RotationPlan(net, (0,), recipe, Execution("map", "native"))
      >>> retraining = Retraining(plan, symjax.data.load(arrays, validation=0.1))
      >>> cases = [RotationCase("orthogonal", 0), RotationCase("permutation", 0)]
      >>> results = retraining.run(net.member(params), cases, key=jax.random.key(0))
      >>> [result.case.kind for result in results], results[0].matrix.shape
      (['orthogonal', 'permutation'], (16, 16))
    """

    def __init__(self, plan: RotationPlan, dataset: Dataset, *, devices=None, max_device_memory: float | None = None):
        check_limit(max_device_memory)
        if not len(dataset.validation):
            raise InputError("validation: got a data set without validation images, expected a fraction over 0")
        if plan.recipe.batch_size > len(dataset.train):
            size, images = plan.recipe.batch_size, len(dataset.train)
            raise InputError(f"batch_size: got {size}, expected at most {images}, the number of training images")
        plan = dataclasses.replace(plan, recipe=with_augmentation(plan.recipe, dataset))
        self.plan, self._dataset, self._limit = plan, dataset, max_device_memory
        self._devices = jax.local_devices() if devices is None else list(devices)
        fronts = [
            FrontProgram(plan.network, point, plan.recipe, plan.execution, self._devices) for point in plan.points
        ]
        groups_of_fronts = group_fronts(fronts, dataset, plan.budget, plan.recipe.batch_size)
        self.programs = [program for group in groups_of_fronts for program in self._programs_in_limit(*group)]

    def _programs_in_limit(self, fronts: list[FrontProgram], blocks: int) -> list[JointRetraining]:
        """Return programs for these points; the points are halved until a device holds one case of each program."""
        program = JointRetraining(self.plan, fronts, blocks, self._dataset, self._devices)
        if self._limit is None:
            return [program]
        if len(fronts) > 1 and program.memory.bytes_for(1) > self._limit:
            half = len(fronts) // 2
            return self._programs_in_limit(fronts[:half], blocks) + self._programs_in_limit(fronts[half:], blocks)
        program.memory.max_members(self._limit, "matrix")  # raises an InputError if the limit is too small
        return [program]

    def _size(self, program: JointRetraining, cases: int) -> int:
        """Return how many of `cases` cases are trained at a time."""
        if self._limit is None:
            return max(1, cases)
        return min(max(1, cases), len(self._devices) * program.memory.max_members(self._limit, "matrix"))

    def rounds(self, cases: int) -> int:
        """Return the number of groups, over all programs, in which `cases` cases are trained one after another."""
        return sum(-(-cases // self._size(program, cases)) for program in self.programs)

    def run(
        self,
        member: Member,
        cases: Sequence[RotationCase],
        *,
        key: jax.Array,
        on_epoch: Callable[[dict], None] = lambda metrics: None,
        on_results: Callable[[list[CaseResult]], None] = lambda results: None,
    ) -> list[CaseResult]:
        """Retrain the tails of `member` behind the matrices of each case; `member` is not changed.

        Args:
          member: a trained member of the network of the plan.
          cases: the matrices. The result of a case depends on the key, the point and the case alone, up to rounding.
          key: random key of this member, for matrices, data orders and random starts.
          on_epoch: called after each epoch of each group with the mean loss and accuracies of its cases.
          on_results: called with the results of each group.

        Returns:
          The results of all cases at the first point of the plan, then at the second, and so on.
        """
        keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(("matrix", "order", "start", "front"))}
        results: dict[tuple[int, Any], CaseResult] = {}
        for program in self.programs:
            features = program.features(member, keys["front"])
            for index, count in groups(len(cases), self._size(program, len(cases))):
                by_point = self._run(program, member, features, keys, [cases[i] for i in index], on_epoch)
                group_results = [result for point_results in by_point for result in point_results[:count]]
                results |= {(result.point, result.case): result for result in group_results}
                on_results(group_results)
        return [results[point, case] for point in self.plan.points for case in cases]

    def _run(
        self,
        program: JointRetraining,
        member: Member,
        features: list[FrontFeatures],
        keys,
        cases: Sequence[RotationCase],
        on_epoch,
    ) -> list[list[CaseResult]]:
        """Return the results of a group of cases, point by point."""
        matrices = tuple(
            np.stack([self._matrix(keys["matrix"], point, case) for case in cases]) for point in program.points
        )
        orders = np.stack([_seed(jax.random.fold_in(keys["order"], case.repeat)) for case in cases])
        tails = stack([self._tails(member, program.points, keys["start"], case) for case in cases])
        states = program.begin((tails, orders), ())
        histories: list[list[list[dict]]] = [[[] for _ in cases] for _ in program.points]
        for epoch in range(self.plan.recipe.epochs):
            block_metrics, iterators = [], [point_features.training(epoch) for point_features in features]
            for _ in range(program.blocks):
                block = tuple(next(iterator) for iterator in iterators)
                states, metrics = program.block((states, matrices), block)
                block_metrics.append(jax.device_get(metrics))
                del block  # frees memory before the next block is computed
            means = jax.tree.map(lambda *values: np.mean(values, axis=0), *block_metrics)
            loss, accuracy = (np.stack([metrics[name] for metrics in means]) for name in ("loss", "accuracy"))
            validation = self._percent(program, states, matrices, features, self._dataset.validation)
            for p, i in np.ndindex(loss.shape):
                row = {"epoch": epoch + 1, "loss": float(loss[p, i]), "accuracy": 100 * float(accuracy[p, i])}
                histories[p][i].append({**row, "val_accuracy": float(validation[p, i])})
            averaged = {"loss": loss, "accuracy": accuracy, "validation": validation / 100}
            on_epoch({name: float(np.mean(values)) for name, values in averaged.items()})
        test = self._percent(program, states, matrices, features, self._dataset.test)
        tails = jax.device_get([state.member for state in states])
        return [
            [
                CaseResult(
                    point,
                    case,
                    float(test[p, i]),
                    history[-1]["val_accuracy"],
                    history,
                    *take((matrices[p], tails[p]), i),
                )
                for i, (case, history) in enumerate(zip(cases, histories[p], strict=True))
            ]
            for p, point in enumerate(program.points)
        ]

    def _percent(
        self, program: JointRetraining, states, matrices, features: list[FrontFeatures], split: Split
    ) -> np.ndarray:
        """Return accuracies (points, cases) in percent on the examples of a split."""
        tails, correct = tuple(state.member for state in states), 0
        for chunks in zip(*(point_features.evaluation(split) for point_features in features), strict=True):
            count = float(np.sum(chunks[0].mask))
            shares = np.asarray(jax.device_get(program.evaluate((tails, matrices), chunks)), np.float64)
            correct = correct + np.rint(shares * count)
            del chunks  # frees memory before the next ones are computed
        return percent(correct / len(split), len(split))

    def _matrix(self, key, point: int, case: RotationCase) -> np.ndarray:
        # The key depends on the point, so that layers of equal width have different matrices.
        for part in (point, case.repeat, zlib.crc32(case.kind.encode())):
            key = jax.random.fold_in(key, part)
        return np.asarray(_sample(key, case.kind, self.plan.network.points[point].channels))

    def _tails(self, member: Member, points: Sequence[int], key, case: RotationCase) -> tuple[Member, ...]:
        if self.plan.start == "fresh":
            member = _fresh(self.plan.network, jax.random.fold_in(key, case.repeat))
        return tuple(self.plan.network.tail_of(member, point) for point in points)


_sample = jax.jit(sample_rotation, static_argnums=(1, 2))


@partial(jax.jit, static_argnums=0)
def _fresh(network: Network, key) -> Member:
    return network.init(key)


def _seed(key) -> jax.Array:
    """Return a training seed from a key."""
    return jax.random.bits(key, (), jnp.uint32).astype(jnp.int32) & jnp.int32(2**31 - 1)
