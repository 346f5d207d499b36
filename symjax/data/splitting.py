"""Split the training examples of a source into training and validation parts."""

import dataclasses
from typing import Any

import numpy as np

from symjax import checks
from symjax.data.dataset import Dataset, Source, Split, are_images
from symjax.errors import InputError

# Channel means and standard deviations of published runs, in units of 0..255 (Godfrey et al. 2022).
PUBLISHED_STATISTICS = {
    "cifar10": ((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)),
}


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
            f"validation: got {checks.short(validation)}, expected a fraction of the training examples in [0, 1)"
        )
    _check_number("seed", seed, int)
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: got {checks.short(seed)}, expected an integer from 0 to 2**32 - 1")
    of_what = f"training examples of {source.name!r}"
    if isinstance(source, Dataset):
        _check_size("train_size", train_size, len(source.train), of_what)
        train, test = source.train, _some(source.test, test_size, seed, source.name)
        return dataclasses.replace(source, train=Split(train.images[:train_size], train.labels[:train_size]), test=test)
    train, held_out = split_indices(len(source.train), validation, seed)
    _check_size("train_size", train_size, len(train), f"{of_what} (after validation={validation})")
    if not len(train):
        raise InputError(
            f"validation: got {validation!r}, expected some of {len(source.train)} examples left to train on"
        )

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
        raise InputError(f"{name}: got {checks.short(value)} ({type(value).__name__}), expected {expected}")


def _check_size(name: str, size: Any, available: int, of_what: str) -> None:
    if size is None:
        return
    _check_number(name, size, int)
    if not 1 <= size <= available:
        raise InputError(f"{name}: got {checks.short(size)}, expected 1 to {available}, the number of {of_what}")
