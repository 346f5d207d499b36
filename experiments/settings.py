"""Settings of a data set, a model and a zoo, which most commands share."""

import ast
import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from experiments.defaults import by_dataset, defaults_of, optional
from symjax import data, zoo
from symjax.checks import seeds as check_seeds
from symjax.data import Dataset
from symjax.data.text import split_options
from symjax.errors import InputError, renamed
from symjax.imports import is_import_name
from symjax.network import Network
from symjax.ops.memory import parse_bytes
from symjax.training import Recipe
from symjax.zoo import Zoo, ZooConfig


@dataclasses.dataclass(frozen=True)
class ZooSettings:
    """A data set, a model, and how its zoo is trained.

    The default None stands for a value that depends on the data set and the model (see experiments/defaults.py). The
    defaults of digits train a zoo in a minute; those of other data sets are the published ones of Godfrey et al. 2022,
    and of Hassani et al. 2021 for transformers.
    """

    dataset: str = "digits"
    """digits; text, the help pages of Python, or the path of a text file or of a folder with its parts; an image set
    that tensorflow_datasets has prepared on this machine, such as cifar10; the path of an .npz file with x_train,
    y_train, x_test and y_test; a folder with train/<class>/ and test/<class>/ of PNG and JPEG files; or
    package.module:load, a function that returns such arrays or a Dataset."""
    model: str = "mcnn"
    """A name of symjax.models.MODELS, such as mcnn, resnet20, resnet18, cct2 or lstm; or package.module:build, a
    function that returns a Flax module or a symjax.Network. It is called with rngs, and with classes, channels,
    image_size and width where its signature has them."""
    model_options: Annotated[str, optional("NAME=VALUE,...", "the model's own")] = ""
    """Options of the model, as in activation=sigmoid,pools=(1,2,2)."""
    width: Annotated[int | None, by_dataset("INT", "width", "as published")] = None
    """Number of channels of the first convolution, of the tokens of a transformer, or of units of a recurrent layer."""
    seeds: str = "4"
    """Seeds of the members: a number of seeds, as in 4 for 0,1,2,3, or a list, as in 3,7,9, or 3, for one seed."""
    epochs: Annotated[int | None, by_dataset("INT", "epochs")] = None
    """Number of passes over the training examples."""
    batch_size: int = 32
    """Number of examples per training step."""
    learning_rate: Annotated[float | None, by_dataset("FLOAT", "learning_rate")] = None
    """Initial learning rate, before the schedule is applied."""
    optimizer: Annotated[Literal["adam", "adamw"] | None, by_dataset("{adam,adamw}", "optimizer")] = None
    """Adam, or AdamW, which applies weight decay separately from the gradient."""
    schedule: Annotated[Literal["halving", "cosine"] | None, by_dataset("{halving,cosine}", "schedule")] = None
    """Schedule of the learning rate: halved after each quarter of the run, or a cosine that ends at zero."""
    warmup: Annotated[float | None, by_dataset("FLOAT", "warmup")] = None
    """Fraction of the run in which the learning rate increases linearly to that of the schedule."""
    weight_decay: Annotated[float | None, by_dataset("FLOAT", "weight_decay")] = None
    """Weight decay of kernels, not of biases and normalization; with adam the factor of an L2 penalty."""
    flip: Annotated[bool | None, by_dataset("{True,False}", "flip")] = None
    """Flip training images horizontally at random."""
    translate: Annotated[int | None, by_dataset("INT", "translate")] = None
    """Shift training images at random by up to this many pixels."""
    image_size: Annotated[int | None, by_dataset("INT", "image_size", "as they are")] = None
    """Resize images to this height and width in pixels."""
    validation: float = 0.1
    """Fraction of the training images that is held out for validation."""
    train_size: Annotated[int | None, optional("INT", "all")] = None
    """Number of training images to use, after validation images are held out."""
    test_size: Annotated[int | None, optional("INT", "all")] = None
    """Number of test images to use."""
    split_seed: int = 0
    """Seed of the random split into training, validation and smaller sets."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Dtype of activations; parameters are always float32."""
    max_device_memory: Annotated[str | None, optional("BYTES", "no limit")] = None
    """Limit on the memory of each device, as in 16GB; work that needs more is divided into groups that fit."""
    dry_run: bool = False
    """Only report how much work is left, and what it costs in operations, device memory and time. This compiles the
    largest programs and trains a few steps, which can take longer than a small experiment."""

    def parse_seeds(self) -> tuple[int, ...]:
        """Return the seeds as integers."""
        return parse_seeds(self.seeds)

    @property
    def memory_limit(self) -> int | None:
        """The limit of device memory in bytes; None for no limit."""
        return None if self.max_device_memory is None else parse_bytes(self.max_device_memory)

    def part_folder(self, folder: Path) -> Path:
        """Return the folder of this process's part of the work, where `folder` is that of the whole."""
        return folder

    def train_zoo(self, config: ZooConfig, dataset: Dataset, folder: Path, seeds=None, **options) -> Zoo:
        """Call `zoo.train` with the memory limit of these settings, and by default with their seeds."""
        seeds = self.parse_seeds() if seeds is None else seeds
        return zoo.train(config, dataset, seeds, folder, max_device_memory=self.memory_limit, **options)

    def zoo_config(self) -> ZooConfig:
        """Return the configuration of the zoo: everything that its members depend on, with defaults filled in."""
        defaults = defaults_of(self.dataset, self.model)

        def setting(name: str) -> Any:
            value = getattr(self, name)
            return getattr(defaults, name) if value is None else value

        return ZooConfig(
            dataset=data.resolve_name(self.dataset),
            model=self.model,
            model_options=parse_options(self.model_options),
            width=setting("width"),
            image_size=setting("image_size"),
            validation=self.validation,
            train_size=self.train_size,
            split_seed=self.split_seed,
            precision=self.precision,
            recipe=Recipe(
                epochs=setting("epochs"),
                batch_size=self.batch_size,
                learning_rate=setting("learning_rate"),
                weight_decay=setting("weight_decay"),
                flip=setting("flip"),
                translate=setting("translate"),
                optimizer=setting("optimizer"),
                schedule=setting("schedule"),
                warmup=setting("warmup"),
            ),
        )

    def load_dataset(self) -> Dataset:
        """Return the images."""
        config = self.zoo_config()
        with renamed(name="dataset"):
            return config.load_dataset(test_size=self.test_size)


def point_of(network: Network, layer: str) -> int:
    """Return the index of one stitch point, given by name, or as last."""
    with renamed(point="layer"):
        return len(network.points) - 1 if layer == "last" else network.index(layer)


def split(text: str) -> list[str]:
    """Return the parts of a comma-separated text that are not blank, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def zoo_folder(config: ZooConfig) -> Path:
    """Return the default folder of the zoo of `config`."""
    model = re.sub(r"\W", "-", config.model)
    return Path("runs", "zoo", f"{short_name(config.dataset)}-{model}{config.width or ''}-{config.fingerprint}")


def short_name(dataset: str) -> str:
    """Return the name of a data set as a part of the name of a folder."""
    return re.sub(r"\W", "-", dataset) if is_import_name(dataset) else Path(split_options(dataset)[0]).stem


def parse_options(text: str) -> dict[str, Any]:
    """Parse options of a model: "activation=sigmoid,pools=(1,2)" is {"activation": "sigmoid", "pools": (1, 2)}.

    Raises:
      InputError: a value is neither a Python literal nor a name, which stands for text, or an option is repeated.
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
            f"model_options: got {text!r}, expected name=value,... as in activation=sigmoid,pools=(1,2)"
        ) from None


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse seeds: "4" is (0, 1, 2, 3), "3,7,9" is (3, 7, 9), "3," is (3,).

    Raises:
      InputError: the text is neither a positive number nor comma-separated different non-negative integers.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    if not all(re.fullmatch("[0-9]{1,10}", part) for part in parts) or ("," not in text and not 0 < int(text) < 10**6):
        raise InputError(f"seeds: got {text!r}, expected a number of seeds, as in 4, or a list, as in 3,7,9")
    return check_seeds([int(part) for part in parts] if "," in text else range(int(text)))
