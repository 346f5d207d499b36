"""The `Dataset` type, and the split of its training examples into training and validation parts."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symjax import checks
from symjax.errors import InputError
from symjax.spelling import described, one_line

# Channel means and standard deviations of published runs, in units of 0..255 (Godfrey et al. 2022).
PUBLISHED_STATISTICS = {
    "cifar10": ((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)),
}

# Augmentation of published runs, by `flip` and `translate` of `symjax.data.augment`.
AUGMENTATION = {
    "digits": {"flip": False, "translate": 1},
    "cifar10": {"flip": True, "translate": 2},
    "cifar100": {"flip": True, "translate": 2},
}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Inputs and targets of examples: read-only NumPy arrays of integers or floats.

    Arrays are views of the given ones where possible. They have dtypes that JAX supports: without `jax_enable_x64`,
    int64 becomes int32 and float64 becomes float32.

    Attributes:
        images: (n, height, width, channels) uint8 images, or other inputs (n, ...) of any dtype: float images, feature
            vectors, tokens (n, length), sequences (n, length, channels).
        labels: (n,) int32 classes, (n, ...) classes of the positions of each input, or other targets (n, ...).

    Raises:
        InputError: a value is not an array of numbers or has masked entries; integers are out of range for JAX; inputs
            are NaN or infinite; lengths are unequal.
    """

    images: np.ndarray
    labels: np.ndarray

    __repr__ = one_line

    def __post_init__(self):
        for field in dataclasses.fields(self):
            view = as_jax_dtype(field.name, numeric_array(field.name, getattr(self, field.name))).view()
            view.setflags(write=False)
            object.__setattr__(self, field.name, view)
        if len(self.images) != len(self.labels):
            raise InputError(f"images, labels: got {len(self.images)} and {len(self.labels)}, expected equally many")
        require_finite("images", self.images)

    def __len__(self) -> int:
        return len(self.labels)


def numeric_array(name: str, value: Any) -> np.ndarray:
    """Return an array (n, ...) of integers or floats as a NumPy array, or raise an InputError."""
    array = checks.any_array(name, value)
    if not checks.is_concrete(array):
        raise InputError(f"{name}: is traced, expected a concrete value")
    array = np.asarray(array)
    if not checks.is_real(array.dtype) or array.dtype == bool or not array.ndim:
        described = f"dtype {array.dtype}, shape {array.shape}"
        raise InputError(f"{name}: got {described}, expected integers or floats of shape (n, ...)")
    return array


def as_jax_dtype(name: str, array: np.ndarray) -> np.ndarray:
    """Convert an array to the dtype that JAX uses for it; raise an InputError where values do not fit."""
    dtype = jax.dtypes.canonicalize_dtype(np.float64 if array.dtype.itemsize > 8 else array.dtype)  # long doubles
    if dtype == array.dtype:
        return array
    if dtype.kind in "iu" and array.size:
        low, high = array.min(), array.max()
        if not np.iinfo(dtype).min <= low <= high <= np.iinfo(dtype).max:
            raise InputError(f"{name}: has integers from {low} to {high}, which {dtype} cannot hold")
    with np.errstate(over="ignore", under="ignore"):
        converted = array.astype(dtype)
    if dtype.kind == "f" and (np.isinf(converted) & ~np.isinf(array)).any():
        raise InputError(f"{name}: has values that {dtype} cannot hold")
    return converted


def require_finite(name: str, array: np.ndarray) -> None:
    """Raise an InputError for a floating array with NaN or infinite values."""
    if jnp.issubdtype(array.dtype, jnp.floating) and array.size and not np.isfinite([array.min(), array.max()]).all():
        raise InputError(f"{name}: got NaN or infinite values, expected finite values")


def are_images(inputs: np.ndarray) -> bool:
    """Return whether inputs are uint8 images (n, h, w, c), which can be resized, augmented and normalised."""
    return inputs.dtype == np.uint8 and inputs.ndim == 4


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A complete data set before it is split, as every reader returns it.

    Attributes:
        name, class_names, flip, translate: as in `Dataset`.
        train, test: the two parts of the source.
        normalize: whether to normalise uint8 images (n, height, width, channels). Other inputs are never normalised.
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
        name: name of the data set, without version or folder.
        train, validation: two disjoint parts of the training examples of the source, in a fixed random order.
        test: the test examples of the source. Use them for the final evaluation only, not to choose anything.
        class_names: one name per class, such as the tokens of a vocabulary; () where targets are not classes.
        mean, std: (channels,) float32, in the units of the inputs, whose last axis is that of channels; both None
            where inputs are not normalised. For uint8 images `load` sets published values where they exist
            (`PUBLISHED_STATISTICS`), and otherwise the statistics of `train`; the std of a constant channel is 1.
        flip, translate: the default augmentation of uint8 images, as in `symjax.data.augment`. There is none unless the
            name is in `AUGMENTATION`. Configurations use it where their own fields are None.

    Raises:
        InputError: labels are not positions in `class_names`; inputs of the parts have unequal shapes or dtypes;
            statistics have other shapes; augmentation is set for inputs that are not uint8 images.
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
            checks.text("class_names", name, empty=name != "")  # characters may be white space
        for part in (self.validation, self.test):
            for name in ("images", "labels"):
                expected, given = getattr(self.train, name), getattr(part, name)
                if given.shape[1:] != expected.shape[1:] or (name == "images" and given.dtype != expected.dtype):
                    raise InputError(f"{name}: got {described(given)}, expected as in train, {described(expected)}")
        if self.class_names:
            self._check_classes()
        if (self.mean is None) != (self.std is None):
            raise InputError(
                "mean, std: got only one of them, expected both, or both None for inputs without normalisation"
            )
        for name, low in (("mean", -np.inf), ("std", 0)) if self.mean is not None else ():
            value, channels = checks.array(name, getattr(self, name)), self.train.images.shape[1:][-1:]
            if value.shape != channels or not (np.isfinite(value) & (value > low)).all():
                expected = f"{'positive' if name == 'std' else 'finite'} numbers, one for each channel"
                raise InputError(f"{name}: got {value.tolist()} for {channels} channels, expected {expected}")
        checks.flag("flip", self.flip)
        checks.integer_fields(self, translate=(0, 4096))
        _require_images(self, self)

    def _check_classes(self) -> None:
        for part in (self.train, self.validation, self.test):
            if part.labels.dtype.kind not in "iu":
                expected = (
                    "integers (n, ...), positions in class_names, or class_names=() for targets other than classes"
                )
                raise InputError(f"labels: got {described(part.labels)}, expected {expected}")
            if part.labels.size and not 0 <= part.labels.min() <= part.labels.max() < self.num_classes:
                given, last = f"{part.labels.min()} to {part.labels.max()}", self.num_classes - 1
                raise InputError(f"labels: got {given}, expected 0 to {last}, positions in class_names")

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None where targets are not classes."""
        return len(self.class_names) or None

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.train.images.shape[1:]

    @property
    def input_dtype(self) -> np.dtype:
        """The dtype of inputs before normalisation."""
        return self.train.images.dtype

    @property
    def image_size(self) -> int | None:
        """Height and width of square images (height, width, channels), in pixels; None for other inputs."""
        shape = self.example_shape
        return shape[0] if len(shape) == 3 and shape[0] == shape[1] else None

    @property
    def channels(self) -> int | None:
        """The number of channels of images (height, width, channels), square or not; None for other inputs."""
        return self.example_shape[2] if len(self.example_shape) == 3 else None


def _require_images(augmentation, dataset: Dataset) -> None:
    """Raise an InputError where `flip` or `translate` are set and inputs are not uint8 images."""
    if (augmentation.flip or augmentation.translate) and not are_images(dataset.train.images):
        given = f"flip={augmentation.flip}, translate={augmentation.translate} for {described(dataset.train.images)}"
        raise InputError(f"flip, translate: got {given}, expected uint8 images (n, h, w, c), or False and 0")


def check_augmentation(config) -> None:
    """Raise an InputError unless `flip` and `translate` of a frozen dataclass are None or valid for `augment`."""
    if config.flip is not None:
        checks.flag("flip", config.flip)
    if config.translate is not None:
        checks.integer_fields(config, translate=(0, 4096))


def with_augmentation(config, dataset: Dataset):
    """Return the dataclass `config` with the `flip` and `translate` of `dataset` where its own are None.

    Raises:
        InputError: `config` sets augmentation and the inputs are not uint8 images.
    """
    unset = {name: getattr(dataset, name) for name in ("flip", "translate") if getattr(config, name) is None}
    config = dataclasses.replace(config, **unset) if unset else config
    _require_images(config, dataset)
    return config


def split_indices(num_examples: int, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split a permutation of range(num_examples) into (training, validation) indices.

    The split depends on the three arguments only. The validation part has round(validation * num_examples) indices.
    """
    order = _permutation(num_examples, seed)
    cut = round(validation * num_examples)
    return order[cut:], order[:cut]


def build(
    source: Source | Dataset, *, validation: float, train_size: int | None, test_size: int | None, seed: int
) -> Dataset:
    """Split a source into a `Dataset`; the arguments are those of `symjax.data.load`.

    For a `Dataset` the validation part and statistics are kept, and only training and test parts are shortened.

    Raises:
        InputError: an argument is out of its range, or a size exceeds the number of examples.
    """
    _check_number("validation", validation, float)
    if not 0 <= validation < 1:
        raise InputError(
            f"validation: got {checks.short(validation)}, expected a fraction of the training images in [0, 1)."
        )
    _check_number("seed", seed, int)
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: got {checks.short(seed)}, expected an integer from 0 to 2**32 - 1.")
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
    """Return `test_size` test examples drawn with `seed`; by default all, in the order of the source."""
    _check_size("test_size", test_size, len(test), f"test examples of {name!r}")
    return test if test_size is None else _take(test, _permutation(len(test), seed)[:test_size])


def _permutation(num_examples: int, seed: int) -> np.ndarray:
    # RandomState, because its streams are the same in all versions of NumPy.
    return np.random.RandomState(seed).permutation(num_examples)


def _take(split: Split, indices: np.ndarray) -> Split:
    return Split(split.images[indices], split.labels[indices])


def _statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation per channel: exact and without a float copy, from counts of the values."""
    values = np.arange(256.0)
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])])
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt(np.sum(weights * (values - mean[:, None]) ** 2, axis=1))
    return mean, np.where(std > 0, std, 1.0)


def _check_number(name: str, value: object, kind: type) -> None:
    if not (checks.is_integer(value) or (kind is float and isinstance(value, (float, np.floating)))):
        expected = "an integer" if kind is int else "a number"
        raise InputError(f"{name}: got {checks.short(value)} ({type(value).__name__}), expected {expected}.")


def _check_size(name: str, size: object, available: int, of_what: str) -> None:
    if size is None:
        return
    _check_number(name, size, int)
    if not 1 <= size <= available:
        raise InputError(f"{name}: got {checks.short(size)}, expected 1 to {available}, the number of {of_what}.")
