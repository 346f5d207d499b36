"""A lane: some of the stitches of a group of pairs, trained and evaluated on devices of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from symjax.data import Dataset
from symjax.parallel import over_members, replicate, spread, take
from symjax.stitching import evaluate, fit
from symjax.stitching.fit import Plan
from symjax.stitching.stitched import Pair, Stitch
from symjax.training.evaluation import Batches, pad_batches
from symjax.training.loop import device_data

PyTree = Any


@dataclass(frozen=True)
class Found:
    """What a lane finds for a group of pairs; arrays are on the host, with a leading axis over pairs.

    Attributes:
      plan: of the lane.
      chosen: per pair, point and family, the candidate that validation picked.
      validation: accuracy in percent, (pairs, points, candidates).
      test: likewise of the picked, (pairs, points, families).
      stitches: per point, the rounded stitches that were picked, (pairs, families, ...).
      stats: likewise, the tails' statistics.
      history: metrics of each epoch.
    """

    plan: Plan
    chosen: list[list[list[int]]]
    validation: np.ndarray
    test: np.ndarray
    stitches: list[Stitch]
    stats: list[PyTree]
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
        self._moments = lift(lambda pair, shared: fit.pair_moments(plan, pair, *shared))
        self._begin = lift(lambda m, _: fit.begin(plan, *m), optimise=False)
        self._epoch = lift(partial(fit.fit_epoch, plan))
        self._halfway = lift(lambda state, _: fit.halfway(plan, state), optimise=False)
        self._rounded = lift(lambda state, _: fit.rounded(plan, state), optimise=False)
        self._statistics = lift(lambda m, shared: evaluate.batch_statistics(plan, *m, *shared))
        self._scores = lift(lambda m, shared: evaluate.batch_scores(plan, *m, *shared))
        self._place = partial(spread, devices=devices)

    def _moment_batches(self, images: int) -> jax.Array:
        """Batches of so many training images: full ones, of distinct images, at least one."""
        images = min(images, self._train.mask.sum())
        return self._train.images[: max(1, int(images) // self._train.images.shape[1])]

    @property
    def evaluation_steps(self) -> int:
        """Batches of one group's evaluation."""
        return len(self._reestimation) + len(self._validation.images) + len(self._test.images)

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
          on_evaluation: called after each batch of an evaluation, with the mean loss and accuracy so far or None.
          go_on: called before each stage, epoch and batch; what it raises ends the run.
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

        def batch_done(metrics):
            go_on()
            on_evaluation(metrics)

        go_on()
        stitches, placed = jax.device_get(self._rounded(state, ())), self._place(pairs)
        stats = self._reestimate(placed, stitches, batch_done)
        validation = self._accuracy(placed, stitches, stats, self._validation, batch_done)
        chosen = [[_choose(plan, accuracies) for accuracies in of_pair] for of_pair in validation]
        stitches, stats = _pick(stitches, chosen), _pick(stats, chosen)
        test = self._accuracy(placed, stitches, stats, self._test, batch_done)
        return Found(plan, chosen, validation, test, stitches, stats, history)

    def _reestimate(self, pairs, stitches, on_evaluation) -> list[PyTree]:
        per_batch, stitches = [], self._place(stitches)
        for images in self._reestimation:
            shared = (images, self._data.mean, self._data.std)
            per_batch.append(jax.device_get(self._statistics((pairs, stitches), shared)))
            on_evaluation(None)
        return evaluate.pool(per_batch)

    def _accuracy(self, pairs, stitches, stats, batches, on_evaluation) -> np.ndarray:
        """Percent, (pairs, points, stitches)."""
        right = loss = seen = 0
        stitches, stats = self._place((stitches, stats))
        for i in range(len(batches.images)):
            batch = take(batches, i)
            scores = self._scores((pairs, stitches, stats), (batch, self._data.mean, self._data.std))
            of_batch = jax.tree.map(lambda *points: np.stack(points, axis=1), *jax.device_get(scores))
            right, loss = right + of_batch.right.astype(np.float64), loss + of_batch.loss
            seen += batch.mask.sum()
            on_evaluation({"loss": float(np.mean(loss) / seen), "accuracy": float(np.mean(right) / seen)})
        return 100 * right / float(seen)


def _choose(plan: Plan, accuracies: np.ndarray) -> list[int]:
    """Per family, the index of the candidate with the best validation accuracy, of NaN only where all are so; the first
    of equals.
    """
    families = [candidate.family for candidate in plan.candidates]
    accuracies = np.where(np.isnan(accuracies), -1, accuracies)
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
