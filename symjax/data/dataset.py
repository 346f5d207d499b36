"""The types of data sets, and checks of their arrays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symjax import checks
from symjax.errors import InputError
from symjax.spelling import described, one_line

# Augmentation of published runs, by `flip` and `translate` of `symjax.data.augment`.
AUGMENTATION: dict[str, dict[str, Any]] = {
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

    Example:
        >>> import numpy as np
        >>> from symjax import data
        >>> split = data.Split(np.zeros((3, 8, 8, 1), np.uint8), np.array([0, 1, 1]))
        >>> len(split), split.labels.dtype
        (3, dtype('int32'))
    """

    images: np.ndarray
    labels: np.ndarray

    def __repr__(self):
        return one_line(self)

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
        raise InputError(f"{name}: got a traced value, expected a concrete one")
    array = np.asarray(array)
    if not checks.is_real(array.dtype) or array.dtype == bool or not array.ndim:
        described = f"dtype {array.dtype}, shape {array.shape}"
        raise InputError(f"{name}: got {described}, expected integers or floats of shape (n, ...)")
    return array


def as_jax_dtype(name: str, array: np.ndarray) -> np.ndarray:
    """Convert an array to the dtype that JAX uses for it; raise an InputError if values do not fit."""
    dtype = jax.dtypes.canonicalize_dtype(np.float64 if array.dtype.itemsize > 8 else array.dtype)  # long doubles
    if dtype == array.dtype:
        return array
    if dtype.kind in "iu" and array.size:
        low, high = array.min(), array.max()
        if not np.iinfo(dtype).min <= low <= high <= np.iinfo(dtype).max:
            raise InputError(f"{name}: got integers from {low} to {high}, expected values that {dtype} can hold")
    with np.errstate(over="ignore", under="ignore"):
        converted = array.astype(dtype)
    if dtype.kind == "f" and (np.isinf(converted) & ~np.isinf(array)).any():
        raise InputError(f"{name}: got values out of range, expected values that {dtype} can hold")
    return converted


def require_finite(name: str, array: np.ndarray) -> None:
    """Raise an InputError for a floating array with NaN or infinite values."""
    if jnp.issubdtype(array.dtype, jnp.floating) and array.size and not np.isfinite([array.min(), array.max()]).all():
        raise InputError(f"{name}: got NaN or infinite values, expected finite values")


def are_images(inputs: np.ndarray) -> bool:
    """Return whether inputs are uint8 images (n, h, w, c), which can be resized, augmented and normalized."""
    return inputs.dtype == np.uint8 and inputs.ndim == 4


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A complete data set before it is split, as every reader returns it.

    Attributes:
        name, class_names, flip, translate: as in `Dataset`.
        train, test: the two parts of the source.
        normalize: whether to normalize uint8 images (n, height, width, channels). Other inputs are never normalized.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    flip: bool = False
    translate: int = 0
    normalize: bool = True

    def __repr__(self):
        return one_line(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready for training: images or other inputs, and classes or other targets.

    Attributes:
        name: name of the data set, without version or folder.
        train, validation: two disjoint parts of the training examples of the source, in a fixed random order.
        test: the test examples of the source. Use them for the final evaluation only, not to choose anything.
        class_names: one name per class, such as the tokens of a vocabulary; () where targets are not classes.
        mean, std: (channels,) float32, in the units of the inputs, whose last axis is that of channels; both None
            if inputs are not normalized. For uint8 images `load` sets published values where they exist
            (`symjax.data.splitting`), and otherwise the statistics of `train`; the std of a constant channel is 1.
        flip, translate: the default augmentation of uint8 images, as in `symjax.data.augment`. There is none unless the
            name is in `AUGMENTATION`. Configurations use it where their own fields are None.

    Raises:
        InputError: labels are not positions in `class_names`; inputs of the parts have unequal shapes or dtypes;
            statistics have other shapes; augmentation is set for inputs that are not uint8 images.

    Example:
        >>> import numpy as np
        >>> from symjax import data
        >>> train, validation, test = (data.Split(np.ones((n, 4), np.float32), np.arange(n) % 2) for n in (6, 2, 4))
        >>> dataset = data.Dataset("mine", train, validation, test, ("cat", "dog"), mean=None, std=None)
        >>> dataset.num_classes, dataset.example_shape, dataset.image_size
        (2, (4,), None)
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

    def __repr__(self):
        return one_line(self)

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
                "mean, std: got only one of them, expected both, or both None for inputs without normalization"
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
            if part.labels.size and not 0 <= part.labels.min() <= part.labels.max() < len(self.class_names):
                given, last = f"{part.labels.min()} to {part.labels.max()}", len(self.class_names) - 1
                raise InputError(f"labels: got {given}, expected 0 to {last}, positions in class_names")

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None if targets are not classes."""
        return len(self.class_names) or None

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.train.images.shape[1:]

    @property
    def input_dtype(self) -> np.dtype:
        """The dtype of inputs before normalization."""
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
    """Raise an InputError if `flip` or `translate` are set and inputs are not uint8 images."""
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
