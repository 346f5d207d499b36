"""What a loaded image set is, and how its training images are cut into training and validation parts."""

import dataclasses

import numpy as np

from symjax import checks
from symjax.errors import InputError
from symjax.spelling import one_line

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
    """Images (n, height, width, channels) of uint8 and their labels (n,) of int32. Both are read-only views.

    Raises:
        InputError: anything else, masked entries, or unequal lengths.
    """

    images: np.ndarray
    labels: np.ndarray

    __repr__ = one_line

    def __post_init__(self):
        for name, ndim, kind in (("images", 4, np.uint8), ("labels", 1, np.integer)):
            array = getattr(self, name)
            checks.require_unmasked(name, array)
            if not isinstance(array, np.ndarray) or array.ndim != ndim or not np.issubdtype(array.dtype, kind):
                raise InputError(f"{name}: got {_described(array)}, wanted images of uint8 (n, h, w, c), labels (n,)")
        if len(self.images) != len(self.labels):
            raise InputError(f"images, labels: got {len(self.images)} and {len(self.labels)}, wanted as many of each")
        for field in dataclasses.fields(self):
            view = getattr(self, field.name).view()
            view.setflags(write=False)
            object.__setattr__(self, field.name, view)

    def __len__(self) -> int:
        return len(self.labels)


def _described(value: object) -> str:
    return f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A whole image set as its source has it, before any cutting: what every reader returns."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    flip: bool = False
    translate: int = 0

    __repr__ = one_line


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """An image set ready for training.

    Attributes:
        name: the set's name, without version or folder.
        train, validation: two disjoint parts of the source's training images, in a fixed random order.
        test: the source's test images. Choose nothing by it: look at it once, at the end.
        class_names: one name per class.
        mean, std: per channel, (channels,) float32, in units of 0..255. Published values where there are some
            (`PUBLISHED_STATISTICS`), else those of `train` alone; the std of a constant channel is given as 1.
        flip, translate: the augmentation that the set asks for, as of `symjax.data.augment`: none, unless it is one of
            `AUGMENTATION`. Configurations that leave theirs None take it.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    flip: bool = False
    translate: int = 0

    __repr__ = one_line

    def __post_init__(self):
        checks.text("name", self.name)
        for name in checks.sequence("class_names", self.class_names, "names"):
            checks.text("class_names", name)
        for part in (self.train, self.validation, self.test):
            if len(part) and not 0 <= part.labels.min() <= part.labels.max() < self.num_classes:
                reach = f"{part.labels.min()} to {part.labels.max()}"
                raise InputError(f"labels: got {reach}, wanted 0 to {self.num_classes - 1}, positions in class_names")
        for name, low in (("mean", -np.inf), ("std", 0)):
            value = checks.array(name, getattr(self, name))
            if value.shape != (self.channels,) or not (np.isfinite(value) & (value > low)).all():
                wanted = f"{'positive' if name == 'std' else 'finite'} numbers, one for each channel"
                raise InputError(f"{name}: got {value.tolist()} for {self.channels} channels, wanted {wanted}")
        checks.flag("flip", self.flip)
        checks.integer_fields(self, translate=(0, 4096))

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height and width, in pixels: images are square."""
        return self.train.images.shape[1]

    @property
    def channels(self) -> int:
        return self.train.images.shape[3]


def check_augmentation(config) -> None:
    """An InputError unless `flip` and `translate` of a frozen dataclass are None or what `augment` takes."""
    if config.flip is not None:
        checks.flag("flip", config.flip)
    if config.translate is not None:
        checks.integer_fields(config, translate=(0, 4096))


def with_augmentation(config, dataset: Dataset):
    """The dataclass `config` with what `dataset` asks for where its `flip` or `translate` is None."""
    unset = {name: getattr(dataset, name) for name in ("flip", "translate") if getattr(config, name) is None}
    return dataclasses.replace(config, **unset) if unset else config


def split_indices(num_examples: int, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts one permutation of range(num_examples) in two: (training, validation) indices.

    The cut depends on these three arguments alone. The validation part has round(validation * num_examples) indices.
    """
    order = _permutation(num_examples, seed)
    cut = round(validation * num_examples)
    return order[cut:], order[:cut]


def build(source: Source, *, validation: float, train_size: int | None, test_size: int | None, seed: int) -> Dataset:
    """Cuts a source into a `Dataset`; the arguments are those of `symjax.data.load`.

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
    train, held_out = split_indices(len(source.train), validation, seed)
    _check_size(
        "train_size", train_size, len(train), f"training images of {source.name!r} (after validation={validation})"
    )
    _check_size("test_size", test_size, len(source.test), f"test images of {source.name!r}")
    if not len(train):
        raise InputError(f"validation: {validation!r} of {len(source.train)} images leaves none to train on.")

    train_split = _take(source.train, train[:train_size])
    test = source.test
    if test_size is not None:
        test = _take(test, _permutation(len(test), seed)[:test_size])
    mean, std = PUBLISHED_STATISTICS.get(source.name) or _statistics(train_split.images)
    return Dataset(
        name=source.name,
        train=train_split,
        validation=_take(source.train, held_out),
        test=test,
        class_names=source.class_names,
        mean=np.asarray(mean, np.float32),
        std=np.asarray(std, np.float32),
        flip=source.flip,
        translate=source.translate,
    )


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
