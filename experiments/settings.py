"""What commands share: settings of a data set and a zoo, and how a command starts and fails."""

import ast
import contextlib
import dataclasses
import errno
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import jax
import tyro

from experiments import summary
from experiments.programs import keep_programs
from experiments.summary import Summary
from symjax import data, zoo
from symjax.checks import seeds as check_seeds
from symjax.data import Dataset
from symjax.data.dataset import AUGMENTATION
from symjax.data.text import is_text, split_options
from symjax.errors import InputError, renamed
from symjax.imports import is_import_name
from symjax.ops import hosts, interruption, memory, parallel, runs
from symjax.ops.memory import parse_bytes
from symjax.training import Recipe
from symjax.zoo import Zoo, ZooConfig


@dataclasses.dataclass(frozen=True)
class DatasetDefaults:
    """Settings that depend on the data set and the kind of model; a flag of the same name overrides each."""

    width: int | None = None
    image_size: int | None = None
    epochs: int = 50
    learning_rate: float = 1e-3
    flip: bool = False
    translate: int = 0
    weight_decay: float = 1e-4
    optimizer: str = "adam"
    schedule: str = "halving"
    warmup: float = 0.0


# Of data sets that are not listed, nobody knows whether their images may be mirrored and moved.
DATASET_DEFAULTS = {name: DatasetDefaults(**augmentation) for name, augmentation in AUGMENTATION.items()}
DATASET_DEFAULTS["digits"] = dataclasses.replace(
    DATASET_DEFAULTS["digits"], width=8, image_size=16, epochs=10, learning_rate=3e-3
)
DATASET_DEFAULTS["text"] = DatasetDefaults(width=64, epochs=8, learning_rate=1e-2, weight_decay=0.0)
# What transformers want besides (Hassani et al. 2021, for runs of 200 epochs and more).
TRANSFORMER = {"weight_decay": 3e-2, "optimizer": "adamw", "schedule": "cosine", "warmup": 0.1}
TRANSFORMER_DEFAULTS = {
    "digits": {"width": 32, "epochs": 20, "learning_rate": 3e-3},
    None: {"learning_rate": 5e-4},
}


def defaults_of(dataset: str, model: str) -> DatasetDefaults:
    """The settings that suit a data set and a model; a model of the caller's own has no default width."""
    name = data.resolve_name(dataset)
    if is_text(name):
        name = "text"
    elif not (os.path.isabs(name) or is_import_name(name)):
        name = re.split("[/:]", name)[0]  # without a variant or a version
    chosen = DATASET_DEFAULTS.get(name, DatasetDefaults())
    if is_import_name(model):
        return dataclasses.replace(chosen, width=None)
    if not model.startswith("cct"):
        return chosen
    defaults = TRANSFORMER_DEFAULTS.get(name, TRANSFORMER_DEFAULTS[None])
    return dataclasses.replace(chosen, **TRANSFORMER, **defaults)


def by_dataset(metavar: str, name: str, otherwise: str | None = None) -> Any:
    """How --help shows a flag whose default depends on the data set."""
    value = getattr(DatasetDefaults(), name)
    listed = {dataset: getattr(defaults, name) for dataset, defaults in DATASET_DEFAULTS.items()}
    parts = [f"{dataset} {chosen}" for dataset, chosen in listed.items() if chosen != value]
    text = ", ".join([*parts, f"{'otherwise ' if parts else ''}{otherwise or value}"])
    if name in TRANSFORMER:
        return optional(metavar, f"{text}; transformers {TRANSFORMER[name]}")
    by_dataset = {dataset: chosen[name] for dataset, chosen in TRANSFORMER_DEFAULTS.items() if name in chosen}
    listed = [
        f"{dataset or 'others'} {chosen}" for dataset, chosen in by_dataset.items() if chosen != listed.get(dataset)
    ]
    return optional(metavar, f"{text}; transformers: {', '.join(listed)}" if listed else text)


def optional(metavar: str, default: str) -> Any:
    """How --help shows a flag that need not be given."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclasses.dataclass(frozen=True)
class ZooSettings:
    """A data set, a model, and how its zoo is trained.

    What is None by default depends on the data set and the model (see `defaults_of` in experiments/settings.py). For
    digits it is chosen so that a zoo trains in a minute; for others it is what Godfrey et al. 2022 published, and for
    transformers what Hassani et al. 2021 did.
    """

    dataset: str = "digits"
    """digits; text, the help pages of Python, or the path of a text file or of a folder with its parts; an image set
    that tensorflow_datasets has prepared on this machine, such as cifar10; a path that ends in .npz, of a file with
    x_train, y_train, x_test and y_test; a folder with train/<class>/ and test/<class>/ of PNG and JPEG files; or
    package.module:load, a function that returns such arrays or a Dataset."""
    model: str = "mcnn"
    """A name of symjax.models.MODELS, such as mcnn, resnet20, resnet18, cct2 or lstm; or package.module:build, a
    function that returns a module of Flax or a symjax.Network. It is called with rngs, and with those of classes,
    channels, image_size and width that it takes."""
    model_options: Annotated[str, optional("NAME=VALUE,...", "the model's own")] = ""
    """Options of the model, as in activation=sigmoid,pools=(1,2,2)."""
    width: Annotated[int | None, by_dataset("INT", "width", "as published")] = None
    """Channels of the first convolution, or of a transformer's tokens."""
    seeds: str = "4"
    """A number of seeds, 4 for 0,1,2,3, or the seeds themselves, as in 3,7,9 (one alone: 3,)."""
    epochs: Annotated[int | None, by_dataset("INT", "epochs")] = None
    """Passes over the training images."""
    batch_size: int = 32
    """Images per training step."""
    learning_rate: Annotated[float | None, by_dataset("FLOAT", "learning_rate")] = None
    """The step size from which the schedule starts."""
    optimizer: Annotated[Literal["adam", "adamw"] | None, by_dataset("{adam,adamw}", "optimizer")] = None
    """Adam, or AdamW, whose weight decay is apart from the gradient."""
    schedule: Annotated[Literal["halving", "cosine"] | None, by_dataset("{halving,cosine}", "schedule")] = None
    """The step size is halved after each quarter of the run, or falls to zero on a cosine."""
    warmup: Annotated[float | None, by_dataset("FLOAT", "warmup")] = None
    """The share of the run over which the step size rises linearly."""
    weight_decay: Annotated[float | None, by_dataset("FLOAT", "weight_decay")] = None
    """Of kernels, but not of biases and norms: for adam the factor of an L2 penalty."""
    flip: Annotated[bool | None, by_dataset("{True,False}", "flip")] = None
    """Mirror training images at random."""
    translate: Annotated[int | None, by_dataset("INT", "translate")] = None
    """Move training images at random by up to so many pixels."""
    image_size: Annotated[int | None, by_dataset("INT", "image_size", "as they are")] = None
    """Resize images to so many pixels, height and width."""
    validation: float = 0.1
    """The fraction of the training images that is held out, to choose by."""
    train_size: Annotated[int | None, optional("INT", "all")] = None
    """Use so many of the remaining training images."""
    test_size: Annotated[int | None, optional("INT", "all")] = None
    """Use so many of the test images."""
    split_seed: int = 0
    """Of the random cuts into training, validation and smaller sets."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of activations; parameters are always float32."""
    max_device_memory: Annotated[str | None, optional("BYTES", "what it takes")] = None
    """On each device, as 16GB: networks and matrices go in groups, and stitches in parts, that need no more."""
    dry_run: bool = False
    """Only report how much there is to do, and what it costs in operations, device memory and time."""

    def parse_seeds(self) -> tuple[int, ...]:
        """The seeds as integers."""
        return parse_seeds(self.seeds)

    @property
    def memory_limit(self) -> int | None:
        """Bytes on each device."""
        return None if self.max_device_memory is None else parse_bytes(self.max_device_memory)

    def train_zoo(self, config: ZooConfig, dataset: Dataset, folder: Path, seeds=None, **options) -> Zoo:
        """The zoo of `config`, by default of these seeds, as `zoo.train` makes it within these settings' limits."""
        seeds = self.parse_seeds() if seeds is None else seeds
        return zoo.train(config, dataset, seeds, folder, max_device_memory=self.memory_limit, **options)

    def zoo_config(self) -> ZooConfig:
        """All that the zoo's members depend on, with the data set's defaults filled in."""
        defaults = defaults_of(self.dataset, self.model)

        def chosen(name: str) -> Any:
            value = getattr(self, name)
            return getattr(defaults, name) if value is None else value

        return ZooConfig(
            dataset=data.resolve_name(self.dataset),
            model=self.model,
            model_options=parse_options(self.model_options),
            width=chosen("width"),
            image_size=chosen("image_size"),
            validation=self.validation,
            train_size=self.train_size,
            split_seed=self.split_seed,
            precision=self.precision,
            recipe=Recipe(
                epochs=chosen("epochs"),
                batch_size=self.batch_size,
                learning_rate=chosen("learning_rate"),
                weight_decay=chosen("weight_decay"),
                flip=chosen("flip"),
                translate=chosen("translate"),
                optimizer=chosen("optimizer"),
                schedule=chosen("schedule"),
                warmup=chosen("warmup"),
            ),
        )

    def load_dataset(self) -> Dataset:
        """The images."""
        config = self.zoo_config()
        with renamed(name="dataset"):
            return config.load_dataset(test_size=self.test_size)


def check_dry(settings: Any) -> None:
    """An InputError where a dry run is asked of several processes, each of which would tell of its own devices."""
    if getattr(settings, "dry_run", False) and getattr(settings, "distributed", False):
        raise InputError("dry_run: not together with --distributed; a dry run on one host tells of 1, 8 and 64 devices")


class DryRunReport(Exception):
    """Ends a command that has nothing to do but to tell this."""


def zoo_folder(config: ZooConfig) -> Path:
    """Where the zoo of `config` is kept unless the user says otherwise."""
    model = re.sub(r"\W", "-", config.model)
    return Path("runs", "zoo", f"{short_name(config.dataset)}-{model}{config.width or ''}-{config.fingerprint}")


def short_name(dataset: str) -> str:
    """A data set's name as a part of the name of a folder."""
    return re.sub(r"\W", "-", dataset) if is_import_name(dataset) else Path(split_options(dataset)[0]).stem


def parse_options(text: str) -> dict[str, Any]:
    """Options from a flag: "activation=sigmoid,pools=(1,2)" is {"activation": "sigmoid", "pools": (1, 2)}.

    Raises:
      InputError: other than names with literal values of Python's; a name stands for text.
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        names = [keyword.arg for keyword in call.keywords]
        if call.args or None in names or len({*names}) < len(names) or not isinstance(call.func, ast.Name):
            raise ValueError
        values = [keyword.value for keyword in call.keywords]
        values = [value.id if isinstance(value, ast.Name) else ast.literal_eval(value) for value in values]
        return dict(zip(names, values, strict=True))
    except (SyntaxError, ValueError, AttributeError):
        raise InputError(
            f"model_options: got {text!r}, expected name=value,... as activation=sigmoid,pools=(1,2)"
        ) from None


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from a flag: "4" is 0, 1, 2, 3; "3,7,9" is itself; "3," is 3 alone.

    Raises:
      InputError: it is neither a positive number nor different non-negative integers with commas between.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    if not all(re.fullmatch("[0-9]{1,10}", part) for part in parts) or ("," not in text and not 0 < int(text) < 10**6):
        raise InputError(f"seeds: got {text!r}, expected a number of seeds, as 4, or a list, as 3,7,9")
    return check_seeds([int(part) for part in parts] if "," in text else range(int(text)))


# What a disk may have against a file, and a user can mend.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
NAMES = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)  # what against the name of one
Settings = TypeVar("Settings")


@contextlib.contextmanager
def compilation() -> Iterator[list[tuple[float, float]]]:
    """Record when JAX traces and compiles within the context: (begin, end) in seconds, program by program."""
    intervals: list[tuple[float, float]] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            end = time.monotonic()
            intervals.append((end - duration, end))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield intervals
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals: threads compile at the same time, and traces are nested."""
    total, last = 0.0, -math.inf
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, last))
        last = max(last, end)
    return total


def _keep(result: Summary, name: str, argv: list[str], seconds: float) -> None:
    """Write and print the summary of the command `name`."""
    run = {"experiment": name.rpartition(".")[2], "command": shlex.join(["python", "-m", name, *map(str, argv)])}
    summary.write(dataclasses.replace(result, **run, seconds=seconds, versions=runs.versions()))
    print(f"\n{result.text()}")


def run_command(main: Callable[[Settings], Summary | None], settings: type[Settings], argv: list[str] | None = None):
    """Run `main` with the settings of the command line; end the process if they are wrong.

    The summary that `main` returns is printed and kept in its folder. A caller's mistake is one line on stderr and exit
    code 2; an interruption is one line and exit code 130, a SIGTERM one line and exit code 143. What has been done is
    saved before (`symjax.ops.interruption`); a second signal ends the process at once.
    """
    began = time.monotonic()
    module = sys.modules[main.__module__]
    name = f"experiments.{Path(module.__file__).stem}"  # __name__ is "__main__", and a script has no __spec__
    parsed = tyro.cli(settings, args=argv, prog=f"python -m {name}", description=module.__doc__)
    try:
        parallel.use_cores()
        keep_programs()
        check_dry(parsed)
        if getattr(parsed, "distributed", False):
            hosts.initialize()
        with compilation() as intervals, interruption.interruptible(), hosts.job():
            try:
                result = main(parsed)
            except DryRunReport as report:
                result = None
                if hosts.is_first():
                    print(report)
            if result is not None:
                _keep(result, name, sys.argv[1:] if argv is None else argv, time.monotonic() - began)
        if intervals and hosts.is_first():
            print(f"tracing and compiling took {covered(intervals):.0f} s", file=sys.stderr)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except jax.errors.JaxRuntimeError as error:
        if (advice := memory.advice(error)) is None:
            raise
        print(f"error: {advice}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in (*DISK, *NAMES):
            raise
        where = f"{error.filename}: " if error.filename else ""
        advice = "run the same command again to continue from the saved state"
        if error.errno in NAMES:
            where, advice = f"folder or file: {where}", "take another name"
        print(f"error: {where}{error.strerror}; {advice}", file=sys.stderr)
        raise SystemExit(2) from None
    except interruption.Interrupted as ended:
        print(ended, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.exit_code)  # Python would wait for what is being computed
    except KeyboardInterrupt:
        print(f"interrupted; {interruption.MESSAGE}", file=sys.stderr)
        raise SystemExit(130) from None
