"""Training the members of zoos together."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from symjax import hosts, memory, parallel, runs
from symjax.birkhoff.checks import scalar
from symjax.checks import flag, integer, integers, is_integer, path, sequence, short
from symjax.checks import seeds as check_seeds
from symjax.data import Dataset, describe_shapes
from symjax.data import load as load_data
from symjax.errors import InputError, renamed
from symjax.network import Network
from symjax.parallel import Execution
from symjax.training import Recipe
from symjax.zoo.config import ZooConfig
from symjax.zoo.jobs import Job, need, plan, train_jobs
from symjax.zoo.saturation import Finder
from symjax.zoo.stored import StoredMember
from symjax.zoo.trained import Opened, Zoo, devices_or_all, opened_zoo


class Group(NamedTuple):
    """Members of one configuration, and the folder that keeps them."""

    config: ZooConfig
    seeds: Iterable[int]
    folder: str | pathlib.Path


def train(
    network: Network | ZooConfig,
    data: Dataset | Mapping[str, Any],
    seeds: int | Iterable[int] = 8,
    folder: str | pathlib.Path | None = None,
    *,
    validation: float | None = None,
    keep: Iterable[int] = (),
    execution: Execution | None = None,
    devices=None,
    progress: bool = True,
    save_every_seconds: float = 30,
    max_device_memory: float | None = None,
    **recipe: Any,
) -> Zoo:
    """Return the members of `seeds`: those that `folder` holds, and the others trained as far as they are not.

    A member depends on the network, how it is trained, the data and its seed alone; which others it trains beside and
    on which devices changes it by rounding at most. Members that find a schedule of freezing (`ZooConfig.rule`) train
    all at once; the folder holds what they have found, by which the same zoo is trained again.

    Args:
      network: a `Network` with an `init`; or a `ZooConfig`, which says all but the seeds.
      data: a `Dataset` (of a `ZooConfig` what `load_dataset()` gives), or a mapping of arrays x_train, y_train, x_test
        and y_test as `symjax.data.load` takes it.
      seeds: how many members, 3 for seeds 0, 1, 2; or different integers from 0; of a rule those that it names.
      folder: kept for this zoo alone; made where it is missing. One process at a time trains in it, others wait; the
        processes of one job (`symjax.hosts`) share the members out among them. By default nothing stays on disk.
      validation: the share of a mapping's training examples that is held out; 0.1 by default.
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
      **recipe: fields of `symjax.training.Recipe` for a `Network`: epochs (10 by default), batch_size, learning_rate,
        weight_decay, optimizer, schedule, warmup, flip, translate, loss, metric.

    Raises:
      InputError: a network without an `init`, or one that data, loss or metric do not fit; bad seeds, epochs
        or sizes, a folder of another configuration, or a damaged checkpoint; memory that does not hold one member; a
        member that is to be trained again for `keep` has other losses than the first time.

    Example:
      >>> import jax, numpy as np, symjax
      >>> def init(key):
      ...     return {"hidden": jax.random.normal(key, (3, 5)), "out": jax.random.normal(key, (5, 2))}
      >>> def apply(params, x):
      ...     return symjax.stitch_point(jax.nn.relu(x @ params["hidden"]), "relu1") @ params["out"]
      >>> net = symjax.Network.from_function(apply, init=init, example=np.zeros((1, 3), np.float32))
      >>> x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
      >>> y = (x[:, 0] > 0).astype(np.int32)
      >>> data = {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}
      >>> zoo = symjax.zoo.train(net, data, seeds=2, epochs=2, batch_size=12, progress=False)
      >>> zoo.member(1).params["hidden"].shape, len(zoo.metrics)
      ((3, 5), 4)
    """
    config, dataset = _configured(network, data, validation, recipe)
    seeds = range(integer("seeds", seeds, 1)) if is_integer(seeds) else seeds
    with contextlib.ExitStack() as stack:
        if folder is None:
            if hosts.count() > 1:
                raise InputError("folder: got none; the processes of a job share the folder of a zoo, expected one")
            folder = stack.enter_context(tempfile.TemporaryDirectory())
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


def _configured(network, data, validation: float | None, recipe: Mapping[str, Any]) -> tuple[ZooConfig, Dataset]:
    """A configuration, and the data set."""
    if isinstance(network, ZooConfig):
        if given := [name for name, value in {"validation": validation, **recipe}.items() if value is not None]:
            raise InputError(f"{given[0]}: got one beside a ZooConfig, which says how its members are trained")
        if not isinstance(data, Dataset):
            raise InputError(f"data: got {short(data)} beside a ZooConfig, expected a Dataset, as load_dataset() gives")
        return network, data
    if not isinstance(network, Network):
        raise InputError(f"network: got {short(network)}, expected a Network or a ZooConfig")
    known = [field.name for field in dataclasses.fields(Recipe)]
    if unknown := [name for name in recipe if name not in known]:
        raise InputError(f"{unknown[0]}: is no option of training; known: {', '.join(known)}")
    if not isinstance(data, (Dataset, Mapping)):
        raise InputError(
            f"data: got {short(data)}, expected a Dataset or a mapping of x_train, y_train, x_test, y_test"
        )
    if isinstance(data, Mapping):
        with renamed(name="data"):
            data = load_data(data, validation=0.1 if validation is None else validation)
    elif validation is not None:
        raise InputError("validation: got one for a Dataset, which has its own validation examples; expected none")
    return ZooConfig(data.name, network, recipe=Recipe(**{"epochs": 10, **recipe})), data


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

        jobs = hosts.all_agree("members to be trained", look, tell)
        chosen = hosts.local_shard([i for i, job in enumerate(jobs) if job is not None])
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
        hosts.check_complete("members are trained", lambda: [job for job in look() if job is not None], tell)
    opened = [Opened(group.folder, execution, group.config.own) for group in groups]
    return [opened_zoo(one, group.seeds) for one, group in zip(opened, groups, strict=True)]


def check(config: ZooConfig, dataset: Dataset, execution: Execution) -> Network:
    """The network of a zoo; an InputError where it cannot be trained on these images."""
    _check_sizes(config, dataset)
    config.check_on(describe_shapes(dataset))
    network = config.network(dataset).with_form(execution.conv)
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
