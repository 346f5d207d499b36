"""A shard of a sweep: some stitches of a group of pairs, trained and evaluated on devices of their own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from symjax.data import Dataset
from symjax.ops.parallel import groups, over_members, replicate, shard, take
from symjax.stitching import evaluate, fit
from symjax.stitching.plan import Plan
from symjax.stitching.stitched import Pair, Stitch
from symjax.training.evaluation import Batches, pad_batches
from symjax.training.loop import device_data

PyTree = Any
BATCHES = 8  # batches of an evaluation in one call: a call costs the host about 10 ms, a fifth of a batch


@dataclass(frozen=True)
class ShardResult:
    """The results of a shard for a group of pairs, on the host, with a leading axis over pairs.

    Attributes:
      plan: the plan of the shard.
      chosen: per pair, point and family in the order of `plan.stacked`, the candidate that validation selected.
      validation: accuracies in percent, or mean scores of another metric, (pairs, points, candidates).
      test: test accuracies or scores of the selected candidates, (pairs, points, families).
      stitches: per point and family the selected stitches, rounded, (pairs, 1, ...).
      stats: per point and family the statistics of their tails, (pairs, 1, ...).
      history: the metrics of each epoch.
      agreement: as `test`; None without `FitConfig.agreement`.
    """

    plan: Plan
    chosen: list[list[list[int]]]
    validation: np.ndarray
    test: np.ndarray
    stitches: list[list[Stitch]]
    stats: list[list[PyTree]]
    history: list[dict]
    agreement: np.ndarray | None = None


def evaluation_batches(dataset: Dataset, batch_size: int) -> dict[str, Batches]:
    """Return each split of a data set in batches, on the host."""
    return {name: pad_batches(getattr(dataset, name), batch_size) for name in ("train", "validation", "test")}


class SweepShard:
    """The compiled programs of a shard. They run for any number of groups with one pair per device.

    Args:
      plan: the stitches of this shard.
      dataset: the images.
      evaluated: the result of `evaluation_batches`, which shards share.
      devices: the devices of this shard.
    """

    def __init__(self, plan: Plan, dataset: Dataset, evaluated: dict[str, Batches], devices: list):
        self.plan, config = plan, plan.config
        lift = partial(over_members, execution=plan.execution, devices=devices)
        self._train, self._validation, self._test = (evaluated[name] for name in ("train", "validation", "test"))
        self._data = replicate(device_data(dataset, None), devices)
        self._matching = self._full_batches(config.matching_images)
        self._reestimation = self._full_batches(config.reestimation_images)
        images = (self._reestimation[0], self._validation.images, self._test.images)
        self._lengths = list(map(len, images))
        self._batches_per_call = min(BATCHES, max(self._lengths))
        self._moments = lift(
            lambda pair, shared: fit.pair_moments(plan, pair, shared[0][0], shared[1], shared[2], shared[0][1]),
            effort=1,
        )
        self._initialize = lift(lambda m, _: fit.initialize(plan, *m), effort=0)
        self._epoch = lift(partial(fit.fit_epoch, plan), effort=1)
        self._halfway = lift(lambda state, _: fit.halfway(plan, state), effort=0)
        self._round = lift(lambda state, _: fit.round_stitches(plan, state), effort=0)
        self._statistics = lift(partial(evaluate.over_batches, partial(evaluate.batch_statistics, plan)), effort=1)
        self._scores = lift(partial(evaluate.over_batches, partial(evaluate.batch_scores, plan)), effort=1)
        self._place = partial(shard, devices=devices)

    def _full_batches(self, images: int) -> tuple:
        """Return batches of about `images` training images and labels: full ones of distinct images, at least one."""
        images = min(images, self._train.mask.sum())
        count = max(1, int(images) // self._train.images.shape[1])
        return self._train.images[:count], self._train.labels[:count]

    @property
    def evaluation_steps(self) -> int:
        """The number of calls for the evaluation of one group."""
        return sum(-(-length // self._batches_per_call) for length in self._lengths)

    def run(
        self,
        pairs: Pair,
        keys: np.ndarray,
        on_epoch: Callable[[int, dict], None],
        on_evaluation: Callable[[dict | None], None],
        check_stop: Callable[[], None],
    ) -> ShardResult:
        """Train, round and evaluate the stitches of stacked pairs.

        Args:
          pairs: one for every device of the shard.
          keys: raw key data of each pair.
          on_epoch: called after each epoch with its number, from 0, and its metrics.
          on_evaluation: called after each call of an evaluation with the mean loss and accuracy so far, or None.
          check_stop: called before each stage, epoch and call; an exception in it ends the run.
        """
        plan, config, normalization = self.plan, self.plan.config, (self._data.mean, self._data.std)
        moments = self._moments(pairs, (self._matching, *normalization))
        check_stop()
        state = self._initialize((pairs, keys, moments), ())
        history = []
        if plan.trained:
            for epoch in range(config.epochs):
                check_stop()
                if epoch == config.halfway_epoch:
                    state = self._halfway(state, ())
                state, metrics = self._epoch(state, self._data)
                history.append(jax.device_get(metrics))
                on_epoch(epoch, history[-1])

        def batches_done(metrics):
            check_stop()
            on_evaluation(metrics)

        check_stop()
        stitches, placed = jax.device_get(self._round(state, ())), self._place(pairs)
        stats = self._reestimate(placed, stitches, batches_done)
        validation, _ = self._accuracy(placed, stitches, stats, self._validation, batches_done)
        chosen = [[_choose(plan, accuracies) for accuracies in pair_accuracies] for pair_accuracies in validation]
        stitches, stats = _pick(plan, stitches, chosen), _pick(plan, stats, chosen)
        test, agreement = self._accuracy(placed, stitches, stats, self._test, batches_done)
        return ShardResult(plan, chosen, validation, test, stitches, stats, history, agreement)

    def _calls(self, compiled, members, batches: PyTree) -> Iterator[tuple[PyTree, PyTree]]:
        """Yield (some of the batches, their results of `compiled` on the host with leaves (pairs, batches, ...))."""
        for index, count in groups(len(jax.tree.leaves(batches)[0]), self._batches_per_call):
            shared = (take(batches, index), np.int32(count), self._data.mean, self._data.std)
            results = jax.device_get(compiled(members, shared))
            yield take(batches, index[:count]), jax.tree.map(lambda leaf, count=count: leaf[:, :count], results)

    def _reestimate(self, pairs, stitches, on_evaluation) -> list[list[PyTree]]:
        results = []
        for _, stats in self._calls(self._statistics, (pairs, self._place(stitches)), self._reestimation):
            results.append(stats)
            on_evaluation(None)
        return evaluate.pool_statistics(self.plan, results)

    def _accuracy(self, pairs, stitches, stats, batches, on_evaluation) -> tuple[np.ndarray, np.ndarray | None]:
        """Return accuracies in percent, or mean scores of another metric, (pairs, points, stitches); and agreement."""
        score = loss = examples = agreement = np.float64(0)
        for call_batches, scores in self._calls(self._scores, (pairs, *self._place((stitches, stats))), batches):
            sums = jax.tree.map(lambda *points: np.stack(points, axis=2).astype(np.float64), *scores)
            score, loss = score + sums.score.sum(axis=1), loss + sums.loss.sum(axis=1)
            agreement += 0 if sums.agreement is None else sums.agreement.sum(axis=1)
            examples += call_batches.mask.sum()
            on_evaluation({"loss": float(np.mean(loss) / examples), "accuracy": float(np.mean(score) / examples)})
        share = np.asarray(100 * agreement / float(examples)) if self.plan.config.agreement else None
        return np.asarray(self.plan.config.scale * score / float(examples)), share


def _choose(plan: Plan, accuracies: np.ndarray) -> list[int]:
    """Return per family the index of the candidate with the best validation accuracy, the first one of equals.

    A candidate with NaN is chosen only if all candidates of the family have NaN.
    """
    accuracies = np.where(np.isnan(accuracies), -np.inf, accuracies)
    return [max(range(part.start, part.stop), key=lambda i: accuracies[i]) for part in plan.candidate_slices]


def _pick(plan: Plan, stacks: list[list[PyTree]], chosen: list[list[list[int]]]) -> list[list[PyTree]]:
    """Return per point and family the chosen candidates, (pairs, 1, ...), of stacks (pairs, candidates, ...)."""
    first, rows = [part.start for part in plan.candidate_slices], np.arange(len(chosen))[:, None]

    def pick(p, f, stack):
        index = np.asarray([[pair_choice[p][f] - first[f]] for pair_choice in chosen])
        return jax.tree.map(lambda leaf: leaf[rows, index], stack)

    return [[pick(p, f, stack) for f, stack in enumerate(point_stacks)] for p, point_stacks in enumerate(stacks)]
