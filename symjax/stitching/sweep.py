"""The sweep: all pairs, points and families, fitted and evaluated in a few compiled programs.

Pairs run in groups that fill the devices; each group's results are handed out as soon as they are there. Validation
picks among the learning rates of a family; the test split is looked at once, for what was picked.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from symjax.data import Dataset
from symjax.errors import InputError
from symjax.models import Member
from symjax.parallel import over_members, replicate, spread, stack, take
from symjax.stitching import evaluate, fit
from symjax.stitching.families import LowRank
from symjax.stitching.fit import Plan
from symjax.stitching.stitched import Pair, Stitch
from symjax.training.evaluation import pad_batches
from symjax.training.loop import device_data

PyTree = Any


@dataclass(frozen=True)
class PairResult:
    """What a sweep finds for one ordered pair (front seed, tail seed).

    Attributes:
      pair: the two seeds.
      rows: a dict per point and family: layer, layer_index, starred, family, hyperparameter, learning_rate, start,
        stitched_accuracy and val_accuracy (percent), sparsity (share of zero entries).
      curves: a dict per point, trained candidate and epoch: layer, family, learning_rate, epoch, loss, accuracy
        (percent), residual (`Family.residual`: by how much the projections miss their constraint).
      stitches: (layer, family) to (rounded stitch, B's statistics that belong to it), as NumPy arrays.
    """

    pair: tuple[int, int]
    rows: list[dict]
    curves: list[dict]
    stitches: dict[tuple[str, str], tuple[Stitch, PyTree]]


def all_pairs(seeds: Sequence[int]) -> list[tuple[int, int]]:
    """Every ordered pair of two different seeds."""
    return [(a, b) for a in seeds for b in seeds if a != b]


def draw_pairs(seeds: Sequence[int], count: int | str, seed: int = 0) -> list[tuple[int, int]]:
    """`count` ordered pairs (or "all"), drawn without replacement by a seeded key; more pairs extend fewer.

    Raises:
      InputError: for fewer than two members, more pairs than there are, or a bad seed.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"pair_seed: got {seed}, wanted an integer from 0 to 2**32 - 1")
    pairs = all_pairs(seeds)
    if not pairs:
        raise InputError(f"seeds: {len(seeds)} member(s); a pair needs two different ones")
    if count == "all":
        return pairs
    if not 1 <= int(count) <= len(pairs):
        raise InputError(f"pairs: {count}, wanted 1 to {len(pairs)} with {len(seeds)} members, or 'all'")
    order = np.random.RandomState(seed).permutation(len(pairs))
    return [pairs[i] for i in order[: int(count)]]


class Sweep:
    """Compiled once, run for any number of pairs.

    Args:
      plan: what is to be fitted.
      dataset: the images.
      num_pairs: how many pairs are to come; where they are fewer than the devices, devices share a pair.
      devices: all local ones by default.
    """

    def __init__(self, plan: Plan, dataset: Dataset, *, num_pairs: int | None = None, devices=None):
        for family in plan.families:
            for point in plan.points:
                channels = plan.network.points[point].channels
                if isinstance(family, LowRank) and family.rank > channels:
                    name = plan.network.points[point].name
                    raise InputError(f"families: {family.label} exceeds the {channels} channels of {name}")
        if not plan.families or not plan.points:
            raise InputError("families, layers: at least one of each is wanted")
        devices = jax.local_devices() if devices is None else list(devices)
        share = max(1, len(devices) // num_pairs) if num_pairs else 1
        devices = devices[: len(devices) // share * share]
        self.plan = plan = dataclasses.replace(plan, execution=dataclasses.replace(plan.execution, share=share))
        self.group_size = len(devices) // share
        if plan.config.batch_size > len(dataset.train):
            size, images = plan.config.batch_size, len(dataset.train)
            raise InputError(f"batch_size: {size} is more than the {images} training images")
        if not len(dataset.validation):
            raise InputError("validation: the data set has no validation images; wanted a fraction over 0")
        config, lift = plan.config, partial(over_members, execution=plan.execution, devices=devices)
        # Where devices share a pair, they train different stitches of it, but evaluate on different batches.
        self._per_pair = share
        alone = dataclasses.replace(plan, execution=dataclasses.replace(plan.execution, share=1))
        lift_batches = partial(over_members, execution=alone.execution, devices=devices)
        self._train = pad_batches(dataset.train, config.eval_batch_size)
        self._validation = pad_batches(dataset.validation, config.eval_batch_size)
        self._test = pad_batches(dataset.test, config.eval_batch_size)
        self._data = replicate(device_data(dataset, None), devices)
        self._matching = self._moment_batches(config.matching_images)
        self._reestimation = self._moment_batches(config.reestimation_images)
        self._moments = lift(lambda pair, shared: fit.pair_moments(plan, pair, *shared))
        self._begin = lift(lambda m, _: fit.begin(plan, *m), optimise=False)
        self._epoch = lift(partial(fit.fit_epoch, plan))
        self._halfway = lift(lambda state, _: fit.halfway(plan, state), optimise=False)
        self._rounded = lift(lambda state, _: fit.rounded(plan, state), optimise=False)
        self._statistics = lift_batches(lambda m, shared: evaluate.batch_statistics(alone, *m, *shared))
        self._correct = lift_batches(lambda m, shared: evaluate.batch_correct(alone, *m, *shared))
        self._place = partial(spread, devices=devices)

    def _moment_batches(self, images: int) -> jax.Array:
        """Batches of so many training images: full ones, of distinct images, at least one."""
        images = min(images, self._train.mask.sum())
        return self._train.images[: max(1, int(images) // self._train.images.shape[1])]

    @cached_property
    def _normalisation(self):
        return self._data.mean, self._data.std

    def run(
        self,
        member: Callable[[int], Member],
        pairs: Sequence[tuple[int, int]],
        *,
        seed: int = 0,
        on_epoch: Callable[[dict], None] = lambda metrics: None,
        on_evaluation: Callable[[float | None], None] = lambda accuracy: None,
    ) -> Iterator[PairResult]:
        """Results pair by pair, group by group.

        Args:
          member: from a member's seed to the member.
          pairs: ordered pairs of seeds.
          seed: of the stitches' random numbers; a pair's own depend on it and on the pair.
          on_epoch: called after each epoch with the mean loss and accuracy of all stitches in training.
          on_evaluation: called after each batch of an evaluation, with the mean accuracy so far where there is one.
        """
        for first in range(0, len(pairs), self.group_size):
            group = list(pairs[first : first + self.group_size])
            yield from self._run_group(member, group, seed, on_epoch, on_evaluation)

    @property
    def evaluation_steps(self) -> int:
        """Steps of one group's evaluation, each over a batch per device that works on a pair."""
        counts = (len(self._reestimation), len(self._validation.images), len(self._test.images))
        return sum(-(-count // self._per_pair) for count in counts)

    def _run_group(self, member, group, seed, on_epoch, on_evaluation):
        plan, config = self.plan, self.plan.config
        # A last, smaller group is filled up with copies, so that it needs no compilation of its own.
        padded = group + [group[0]] * (self.group_size - len(group))
        pairs = stack([Pair(member(a), member(b)) for a, b in padded])
        keys = stack([_pair_key(seed, pair) for pair in padded])
        moments = self._moments(pairs, (self._matching, *self._normalisation))
        state = self._begin((pairs, keys, moments), ())
        history = []
        if plan.trained:
            for epoch in range(config.epochs):
                if epoch == config.halfway_epoch:
                    state = self._halfway(state, ())
                state, metrics = self._epoch(state, self._data)
                metrics = jax.device_get(metrics)
                history.append(metrics)
                on_epoch({name: float(np.mean(metrics[name])) for name in ("loss", "accuracy")})
        stitches = jax.device_get(self._rounded(state, ()))
        placed = self._place(self._repeat(pairs))
        stats = self._reestimate(placed, stitches, on_evaluation)
        validation = self._accuracy(placed, stitches, stats, self._validation, on_evaluation)
        chosen = [[_choose(plan, accuracies) for accuracies in validation[g]] for g in range(len(padded))]
        picked, picked_stats = _pick(stitches, chosen), _pick(stats, chosen)
        test = self._accuracy(placed, picked, picked_stats, self._test, on_evaluation)
        for g, pair in enumerate(group):
            yield self._result(g, pair, chosen[g], validation[g], test[g], picked, picked_stats, history)

    def _repeat(self, pairs: PyTree) -> PyTree:
        """Each pair once for every device that works on it."""
        return jax.tree.map(lambda leaf: np.repeat(leaf, self._per_pair, axis=0), pairs)

    def _steps(self, batches: PyTree) -> Iterator[tuple[PyTree, int]]:
        """Batches (count, ...) in steps of one for each device: those of one step, per pair, and how many are new."""
        count = len(jax.tree.leaves(batches)[0])
        for first in range(0, count, self._per_pair):
            index = np.minimum(np.arange(first, first + self._per_pair), count - 1)
            yield take(batches, np.tile(index, self.group_size)), min(self._per_pair, count - first)

    def _apart(self, results: PyTree) -> PyTree:
        """Results per device on the host, as (pairs, devices that work on one, ...)."""
        shape = (self.group_size, self._per_pair)
        return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), jax.device_get(results))

    def _reestimate(self, pairs, stitches, on_evaluation):
        per_batch, stitches = [], self._place(self._repeat(stitches))
        for images, new in self._steps(self._reestimation):
            found = self._apart(self._statistics((pairs, stitches, images), self._normalisation))
            per_batch += [take(found, (slice(None), i)) for i in range(new)]
            on_evaluation(None)
        return evaluate.pool(per_batch)

    def _accuracy(self, pairs, stitches, stats, batches, on_evaluation) -> np.ndarray:
        """Percent, (pairs, points, stitches)."""
        right = seen = 0
        stitches, stats = self._place(self._repeat((stitches, stats)))
        for step, new in self._steps(batches):
            counts = self._apart(self._correct((pairs, stitches, stats, step), self._normalisation))
            right = right + np.stack([c[:, :new].sum(axis=1, dtype=np.float64) for c in counts], axis=1)
            seen += step.mask[:new].sum()
            on_evaluation(float(np.mean(right) / seen))
        return 100 * right / float(seen)

    def _result(self, g, pair, chosen, validation, test, picked, picked_stats, history) -> PairResult:
        plan = self.plan
        rows, curves, stitches = [], [], {}
        for p, point in enumerate(plan.points):
            where = plan.network.points[point]
            for f, family in enumerate(plan.families):
                candidate = plan.candidates[chosen[p][f]]
                stitch = take(picked[p], (g, f))
                stitches[where.name, family.label] = (Stitch(*stitch), take(picked_stats[p], (g, f)))
                start = family.start if plan.config.start == "auto" or not family.trains else plan.config.start
                rows.append(
                    {
                        "layer": where.name,
                        "layer_index": point,
                        "starred": where.starred,
                        "family": family.label,
                        "hyperparameter": family.hyperparameter,
                        "start": start,
                        "learning_rate": candidate.learning_rate,
                        "stitched_accuracy": float(test[p, f]),
                        "val_accuracy": float(validation[p, chosen[p][f]]),
                        "sparsity": float(np.mean(np.asarray(stitch.matrix) == 0)),
                    }
                )
            for c, candidate in enumerate([candidate for candidate in plan.candidates if candidate.family.trains]):
                for epoch, metrics in enumerate(history):
                    curves.append(
                        {
                            "layer": where.name,
                            "family": candidate.family.label,
                            "learning_rate": candidate.learning_rate,
                            "epoch": epoch + 1,
                            "loss": float(metrics["loss"][g, p, c]),
                            "accuracy": 100 * float(metrics["accuracy"][g, p, c]),
                            "residual": float(metrics["residual"][g, p, c]),
                        }
                    )
        return PairResult(pair, rows, curves, stitches)


def _pair_key(seed: int, pair: tuple[int, int]) -> jax.Array:
    key = jax.random.key(seed)
    for member_seed in pair:
        key = jax.random.fold_in(key, member_seed)
    return jax.random.key_data(key)


def _choose(plan: Plan, accuracies: np.ndarray) -> list[int]:
    """Per family, the index of the candidate with the best validation accuracy; the first of equals."""
    families = [candidate.family for candidate in plan.candidates]
    return [
        max((i for i, family in enumerate(families) if family == wanted), key=lambda i: accuracies[i])
        for wanted in plan.families
    ]


def _pick(per_point: list[PyTree], chosen: list[list[list[int]]]) -> list[PyTree]:
    """NumPy leaves (pairs, candidates, ...) at each pair's and point's chosen candidates: (pairs, families, ...)."""
    picked = []
    for p, leaves in enumerate(per_point):
        index = np.asarray([of_pair[p] for of_pair in chosen])
        rows = np.arange(len(chosen))[:, None]
        picked.append(jax.tree.map(lambda leaf, rows=rows, index=index: leaf[rows, index], leaves))
    return picked
