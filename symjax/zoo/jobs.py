"""Members that are not as far as they are wanted, trained there side by side, epoch by epoch."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

import jax
import numpy as np
import pandas as pd

from symjax import interruption, memory, parallel
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.network import Network
from symjax.parallel import Execution
from symjax.progress import progress_bar
from symjax.training import Recipe, TrainState, create_state, pad_batches, train_epoch
from symjax.training.loop import data_shapes, device_data
from symjax.zoo.config import ZooConfig
from symjax.zoo.saturation import Finder
from symjax.zoo.stored import COLUMNS, StoredMember, abstract_state
from symjax.zoo.trained import EVALUATION_BATCH, warn

SAVING_SHARE = 0.05  # of the time, at most
AGREEMENT = 1e-3  # relative, of an epoch's loss when a member is trained again for checkpoints that it lacks


@dataclass(eq=False)
class Job:
    """A member to be trained to the end, or trained again as far as checkpoints are missing."""

    stored: StoredMember
    start: int  # epochs done before
    stop: int  # epochs wanted
    keep: frozenset[int]  # of which parameters and statistics are to be kept
    labels: np.ndarray | None = None  # None where members learn the labels of the data set
    state: TrainState | None = None
    rows: list[dict] = field(default_factory=list)
    known: list[float] = field(default_factory=list)  # the losses of epochs that were trained before

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=list(COLUMNS))

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        """Takes an epoch's metrics; an InputError where they are not those of the same epoch trained before."""
        seed = self.stored.seed
        self.rows.append({"seed": seed, "epoch": epoch, **metrics})
        if np.isnan(metrics["loss"]) and not any(np.isnan(row["loss"]) for row in self.rows[:-1]):
            warn(f"the loss of seed {seed} became NaN in epoch {epoch}")
        if epoch > len(self.known):
            return
        before, now = self.known[epoch - 1], metrics["loss"]
        if not np.isclose(now, before, rtol=AGREEMENT, atol=AGREEMENT, equal_nan=True):
            raise InputError(
                f"keep: {self.stored.folder} lacks checkpoints, and its training cannot be gone through again here: in "
                f"epoch {epoch} the loss is {now:.5f} where it was {before:.5f} (another machine or other versions); "
                "take another folder for the zoo (--zoo), which leaves this one as it is"
            )


def plan(stored: StoredMember, epochs: int, keep: Iterable[int]) -> Job | None:
    """What is left to do for a member, or None. What it holds already stays, whatever has to be trained again."""
    done, there = stored.epoch(), stored.kept()
    missing = frozenset(epoch for epoch in keep if epoch != epochs and epoch not in there)
    if done == epochs and not missing:
        return None
    start = done if all(epoch >= done for epoch in missing) else 0
    return Job(stored, start, max(missing) if done == epochs else epochs, missing)


def train_jobs(
    config: ZooConfig,
    network: Network,
    dataset: Dataset,
    jobs: Sequence[Job],
    execution: Execution,
    devices: tuple,
    progress: bool,
    save_every_seconds: float,
    finder: Finder | None = None,
) -> None:
    """Those that are furthest behind first, until they meet the next; each leaves when it is where it is to stop.

    What is frozen, the configuration says, or where that is a rule, the `finder`.

    An interruption ends this between two epochs or in one, with the members saved as they were at the last one's end.
    """
    recipe = config.recipe
    training = parallel.replicate(device_data(dataset, pad_batches(dataset.validation, EVALUATION_BATCH)), devices)
    own_labels = any(job.labels is not None for job in jobs)
    _prepare(config, network, len(dataset.train), jobs, devices[0])
    groups: dict[int, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.start, []).append(job)
    first, last = min(groups), max(job.stop for job in jobs)
    with (
        progress_bar(desc="zoo", unit="epoch", total=last, initial=first, disable=not progress) as bar,
        interruption.deferred() as interrupted,
    ):
        bar.set_postfix_str("compiling")
        active: list[Job] = []
        stacked, labels = None, None
        saved, save_every = time.monotonic(), save_every_seconds
        for epoch in range(first, last + 1):
            if epoch in groups:
                # By way of the host, because another number of members is spread over devices differently.
                waiting = [parallel.take(jax.device_get(stacked), i) for i in range(len(active))]
                active += groups[epoch]
                stacked = parallel.stack([*waiting, *(job.state for job in groups[epoch])])
                for job in groups[epoch]:
                    job.state = None
                labels = np.stack([job.labels for job in active]) if own_labels else None
            if finder is not None and active:  # before members are saved that are so far
                finder.look([job.stored.seed for job in active], stacked.member, epoch)
            _keep(active, stacked, epoch)
            end = interrupted() or epoch == last
            if epoch > first and (end or time.monotonic() - saved >= save_every):
                begin = time.monotonic()
                _save(active, stacked)
                saved = time.monotonic()
                save_every = max(save_every_seconds, (saved - begin) / SAVING_SHARE)
            if end:
                break
            if any(job.stop == epoch for job in active):  # trained again, and as far as is wanted
                going = np.array([i for i, job in enumerate(active) if job.stop > epoch], int)
                host = jax.device_get(stacked)
                active = [active[i] for i in going]
                stacked = parallel.take(host, going)
                labels = labels[going] if own_labels else None
            if not active:  # until the next join
                bar.update()
                continue
            frozen = config.frozen(epoch) if finder is None else finder.frozen(epoch)
            program = epochs_program(network, recipe, execution, devices, frozen, own_labels)
            following, metrics = program((stacked, labels) if own_labels else stacked, training)
            if not _wait(metrics, interrupted):  # the epoch is lost, and the one before may not be saved
                _save(active, stacked)
                break
            stacked, metrics = following, jax.device_get(metrics)
            _add(active, stacked, epoch + 1, metrics)
            shown = {"loss": "loss", "accuracy": "accuracy", "validation": "validation_accuracy"}
            bar.set_postfix({label: f"{np.mean(metrics[key]):.3f}" for label, key in shown.items()}, refresh=False)
            bar.update()


def _prepare(config: ZooConfig, network: Network, train_images: int, jobs: Sequence[Job], device: jax.Device) -> None:
    """Gives jobs the states that they start from, on the host, and what is known of their training.

    Fresh ones are made on `device` one at a time, which takes less of it than training one does.
    """
    like, create = None, creation(network, config.recipe, train_images // config.recipe.batch_size)
    for job in jobs:
        if done := job.stored.epoch():
            known = job.stored.metrics(done)
            job.known = known.loss.tolist()
        if job.start:
            like = abstract_state(config, network, train_images) if like is None else like
            job.state, job.rows = job.stored.restore(like), known.to_dict("records")
        else:
            job.state = jax.device_get(create(jax.device_put(np.int32(job.stored.seed), device)))


def _add(active: Sequence[Job], stacked: TrainState, epoch: int, metrics: dict[str, np.ndarray]) -> None:
    """Gives jobs an epoch's metrics. Where one goes another way than before, the others are saved before the error."""
    errors = []
    for i, job in enumerate(active):
        try:
            job.add(epoch, {name: float(values[i]) for name, values in metrics.items()})
        except InputError as error:
            errors.append(error)
    if errors:
        _save(active, stacked)  # members that are trained again are not: what is saved of them is further
        raise errors[0]


def _keep(active: Sequence[Job], stacked: TrainState, epoch: int) -> None:
    if any(epoch in job.keep for job in active):
        members = jax.device_get(stacked.member)
        for i, job in enumerate(active):
            if epoch in job.keep:
                job.stored.keep(epoch, parallel.take(members, i), job.frame())


def _wait(arrays: dict[str, jax.Array], interrupted: Callable[[], bool]) -> bool:
    """Whether these were computed before the user or the system interrupted."""
    while not all(array.is_ready() for array in arrays.values()):
        if interrupted():
            return False
        time.sleep(0.005)
    return True


def _save(active: Sequence[Job], stacked: TrainState) -> None:
    """Saves those that are further than what is saved of them."""
    host = jax.device_get(stacked)
    for i, job in enumerate(active):
        state = parallel.take(host, i)
        if int(state.epoch) > job.stored.epoch():
            job.stored.save(state, job.frame())


@lru_cache
def epochs_program(
    network: Network, recipe: Recipe, execution: Execution, devices: tuple, frozen: int = 0, own_labels: bool = False
):
    """`train_epoch` lifted over members, remembered, so that the same process does not compile it again."""
    return parallel.over_members(_epoch(network, recipe, frozen, own_labels), execution, devices=devices)


def _epoch(network: Network, recipe: Recipe, frozen: int, own_labels: bool):
    """`train_epoch` of a member, with labels of its own or without, on what all share."""

    def epoch(member, shared):
        state, labels = member if own_labels else (member, shared.labels)
        return train_epoch(network, recipe, state, shared._replace(labels=labels), frozen)

    return epoch


def need(config: ZooConfig, dataset: Dataset, execution: Execution, own_labels: bool = False) -> memory.MemoryEstimate:
    """The device memory that training members takes; compiles the program of an epoch for one member.

    Of a schedule that freezes layers it is that of the epochs before.
    """
    shared = data_shapes(dataset, pad_batches(dataset.validation, EVALUATION_BATCH))
    plain = dataclasses.replace(config.on(dataset), freeze=(), labels="true")
    network = config.network(dataset).with_form(execution.conv)
    return _need(plain, network, tuple(jax.tree.leaves(shared)), jax.tree.structure(shared), execution, own_labels)


@lru_cache
def _need(config: ZooConfig, network: Network, leaves, structure, execution: Execution, own_labels: bool):
    """Remembered, so that zoos that differ in labels and schedules alone are compiled once."""
    shared = jax.tree.unflatten(structure, leaves)
    state = abstract_state(config, network, len(shared.images))
    member = (state, shared.labels) if own_labels else state
    return memory.estimate_memory(_epoch(network, config.recipe, 0, own_labels), execution, member, shared)


@lru_cache
def creation(network: Network, recipe: Recipe, steps_per_epoch: int):
    """`create_state` of a seed, remembered. Compiled without optimisation on a CPU, where LLVM takes long otherwise."""
    create = partial(create_state, network, recipe, steps_per_epoch)
    return jax.jit(create, compiler_options=parallel.compiler_options(optimise=False))
