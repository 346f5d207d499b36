"""Load data sets of all sources by one function."""

import dataclasses
import inspect
import os
from collections.abc import Mapping
from typing import Any

from symjax.checks import integer, path, short
from symjax.data.arrays import read_arrays, read_npz
from symjax.data.dataset import Dataset, Source
from symjax.data.digits import read_digits
from symjax.data.folder import read_folder
from symjax.data.prepared import is_prepared, read_prepared
from symjax.data.resize import resize_split
from symjax.data.splitting import build
from symjax.data.text import is_text, read_text, split_options
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
    """Load a data set into memory. Nothing is downloaded.

    Args:
        name: one of
            "digits": the handwritten digits of scikit-learn, enlarged to 16x16;
            "text": the help pages of Python, or the path of a text file, or of a folder with its training, validation
            and test parts, with options as in "text?level=words,length=35" (see `symjax.data.text`);
            the path of an .npz file with x_train, y_train, x_test and y_test (see `symjax.data.arrays`);
            a mapping of such arrays, or a `Dataset`;
            "package.module:load": a function in a module that is installed or in the current folder. It is called with
            `image_size` and `seed` if its signature has them, and returns a mapping or a `Dataset`;
            a folder with PNG and JPEG files in train/<class>/ and test/<class>/ (see `symjax.data.folder`);
            an image data set that tensorflow_datasets has prepared on this machine, such as "cifar10". It takes
            precedence over a folder of the same name; "./cifar10" is always the folder.
        image_size: height and width in pixels to which uint8 images are resized; default: no resizing.
        validation: the fraction of training examples to hold out, in [0, 1). The held-out examples depend on this and
            on `seed` only. It is ignored for a `Dataset`, which has its own validation part.
        train_size: number of the remaining training examples to use. A smaller number gives a prefix of a larger one.
        test_size: number of test examples to use, drawn with `seed`; default: all, in the order of the source.
        seed: seed of the split, not of any training. Use the same seed for runs that are compared.
        data_dir: the tensorflow_datasets folder; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        cache_dir: the cache of decoded data sets; default $SYMJAX_CACHE, $XDG_CACHE_HOME/symjax or ~/.cache/symjax.

    Returns:
        The `Dataset`.

    Raises:
        InputError: an argument, a file or a folder is invalid.

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
        return _from_object(name, image_size)
    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        raise InputError(
            f"name: got {short(name)}, expected the name of a data set, a path, package.module:function, a mapping of "
            "x_train, y_train, x_test and y_test, or a Dataset"
        )
    given = os.fspath(name)
    if given == "digits":
        return read_digits(image_size)
    if given.endswith(".npz"):
        return read_npz(given, image_size)
    if is_import_name(given):
        return _from_object(_call(given, {"image_size": image_size, "seed": seed}), image_size, given)
    if is_text(given):
        return read_text(given)
    if is_folder(name, data_dir):
        return read_folder(given, image_size, cache_dir)
    return read_prepared(given, image_size, data_dir, cache_dir)


def is_folder(name: str | os.PathLike, data_dir: str | os.PathLike | None = None) -> bool:
    """Return whether `load` takes this name for a folder of images."""
    folder = os.path.isdir(os.path.expanduser(name))
    return folder and (isinstance(name, os.PathLike) or (name != "digits" and not is_prepared(name, data_dir)))


def resolve_name(name: str) -> str:
    """Return the name of a data set, with the path of a file or folder made absolute."""
    base, options = split_options(name)
    is_path = name.endswith(".npz") or (base != "text" and is_text(name)) or is_folder(name)
    return os.path.realpath(os.path.expanduser(base)) + options if is_path else name


def _from_object(data: Any, image_size: int | None, loader: str = "") -> Source | Dataset:
    """Return a source for an object of the caller or of a loader, with resized images."""
    if isinstance(data, Mapping):
        return read_arrays(data, image_size, name=loader or "arrays", where=f"name: {loader}, " if loader else "name: ")
    if not isinstance(data, (Source, Dataset)):
        expected = "a Dataset, or a mapping of x_train, y_train, x_test and y_test"
        raise InputError(f"name: got {short(data)} from {loader}, expected {expected}")
    parts = [field for field in ("train", "validation", "test") if hasattr(data, field)]
    resized: dict[str, Any] = {part: resize_split(getattr(data, part), image_size) for part in parts}
    return dataclasses.replace(data, **resized)


def _call(name: str, options: dict[str, Any]) -> Any:
    """Call a loader with the options that its signature has."""
    loader = import_named("name", name)
    if not callable(loader):
        raise InputError(f"name: got {name}, which is {short(loader)}, expected a function")
    try:
        signature = inspect.signature(loader)
        options = {key: value for key, value in options.items() if key in signature.parameters}
        signature.bind(**options)
    except (TypeError, ValueError) as error:  # some built-in functions have no signature
        expected = "a function of no arguments, or of image_size and seed"
        raise InputError(f"name: got {name}, which cannot be called ({error}), expected {expected}") from None
    return loader(**options)
