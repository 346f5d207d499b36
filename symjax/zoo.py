"""Zoos: networks that differ in their seed alone, trained together, kept, and found again.

A zoo folder holds `config.json` and one folder per member:

    member-3/epoch-00010/   an Orbax checkpoint of the member's whole training state after 10 epochs
    member-3/metrics.csv    one row per epoch

A checkpoint carries a checksum of its numbers, so that one that was damaged on the disk is an error, never a network.
"""

import contextlib
import hashlib
import json
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
from tqdm import tqdm

from symjax import data, models, parallel, runs
from symjax.data import Dataset, Split
from symjax.errors import InputError
from symjax.models import Member, Network
from symjax.parallel import Execution
from symjax.training import Recipe, TrainState, accuracy, create_state, pad_batches, train_epoch
from symjax.training.loop import LATER, device_data

COLUMNS = ("seed", "epoch", "loss", "accuracy", "validation_accuracy")
EVALUATION_BATCH = 128
SAVING_SHARE = 0.05  # of the time, at most
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

PyTree = Any


@dataclass(frozen=True)
class ZooConfig:
    """All that the members of a zoo depend on, but for their seeds.

    `dataset`, `image_size`, `validation`, `train_size` and `split_seed` are arguments of `symjax.data.load`, `model`
    and `width` (by default the published one) of `symjax.models.create`. Parameters, statistics and logits are float32
    whatever the `precision` of the activations.
    """

    dataset: str = "digits"
    model: str = "mcnn"
    width: int | None = None
    image_size: int | None = None
    validation: float = 0.1
    train_size: int | None = None
    split_seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise InputError(f"precision: {self.precision!r} is unknown; known: {', '.join(PRECISIONS)}")
        if self.model not in models.MODELS:
            raise InputError(f"model: {self.model!r} is unknown; known: {models.known_models()}")
        if not 0 <= self.split_seed < 2**32:
            raise InputError(f"split_seed: got {self.split_seed}, wanted an integer from 0 to 2**32 - 1")
        if self.width is None:
            object.__setattr__(self, "width", models.MODELS[self.model][1])

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return {**asdict(self), "recipe": self.recipe.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ZooConfig":
        """The inverse of `to_json`; an InputError for keys that are missing or unknown."""
        return _from_json(cls, {**values, "recipe": _from_json(Recipe, {**LATER, **values.get("recipe", {})})})

    @property
    def fingerprint(self) -> str:
        """Ten hexadecimal digits that name this configuration."""
        return runs.fingerprint(self.to_json())

    def load_dataset(self, *, test_size: int | None = None) -> Dataset:
        """The images that the members train on; of the test images, on which they do not depend, `test_size`."""
        return data.load(
            self.dataset,
            image_size=self.image_size,
            validation=self.validation,
            train_size=self.train_size,
            test_size=test_size,
            seed=self.split_seed,
        )


@dataclass(frozen=True, eq=False)
class Zoo:
    """Trained members.

    Attributes:
      config: what they depend on.
      network: what they are.
      seeds: one per member.
      members: parameters and statistics as NumPy arrays with a leading axis over members, in the order of `seeds`.
      metrics: one row per seed and epoch: seed, epoch (from 1), loss, accuracy and validation_accuracy (in [0, 1]).
    """

    config: ZooConfig
    network: Network
    seeds: tuple[int, ...]
    members: Member
    metrics: pd.DataFrame

    def __len__(self) -> int:
        return len(self.seeds)

    def member(self, seed: int) -> Member:
        """The member of one seed."""
        if seed not in self.seeds:
            raise InputError(f"seed: {seed} is not in this zoo; its seeds: {_listed(self.seeds)}")
        return parallel.take(self.members, self.seeds.index(seed))

    @property
    def validation_accuracy(self) -> np.ndarray:
        """Of each member at the end of its training, in [0, 1]."""
        last = self.metrics.groupby("seed").validation_accuracy.last()
        return last.loc[list(self.seeds)].to_numpy()


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
    document = {**config.to_json(), "data": _describe(dataset)}
    network = _network(document, execution)
    _check_image_size(network, dataset)
    with runs.open_folder(folder, "zoo", document) as folder:
        stored = {seed: _StoredMember(folder, seed) for seed in seeds}
        if any(member.epoch() < config.recipe.epochs for member in stored.values()):
            _train(config, network, dataset, stored, execution, _devices(devices), progress, save_every_seconds)
    return load(folder, seeds, execution=execution)


def load(folder: str | pathlib.Path, seeds: Iterable[int] | None = None, *, execution: Execution | None = None) -> Zoo:
    """Finished members of a zoo folder, by default all of them, in the order of their seeds.

    Raises:
      InputError: no zoo there, a seed that is missing or not finished, or a damaged checkpoint.
    """
    folder = pathlib.Path(folder)
    document = runs.read_config(folder, "zoo")
    try:
        config = ZooConfig.from_json({key: value for key, value in document.items() if key != "data"})
        network = _network(document, execution or parallel.default_execution())
        like = _abstract_state(config, network, document["data"]["train_images"])
    except (InputError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"folder: {folder / runs.CONFIG} is damaged or of another version ({error!r})") from None
    epochs = config.recipe.epochs
    found = {member.seed: member for member in _stored_members(folder) if member.epoch() == epochs}
    seeds = tuple(sorted(found)) if seeds is None else check_seeds(seeds)
    if not found or not set(seeds) <= set(found):
        there, wanted = _listed(sorted(found)) or "none", _listed(seeds) or "any"
        raise InputError(f"seeds: {folder} has finished members {there}, wanted {wanted}; train the others first")
    states = [found[seed].restore(like) for seed in seeds]
    metrics = pd.concat([found[seed].metrics(epochs) for seed in seeds], ignore_index=True)
    failed = [seed for seed in seeds if metrics.loss[metrics.seed == seed].isna().any()]
    if failed:
        _warn(f"the loss of seeds {_listed(failed)} became NaN in training; their weights are of no use")
    members = parallel.stack([state.member for state in states])
    return Zoo(config, network, seeds, members, metrics)


def test_accuracy(zoo: Zoo, dataset: Dataset, *, split: Literal["test", "validation"] = "test", devices=None):
    """Share of the examples of `split` that each member classifies rightly: (members,), in [0, 1]."""
    return evaluate(zoo.network, zoo.members, getattr(dataset, split), dataset.mean, dataset.std, devices=devices)


test_accuracy.__test__ = False  # pytest collects what is called test_* wherever it is imported


def evaluate(network: Network, members: Member, split: Split, mean, std, *, devices=None) -> np.ndarray:
    """Accuracy of stacked members on the examples of `split`: (members,), in [0, 1]."""

    devices = _devices(devices)
    shared = parallel.replicate((pad_batches(split, EVALUATION_BATCH), mean, std), devices)
    return np.asarray(_accuracies(network, devices)(members, shared))


@lru_cache
def _accuracies(network: Network, devices: tuple):
    """Accuracy lifted over members. Remembered, so that the same process does not compile it again."""

    def accuracy_of(member, shared):
        batches, mean, std = shared
        return accuracy(lambda images: network.logits(member, data.normalize(images, mean, std))[0], batches)

    return parallel.over_members(accuracy_of, parallel.default_execution(), devices=devices)


@lru_cache
def _epochs(network: Network, recipe: Recipe, execution: Execution, devices: tuple):
    """`train_epoch` lifted over members, remembered likewise."""
    return parallel.over_members(
        lambda state, shared: train_epoch(network, recipe, state, shared), execution, devices=devices
    )


def _devices(devices) -> tuple:
    return tuple(jax.local_devices() if devices is None else devices)


def check_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """Seeds as a tuple; an InputError unless they are one or more different integers that a member can have."""
    seeds = tuple(seeds)
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**31:
            raise InputError(f"seeds: got {seed!r}, wanted integers from 0 to 2**31 - 1")
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds: got {_listed(seeds) or 'none'}, wanted one or more, each once")
    return tuple(int(seed) for seed in seeds)


# --- training ---


def _train(config, network, dataset, stored, execution, devices, progress, save_every_seconds):
    """Trains the stored members to the end: those that are furthest behind first, until they meet the next."""
    recipe, epochs = config.recipe, config.recipe.epochs
    steps_per_epoch = len(dataset.train) // recipe.batch_size
    training = parallel.replicate(device_data(dataset, pad_batches(dataset.validation, EVALUATION_BATCH)), devices)
    epoch_of_members = _epochs(network, recipe, execution, devices)
    groups: dict[int, list[_StoredMember]] = {}
    for member in stored.values():
        if member.epoch() < epochs:
            member.sweep()
            groups.setdefault(member.epoch(), []).append(member)
    started = [member for epoch, group in groups.items() if epoch for member in group]
    like = _abstract_state(config, network, len(dataset.train)) if started else None
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
        active: list[_StoredMember] = []
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
                    _warn(f"the loss of seed {member.seed} became NaN in epoch {epoch + 1}")
            shown = {"loss": "loss", "accuracy": "accuracy", "validation": "validation_accuracy"}
            bar.set_postfix({label: f"{np.mean(metrics[key]):.3f}" for label, key in shown.items()}, refresh=False)
            bar.update()
            if epoch + 1 == epochs or time.monotonic() - saved >= save_every:
                save()


def _create(network: Network, recipe: Recipe, steps_per_epoch: int, seeds: list[int]) -> TrainState:
    """Fresh states, stacked. Compiled without optimisation on a CPU, where it takes LLVM half a minute otherwise."""
    create = jax.vmap(partial(create_state, network, recipe, steps_per_epoch))
    return jax.jit(create, compiler_options=parallel.compiler_options(optimise=False))(jnp.asarray(seeds, jnp.int32))


def _network(document: Mapping[str, Any], execution: Execution) -> Network:
    return models.create(
        document["model"],
        width=document["width"],
        image_size=document["data"]["image_size"],
        channels=document["data"]["channels"],
        classes=document["data"]["classes"],
        method=execution.conv,
        dtype=PRECISIONS[document["precision"]],
    )


def _check_image_size(network: Network, dataset: Dataset) -> None:
    """An InputError where pooling leaves nothing of the images; found out before anything is written."""
    member = jax.eval_shape(network.init, jax.eval_shape(lambda: jax.random.key(0)))
    images = jax.ShapeDtypeStruct(dataset.train.images[:1].shape, jnp.float32)
    try:
        jax.eval_shape(network.logits, member, images)
    except (TypeError, ValueError):  # which one depends on the layer that finds nothing left
        raise InputError(f"image_size: {dataset.image_size} is too small for {network.name}") from None


def _describe(dataset: Dataset) -> dict[str, Any]:
    """What members depend on in a data set: shapes, and a digest of what they see of it."""
    digest = hashlib.blake2b(digest_size=8)
    arrays = [dataset.mean, dataset.std]
    for split in (dataset.train, dataset.validation):
        arrays += [split.images, split.labels]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return {
        "name": dataset.name,
        "image_size": dataset.image_size,
        "channels": dataset.channels,
        "classes": dataset.num_classes,
        "train_images": len(dataset.train),
        "validation_images": len(dataset.validation),
        "digest": digest.hexdigest(),
    }


# --- what is stored ---


class _StoredMember:
    """The folder of one member."""

    def __init__(self, folder: pathlib.Path, seed: int):
        self.folder, self.seed = folder / f"member-{seed}", seed

    def epochs(self) -> list[int]:
        """Of all whole checkpoints, ascending; Orbax gives a folder its name when it is complete."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(name.removeprefix("epoch-")) for name in names if re.fullmatch(r"epoch-\d{5,}", name))

    def epoch(self) -> int:
        """Epochs done as far as they are saved."""
        return max(self.epochs(), default=0)

    def path(self, epoch: int) -> pathlib.Path:
        return (self.folder / f"epoch-{epoch:05d}").absolute()

    def save(self, state: TrainState, metrics: pd.DataFrame) -> None:
        """Saves a state of NumPy arrays, then deletes the older ones."""
        try:
            self.folder.mkdir(exist_ok=True)
            # First the metrics: rows beyond the checkpoint do not count.
            runs.write_csv(self.folder / "metrics.csv", metrics)
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(self.path(int(state.epoch)), {"state": state, "checksum": _checksum(state)})
        except OSError as error:
            raise InputError(f"folder: {self.folder} cannot be written ({error.strerror or error})") from error
        for epoch in self.epochs():
            if epoch < int(state.epoch):
                shutil.rmtree(self.path(epoch))

    def restore(self, like: TrainState) -> TrainState:
        """The last state, as NumPy arrays."""
        path = self.path(self.epoch())
        target = {"state": jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like), "checksum": np.zeros(16, np.uint8)}
        try:
            with _quiet_failure(), ocp.StandardCheckpointer() as checkpointer:
                restored = checkpointer.restore(path, target)
            state = jax.tree.map(lambda a, b: _exactly(a, b.shape, b.dtype), restored["state"], target["state"])
            if not np.array_equal(restored["checksum"], _checksum(state)):
                raise ValueError("its numbers are not those that were saved")
            if int(state.seed) != self.seed or int(state.epoch) != self.epoch():
                raise ValueError(f"it holds seed {state.seed} after epoch {state.epoch}")
        except Exception as error:  # Orbax and TensorStore raise nearly anything, according to what is damaged
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise InputError(
                f"checkpoint: {path} is damaged ({reason}); delete {self.folder} to have the member trained again"
            ) from error
        return state

    def metrics(self, epochs: int) -> pd.DataFrame:
        """The first `epochs` epochs' metrics."""
        path = self.folder / "metrics.csv"
        frame = runs.read_csv(path, COLUMNS)[list(COLUMNS)]
        frame = frame[frame.epoch <= epochs]
        if frame.epoch.tolist() != list(range(1, epochs + 1)) or not (frame.seed == self.seed).all():
            raise InputError(f"metrics: {path} is damaged; delete {self.folder} to have the member trained again")
        return frame

    def sweep(self) -> None:
        """Deletes what an interrupted save left."""
        for path in self.folder.glob("epoch-*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(".*.tmp"):
            path.unlink()
        for epoch in self.epochs()[:-1]:
            shutil.rmtree(self.path(epoch))


def _stored_members(folder: pathlib.Path) -> list[_StoredMember]:
    names = [re.fullmatch(r"member-(0|[1-9]\d*)", path.name) for path in folder.iterdir()]
    return [_StoredMember(folder, int(name[1])) for name in names if name]


def _abstract_state(config: ZooConfig, network: Network, train_images: int) -> TrainState:
    steps_per_epoch = train_images // config.recipe.batch_size
    create = partial(create_state, network, config.recipe, steps_per_epoch)
    return jax.eval_shape(create, jax.ShapeDtypeStruct((), jnp.int32))


def _checksum(state: PyTree) -> np.ndarray:
    """16 bytes of a hash of all leaves, their names, shapes and types."""
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree.leaves_with_path(state):
        leaf = np.asarray(leaf)
        digest.update(json.dumps([jax.tree_util.keystr(path), leaf.shape, leaf.dtype.name]).encode())
        digest.update(leaf.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


@contextlib.contextmanager
def _quiet_failure():
    """Keeps the other reads of a restore that failed, which find their event loop closed, from printing tracebacks."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda what: None if "loop is closed" in str(what.exc_value) else hook(what)
    try:
        yield
    except Exception:
        time.sleep(0.3)  # they are under way in threads of TensorStore's
        raise
    finally:
        sys.unraisablehook = hook


def _exactly(array, shape, dtype) -> np.ndarray:
    array = np.asarray(array)
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"an array is {array.dtype}{array.shape}, wanted {dtype}{shape}")
    return array


def _from_json(cls, values: Mapping[str, Any]):
    known, given = {f.name for f in fields(cls)}, set(values)
    if known != given:
        raise InputError(
            f"config: {cls.__name__} has missing keys: {_listed(sorted(known - given)) or 'none'}, "
            f"unknown: {_listed(sorted(given - known)) or 'none'}"
        )
    return cls(**values)


def _listed(items: Iterable) -> str:
    return ", ".join(map(str, items))


def _warn(message: str) -> None:
    """On stderr, above a progress bar if there is one."""
    tqdm.write(f"warning: {message}", file=sys.stderr)
