"""Training the members of a zoo together."""

import pathlib
import sys
import time
from collections.abc import Iterable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from tqdm import tqdm

from symjax import parallel, runs
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.models import Network
from symjax.parallel import Execution
from symjax.training import Recipe, TrainState, create_state, pad_batches, train_epoch
from symjax.training.loop import device_data
from symjax.zoo.config import ZooConfig, check_seeds, describe, network_of
from symjax.zoo.stored import COLUMNS, StoredMember, abstract_state
from symjax.zoo.trained import EVALUATION_BATCH, Zoo, devices_or_all, load, warn

SAVING_SHARE = 0.05  # of the time, at most


def train(
    config: ZooConfig,
    dataset: Dataset,
    seeds: Iterable[int],
    folder: str | pathlib.Path,
    *,
    execution: Execution | None = None,
    devices=None,
    progress: bool = True,
    save_every_seconds: float = 30,
) -> Zoo:
    """The members of `seeds`: those that `folder` holds, and the others trained as far as they are not.

    A member depends on `config`, `dataset` and its seed alone; which others it trains beside and on which devices
    changes it by rounding at most.

    Args:
      config: of all members.
      dataset: what `config.load_dataset()` gives.
      seeds: different integers from 0.
      folder: kept for this zoo alone; made where it is missing. One process at a time trains in it, others wait.
      execution: how members run; by default the one for this backend.
      devices: to spread members over; by default all local ones.
      progress: show a bar on stderr.
      save_every_seconds: how often unfinished members are saved, at the end of an epoch; rarer where saving takes more
        than a twentieth of the time.

    Raises:
      InputError: bad seeds or sizes, a folder of another configuration, or a damaged checkpoint.
    """
    seeds = check_seeds(seeds)
    if not len(dataset.validation):
        raise InputError("validation: the data set has no validation images; wanted a fraction over 0")
    if config.recipe.batch_size > len(dataset.train):
        raise InputError(
            f"batch_size: {config.recipe.batch_size} is more than the {len(dataset.train)} training images"
        )
    execution = execution or parallel.default_execution()
    document = {**config.to_json(), "data": describe(dataset)}
    network = network_of(document, execution)
    _check_image_size(network, dataset)
    with runs.open_folder(folder, "zoo", document) as folder:
        stored = {seed: StoredMember(folder, seed) for seed in seeds}
        if any(member.epoch() < config.recipe.epochs for member in stored.values()):
            _train(config, network, dataset, stored, execution, devices_or_all(devices), progress, save_every_seconds)
    return load(folder, seeds, execution=execution)


@lru_cache
def _epochs(network: Network, recipe: Recipe, execution: Execution, devices: tuple):
    """`train_epoch` lifted over members, remembered likewise."""
    return parallel.over_members(
        lambda state, shared: train_epoch(network, recipe, state, shared), execution, devices=devices
    )


def _train(config, network, dataset, stored, execution, devices, progress, save_every_seconds):
    """Trains the stored members to the end: those that are furthest behind first, until they meet the next."""
    recipe, epochs = config.recipe, config.recipe.epochs
    steps_per_epoch = len(dataset.train) // recipe.batch_size
    training = parallel.replicate(device_data(dataset, pad_batches(dataset.validation, EVALUATION_BATCH)), devices)
    epoch_of_members = _epochs(network, recipe, execution, devices)
    groups: dict[int, list[StoredMember]] = {}
    for member in stored.values():
        if member.epoch() < epochs:
            member.sweep()
            groups.setdefault(member.epoch(), []).append(member)
    started = [member for epoch, group in groups.items() if epoch for member in group]
    like = abstract_state(config, network, len(dataset.train)) if started else None
    states = {member.seed: member.restore(like) for member in started}
    rows = {member.seed: member.metrics(member.epoch()).to_dict("records") for member in started}
    fresh = groups.get(0, [])
    if fresh:
        created = jax.device_get(_create(network, recipe, steps_per_epoch, [member.seed for member in fresh]))
        states |= {member.seed: parallel.take(created, i) for i, member in enumerate(fresh)}
        rows |= {member.seed: [] for member in fresh}

    first = min(groups)
    # Without a terminal every update is a line of its own in a file.
    bar = tqdm(
        desc="zoo",
        unit="epoch",
        total=epochs,
        initial=first,
        disable=not progress,
        mininterval=0.1 if sys.stderr.isatty() else 15,
        dynamic_ncols=True,
    )
    with bar:
        bar.set_postfix_str("compiling")
        active: list[StoredMember] = []
        stacked = None
        saved, save_every = time.monotonic(), save_every_seconds

        def save():
            nonlocal saved, save_every
            begin = time.monotonic()
            host = jax.device_get(stacked)
            for i, member in enumerate(active):
                member.save(parallel.take(host, i), pd.DataFrame(rows[member.seed], columns=list(COLUMNS)))
            saved = time.monotonic()
            save_every = max(save_every_seconds, (saved - begin) / SAVING_SHARE)

        for epoch in range(first, epochs):
            if epoch in groups:
                # By way of the host, because another number of members is spread over devices differently.
                waiting = [parallel.take(jax.device_get(stacked), i) for i in range(len(active))]
                active += groups[epoch]
                stacked = parallel.stack([*waiting, *(states.pop(member.seed) for member in groups[epoch])])
            stacked, metrics = epoch_of_members(stacked, training)
            metrics = jax.device_get(metrics)
            for i, member in enumerate(active):
                row = {name: float(values[i]) for name, values in metrics.items()}
                rows[member.seed].append({"seed": member.seed, "epoch": epoch + 1, **row})
                if np.isnan(row["loss"]) and not any(np.isnan(r["loss"]) for r in rows[member.seed][:-1]):
                    warn(f"the loss of seed {member.seed} became NaN in epoch {epoch + 1}")
            shown = {"loss": "loss", "accuracy": "accuracy", "validation": "validation_accuracy"}
            bar.set_postfix({label: f"{np.mean(metrics[key]):.3f}" for label, key in shown.items()}, refresh=False)
            bar.update()
            if epoch + 1 == epochs or time.monotonic() - saved >= save_every:
                save()


def _create(network: Network, recipe: Recipe, steps_per_epoch: int, seeds: list[int]) -> TrainState:
    """Fresh states, stacked. Compiled without optimisation on a CPU, where it takes LLVM half a minute otherwise."""
    create = jax.vmap(partial(create_state, network, recipe, steps_per_epoch))
    return jax.jit(create, compiler_options=parallel.compiler_options(optimise=False))(jnp.asarray(seeds, jnp.int32))


def _check_image_size(network: Network, dataset: Dataset) -> None:
    """An InputError where pooling leaves nothing of the images; found out before anything is written."""
    member = jax.eval_shape(network.init, jax.eval_shape(lambda: jax.random.key(0)))
    images = jax.ShapeDtypeStruct(dataset.train.images[:1].shape, jnp.float32)
    try:
        jax.eval_shape(network.logits, member, images)
    except (TypeError, ValueError):  # which one depends on the layer that finds nothing left
        raise InputError(f"image_size: {dataset.image_size} is too small for {network.name}") from None
