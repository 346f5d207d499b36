"""Sweeps: all pairs, points and families, fitted and evaluated in a few compiled programs.

Pairs run in groups that fill the devices; results are yielded group by group. If there are more devices than pairs,
several devices share a pair: each runs a shard, some of its stitches, without waiting for the others. Validation
selects the learning rate of a family; only the selected stitches are evaluated on the test split, once.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from symjax.ops.parallel import groups, stack, take
from symjax.ops.threads import run_concurrently
from symjax.spelling import one_line
from symjax.stitching.controls import DEFAULTS, NOISE, label
from symjax.stitching.partition import count_images, partition, plan_flops
from symjax.stitching.plan import Plan
from symjax.stitching.shard import ShardResult, SweepShard, evaluation_batches
from symjax.stitching.stitched import Pair, Stitch

PyTree = Any
CURVE_COLUMNS = ("layer", "layer_b", "control", "objective")


@dataclass(frozen=True)
class PairResult:
    """The results of a sweep for one ordered pair.

    Attributes:
      pair: the seeds (of the front, of the tail).
      rows: a dict per point and family with layer, layer_index, starred, family, hyperparameter, learning_rate, start,
        stitched_accuracy and val_accuracy (percent, or mean scores of another metric) and sparsity (the share of zero
        entries). If the points or networks of A and B differ, also layer_b and resize (`junction.Junction`).
      curves: a dict per point, trained candidate and epoch with layer, family, learning_rate, epoch, loss, accuracy
        (percent) and residual (the largest violation of the family's constraint, `Family.residual`).
      stitches: (layer, family), or (layer, layer_b, family) if the names differ, to (rounded stitch, its state of B),
        as NumPy arrays. The family of a control or of another objective is `controls.label`, such as full@noise.

    Rows and curves of controls also have `control`, those of other objectives `objective`. With `FitConfig.agreement`
    rows have `agreement` (percent).
    """

    pair: tuple[int, int]
    rows: list[dict]
    curves: list[dict]
    stitches: dict[tuple[str, ...], tuple[Stitch, PyTree]]

    def __repr__(self):
        return one_line(self)


def check_plan(plan: Plan, dataset: Dataset) -> None:
    """Raise an InputError if a plan cannot run on these images; nothing is sent to a device."""
    for junction in plan.junctions:
        for family in plan.families:
            if reason := family.misfit(junction):
                raise InputError(f"families: {reason}")
        if plan.trained and plan.config.start in ("identity", "matched") and len(set(junction.shape)) > 1:
            raise InputError(f"start: got {junction.widths}, expected equal widths for {plan.config.start!r}")
    if not plan.families or not plan.points:
        raise InputError(
            f"families, layers: got {len(plan.families)} and {len(plan.points)}, expected at least one of each"
        )
    if plan.config.batch_size > len(dataset.train):
        size, images = plan.config.batch_size, len(dataset.train)
        raise InputError(f"batch_size: got {size}, expected at most {images}, the number of training examples")
    if not len(dataset.validation):
        raise InputError("validation: got a data set without validation images, expected a fraction over 0")


class Sweep:
    """The compiled programs of a plan, which run for any number of pairs.

    Args:
      plan: the stitches and how they are fitted.
      dataset: the images.
      num_pairs: the number of pairs; if it is smaller than the number of devices, devices share a pair.
      devices: by default all local ones.

    Raises:
      InputError: the plan cannot run on this data set (`check_plan`).

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, symjax
        >>> from symjax import data, stitching
        >>> from symjax.ops import parallel
        >>> def mlp(weights, x):
        ...     return symjax.stitch_point(jax.nn.relu(x @ weights[0]), "relu1") @ weights[1]
        >>> def weights(seed):
        ...     keys = jax.random.split(jax.random.key(seed))
        ...     return jax.random.normal(keys[0], (4, 8)), jax.random.normal(keys[1], (8, 2))
        >>> network = symjax.Network.from_function(mlp, weights(0), example=jnp.ones((1, 4)))
        >>> x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        >>> y = (x[:, 0] > 0).astype(np.int32)
        >>> mapping = {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:], "normalize": False}
        >>> dataset = data.load(mapping, validation=0.2)
        >>> families = stitching.parse_families("identity,matched")
        >>> plan = stitching.Plan(network, (0,), families, stitching.FitConfig(), parallel.default_execution())
        >>> sweep = stitching.Sweep(plan, dataset, num_pairs=1)
        >>> (result,) = sweep.run(lambda seed: network.member(weights(seed)), [(0, 1)])
        >>> [(row["layer"], row["family"]) for row in result.rows]
        [('relu1', 'identity'), ('relu1', 'matched')]
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
            parts = partition(plan, share, flops, count_images(plan, dataset), flops_b)
        self.group_size = len(devices) // len(parts)
        assigned = np.asarray(devices[: self.group_size * len(parts)]).reshape(self.group_size, len(parts)).T
        evaluated = evaluation_batches(dataset, plan.config.eval_batch_size)
        self.shards = [SweepShard(p, dataset, evaluated, list(d)) for p, d in zip(parts, assigned, strict=True)]

    @property
    def evaluation_steps(self) -> int:
        """The number of calls of `on_evaluation` for each group of pairs."""
        return sum(shard.evaluation_steps for shard in self.shards)

    def run(
        self,
        member: Callable[[int], Member],
        pairs: Sequence[tuple[int, int]],
        *,
        member_b: Callable[[int], Member] | None = None,
        controls: Callable[[int], Mapping[str, Member]] = lambda seed: {},
        seed: int = 0,
        on_epoch: Callable[[dict], None] = lambda metrics: None,
        on_evaluation: Callable[[dict | None], None] = lambda metrics: None,
    ) -> Iterator[PairResult]:
        """Yield the results of all pairs in their order; a group of pairs runs at a time.

        Args:
          member: a function from the seed of a member to the member.
          pairs: ordered pairs of seeds.
          member_b: the same function for the tails; by default `member`.
          controls: a function from the seed of a front to the fronts of its controls, by name.
          seed: the seed of random numbers; those of a pair also depend on the seeds of the pair.
          on_epoch: called after each epoch with the mean training loss and accuracy of all stitches.
          on_evaluation: called after every few batches of an evaluation with mean loss and accuracy so far, or None.
        """
        member_b = member if member_b is None else member_b
        for index, count in groups(len(pairs), self.group_size):
            group = [pairs[i] for i in index]
            keys = stack([_pair_key(seed, pair) for pair in group])
            stacked = stack(
                [
                    Pair(member(a), member_b(b), self._controls(controls(a), key))
                    for (a, b), key in zip(group, keys, strict=True)
                ]
            )
            results = self._run_shards(stacked, keys, on_epoch, on_evaluation)
            for g, pair in enumerate(group[:count]):
                yield self._pair_result(g, pair, results)

    def _controls(self, members: Mapping[str, Member], key) -> dict[str, Any]:
        """Return `Pair.controls`."""
        noise = jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key), 2))
        return {name: noise if name == NOISE else members[name] for name in self.plan.controls}

    def _run_shards(self, pairs, keys, on_epoch, on_evaluation) -> list[ShardResult]:
        """Run all shards concurrently; if one fails, the others stop after their current stage, epoch or call."""
        lock = threading.Lock()
        epochs: dict[int, list[dict[str, float]]] = {}  # the metrics of an epoch of each shard
        trained = sum(bool(shard.plan.trained) for shard in self.shards)

        def epoch_done(epoch, metrics):
            with lock:
                done = epochs.setdefault(epoch, [])
                done.append(metrics)
                if len(done) == trained:
                    on_epoch({name: float(_mean([m[name] for m in done])) for name in ("loss", "accuracy")})

        def batch_done(metrics):
            with lock:
                on_evaluation(metrics)

        return run_concurrently([partial(shard.run, pairs, keys, epoch_done, batch_done) for shard in self.shards])

    def _pair_result(self, g, pair, results: list[ShardResult]) -> PairResult:
        rows: list[dict[str, Any]] = []
        curves: list[dict[str, Any]] = []
        stitches: dict[tuple[str, ...], Any] = {}
        for result in results:
            _add(result, g, rows, curves, stitches)
        return PairResult(pair, in_order(self.plan, rows), in_order(self.plan, curves), stitches)


def run_pair(plan: Plan, dataset: Dataset, member, pair: tuple[int, int], *, devices=None, **options) -> PairResult:
    """Return the result of one pair, also of a plan whose points have unequal families; see `Sweep.run`."""
    result, parts = PairResult(pair, [], [], {}), plan.parts()
    for part in parts:
        check_plan(part, dataset)
    for part in parts:
        (one,) = Sweep(part, dataset, num_pairs=1, devices=devices).run(member, [pair], **options)
        rows, curves = in_order(plan, result.rows + one.rows), in_order(plan, result.curves + one.curves)
        result = PairResult(pair, rows, curves, result.stitches | one.stitches)
    return result


def in_order(plan: Plan, rows: list[dict]) -> list[dict]:
    """Return rows of results or curves in the order of the network's points and of the plan."""
    labels = [family.label for family in plan.families]
    order = [junction.key for junction in sorted(plan.junctions, key=lambda j: (j.layer_index, j.b))]
    return sorted(rows, key=lambda row: (order.index(_junction_key(row)), labels.index(row["family"])))


def _add(result: ShardResult, g: int, rows: list, curves: list, stitches: dict) -> None:
    """Append the results of a shard for pair number `g` of its group."""
    plan = result.plan
    for p, junction in enumerate(plan.junctions):
        for f, family in enumerate(plan.stacked):
            candidate = plan.candidates[result.chosen[g][p][f]]
            stitch = take(result.stitches[p][f], (g, 0))
            if stitch.bias is None:
                stitch = stitch._replace(bias=np.zeros(len(stitch.matrix), stitch.matrix.dtype))
            name = label(family.label, junction.control, junction.objective)
            stitches[*junction.layers, name] = (stitch, take(result.stats[p][f], (g, 0)))
            start = family.start if plan.config.start == "auto" or not family.trains else plan.config.start
            rows.append(
                {
                    **junction.columns,
                    "family": family.label,
                    "hyperparameter": family.hyperparameter,
                    "start": start,
                    "learning_rate": candidate.learning_rate,
                    "stitched_accuracy": float(result.test[g, p, f]),
                    "val_accuracy": float(result.validation[g, p, result.chosen[g][p][f]]),
                    "sparsity": float(np.mean(np.asarray(stitch.matrix) == 0)),
                    **({} if result.agreement is None else {"agreement": float(result.agreement[g, p, f])}),
                }
            )
        for c, candidate in enumerate([candidate for candidate in plan.candidates if candidate.family.trains]):
            for epoch, metrics in enumerate(result.history):
                curves.append(
                    {
                        **{name: value for name, value in junction.columns.items() if name in CURVE_COLUMNS},
                        "family": candidate.family.label,
                        "learning_rate": candidate.learning_rate,
                        "epoch": epoch + 1,
                        "loss": float(metrics["loss"][g, p, c]),
                        "accuracy": plan.config.scale * float(metrics["accuracy"][g, p, c]),
                        "residual": float(metrics["residual"][g, p, c]),
                    }
                )


def _junction_key(row: Mapping[str, Any]) -> tuple:
    layer = row["layer"]
    return (layer, row.get("layer_b", layer), *(row.get(name, default) for name, default in DEFAULTS.items()))


def _mean(arrays: list[np.ndarray]) -> np.floating:
    return np.concatenate([array.ravel() for array in arrays]).mean()


def _pair_key(seed: int, pair: tuple[int, int]) -> jax.Array:
    key = jax.random.key(seed)
    for member_seed in pair:
        key = jax.random.fold_in(key, member_seed)
    return jax.random.key_data(key)
