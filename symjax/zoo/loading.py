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
from symjax.errors import InputError
from symjax.imports import is_import_name
from symjax.network import Member, Network
from symjax.ops import files, parallel, runs
from symjax.ops.parallel import Execution
from symjax.ops.progress import warn
from symjax.spelling import one_line
from symjax.training.recipe import FUNCTIONS
from symjax.zoo.config import ZooConfig, listed
from symjax.zoo.saturation import read_decisions, schedule_of
from symjax.zoo.stored import abstract_state, stored_members


@dataclass(frozen=True, eq=False)
class Zoo:
    """Trained members.

    Attributes:
      config: all that they depend on, except their seeds.
      network: their architecture.
      seeds: one per member.
      members: parameters and statistics as NumPy arrays with a leading axis over members, in the order of `seeds`.
      metrics: one row per seed and epoch: seed, epoch (from 1), loss, accuracy and validation_accuracy (in [0, 1]; the
        mean scores of another metric of `config.recipe`).
      freeze: the schedule of freeze training, from `config` or as its rule has decided.
    """

    config: ZooConfig
    network: Network
    seeds: tuple[int, ...]
    members: Member
    metrics: pd.DataFrame
    freeze: tuple[int, ...] = ()

    __repr__ = one_line

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
        return tuple(seed for seed, whole in zip(self.seeds, finite, strict=True) if not whole)

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
      folder: of a zoo.
      seeds: of the members.
      epoch: load the members as they were after so many epochs, 0 for the initial networks. Needs `keep` of `train`;
        the members need not be finished.
      execution: how members run; by default the one for this backend.
      network: of a zoo that was trained from a `Network`: the same one, or one that computes the same.
      loss, metric, optimizer: likewise the functions that it was trained with.

    Raises:
      InputError: no zoo, a seed that is missing or not finished, an epoch without a checkpoint, a damaged checkpoint,
        or a network or function that is not the one of training.
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
    """Return the network, and one member after each of `epochs`, stacked along a leading axis over epochs.

    `user_code` are `network`, `loss`, `metric` and `optimizer` of `load`.

    Raises:
      InputError: as of `load`.
    """
    seed, epochs = integer("seed", seed), integers("epochs", epochs)
    if not epochs:
        raise InputError("epochs: got none, expected one or more")
    zoo_folder = ZooFolder(folder, execution, user_code)
    return zoo_folder.network, parallel.stack([zoo_folder.members([seed], epoch)[1][0] for epoch in epochs])


class ZooFolder:
    """A zoo folder whose configuration has been read and checked.

    Args:
      folder: its path.
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
                raise InputError(f"{name}: computes something else than the one that {self.path} was trained with")
        self.stored = stored_members(self.path)

    def _check_user_code(self, document: Mapping[str, Any], user_code: Mapping[str, Any]) -> None:
        """Raise an InputError for user code that is missing, or given and not needed."""
        names, needed = ("network", *FUNCTIONS), document.get("user_code", {})
        if unknown := set(user_code) - set(names):
            raise InputError(f"{min(unknown)}: is no argument of load")
        if user_code.get("network") is not None and not isinstance(user_code["network"], Network):
            raise InputError(f"network: got {short(user_code['network'])}, expected a Network")
        for name in names:
            if (user_code.get(name) is None) == (name in needed):
                described = "one of your own" if name in needed else "that of its configuration"
                expected = f"it, as load(..., {name}=)" if name in needed else "none"
                raise InputError(f"{name}: {self.path} was trained with {described}; expected {expected}")

    def load(self, seeds: Iterable[int] | None = None, epoch: int | None = None) -> Zoo:
        """Return members after `epoch` epochs, by default at the end; warn of members whose loss is NaN."""
        seeds, members, metrics = self.members(seeds, epoch)
        if diverged := [seed for seed in seeds if metrics.loss[metrics.seed == seed].isna().any()]:
            warn(f"the loss of seeds {listed(diverged)} became NaN in training; their weights are of no use")
        freeze = self.config.freeze if self.config.rule is None else schedule_of(read_decisions(self.path))
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
                raise InputError(
                    f"seeds: {self.path} has finished members {available}, expected {requested}; train the others first"
                )
            raise InputError(
                f"epoch: {self.path} has members {available} after {epoch} epochs, expected {requested}; "
                f"train(..., keep=[{epoch}]) in a new folder makes them"
            )
        states = [stored[seed].restore(self.like, epoch) for seed in seeds]
        metrics = pd.concat([stored[seed].metrics(epoch) for seed in seeds], ignore_index=True)
        return seeds, [state.member for state in states], metrics
