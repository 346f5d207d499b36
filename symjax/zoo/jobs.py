"""Train the members of a zoo together, epoch by epoch, from their saved states."""

import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
import pandas as pd

from symjax.data import Dataset
from symjax.errors import InputError
from symjax.network import Network
from symjax.ops import interruption, parallel
from symjax.ops.compiler import compiler_options
from symjax.ops.memory import MemberProgram
from symjax.ops.parallel import Execution
from symjax.ops.progress import progress_bar, warn
from symjax.spelling import listed
from symjax.training import Recipe, TrainState, create_state, pad_batches, train_epoch
from symjax.training.loop import data_shapes, device_data
from symjax.zoo.config import ZooConfig
from symjax.zoo.evaluation import EVALUATION_BATCH
from symjax.zoo.saturation import FreezeScheduler
from symjax.zoo.stored import COLUMNS, StoredMember, abstract_state

SAVING_SHARE = 0.05  # the largest share of the time that is spent saving


@dataclass(eq=False)
class Job:
    """The training of one member to the last epoch.

    Attributes:
      stored: the folder of the member.
      start: completed epochs at the start.
      labels: training labels of this member; None for those of the data set.
      state: the training state at the start, as NumPy arrays.
      rows: metrics of each completed epoch.
    """

    stored: StoredMember
    start: int
    labels: np.ndarray | None = None
    state: TrainState | None = None
    rows: list[dict] = field(default_factory=list)

    def metrics(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=list(COLUMNS))

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        """Add the metrics of an epoch; warn when the loss becomes NaN."""
        seed = self.stored.seed
        if np.isnan(metrics["loss"]) and not any(np.isnan(row["loss"]) for row in self.rows):
            warn(f"the loss of seed {seed} became NaN in epoch {epoch}")
        self.rows.append({"seed": seed, "epoch": epoch, **metrics})


def completed_epochs(stored: StoredMember, keep: Iterable[int]) -> int:
    """Return the number of epochs after which the training of a member continues.

    Raises:
      InputError: the member was trained past an epoch of `keep` of which it has no checkpoint.
    """
    saved = stored.epochs()
    done = max(saved, default=0)
    if missing := sorted(epoch for epoch in keep if epoch < done and epoch not in saved):
        raise InputError(
            f"keep: got {listed(missing)}, expected epochs after the {done} that {stored.folder} was trained for; "
            f"train a zoo that keeps them in another folder, by train(..., keep={sorted(keep)}) or by the same "
            "command with another --zoo"
        )
    return done


def train_jobs(
    config: ZooConfig,
    network: Network,
    dataset: Dataset,
    jobs: Sequence[Job],
    execution: Execution,
    devices: tuple,
    progress: bool,
    save_every_seconds: float,
    keep: Collection[int] = (),
    scheduler: FreezeScheduler | None = None,
) -> None:
    """Train members together to the last epoch; all start after the same number of epochs.

    Members are saved after each epoch of `keep`, after the last epoch, and at the intervals of `save_every_seconds`.
    Layers are frozen by the schedule of the configuration, or by the `scheduler` if it has a rule. An interruption
    discards the running epoch, saves the members as of the last complete epoch, and ends the training.
    """
    start, last = jobs[0].start, config.recipe.epochs
    shared = parallel.replicate(device_data(dataset, pad_batches(dataset.validation, EVALUATION_BATCH)), devices)
    per_member_labels = any(job.labels is not None for job in jobs)
    labels = np.stack([np.asarray(job.labels) for job in jobs]) if per_member_labels else None
    _prepare(config, network, len(dataset.train), jobs, devices[0])
    with (
        progress_bar(
            desc="zoo", unit="epoch", total=last, initial=start, disable=not progress, postfix="compiling"
        ) as bar,
        interruption.deferred() as interrupted,
    ):
        states = parallel.stack([job.state for job in jobs])
        for job in jobs:
            job.state = None
        saved, interval = time.monotonic(), save_every_seconds
        for epoch in range(start, last):
            if scheduler is not None:  # before states are saved, so that a run that resumes from them has the decision
                scheduler.update([job.stored.seed for job in jobs], states.member, epoch)
            if epoch in keep or (epoch > start and time.monotonic() - saved >= interval):
                begin = time.monotonic()
                _save(jobs, states)
                saved = time.monotonic()
                interval = max(save_every_seconds, (saved - begin) / SAVING_SHARE)
            if interrupted():
                break
            frozen = config.frozen(epoch) if scheduler is None else scheduler.frozen(epoch)
            program = epochs_program(network, config.recipe, execution, devices, frozen, per_member_labels)
            after, metrics = program((states, labels) if per_member_labels else states, shared)
            if not _wait(metrics, interrupted):
                break
            states, metrics = after, jax.device_get(metrics)
            for i, job in enumerate(jobs):
                job.add(epoch + 1, {name: float(values[i]) for name, values in metrics.items()})
            shown = {"loss": "loss", "accuracy": "accuracy", "validation": "validation_accuracy"}
            bar.set_postfix({label: f"{np.mean(metrics[key]):.3f}" for label, key in shown.items()}, refresh=False)
            bar.update()
        if len(jobs[0].rows) > start:
            _save(jobs, states)


def _prepare(config: ZooConfig, network: Network, train_images: int, jobs: Sequence[Job], device: jax.Device) -> None:
    """Set the initial states of jobs, on the host, and their metrics.

    New states are made on `device` one at a time, so that this needs less memory than the training of one member.
    """
    like = abstract_state(config, network, train_images)
    create = creation(network, config.recipe, train_images // config.recipe.batch_size)
    for job in jobs:
        if job.start:
            job.state = job.stored.restore(like, job.start)
            job.rows = job.stored.metrics(job.start).to_dict("records")
        else:
            job.state = jax.device_get(create(jax.device_put(np.int32(job.stored.seed), device)))


def _wait(arrays: dict[str, Any], interrupted: Callable[[], bool]) -> bool:
    """Wait for arrays; return whether they were computed before an interruption."""
    while not all(array.is_ready() for array in arrays.values()):
        if interrupted():
            return False
        time.sleep(0.005)
    return True


def _save(jobs: Sequence[Job], states: TrainState) -> None:
    """Save the states that are newer than the saved ones; then delete superseded checkpoints.

    Nothing is deleted before all members are saved, so that they always have an epoch in common.
    """
    states = jax.device_get(states)
    for i, job in enumerate(jobs):
        state, saved = parallel.take(states, i), job.stored.epochs()
        if not saved or int(state.epoch) > max(saved):
            job.stored.save(state, job.metrics())
    for job in jobs:
        job.stored.delete_superseded()


@lru_cache
def epochs_program(
    network: Network,
    recipe: Recipe,
    execution: Execution,
    devices: tuple,
    frozen: int = 0,
    per_member_labels: bool = False,
):
    """Return `train_epoch` over members. It is cached, so that a process compiles it once."""
    epoch = _epoch(network, recipe, frozen, per_member_labels)
    return parallel.over_members(epoch, execution, devices=devices, effort=1)


def _epoch(network: Network, recipe: Recipe, frozen: int, per_member_labels: bool):
    """Return `train_epoch` as a function of a member's state, or of (state, labels), and of the shared data."""

    def epoch(member, shared):
        state, labels = member if per_member_labels else (member, shared.labels)
        return train_epoch(network, recipe, state, shared._replace(labels=labels), frozen)

    return epoch


def training_program(
    config: ZooConfig, dataset: Dataset, execution: Execution, per_member_labels: bool = False
) -> MemberProgram:
    """Return the program of an epoch in which nothing is frozen; epochs with frozen layers need less memory."""
    shared = data_shapes(dataset, pad_batches(dataset.validation, EVALUATION_BATCH))
    plain = dataclasses.replace(config.resolved_for(dataset), freeze=(), labels="true")
    network = config.network(dataset).with_form(execution.conv)
    leaves, structure = jax.tree.flatten(shared)
    return _training_program(plain, network, tuple(leaves), structure, execution, per_member_labels)


@lru_cache
def _training_program(
    config: ZooConfig, network: Network, leaves, structure, execution: Execution, per_member_labels: bool
) -> MemberProgram:
    """Return `training_program`; cached, so that zoos that differ only in labels and schedules are compiled once."""
    shared = jax.tree.unflatten(structure, leaves)
    state = abstract_state(config, network, len(shared.images))
    member = (state, shared.labels) if per_member_labels else state
    return MemberProgram(_epoch(network, config.recipe, 0, per_member_labels), execution, member, shared)


@lru_cache
def creation(network: Network, recipe: Recipe, steps_per_epoch: int):
    """Return `create_state` as a function of a seed; cached, and compiled without LLVM's slow optimization."""
    create = partial(create_state, network, recipe, steps_per_epoch)
    return jax.jit(create, compiler_options=compiler_options(effort=0))
