"""The sweep: all pairs, points and families, fitted and evaluated in a few compiled programs.

Pairs run in groups that fill the devices; each group's results are handed out as soon as they are there. Where there
are more devices than pairs, those that share a pair take different stitches of it, each in a lane of its own: lanes
never wait for each other. Validation picks among the learning rates of a family; the test split is looked at once, for
what was picked.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from symjax.checks import integer
from symjax.data import Dataset
from symjax.data.dataset import with_augmentation
from symjax.errors import InputError
from symjax.network import Member
from symjax.parallel import at_once, groups, stack, take
from symjax.spelling import one_line
from symjax.stitching.partition import divide, plan_flops, count_images
from symjax.stitching.families import Family, LowRank
from symjax.stitching.fit import Plan
from symjax.stitching.junction import Junction
from symjax.stitching.shard import Found, Lane, evaluation_batches
from symjax.stitching.stitched import Pair, Stitch

PyTree = Any


@dataclass(frozen=True)
class PairResult:
    """What a sweep finds for one ordered pair (front seed, tail seed).

    Attributes:
      pair: the two seeds.
      rows: a dict per point and family: layer, layer_index, starred, family, hyperparameter, learning_rate, start,
        stitched_accuracy and val_accuracy (percent, or mean scores of another metric), sparsity (share of zero
        entries); where B's point or network is not A's also layer_b and resize (`junction.Junction`).
      curves: a dict per point, trained candidate and epoch: layer, family, learning_rate, epoch, loss, accuracy
        (percent), residual (`Family.residual`: by how much the projections miss their constraint).
      stitches: (layer, family), or (layer, layer_b, family) where names differ, to (rounded stitch, B's statistics
        that belong to it), as NumPy arrays.
    """

    pair: tuple[int, int]
    rows: list[dict]
    curves: list[dict]
    stitches: dict[tuple[str, ...], tuple[Stitch, PyTree]]

    __repr__ = one_line


def check_plan(plan: Plan, dataset: Dataset) -> None:
    """An InputError where a plan cannot be carried out on these images; nothing is sent to a device."""
    for at in plan.junctions:
        for family in plan.families:
            _check_family(family, at)
        if plan.trained and plan.config.start in ("identity", "matched") and len(set(at.shape)) > 1:
            raise InputError(f"start: {plan.config.start!r} needs equal widths; {_widths(at)}")
    if not plan.families or not plan.points:
        raise InputError("families, layers: at least one of each is wanted")
    if plan.config.batch_size > len(dataset.train):
        size, images = plan.config.batch_size, len(dataset.train)
        raise InputError(f"batch_size: {size} is more than the {images} training images")
    if not len(dataset.validation):
        raise InputError("validation: the data set has no validation images; wanted a fraction over 0")


def _check_family(family: Family, at: Junction) -> None:
    if family.square and len(set(at.shape)) > 1:
        raise InputError(f"families: {family.label} stitches points of equal widths alone; {_widths(at)}")
    if isinstance(family, LowRank) and family.rank > min(at.shape):
        narrow = at.front if at.shape[1] == min(at.shape) else at.tail
        raise InputError(f"families: {family.label} exceeds the {narrow.channels} channels of {narrow.name}")


def _widths(at: Junction) -> str:
    return f"got {at.front.channels} channels at {at.front.name} of A and {at.tail.channels} at {at.tail.name} of B"


class Sweep:
    """Compiled once, run for any number of pairs.

    Args:
      plan: what is to be fitted.
      dataset: the images.
      num_pairs: how many pairs are to come; where they are fewer than the devices, devices share a pair.
      devices: all local ones by default.

    Raises:
      InputError: as of `check_plan`.
    """

    def __init__(self, plan: Plan, dataset: Dataset, *, num_pairs: int | None = None, devices=None):
        check_plan(plan, dataset)
        if num_pairs is not None:
            integer("num_pairs", num_pairs)
        self.plan = plan = dataclasses.replace(plan, config=with_augmentation(plan.config, dataset))
        devices = jax.local_devices() if devices is None else list(devices)
        share, parts = max(1, len(devices) // num_pairs) if num_pairs else 1, [plan]
        if share > 1:
            flops, flops_b = plan_flops(plan, dataset.example_shape)
            parts = divide(plan, share, flops, count_images(plan, dataset), flops_b)
        self.group_size = len(devices) // len(parts)
        own = np.asarray(devices[: self.group_size * len(parts)]).reshape(self.group_size, len(parts)).T
        evaluated = evaluation_batches(dataset, plan.config.eval_batch_size)
        self.lanes = [Lane(part, dataset, evaluated, list(theirs)) for part, theirs in zip(parts, own, strict=True)]

    @property
    def evaluation_steps(self) -> int:
        """Calls of `on_evaluation` for each group of pairs."""
        return sum(lane.evaluation_steps for lane in self.lanes)

    def run(
        self,
        member: Callable[[int], Member],
        pairs: Sequence[tuple[int, int]],
        *,
        member_b: Callable[[int], Member] | None = None,
        seed: int = 0,
        on_epoch: Callable[[dict], None] = lambda metrics: None,
        on_evaluation: Callable[[dict | None], None] = lambda metrics: None,
    ) -> Iterator[PairResult]:
        """Results pair by pair, group by group.

        Args:
          member: from a member's seed to the member.
          pairs: ordered pairs of seeds.
          member_b: from a tail's seed to its member, where it is not `member`.
          seed: of the stitches' random numbers; a pair's own depend on it and on the pair.
          on_epoch: called after each epoch with the mean loss and accuracy of all stitches in training.
          on_evaluation: called after each few batches of an evaluation, with the mean loss and accuracy so far or None.
        """
        member_b = member if member_b is None else member_b
        for index, kept in groups(len(pairs), self.group_size):
            group = [pairs[i] for i in index]
            stacked = stack([Pair(member(a), member_b(b)) for a, b in group])
            keys = stack([_pair_key(seed, pair) for pair in group])
            found = self._run_lanes(stacked, keys, on_epoch, on_evaluation)
            for g, pair in enumerate(group[:kept]):
                yield self._result(g, pair, found)

    def _run_lanes(self, pairs, keys, on_epoch, on_evaluation) -> list[Found]:
        """All lanes at once; where one fails the others stop after the stage, epoch or few batches they are at."""
        lock, epochs = threading.Lock(), {}
        trained = sum(bool(lane.plan.trained) for lane in self.lanes)

        def epoch_done(epoch, metrics):
            with lock:
                done = epochs.setdefault(epoch, [])
                done.append(metrics)
                if len(done) == trained:
                    on_epoch({name: float(_mean([m[name] for m in done])) for name in ("loss", "accuracy")})

        def batch_done(metrics):
            with lock:
                on_evaluation(metrics)

        return at_once([partial(lane.run, pairs, keys, epoch_done, batch_done) for lane in self.lanes])

    def _result(self, g, pair, found: list[Found]) -> PairResult:
        rows, curves, stitches = [], [], {}
        for of_lane in found:
            _add(of_lane, g, rows, curves, stitches)
        labels = [family.label for family in self.plan.families]
        order = {(at.front.name, at.tail.name): (at.a, at.b) for at in self.plan.junctions}
        key = lambda row: (order[row["layer"], row.get("layer_b", row["layer"])], labels.index(row["family"]))  # noqa: E731
        rows.sort(key=key)
        curves.sort(key=key)
        return PairResult(pair, rows, curves, stitches)


def _add(found: Found, g: int, rows: list, curves: list, stitches: dict) -> None:
    """Adds what a lane found for pair number `g` of its group."""
    plan = found.plan
    for p, at in enumerate(plan.junctions):
        for f, family in enumerate(plan.stacked):
            candidate = plan.candidates[found.chosen[g][p][f]]
            stitch = take(found.stitches[p][f], (g, 0))
            if stitch.bias is None:
                stitch = stitch._replace(bias=np.zeros(len(stitch.matrix), stitch.matrix.dtype))
            stitches[*at.layers, family.label] = (stitch, take(found.stats[p][f], (g, 0)))
            start = family.start if plan.config.start == "auto" or not family.trains else plan.config.start
            rows.append(
                {
                    **at.columns,
                    "family": family.label,
                    "hyperparameter": family.hyperparameter,
                    "start": start,
                    "learning_rate": candidate.learning_rate,
                    "stitched_accuracy": float(found.test[g, p, f]),
                    "val_accuracy": float(found.validation[g, p, found.chosen[g][p][f]]),
                    "sparsity": float(np.mean(np.asarray(stitch.matrix) == 0)),
                }
            )
        for c, candidate in enumerate([candidate for candidate in plan.candidates if candidate.family.trains]):
            for epoch, metrics in enumerate(found.history):
                curves.append(
                    {
                        **{name: value for name, value in at.columns.items() if name in ("layer", "layer_b")},
                        "family": candidate.family.label,
                        "learning_rate": candidate.learning_rate,
                        "epoch": epoch + 1,
                        "loss": float(metrics["loss"][g, p, c]),
                        "accuracy": plan.config.scale * float(metrics["accuracy"][g, p, c]),
                        "residual": float(metrics["residual"][g, p, c]),
                    }
                )


def _mean(arrays: list[np.ndarray]) -> np.floating:
    return np.concatenate([array.ravel() for array in arrays]).mean()


def _pair_key(seed: int, pair: tuple[int, int]) -> jax.Array:
    key = jax.random.key(seed)
    for member_seed in pair:
        key = jax.random.fold_in(key, member_seed)
    return jax.random.key_data(key)
