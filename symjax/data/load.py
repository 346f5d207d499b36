"""One function for every source of data."""

import dataclasses
import inspect
import os
from collections.abc import Mapping
from typing import Any

from symjax.checks import integer, path, short
from symjax.data.arrays import read_arrays, read_npz
from symjax.data.dataset import Dataset, Source, build
from symjax.data.digits import read_digits
from symjax.data.folder import read_folder
from symjax.data.prepared import is_prepared, read_prepared
from symjax.data.resize import resize_split
from symjax.errors import InputError
from symjax.imports import import_named, is_import_name


def load(
    name: str | os.PathLike | Mapping | Source | Dataset,
    *,
    image_size: int | None = None,
    validation: float = 0.1,
    train_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """Loads a data set into memory. Nothing is ever downloaded.

    Args:
        name: one of
            "digits": scikit-learn's, enlarged to 16x16;
            a path ending in .npz, of a file with x_train, y_train, x_test and y_test (see `symjax.data.arrays`);
            a mapping of such arrays, or a `Dataset`;
            "package.module:load": a function in a module that is installed or in the current folder. It is called with
            those of `image_size` and `seed` that its signature has, and returns a mapping or a `Dataset`;
            a folder with train/<class>/ and test/<class>/ of PNG and JPEG files (see `symjax.data.folder`);
            an image set that tensorflow_datasets has prepared on this machine, such as "cifar10". It has precedence
            over a folder of the same name; "./cifar10" is always the folder.
        image_size: height and width, in pixels, to resize all images to; default: as they are. For uint8 images alone.
        validation: the fraction of the source's training examples to hold out, in [0, 1). Which ones depends on this
            and on seed alone. Not looked at for a `Dataset`, which has a validation part of its own.
        train_size: use this many of the remaining training examples. A smaller number gives a prefix of a larger one.
        test_size: use this many of the test examples, drawn by seed, likewise; default: all, in the source's order.
        seed: of the cuts, not of any training. Runs to be compared have the same.
        data_dir: the tensorflow_datasets folder; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        cache_dir: where decoded sets are kept; default $SYMJAX_CACHE, $XDG_CACHE_HOME/symjax or ~/.cache/symjax.

    Raises:
        InputError: an argument, a file or a folder is not as wanted; the message says how.

    Example:
        >>> import numpy as np
        >>> from symjax import data
        >>> tokens, targets = np.arange(60).reshape(20, 3), np.arange(20) / 7
        >>> arrays = {"x_train": tokens, "y_train": targets, "x_test": tokens, "y_test": targets, "class_names": ()}
        >>> dataset = data.load(arrays, validation=0.25)
        >>> dataset.example_shape, len(dataset.train), dataset.num_classes, dataset.mean
        ((3,), 15, None, None)
    """
    if image_size is not None:
        integer("image_size", image_size, 1, 4096)
    for argument, folder in (("data_dir", data_dir), ("cache_dir", cache_dir)):
        if folder is not None:
            path(argument, folder)
    source = _read(name, image_size, seed, data_dir, cache_dir)
    return build(source, validation=validation, train_size=train_size, test_size=test_size, seed=seed)


def _read(name: Any, image_size: int | None, seed: int, data_dir, cache_dir) -> Source | Dataset:
    if isinstance(name, (Mapping, Source, Dataset)):
        return _own(name, image_size)
    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        raise InputError(
            f"name: got {short(name)}, wanted the name of a data set, a path, package.module:function, a mapping of "
            "x_train, y_train, x_test and y_test, or a Dataset."
        )
    given = os.fspath(name)
    if given == "digits":
        return read_digits(image_size)
    if given.endswith(".npz"):
        return read_npz(given, image_size)
    if is_import_name(given):
        return _own(_call(given, {"image_size": image_size, "seed": seed}), image_size, given)
    if is_folder(name, data_dir):
        return read_folder(given, image_size, cache_dir)
    return read_prepared(given, image_size, data_dir, cache_dir)


def is_folder(name: str | os.PathLike, data_dir: str | os.PathLike | None = None) -> bool:
    """Whether `load` takes this name for a folder of images."""
    folder = os.path.isdir(os.path.expanduser(name))
    return folder and (isinstance(name, os.PathLike) or (name != "digits" and not is_prepared(name, data_dir)))


def located(name: str) -> str:
    """Return the name of a data set, of a file or folder its path from the root."""
    is_path = name.endswith(".npz") or is_folder(name)
    return os.path.realpath(os.path.expanduser(name)) if is_path else name


def _own(data: Any, image_size: int | None, loader: str = "") -> Source | Dataset:
    """What the caller or a loader gives, with images of the size asked for."""
    if isinstance(data, Mapping):
        return read_arrays(data, image_size, name=loader or "arrays", where=f"name: {loader}, " if loader else "name: ")
    if not isinstance(data, (Source, Dataset)):
        wanted = "a Dataset, or a mapping of x_train, y_train, x_test and y_test"
        raise InputError(f"name: {loader} returned {short(data)}; wanted {wanted}.")
    parts = [field for field in ("train", "validation", "test") if hasattr(data, field)]
    resized = {part: resize_split(getattr(data, part), image_size) for part in parts}
    return dataclasses.replace(data, **resized)


def _call(name: str, options: dict[str, Any]) -> Any:
    """What the loader returns, called with the options that its signature has."""
    loader = import_named("name", name)
    if not callable(loader):
        raise InputError(f"name: {name} is {short(loader)}, wanted a function.")
    try:
        signature = inspect.signature(loader)
        options = {key: value for key, value in options.items() if key in signature.parameters}
        signature.bind(**options)
    except (TypeError, ValueError) as error:  # some of Python's own functions have no signature
        wanted = "a function that is called with no arguments, or with image_size and seed"
        raise InputError(f"name: {name} cannot be called ({error}); wanted {wanted}.") from None
    return loader(**options)
