"""What a loaded data set is, and how its training examples are cut into training and validation parts."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symjax import checks
from symjax.errors import InputError
from symjax.spelling import described, one_line

# Channel means and deviations that published runs used, in units of 0..255 (Godfrey et al. 2022).
PUBLISHED_STATISTICS = {
    "cifar10": ((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)),
}

# Sets that are known to bear it, by `flip` and `translate` of `symjax.data.augment` as published runs have them.
AUGMENTATION = {
    "digits": {"flip": False, "translate": 1},
    "cifar10": {"flip": True, "translate": 2},
    "cifar100": {"flip": True, "translate": 2},
}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Inputs and their targets, one of each for an example: read-only NumPy arrays of integers or floats.

    Attributes:
        images: (n, ...). Images (n, height, width, channels) of uint8, or other inputs of any shape and type: float
            images, vectors of features, tokens (n, length), sequences (n, length, channels).
        labels: (n,), classes of int32, or other targets (n, ...).

    Both are views where they can be. Types that JAX does not hold become those that it does: without
    `jax_enable_x64`, int64 becomes int32 and float64 float32.

    Raises:
        InputError: no such arrays, masked entries, integers that JAX cannot hold, inputs that are NaN or infinite, or
            unequal lengths.
    """

    images: np.ndarray
    labels: np.ndarray

    __repr__ = one_line

    def __post_init__(self):
        for field in dataclasses.fields(self):
            view = held_array(field.name, plain_array(field.name, getattr(self, field.name))).view()
            view.setflags(write=False)
            object.__setattr__(self, field.name, view)
        if len(self.images) != len(self.labels):
            raise InputError(f"images, labels: got {len(self.images)} and {len(self.labels)}, wanted as many of each")
        require_finite("images", self.images)

    def __len__(self) -> int:
        return len(self.labels)


def plain_array(name: str, value: Any) -> np.ndarray:
    """An array (n, ...) of integers or floats as NumPy's, or an InputError."""
    array = checks.any_array(name, value)
    if not checks.is_concrete(array):
        raise InputError(f"{name}: is traced, must be concrete")
    array = np.asarray(array)
    if not checks.is_real(array.dtype) or array.dtype == bool or not array.ndim:
        described = f"dtype {array.dtype}, shape {array.shape}"
        raise InputError(f"{name}: got {described}; wanted integers or floats of shape (n, ...)")
    return array


def held_array(name: str, array: np.ndarray) -> np.ndarray:
    """The array in the type that JAX holds it in, or an InputError."""
    held = jax.dtypes.canonicalize_dtype(np.float64 if array.dtype.itemsize > 8 else array.dtype)  # long doubles
    if held == array.dtype:
        return array
    if held.kind in "iu" and array.size and not np.iinfo(held).min <= array.min() <= array.max() <= np.iinfo(held).max:
        raise InputError(f"{name}: has integers from {array.min()} to {array.max()}, which {held} cannot hold")
    with np.errstate(over="ignore", under="ignore"):
        converted = array.astype(held)
    if held.kind == "f" and (np.isinf(converted) & ~np.isinf(array)).any():
        raise InputError(f"{name}: has values that {held} cannot hold")
    return converted


def require_finite(name: str, array: np.ndarray) -> None:
    if jnp.issubdtype(array.dtype, jnp.floating) and array.size and not np.isfinite([array.min(), array.max()]).all():
        raise InputError(f"{name}: got NaN or infinite values; wanted finite values")


def are_images(inputs: np.ndarray) -> bool:
    """Whether they are what can be resized and augmented, and is normalised by default: uint8 (n, h, w, c)."""
    return inputs.dtype == np.uint8 and inputs.ndim == 4


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A whole data set as its source has it, before any cutting: what every reader returns.

    Attributes:
        name, class_names, flip, translate: as of `Dataset`.
        train, test: the source's two parts.
        normalize: whether images (n, height, width, channels) of uint8 are normalised. Other inputs never are.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    flip: bool = False
    translate: int = 0
    normalize: bool = True

    __repr__ = one_line


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready for training: images or other inputs, and classes or other targets.

    Attributes:
        name: the set's name, without version or folder.
        train, validation: two disjoint parts of the source's training examples, in a fixed random order.
        test: the source's test examples. Choose nothing by it: look at it once, at the end.
        class_names: one name per class; () where targets are not classes.
        mean, std: per channel (the last axis of inputs), (channels,) float32, in the units of the inputs; both None
            where inputs are not normalised. `load` has them for uint8 images: published values where there are some
            (`PUBLISHED_STATISTICS`), else those of `train` alone; the std of a constant channel is given as 1.
        flip, translate: the augmentation that the set asks for, as of `symjax.data.augment`: none, unless it is one of
            `AUGMENTATION`. Configurations that leave theirs None take it. For uint8 images alone.

    Raises:
        InputError: labels that are not positions in `class_names`, parts of unequal shapes or types of inputs,
            statistics of other shapes, or augmentation of what is no uint8 images.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    mean: np.ndarray | None
    std: np.ndarray | None
    flip: bool = False
    translate: int = 0

    __repr__ = one_line

    def __post_init__(self):
        checks.text("name", self.name)
        for name in checks.sequence("class_names", self.class_names, "names"):
            checks.text("class_names", name)
        for part in (self.validation, self.test):
            for name in ("images", "labels"):
                expected, given = getattr(self.train, name), getattr(part, name)
                if given.shape[1:] != expected.shape[1:] or (name == "images" and given.dtype != expected.dtype):
                    raise InputError(f"{name}: got {described(given)}, wanted as in train, {described(expected)}")
        if self.class_names:
            self._check_classes()
        if (self.mean is None) != (self.std is None):
            raise InputError("mean, std: got one of them, wanted both, or both None for inputs that are not normalised")
        for name, low in (("mean", -np.inf), ("std", 0)) if self.mean is not None else ():
            value, channels = checks.array(name, getattr(self, name)), self.train.images.shape[1:][-1:]
            if value.shape != channels or not (np.isfinite(value) & (value > low)).all():
                wanted = f"{'positive' if name == 'std' else 'finite'} numbers, one for each channel"
                raise InputError(f"{name}: got {value.tolist()} for {channels} channels, wanted {wanted}")
        checks.flag("flip", self.flip)
        checks.integer_fields(self, translate=(0, 4096))
        _require_images(self, self)

    def _check_classes(self) -> None:
        for part in (self.train, self.validation, self.test):
            if part.labels.ndim != 1 or part.labels.dtype.kind not in "iu":
                wanted = "integers (n,), positions in class_names, or class_names=() for other targets than classes"
                raise InputError(f"labels: got {described(part.labels)}, wanted {wanted}")
            if len(part) and not 0 <= part.labels.min() <= part.labels.max() < self.num_classes:
                reach = f"{part.labels.min()} to {part.labels.max()}"
                raise InputError(f"labels: got {reach}, wanted 0 to {self.num_classes - 1}, positions in class_names")

    @property
    def num_classes(self) -> int | None:
        """None where targets are not classes."""
        return len(self.class_names) or None

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.train.images.shape[1:]

    @property
    def input_dtype(self) -> np.dtype:
        """The type of inputs, before they are normalised."""
        return self.train.images.dtype

    @property
    def image_size(self) -> int | None:
        """Height and width of square images (height, width, channels), in pixels; None for other inputs."""
        shape = self.example_shape
        return shape[0] if len(shape) == 3 and shape[0] == shape[1] else None

    @property
    def channels(self) -> int | None:
        """Of images (height, width, channels), square or not; None for other inputs."""
        return self.example_shape[2] if len(self.example_shape) == 3 else None


def _require_images(augmentation, dataset: Dataset) -> None:
    """An InputError where `flip` or `translate` ask for augmentation and inputs are not uint8 images."""
    if (augmentation.flip or augmentation.translate) and not are_images(dataset.train.images):
        given = f"flip={augmentation.flip}, translate={augmentation.translate} for {described(dataset.train.images)}"
        raise InputError(f"flip, translate: got {given}, wanted False and 0: only uint8 images (n, h, w, c) have them")


def check_augmentation(config) -> None:
    """An InputError unless `flip` and `translate` of a frozen dataclass are None or what `augment` takes."""
    if config.flip is not None:
        checks.flag("flip", config.flip)
    if config.translate is not None:
        checks.integer_fields(config, translate=(0, 4096))


def with_augmentation(config, dataset: Dataset):
    """The dataclass `config` with what `dataset` asks for where its `flip` or `translate` is None.

    Raises:
        InputError: `config` asks for augmentation and the inputs are not uint8 images.
    """
    unset = {name: getattr(dataset, name) for name in ("flip", "translate") if getattr(config, name) is None}
    config = dataclasses.replace(config, **unset) if unset else config
    _require_images(config, dataset)
    return config


def split_indices(num_examples: int, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts one permutation of range(num_examples) in two: (training, validation) indices.

    The cut depends on these three arguments alone. The validation part has round(validation * num_examples) indices.
    """
    order = _permutation(num_examples, seed)
    cut = round(validation * num_examples)
    return order[cut:], order[:cut]


def build(
    source: Source | Dataset, *, validation: float, train_size: int | None, test_size: int | None, seed: int
) -> Dataset:
    """Cuts a source into a `Dataset`; the arguments are those of `symjax.data.load`.

    A `Dataset` keeps its validation part and its statistics: only its training and test parts are shortened.

    Raises:
        InputError: an argument out of its range, or sizes larger than what there is.
    """
    _check_number("validation", validation, float)
    if not 0 <= validation < 1:
        raise InputError(
            f"validation: got {checks.short(validation)}, wanted a fraction of the training images in [0, 1)."
        )
    _check_number("seed", seed, int)
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: got {checks.short(seed)}, wanted an integer from 0 to 2**32 - 1.")
    of_what = f"training examples of {source.name!r}"
    if isinstance(source, Dataset):
        _check_size("train_size", train_size, len(source.train), of_what)
        train, test = source.train, _some(source.test, test_size, seed, source.name)
        return dataclasses.replace(source, train=Split(train.images[:train_size], train.labels[:train_size]), test=test)
    train, held_out = split_indices(len(source.train), validation, seed)
    _check_size("train_size", train_size, len(train), f"{of_what} (after validation={validation})")
    if not len(train):
        raise InputError(f"validation: {validation!r} of {len(source.train)} examples leaves none to train on.")

    train_split = _take(source.train, train[:train_size])
    mean = std = None
    if source.normalize and are_images(train_split.images):
        mean, std = PUBLISHED_STATISTICS.get(source.name, ((), ()))
        if len(mean) != train_split.images.shape[3]:
            mean, std = _statistics(train_split.images)
        mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return Dataset(
        name=source.name,
        train=train_split,
        validation=_take(source.train, held_out),
        test=_some(source.test, test_size, seed, source.name),
        class_names=source.class_names,
        mean=mean,
        std=std,
        flip=source.flip,
        translate=source.translate,
    )


def _some(test: Split, test_size: int | None, seed: int, name: str) -> Split:
    """As many test examples as asked for, drawn by seed; all of them, in the source's order, by default."""
    _check_size("test_size", test_size, len(test), f"test examples of {name!r}")
    return test if test_size is None else _take(test, _permutation(len(test), seed)[:test_size])


def _permutation(num_examples: int, seed: int) -> np.ndarray:
    # RandomState, because NumPy promises never to change its streams: the same split under every NumPy.
    return np.random.RandomState(seed).permutation(num_examples)


def _take(split: Split, indices: np.ndarray) -> Split:
    return Split(split.images[indices], split.labels[indices])


def _statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel, from the counts of the 256 values: exact, and no float copy is made."""
    values = np.arange(256.0)
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])])
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt(np.sum(weights * (values - mean[:, None]) ** 2, axis=1))
    return mean, np.where(std > 0, std, 1.0)


def _check_number(name: str, value: object, kind: type) -> None:
    if not (checks.is_integer(value) or (kind is float and isinstance(value, (float, np.floating)))):
        wanted = "an integer" if kind is int else "a number"
        raise InputError(f"{name}: got {checks.short(value)} ({type(value).__name__}), wanted {wanted}.")


def _check_size(name: str, size: object, available: int, of_what: str) -> None:
    if size is None:
        return
    _check_number(name, size, int)
    if not 1 <= size <= available:
        raise InputError(f"{name}: got {checks.short(size)}, wanted 1 to {available}, the number of {of_what}.")
