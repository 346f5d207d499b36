"""A lane: some of the stitches of a group of pairs, trained and evaluated on devices of their own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from symjax.data import Dataset
from symjax.parallel import groups, over_members, replicate, spread, take
from symjax.stitching import evaluate, fit
from symjax.stitching.fit import Plan
from symjax.stitching.stitched import Pair, Stitch
from symjax.training.evaluation import Batches, pad_batches
from symjax.training.loop import device_data

PyTree = Any
BATCHES = 8  # of an evaluation in one call: a call costs the host some 10 ms, a fifth of a batch


@dataclass(frozen=True)
class Found:
    """What a lane finds for a group of pairs; arrays are on the host, with a leading axis over pairs.

    Attributes:
      plan: of the lane.
      chosen: per pair, point and family in the order of `plan.stacked`, the candidate that validation picked.
      validation: accuracy in percent, or the mean score of another metric, (pairs, points, candidates).
      test: likewise of the picked, (pairs, points, families).
      stitches: per point and family, the rounded stitches that were picked, (pairs, 1, ...).
      stats: likewise, the tails' statistics.
      history: metrics of each epoch.
    """

    plan: Plan
    chosen: list[list[list[int]]]
    validation: np.ndarray
    test: np.ndarray
    stitches: list[list[Stitch]]
    stats: list[list[PyTree]]
    history: list[dict]


def evaluation_batches(dataset: Dataset, batch_size: int) -> dict[str, Batches]:
    """Each split cut into batches, on the host."""
    return {name: pad_batches(getattr(dataset, name), batch_size) for name in ("train", "validation", "test")}


class Lane:
    """Compiled once, run for any number of groups, each of one pair for every device.

    Args:
      plan: what is to be fitted here.
      dataset: the images.
      evaluated: its splits as `evaluation_batches` cuts them, which lanes share.
      devices: of this lane.
    """

    def __init__(self, plan: Plan, dataset: Dataset, evaluated: dict[str, Batches], devices: list):
        self.plan, config = plan, plan.config
        lift = partial(over_members, execution=plan.execution, devices=devices)
        self._train, self._validation, self._test = (evaluated[name] for name in ("train", "validation", "test"))
        self._data = replicate(device_data(dataset, None), devices)
        self._matching = self._moment_batches(config.matching_images)
        self._reestimation = self._moment_batches(config.reestimation_images)
        self._lengths = [len(images) for images in (self._reestimation, self._validation.images, self._test.images)]
        self._at_once = min(BATCHES, max(self._lengths))
        self._moments = lift(lambda pair, shared: fit.pair_moments(plan, pair, *shared))
        self._begin = lift(lambda m, _: fit.begin(plan, *m), effort=0)
        self._epoch = lift(partial(fit.fit_epoch, plan), effort=1)
        self._halfway = lift(lambda state, _: fit.halfway(plan, state), effort=0)
        self._rounded = lift(lambda state, _: fit.rounded(plan, state), effort=0)
        self._statistics = lift(partial(evaluate.several, partial(evaluate.batch_statistics, plan)), effort=1)
        self._scores = lift(partial(evaluate.several, partial(evaluate.batch_scores, plan)), effort=1)
        self._place = partial(spread, devices=devices)

    def _moment_batches(self, images: int) -> jax.Array:
        """Batches of so many training images: full ones, of distinct images, at least one."""
        images = min(images, self._train.mask.sum())
        return self._train.images[: max(1, int(images) // self._train.images.shape[1])]

    @property
    def evaluation_steps(self) -> int:
        """Calls of one group's evaluation."""
        return sum(-(-length // self._at_once) for length in self._lengths)

    def run(
        self,
        pairs: Pair,
        keys: np.ndarray,
        on_epoch: Callable[[int, dict], None],
        on_evaluation: Callable[[dict | None], None],
        go_on: Callable[[], None],
    ) -> Found:
        """Trains, rounds and evaluates the stitches of stacked pairs.

        Args:
          pairs: one for every device of the lane.
          keys: raw key data of each.
          on_epoch: called after each epoch with its number, from 0, and its metrics.
          on_evaluation: called after each few batches of an evaluation, with the mean loss and accuracy so far or None.
          go_on: called before each stage and epoch and those few batches; what it raises ends the run.
        """
        plan, config, normalisation = self.plan, self.plan.config, (self._data.mean, self._data.std)
        moments = self._moments(pairs, (self._matching, *normalisation))
        go_on()
        state = self._begin((pairs, keys, moments), ())
        history = []
        if plan.trained:
            for epoch in range(config.epochs):
                go_on()
                if epoch == config.halfway_epoch:
                    state = self._halfway(state, ())
                state, metrics = self._epoch(state, self._data)
                history.append(jax.device_get(metrics))
                on_epoch(epoch, history[-1])

        def batches_done(metrics):
            go_on()
            on_evaluation(metrics)

        go_on()
        stitches, placed = jax.device_get(self._rounded(state, ())), self._place(pairs)
        stats = self._reestimate(placed, stitches, batches_done)
        validation = self._accuracy(placed, stitches, stats, self._validation, batches_done)
        chosen = [[_choose(plan, accuracies) for accuracies in of_pair] for of_pair in validation]
        stitches, stats = _pick(plan, stitches, chosen), _pick(plan, stats, chosen)
        test = self._accuracy(placed, stitches, stats, self._test, batches_done)
        return Found(plan, chosen, validation, test, stitches, stats, history)

    def _calls(self, compiled, members, batches: PyTree) -> Iterator[tuple[PyTree, PyTree]]:
        """Some of the batches, and what `compiled` makes of each: on the host, leaves (pairs, batches, ...)."""
        for index, count in groups(len(jax.tree.leaves(batches)[0]), self._at_once):
            shared = (take(batches, index), np.int32(count), self._data.mean, self._data.std)
            found = jax.device_get(compiled(members, shared))
            yield take(batches, index[:count]), jax.tree.map(lambda leaf, kept=count: leaf[:, :kept], found)

    def _reestimate(self, pairs, stitches, on_evaluation) -> list[list[PyTree]]:
        found = []
        for _, stats in self._calls(self._statistics, (pairs, self._place(stitches)), self._reestimation):
            found.append(stats)
            on_evaluation(None)
        return evaluate.pool(found)

    def _accuracy(self, pairs, stitches, stats, batches, on_evaluation) -> np.ndarray:
        """Percent, or the mean score of another metric, (pairs, points, stitches)."""
        score = loss = seen = 0
        for some, scores in self._calls(self._scores, (pairs, *self._place((stitches, stats))), batches):
            of_batches = jax.tree.map(lambda *points: np.stack(points, axis=2).astype(np.float64), *scores)
            score, loss = score + of_batches.score.sum(axis=1), loss + of_batches.loss.sum(axis=1)
            seen += some.mask.sum()
            on_evaluation({"loss": float(np.mean(loss) / seen), "accuracy": float(np.mean(score) / seen)})
        return self.plan.config.scale * score / float(seen)


def _choose(plan: Plan, accuracies: np.ndarray) -> list[int]:
    """Per family, the index of the candidate with the best validation accuracy, of NaN only where all are so; the first
    of equals.
    """
    families = [candidate.family for candidate in plan.candidates]
    accuracies = np.where(np.isnan(accuracies), -np.inf, accuracies)
    return [
        max((i for i, family in enumerate(families) if family == wanted), key=lambda i: accuracies[i])
        for wanted in plan.stacked
    ]


def _pick(plan: Plan, stacks: list[list[PyTree]], chosen: list[list[list[int]]]) -> list[list[PyTree]]:
    """Per point and family, NumPy leaves (pairs, its candidates, ...) at each pair's choice: (pairs, 1, ...)."""
    families = [candidate.family for candidate in plan.candidates]
    first, rows = [families.index(family) for family in plan.stacked], np.arange(len(chosen))[:, None]

    def picked(p, f, stack):
        index = np.asarray([[of_pair[p][f] - first[f]] for of_pair in chosen])
        return jax.tree.map(lambda leaf: leaf[rows, index], stack)

    return [[picked(p, f, stack) for f, stack in enumerate(of_point)] for p, of_point in enumerate(stacks)]
