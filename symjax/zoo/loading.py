"""Loading the members of a zoo folder."""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pandas as pd

from symjax.checks import integer, integers, path, short
from symjax.checks import seeds as check_seeds
from symjax.errors import InputError, renamed
from symjax.imports import is_import_name
from symjax.network import Member, Network
from symjax.ops import files, parallel, runs
from symjax.ops.parallel import Execution
from symjax.ops.progress import warn
from symjax.spelling import listed, one_line
from symjax.training.recipe import FUNCTIONS
from symjax.zoo.config import ZooConfig
from symjax.zoo.saturation import read_decisions, schedule_of
from symjax.zoo.stored import abstract_state, stored_members


@dataclass(frozen=True, eq=False)
class Zoo:
    """Trained members.

    Attributes:
      config: the configuration: all that the members depend on, except their seeds.
      network: the network of the members.
      seeds: the seed of each member.
      members: parameters and statistics as NumPy arrays with a leading axis over members, in the order of `seeds`.
      metrics: one row per seed and epoch: seed, epoch (from 1), loss, accuracy and validation_accuracy (in [0, 1]; the
        mean scores of another metric of `config.recipe`).
      freeze: the schedule of freeze training, from `config` or made by its rule.
    """

    config: ZooConfig
    network: Network
    seeds: tuple[int, ...]
    members: Member
    metrics: pd.DataFrame
    freeze: tuple[int, ...] = ()

    def __repr__(self):
        return one_line(self)

    def __len__(self) -> int:
        return len(self.seeds)

    def member(self, seed: int) -> Member:
        """Return the member of one seed."""
        seed = integer("seed", seed)
        if seed not in self.seeds:
            raise InputError(f"seed: got {seed}, expected a seed of this zoo: {listed(self.seeds)}")
        return parallel.take(self.members, self.seeds.index(seed))

    @property
    def not_finite(self) -> tuple[int, ...]:
        """Seeds of the members with parameters or statistics that are not finite."""
        leaves = [np.asarray(leaf).reshape(len(self), -1) for leaf in jax.tree.leaves(self.members)]
        finite = np.all([np.isfinite(leaf).all(axis=1) for leaf in leaves], axis=0)
        return tuple(seed for seed, is_finite in zip(self.seeds, finite, strict=True) if not is_finite)

    @property
    def validation_accuracy(self) -> np.ndarray:
        """Last validation accuracy of each member, in [0, 1]; NaN of an untrained or diverged one."""
        last = self.metrics.drop_duplicates("seed", keep="last").set_index("seed").validation_accuracy
        return last.reindex(list(self.seeds)).to_numpy()


def load(
    folder: str | pathlib.Path,
    seeds: Iterable[int] | None = None,
    *,
    epoch: int | None = None,
    execution: Execution | None = None,
    network: Network | None = None,
    loss: Callable | None = None,
    metric: Callable | None = None,
    optimizer: Any = None,
) -> Zoo:
    """Return members of a zoo folder, by default all that are finished, in the order of their seeds.

    Args:
      folder: the zoo folder.
      seeds: the seeds of the members.
      epoch: the number of epochs after which the members are loaded, 0 for the initial networks; by default the last.
        Any other must be in `keep` of `train`; members need not be finished then.
      execution: how members run; by default the one for this backend.
      network: for a zoo that was trained from a `Network`, the same network or one that computes the same function.
      loss, metric, optimizer: the functions with which the zoo was trained, likewise.

    Returns:
      The `Zoo`, with parameters and statistics as NumPy arrays.

    Raises:
      InputError: the folder holds no zoo; a member is missing or not finished; an epoch has no checkpoint; a checkpoint
        is damaged; the network or a function is not the one of training.

    Example:
      >>> import tempfile
      >>> import jax, numpy as np, symjax
      >>> def init(key):
      ...     return jax.random.normal(key, (3, 2))
      >>> x = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
      >>> arrays = {"x_train": x, "y_train": np.arange(32) % 2, "x_test": x, "y_test": np.arange(32) % 2}
      >>> net = symjax.Network.from_function(lambda w, x: x @ w, init=init, example=x[:1])
      >>> options = {"epochs": 1, "batch_size": 14, "keep": (0,), "progress": False}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     trained = symjax.zoo.train(net, arrays, seeds=2, folder=folder, **options)
      ...     start = symjax.zoo.load(folder, epoch=0, network=net)
      >>> start.seeds, start.member(1).params.shape
      ((0, 1), (3, 2))
    """
    user_code = {"network": network, "loss": loss, "metric": metric, "optimizer": optimizer}
    return ZooFolder(folder, execution, user_code).load(seeds, epoch)


def load_history(
    folder: str | pathlib.Path,
    seed: int,
    epochs: Iterable[int],
    *,
    execution: Execution | None = None,
    **user_code: Any,
) -> tuple[Network, Member]:
    """Return the network, and one member after each of several epochs.

    Args:
      folder: the zoo folder.
      seed: the seed of the member.
      epochs: the epochs, each in `keep` of `train` or the last one.
      execution: how members run; by default the one for this backend.
      **user_code: `network`, `loss`, `metric` and `optimizer`, as in `load`.

    Returns:
      (network, member); the variables of the member have a leading axis over epochs.

    Raises:
      InputError: as in `load`.

    Example:
      >>> import tempfile
      >>> import jax, numpy as np, symjax
      >>> def init(key):
      ...     return jax.random.normal(key, (3, 2))
      >>> x = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
      >>> arrays = {"x_train": x, "y_train": np.arange(32) % 2, "x_test": x, "y_test": np.arange(32) % 2}
      >>> net = symjax.Network.from_function(lambda w, x: x @ w, init=init, example=x[:1])
      >>> options = {"epochs": 1, "batch_size": 14, "keep": (0,), "progress": False}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     zoo = symjax.zoo.train(net, arrays, seeds=1, folder=folder, **options)
      ...     network, history = symjax.zoo.load_history(folder, 0, (0, 1), network=net)
      >>> history.params.shape
      (2, 3, 2)
    """
    seed, epochs = integer("seed", seed), integers("epochs", epochs)
    if not epochs:
        raise InputError("epochs: got none, expected one or more")
    zoo_folder = ZooFolder(folder, execution, user_code)
    with renamed(epoch="epochs"):
        members = [zoo_folder.members([seed], epoch)[1][0] for epoch in epochs]
    return zoo_folder.network, parallel.stack(members)


class ZooFolder:
    """A zoo folder whose configuration has been read and checked.

    Args:
      folder: the path.
      execution: how members run; by default the one for this backend.
      user_code: the `network`, `loss`, `metric` and `optimizer` that the caller has given to `train`.
    """

    def __init__(self, folder: str | pathlib.Path, execution: Execution | None, user_code: Mapping[str, Any]):
        self.path = path("folder", folder)
        document = runs.read_config(self.path, "zoo")
        self._check_user_code(document, user_code)
        try:
            data, structure = document.pop("data"), document.pop("structure")
            fingerprints = document.pop("user_code", {})
            self.config = ZooConfig.from_json(document, user_code)
            if fingerprints:
                self.config.check_for(data)
            self.network = self.config.network_for(data)
            if execution is not None:
                self.network = self.network.with_form(execution.conv)
            self.like = abstract_state(self.config, self.network, data["train_images"])
            current_structure = self.config.structure_for(data)
            current_fingerprints = self.config.user_code_fingerprints(data, data["train_images"])
        except (InputError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError) and (
                any(value is not None for value in user_code.values()) or is_import_name(document.get("model"))
            ):
                raise  # an error in the caller's code
            config_path = self.path / files.CONFIG
            raise InputError(f"folder: {config_path} is damaged or of another version ({error!r})") from None
        if current_structure != structure:
            raise InputError(
                f"folder: {self.path} holds members of another structure than {self.config.model_name!r} has "
                f"(saved {structure}, requested {current_structure}): {runs.STRUCTURE}"
            )
        for name in FUNCTIONS:
            if current_fingerprints.get(name) != fingerprints.get(name):
                raise InputError(
                    f"{name}: got one that computes something else, expected the one that {self.path} was trained with"
                )
        self.stored = stored_members(self.path)

    def _check_user_code(self, document: Mapping[str, Any], user_code: Mapping[str, Any]) -> None:
        """Raise an InputError for user code that is missing, or given and not needed."""
        names, needed = ("network", *FUNCTIONS), document.get("user_code", {})
        if unknown := set(user_code) - set(names):
            raise InputError(f"{min(unknown)}: got an unknown option, expected one of {', '.join(names)}")
        if user_code.get("network") is not None and not isinstance(user_code["network"], Network):
            raise InputError(f"network: got {short(user_code['network'])}, expected a Network")
        for name in names:
            if (user_code.get(name) is None) == (name in needed):
                given, expected = (
                    ("none", f"load(..., {name}=), the one with which") if name in needed else ("one", "none, as when")
                )
                raise InputError(f"{name}: got {given}, expected {expected} {self.path} was trained")

    def load(self, seeds: Iterable[int] | None = None, epoch: int | None = None) -> Zoo:
        """Return members after `epoch` epochs, by default at the end; warn of members whose loss is NaN."""
        seeds, members, metrics = self.members(seeds, epoch)
        if diverged := [seed for seed in seeds if metrics.loss[metrics.seed == seed].isna().any()]:
            warn(f"the loss of seeds {listed(diverged)} became NaN in training; their weights are of no use")
        freeze = self.config.schedule if self.config.rule is None else schedule_of(read_decisions(self.path))
        return Zoo(self.config, self.network, seeds, parallel.stack(members), metrics, freeze)

    def members(
        self, seeds: Iterable[int] | None, epoch: int | None
    ) -> tuple[tuple[int, ...], list[Member], pd.DataFrame]:
        """Return seeds, members and metrics after `epoch` epochs, by default at the end."""
        last = self.config.recipe.epochs
        epoch = last if epoch is None else integer("epoch", epoch)
        stored = {member.seed: member for member in self.stored if epoch in member.epochs()}
        seeds = tuple(sorted(stored)) if seeds is None else check_seeds(seeds)
        if not stored or not set(seeds) <= set(stored):
            available, requested = listed(sorted(stored)) or "none", listed(seeds) or "any"
            if epoch == last:
                raise InputError(f"seeds: got {requested}, expected finished members of {self.path}: {available}")
            raise InputError(
                f"epoch: got {epoch} for members {requested}, expected members of {self.path} saved then: {available}; "
                f"train(..., keep=[{epoch}]) in a new folder saves the others"
            )
        states = [stored[seed].restore(self.like, epoch) for seed in seeds]
        metrics = pd.concat([stored[seed].metrics(epoch) for seed in seeds], ignore_index=True)
        return seeds, [state.member for state in states], metrics
