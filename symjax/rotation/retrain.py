"""Retraining: all matrices at all points of one member at once, on features of the frozen fronts."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from symjax.data import Dataset, Split
from symjax.data.dataset import with_augmentation
from symjax.errors import InputError
from symjax.memory import check_limit
from symjax.network import Member, Network
from symjax.parallel import groups, stack, take
from symjax.rotation.features import Features, FrontProgram, share_budget
from symjax.rotation.matrices import sample_rotation
from symjax.rotation.plan import Case, Found, Plan
from symjax.rotation.together import Together
from symjax.training import percent


class Retraining:
    """Compiled once, run for any number of members.

    All points train together whose features fit the plan's budget side by side.

    Args:
      plan: what is to be retrained.
      dataset: the images.
      devices: that cases spread over; all local ones by default.
      max_device_memory: bytes on each device; fewer points train together where one case at all of them needs more, and
        cases train in groups, one after another, that need no more. What is found is the same. By default all train at
        once.

    Attributes:
      programs: of points that train together, each with `points`, `blocks` and its `need` of memory; they run one after
        another.

    Raises:
      InputError: there are no validation images, or fewer training images than a batch has; memory that does not hold
        one case at one point.
    """

    def __init__(self, plan: Plan, dataset: Dataset, *, devices=None, max_device_memory: float | None = None):
        check_limit(max_device_memory)
        if not len(dataset.validation):
            raise InputError("validation: the data set has no validation images; wanted a fraction over 0")
        if plan.recipe.batch_size > len(dataset.train):
            size, images = plan.recipe.batch_size, len(dataset.train)
            raise InputError(f"batch_size: {size} is more than the {images} training images")
        plan = dataclasses.replace(plan, recipe=with_augmentation(plan.recipe, dataset))
        self.plan, self._dataset, self._limit = plan, dataset, max_device_memory
        self._devices = jax.local_devices() if devices is None else list(devices)
        fronts = [
            FrontProgram(plan.network, point, plan.recipe, plan.execution, self._devices) for point in plan.points
        ]
        shares = share_budget(fronts, dataset, plan.budget, plan.recipe.batch_size)
        self.programs = [program for share in shares for program in self._fitting(*share)]

    def _fitting(self, fronts: list[FrontProgram], blocks: int) -> list[Together]:
        """Programs of all these points, or of half of them, and so on, as many as a device holds with one case."""
        program = Together(self.plan, fronts, blocks, self._dataset, self._devices)
        if self._limit is None:
            return [program]
        if len(fronts) > 1 and program.need.of(1) > self._limit:
            half = len(fronts) // 2
            return self._fitting(fronts[:half], blocks) + self._fitting(fronts[half:], blocks)
        program.need.fitting(self._limit, "matrix")
        return [program]

    def _size(self, program: Together, cases: int) -> int:
        """How many of so many cases train at a time."""
        if self._limit is None:
            return max(1, cases)
        return min(max(1, cases), len(self._devices) * program.need.fitting(self._limit, "matrix"))

    def rounds(self, cases: int) -> int:
        """How many groups of so many cases, at points that train together, train one after another."""
        return sum(-(-cases // self._size(program, cases)) for program in self.programs)

    def run(
        self,
        member: Member,
        cases: Sequence[Case],
        *,
        key: jax.Array,
        on_epoch: Callable[[dict], None] = lambda metrics: None,
        on_found: Callable[[list[Found]], None] = lambda found: None,
    ) -> list[Found]:
        """Retrains the tails of `member` behind each case's matrices; the member itself stays as it is.

        Args:
          member: a trained member of the plan's network.
          cases: which matrices. What comes of one depends on the key, the point and itself alone, but for rounding.
          key: of this member, for matrices, orders and random starts.
          on_epoch: called after each epoch of each group with the mean loss and accuracies of its cases.
          on_found: called with what came of a group when it is done.

        Returns:
          What came of all cases at the plan's first point, at its second, and so on.
        """
        keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(("matrix", "order", "start", "front"))}
        found = {}
        for program in self.programs:
            features = program.features(member, keys["front"])
            for index, kept in groups(len(cases), self._size(program, len(cases))):
                of_points = self._run(program, member, features, keys, [cases[i] for i in index], on_epoch)
                counting = [one for of_point in of_points for one in of_point[:kept]]
                found |= {(one.point, one.case): one for one in counting}
                on_found(counting)
        return [found[point, case] for point in self.plan.points for case in cases]

    def _run(
        self, program: Together, member: Member, features: list[Features], keys, cases: Sequence[Case], on_epoch
    ) -> list[list[Found]]:
        """A group of cases, point by point."""
        matrices = tuple(
            np.stack([self._matrix(keys["matrix"], point, case) for case in cases]) for point in program.points
        )
        orders = np.stack([_seed(jax.random.fold_in(keys["order"], case.repeat)) for case in cases])
        tails = stack([self._tails(member, program.points, keys["start"], case) for case in cases])
        states = program.begin((tails, orders), ())
        histories: list[list[list[dict]]] = [[[] for _ in cases] for _ in program.points]
        for epoch in range(self.plan.recipe.epochs):
            of_blocks, turns = [], [of_point.training(epoch) for of_point in features]
            for _ in range(program.blocks):
                block = tuple(next(turn) for turn in turns)
                states, metrics = program.block((states, matrices), block)
                of_blocks.append(jax.device_get(metrics))
                del block  # before the next one is made
            means = jax.tree.map(lambda *values: np.mean(values, axis=0), *of_blocks)
            loss, right = (np.stack([of_point[name] for of_point in means]) for name in ("loss", "accuracy"))
            validation = self._percent(program, states, matrices, features, self._dataset.validation)
            for p, i in np.ndindex(loss.shape):
                row = {"epoch": epoch + 1, "loss": float(loss[p, i]), "accuracy": 100 * float(right[p, i])}
                histories[p][i].append({**row, "val_accuracy": float(validation[p, i])})
            shown = {"loss": loss, "accuracy": right, "validation": validation / 100}
            on_epoch({name: float(np.mean(values)) for name, values in shown.items()})
        test = self._percent(program, states, matrices, features, self._dataset.test)
        tails = jax.device_get([state.member for state in states])
        return [
            [
                Found(
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

    def _percent(self, program: Together, states, matrices, features: list[Features], split: Split) -> np.ndarray:
        """Accuracies (points, cases) on a split, over its examples."""
        tails, right = tuple(state.member for state in states), 0
        for chunks in zip(*(of_point.evaluation(split) for of_point in features), strict=True):
            count = float(np.sum(chunks[0].mask))
            shares = np.asarray(jax.device_get(program.evaluate((tails, matrices), chunks)), np.float64)
            right = right + np.rint(shares * count)
            del chunks  # before the next ones are made
        return percent(right / len(split), len(split))

    def _matrix(self, key, point: int, case: Case) -> np.ndarray:
        # The point too: layers of one width get matrices of their own.
        for part in (point, case.repeat, zlib.crc32(case.kind.encode())):
            key = jax.random.fold_in(key, part)
        return np.asarray(_sample(key, case.kind, self.plan.network.points[point].channels))

    def _tails(self, member: Member, points: Sequence[int], key, case: Case) -> tuple[Member, ...]:
        if self.plan.start == "fresh":
            member = _fresh(self.plan.network, jax.random.fold_in(key, case.repeat))
        return tuple(self.plan.network.tail_of(member, point) for point in points)


_sample = jax.jit(sample_rotation, static_argnums=(1, 2))


@partial(jax.jit, static_argnums=0)
def _fresh(network: Network, key) -> Member:
    return network.init(key)


def _seed(key) -> jax.Array:
    """A seed of training from a key."""
    return jax.random.bits(key, (), jnp.uint32).astype(jnp.int32) & jnp.int32(2**31 - 1)
