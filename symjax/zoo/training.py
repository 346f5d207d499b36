"""Training the members of zoos together."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax

from symjax import hosts, memory, parallel, runs
from symjax.birkhoff.checks import scalar
from symjax.checks import flag, integers, path, sequence
from symjax.checks import seeds as check_seeds
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.network import Network
from symjax.parallel import Execution
from symjax.zoo.config import ZooConfig, bad_inputs
from symjax.zoo.jobs import Job, need, plan, train_jobs
from symjax.zoo.saturation import Finder
from symjax.zoo.stored import StoredMember
from symjax.zoo.trained import Zoo, devices_or_all, load


class Group(NamedTuple):
    """Members of one configuration, and the folder that keeps them."""

    config: ZooConfig
    seeds: Iterable[int]
    folder: str | pathlib.Path


def train(
    config: ZooConfig,
    dataset: Dataset,
    seeds: Iterable[int],
    folder: str | pathlib.Path,
    *,
    keep: Iterable[int] = (),
    execution: Execution | None = None,
    devices=None,
    progress: bool = True,
    save_every_seconds: float = 30,
    max_device_memory: float | None = None,
) -> Zoo:
    """The members of `seeds`: those that `folder` holds, and the others trained as far as they are not.

    A member depends on `config`, `dataset` and its seed alone; which others it trains beside and on which devices
    changes it by rounding at most. Members that find a schedule of freezing (`config.rule`) train all at once; the
    folder holds what they have found, by which the same zoo is trained again.

    Args:
      config: of all members.
      dataset: what `config.load_dataset()` gives.
      seeds: different integers from 0; of a rule those that it names.
      folder: kept for this zoo alone; made where it is missing. One process at a time trains in it, others wait; the
        processes of one job (`symjax.hosts`) share the members out among them.
      keep: after how many epochs, 0 for the network as it is drawn, to keep each member's parameters and statistics
        for `load(folder, epoch=...)`. A member that was trained without them is trained again as far as the last of
        them, which leaves everything that is there as it is.
      execution: how members run; by default the one for this backend.
      devices: to spread members over; by default all local ones.
      progress: show a bar on stderr.
      save_every_seconds: how often unfinished members are saved, at the end of an epoch; rarer where saving takes more
        than a twentieth of the time.
      max_device_memory: bytes on each device; members train in groups, one after another, that need no more (see
        `symjax.memory`). By default all train at once.

    Raises:
      InputError: bad seeds, epochs or sizes, a folder of another configuration, or a damaged checkpoint; memory that
        does not hold one member; a member that is to be trained again for `keep` has other losses than the first time.
    """
    (zoo,) = train_together(
        [Group(config, seeds, folder)],
        dataset,
        keep=keep,
        execution=execution,
        devices=devices,
        progress=progress,
        save_every_seconds=save_every_seconds,
        max_device_memory=max_device_memory,
    )
    return zoo


def train_together(
    groups: Sequence[Group],
    dataset: Dataset,
    *,
    keep: Iterable[int] = (),
    execution: Execution | None = None,
    devices=None,
    progress: bool = True,
    save_every_seconds: float = 30,
    max_device_memory: float | None = None,
) -> list[Zoo]:
    """Zoos that differ in the labels that they learn, trained side by side in one program; each a zoo as of `train`.

    Args:
      groups: whose configurations are the same but for `labels`, each with a folder of its own.
      others: as of `train`.

    Raises:
      InputError: as of `train`; configurations that differ in more, folders that do not differ.
    """
    groups = sequence("groups", groups, "groups")
    if not all(isinstance(group, Group) for group in groups):
        raise InputError("groups: wanted each a Group of a configuration, seeds and a folder")
    groups = [
        Group(group.config.on(dataset), check_seeds(group.seeds), path("folder", group.folder)) for group in groups
    ]
    memory.check_limit(max_device_memory)
    flag("progress", progress)
    scalar("save_every_seconds", save_every_seconds, "a number from 0", lambda value: value >= 0)
    keep, config = _checked(groups, dataset, keep)
    execution = execution or parallel.default_execution()
    network = check(config, dataset, execution)
    devices = devices_or_all(devices)
    if config.rule is not None:
        check_rule(groups, dataset, execution, len(devices), max_device_memory)
    own_labels = any(group.config.labels != "true" for group in groups)
    with contextlib.ExitStack() as stack:
        members = []
        # In one order everywhere, so that two processes never wait for each other.
        for group in sorted(groups, key=lambda group: str(group.folder.absolute())):
            folder = stack.enter_context(runs.open_folder(group.folder, "zoo", group.config.document(dataset)))
            members += [(StoredMember(folder, seed), group.config) for seed in group.seeds]
        for member, _ in members if hosts.is_first() else ():
            member.sweep()

        def look() -> list[Job | None]:
            return [plan(member, config.recipe.epochs, keep) for member, _ in members]

        def tell(jobs: list[Job | None]) -> list:
            return [job and [str(job.stored.folder), job.start, job.stop, sorted(job.keep)] for job in jobs]

        jobs = hosts.agreed("members to be trained", look, tell)
        chosen = hosts.own([i for i, job in enumerate(jobs) if job is not None])
        for i in chosen if own_labels else ():
            jobs[i].labels = members[i][1].training_labels(dataset, jobs[i].stored.seed)
        finder = None
        if config.rule is not None and chosen:
            finder = Finder(config, network, dataset, folder, devices, max_device_memory)
            finder.check(max(member.epoch() for member, _ in members))
        if jobs := [jobs[i] for i in chosen]:
            size = len(jobs)
            if max_device_memory is not None:
                size = len(devices) * need(config, dataset, execution, own_labels).fitting(max_device_memory)
            jobs.sort(key=lambda job: job.start)  # those that are equally far train together
            for group in (jobs[i : i + size] for i in range(0, len(jobs), size)):
                train_jobs(config, network, dataset, group, execution, devices, progress, save_every_seconds, finder)
        # Until then the folders are held.
        hosts.complete("members are trained", lambda: [job for job in look() if job is not None], tell)
    return [load(group.folder, group.seeds, execution=execution) for group in groups]


def check(config: ZooConfig, dataset: Dataset, execution: Execution) -> Network:
    """The network of a zoo; an InputError where it cannot be trained on these images."""
    _check_sizes(config, dataset)
    network = config.network(dataset).with_form(execution.conv)
    _check_inputs(network)
    if config.rule is None and len(config.freeze) > len(network.points):
        raise InputError(
            f"freeze: got {len(config.freeze)} epochs, wanted at most {len(network.points)}: the last layer is trained"
        )
    return network


def check_rule(
    groups: Sequence[Group], dataset: Dataset, execution: Execution, devices: int, max_device_memory: float | None
) -> None:
    """An InputError where the members that are to find a schedule cannot do so together."""
    config, seeds = groups[0].config, groups[0].seeds
    if len(groups) > 1:
        raise InputError("groups: they are to find a schedule of freezing, which they would have to share; wanted one")
    if sorted(seeds) != list(config.rule.seeds):
        there, wanted = (", ".join(map(str, chosen)) for chosen in (sorted(seeds), config.rule.seeds))
        raise InputError(f"seeds: got {there}, wanted {wanted}, which find the schedule of freezing together")
    if hosts.count() > 1:
        raise InputError("freeze: members find a schedule of freezing in one process; wanted no more, or a given one")
    if max_device_memory is not None:
        most = devices * need(config, dataset, execution, config.labels != "true").fitting(max_device_memory)
        if most < len(seeds):
            raise InputError(
                f"max_device_memory: {most} of {len(seeds)} members fit at a time, and those that find a schedule of "
                "freezing train all at once; wanted more memory, fewer seeds or a given schedule"
            )


def _checked(groups: Sequence[Group], dataset: Dataset, keep: Iterable[int]) -> tuple[tuple[int, ...], ZooConfig]:
    """The epochs to keep and a configuration for all groups."""
    if not groups:
        raise InputError("groups: got none, wanted one or more")
    alike = {dataclasses.replace(group.config, labels="true") for group in groups}
    if len(alike) > 1:
        raise InputError("groups: configurations differ in more than labels, so that no program trains them together")
    if len({group.folder.absolute() for group in groups}) < len(groups):
        raise InputError("groups: two have one folder, wanted one for each")
    return check_epochs(keep, groups[0].config.recipe.epochs), alike.pop()


def _check_sizes(config: ZooConfig, dataset: Dataset) -> None:
    """An InputError where there are not enough images, or too small ones."""
    recipe = config.recipe
    if not len(dataset.validation):
        raise InputError("validation: the data set has no validation images; wanted a fraction over 0")
    if recipe.batch_size > len(dataset.train):
        raise InputError(f"batch_size: {recipe.batch_size} is more than the {len(dataset.train)} training images")
    if recipe.translate and recipe.translate >= min(dataset.example_shape[:2]):
        size = min(dataset.example_shape[:2])
        raise InputError(f"translate: got {recipe.translate}, wanted less than the images' {size} pixels")


def check_epochs(epochs: Iterable[int], last: int) -> tuple[int, ...]:
    """Different epochs, ascending; an InputError unless they are integers from 0 to `last`."""
    return tuple(sorted(set(integers("keep", epochs, 0, last))))


def _check_inputs(network: Network) -> None:
    """An InputError where pooling leaves nothing of the images, say; found out before anything is written."""
    try:
        jax.eval_shape(network.apply, network.shapes, network.example)
    except (InputError, TypeError, ValueError) as error:  # depends on the layer that cannot take them
        raise bad_inputs(network, error) from None
