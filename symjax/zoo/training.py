"""Training the members of zoos together."""

import contextlib
import dataclasses
import itertools
import operator
import pathlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from symjax.checks import flag, integer, integers, path, scalar, sequence, short
from symjax.checks import seeds as check_seeds
from symjax.data import Dataset
from symjax.data import load as load_data
from symjax.errors import InputError, renamed
from symjax.network import Network
from symjax.ops import hosts, memory, parallel, runs
from symjax.ops.parallel import Execution
from symjax.training import Recipe
from symjax.zoo.checks import check, check_rule
from symjax.zoo.config import ZooConfig
from symjax.zoo.evaluation import devices_or_all
from symjax.zoo.jobs import Job, completed_epochs, train_jobs, training_program
from symjax.zoo.loading import Zoo, ZooFolder
from symjax.zoo.saturation import FreezeScheduler
from symjax.zoo.stored import StoredMember, add_snapshot_epochs, snapshot_epochs


class Group(NamedTuple):
    """Members of one configuration, and the folder where they are stored.

    Attributes:
      config: the configuration of the members.
      seeds: the seeds of the members.
      folder: the zoo folder.
    """

    config: ZooConfig
    seeds: Iterable[int]
    folder: str | pathlib.Path

    @property
    def path(self) -> pathlib.Path:
        """The folder as an absolute path."""
        return pathlib.Path(self.folder).absolute()


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
    """Train the members of `seeds` that `folder` does not hold yet, and return all of them.

    A member depends only on the network, the recipe, the data and its seed. The number of members that train together
    and the devices change it at most by rounding. Members with a freeze rule (`ZooConfig.rule`) train all at once; the
    schedule is stored in the folder.

    Args:
      network: a `Network` with an `init`; or a `ZooConfig`, which defines everything except the seeds.
      data: a `Dataset` (with a `ZooConfig` the result of its `load_dataset()`), or a mapping of arrays x_train,
        y_train, x_test and y_test as for `symjax.data.load`.
      seeds: the number of members, 3 for seeds 0, 1, 2; or different integers from 0; with a rule those of the rule.
      folder: a folder for this zoo only, created if it is missing. If another process trains in it, this one waits;
        the processes of one job (`symjax.ops.hosts`) divide the members among them. By default nothing is kept on disk.
      validation: the share of a mapping's training examples that is held out; 0.1 by default.
      keep: epochs after which the checkpoint of each member is kept for `load(folder, epoch=...)`, 0 for the initial
        network. Other checkpoints are deleted when newer ones are saved. A folder keeps the snapshots of all calls.
      execution: how members run; by default the one for this backend.
      devices: the devices over which members are spread; by default all local ones.
      progress: whether to show a progress bar on stderr.
      save_every_seconds: the interval at which unfinished members are saved, at the end of an epoch. It is longer if
        saving would take more than a twentieth of the time.
      max_device_memory: bytes on each device. Members train in groups that need no more, one after another (see
        `symjax.ops.memory`). By default all train at once.
      **recipe: fields of `symjax.training.Recipe` for a `Network`: epochs (10 by default), batch_size, learning_rate,
        weight_decay, optimizer, schedule, warmup, flip, translate, loss, metric.

    Returns:
      The `Zoo` of all members of `seeds`.

    Raises:
      InputError: a network without an `init`, or one that data, loss or metric do not fit; bad seeds, epochs or sizes;
        a folder of another configuration; a damaged checkpoint; memory for less than one member; a member in the folder
        that was trained past an epoch of `keep` without keeping it.

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
    seeds = seeds if isinstance(seeds, Iterable) else range(integer("seeds", seeds, 1))
    with contextlib.ExitStack() as stack:
        if folder is None:
            if hosts.count() > 1:
                raise InputError("folder: got none, expected one, which the processes of a job share")
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
    """Return the configuration and the data set that the arguments of `train` define."""
    if isinstance(network, ZooConfig):
        if given := [name for name, value in {"validation": validation, **recipe}.items() if value is not None]:
            raise InputError(f"{given[0]}: got one with a ZooConfig, which defines the training; expected none")
        if not isinstance(data, Dataset):
            raise InputError(f"data: got {short(data)} with a ZooConfig, expected a Dataset, as load_dataset() returns")
        return network, data
    if not isinstance(network, Network):
        raise InputError(f"network: got {short(network)}, expected a Network or a ZooConfig")
    known = [field.name for field in dataclasses.fields(Recipe)]
    if unknown := [name for name in recipe if name not in known]:
        raise InputError(f"{unknown[0]}: got an unknown option, expected one of {', '.join(known)}")
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
    """Train zoos that differ only in the labels of their members, side by side in one program.

    Args:
      groups: configurations that are equal except for `labels`, each with its seeds and its folder.
      dataset: the data set of all configurations.
      keep, execution, devices, progress, save_every_seconds, max_device_memory: as in `train`.

    Returns:
      A zoo for each group.

    Raises:
      InputError: as in `train`; configurations differ in more than labels; two groups have one folder.

    Example:
      >>> import jax, numpy as np, symjax
      >>> def init(key):
      ...     return jax.random.normal(key, (3, 2))
      >>> x = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
      >>> arrays = {"x_train": x, "y_train": np.arange(32) % 2, "x_test": x, "y_test": np.arange(32) % 2}
      >>> net = symjax.Network.from_function(lambda w, x: x @ w, init=init, example=x[:1])
      >>> import pathlib, tempfile
      >>> from symjax.zoo import Group, ZooConfig, train_together
      >>> recipe = symjax.training.Recipe(epochs=1, batch_size=14)
      >>> configs = [ZooConfig("mine", net, recipe=recipe, labels=labels) for labels in ("true", "permuted")]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     groups = [Group(config, (0, 1), pathlib.Path(folder, config.labels)) for config in configs]
      ...     zoos = train_together(groups, symjax.data.load(arrays), progress=False)
      >>> [(zoo.config.labels, zoo.seeds) for zoo in zoos]
      [('true', (0, 1)), ('permuted', (0, 1))]
    """
    groups = sequence("groups", groups, "groups")
    if not all(isinstance(group, Group) for group in groups):
        raise InputError(f"groups: got {short(groups)}, expected each a Group of a configuration, seeds and a folder")
    groups = [
        Group(group.config.resolved_for(dataset), check_seeds(group.seeds), path("folder", group.folder))
        for group in groups
    ]
    memory.check_limit(max_device_memory)
    flag("progress", progress)
    scalar("save_every_seconds", save_every_seconds, "a number from 0", lambda value: value >= 0)
    keep, config = _checked(groups, dataset, keep)
    execution = execution or parallel.default_execution()
    network = check(config, dataset, execution)
    devices = devices_or_all(devices)
    check_rule(groups[0].config, groups[0].seeds, dataset, execution, len(devices), max_device_memory)
    per_member_labels = any(group.config.labels != "true" for group in groups)
    with contextlib.ExitStack() as stack:
        members: dict[StoredMember, ZooConfig] = {}
        # All processes lock folders in the same order, so that no two of them wait for each other.
        for group in sorted(groups, key=lambda group: str(group.path)):
            folder = stack.enter_context(runs.open_folder(group.folder, "zoo", group.config.document(dataset)))
            members |= {StoredMember(folder, seed): group.config for seed in group.seeds}

        def unfinished() -> list[Job]:
            jobs = [Job(stored, completed_epochs(stored, keep)) for stored in members]
            return [job for job in jobs if job.start < config.recipe.epochs]

        def describe(jobs: Sequence[Job]) -> list:
            return [[str(job.stored.folder), job.start, snapshot_epochs(job.stored.folder.parent)] for job in jobs]

        if hosts.is_first():
            for stored in members:
                stored.delete_temporary()
            unfinished()  # raises before anything is written
            for group in groups:
                add_snapshot_epochs(group.path, keep)
        jobs = hosts.local_shard(hosts.all_agree("members to be trained", unfinished, describe))
        for job in jobs if per_member_labels else ():
            job.labels = members[job.stored].training_labels(dataset, job.stored.seed)
        scheduler = None
        if config.rule is not None and jobs:
            epochs = config.recipe.epochs
            scheduler = FreezeScheduler(config.rule, epochs, network, dataset, folder, devices, max_device_memory)
            scheduler.check(max(stored.epoch() for stored in members))
            if not scheduler.finished():  # the rule needs all members, so they continue after a common epoch
                common = set.intersection(*({0, *job.stored.epochs()} for job in jobs))
                for job in jobs:
                    job.start = max(common)
        size = len(jobs)
        if jobs and max_device_memory is not None:
            program = training_program(config, dataset, execution, per_member_labels)
            size = len(devices) * program.memory.max_members(max_device_memory)
        kept = {epoch for group in groups for epoch in snapshot_epochs(group.path)}
        start = operator.attrgetter("start")
        for _, iterator in itertools.groupby(sorted(jobs, key=start), key=start):
            equal_start = list(iterator)
            for part in (equal_start[i : i + size] for i in range(0, len(equal_start), size)):
                train_jobs(
                    config, network, dataset, part, execution, devices, progress, save_every_seconds, kept, scheduler
                )
        # The folders are locked until all processes have finished.
        hosts.check_complete("members are trained", unfinished, describe)
        for stored in members if hosts.is_first() else ():
            stored.delete_superseded()
    zoo_folders = [ZooFolder(group.folder, execution, group.config.user_code) for group in groups]
    return [zoo_folder.load(group.seeds) for zoo_folder, group in zip(zoo_folders, groups, strict=True)]


def _checked(groups: Sequence[Group], dataset: Dataset, keep: Iterable[int]) -> tuple[tuple[int, ...], ZooConfig]:
    """Return the epochs to keep, and a configuration for all groups."""
    if not groups:
        raise InputError("groups: got none, expected one or more")
    configs = {dataclasses.replace(group.config, labels="true") for group in groups}
    if len(configs) > 1:
        raise InputError("groups: got configurations that differ in more than labels, expected equal ones")
    if len(groups) > 1 and groups[0].config.rule is not None:
        raise InputError(f"groups: got {len(groups)} with a freeze rule, expected one")
    if len({group.path for group in groups}) < len(groups):
        raise InputError("groups: got two with one folder, expected a folder for each")
    return tuple(sorted(set(integers("keep", keep, 0, groups[0].config.recipe.epochs)))), configs.pop()
