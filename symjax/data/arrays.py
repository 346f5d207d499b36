"""Data sets from arrays in a mapping or in an .npz file."""

import os
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from symjax.checks import flag, sequence
from symjax.data.dataset import Source, Split, as_jax_dtype, numeric_array, require_finite
from symjax.data.resize import resize_split
from symjax.errors import InputError

_PARTS = ("train", "test")
MAX_NEAR_ONE = 1.5  # largest float of images in 0..1, of which resizing can raise some above 1
_KEYS = tuple(f"{axis}_{part}" for part in _PARTS for axis in "xy")
_OPTIONS = ("class_names", "normalize")
_UNCHANGED = "normalize=False for inputs that are used unchanged"


def read_arrays(arrays: Mapping, image_size: int | None, *, name: str = "arrays", where: str = "") -> Source:
    """Make a source from arrays x_train, y_train, x_test and y_test of any library, with examples on the first axis.

    Inputs with 3 or 4 dimensions are images and are converted to uint8, unless `normalize` is False. Images have shape
    (n, height, width) or (n, height, width, channels) with 1 to 4 channels. Values are integers in 0..255, or floats in
    0..1 or 0..255. The range of floats is determined from all of x_train; a few values above 1, as from resizing, do
    not make it 0..255. Floats are rounded to multiples of 1/255. An error is raised for values more than half a step
    outside the range, and for an ambiguous range. It is also raised for (n, a, b) with a != b, which may be sequences,
    unless `image_size` or `normalize` says that they are images.

    Inputs with other dimensions (features, tokens, videos), and all inputs if `normalize` is False, are not changed,
    and their `Dataset` has no mean and std. A sequence (n, length, channels) therefore needs normalize=False.

    Labels are integers from 0, (n,) or (n, 1); with `class_names` also (n, ...), one for each position of an input. The
    distinct labels of y_train are the classes. They are named by these numbers, and renumbered from 0 in ascending
    order if there are gaps.

    Args:
        arrays: x_train, y_train, x_test, y_test, and optionally
            class_names: the name of each class; labels are then positions in it. () if targets are not classes: they
                may then be any integers or floats (n, ...).
            normalize: True for images, False for inputs that are used unchanged. Default: as above.
        image_size: as in `symjax.data.load`.
        name: name of the data set.
        where: beginning of error messages.

    Raises:
        InputError: the arrays are invalid; the message names the key.
    """
    _require_keys(where, arrays)
    unknown = [key for key in arrays if key not in (*_KEYS, *_OPTIONS)]
    if unknown:
        raise _error(where, ", ".join(map(str, unknown)), "an unknown key", ", ".join((*_KEYS, *_OPTIONS)))
    normalize, class_names = arrays.get("normalize"), arrays.get("class_names")
    if normalize is not None:
        normalize = flag(f"{where}normalize", normalize.item() if getattr(normalize, "ndim", 1) == 0 else normalize)
    if class_names is not None:
        class_names = sequence(f"{where}class_names", class_names, "names")
    inputs, targets = ({p: numeric_array(f"{where}{a}_{p}", arrays[f"{a}_{p}"]) for p in _PARTS} for a in "xy")
    inputs = _check_inputs(where, inputs, normalize, image_size)
    if class_names is None or len(class_names):
        targets = {part: _check_labels(where, f"y_{part}", y, class_names) for part, y in targets.items()}
    targets = _check_equal_parts(where, "y", targets)
    for part in _PARTS:
        if len(inputs[part]) != len(targets[part]):
            given = f"{len(inputs[part])} inputs for {len(targets[part])} targets"
            raise _error(where, f"x_{part}", given, "equally many")
    if class_names is None:
        class_names, targets = _number_classes(where, targets)
    train, test = (resize_split(Split(inputs[part], targets[part]), image_size) for part in _PARTS)
    return Source(name, train, test, tuple(class_names), normalize=normalize is not False)


def read_npz(path: str | os.PathLike, image_size: int | None) -> Source:
    """Read the arrays of `read_arrays` from an .npz file. Pickled objects are not loaded.

    Args:
        path: the file. Other keys in it are ignored.
        image_size: as in `symjax.data.load`.

    Raises:
        InputError: the file is invalid; the message names the file and the key.
    """
    path = pathlib.Path(os.path.expanduser(path))
    return read_arrays(_read(path), image_size, name=path.stem, where=f"name: {path}, ")


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not os.path.isfile(path):  # Path.is_file would raise an error for a name that is too long
        raise InputError(f"name: got {path}, which does not exist, expected an .npz file with {', '.join(_KEYS)}")
    try:
        with zipfile.ZipFile(path):
            pass
        with np.load(path, allow_pickle=False) as archive:
            _require_keys(f"name: {path}, ", archive)
            return {key: archive[key] for key in (*_KEYS, *_OPTIONS) if key in archive}
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy and the system raise various types for damaged files
        raise InputError(
            f"name: got {path}, which cannot be read ({type(error).__name__}: {error}), expected an "
            ".npz file of plain arrays, as numpy.savez writes it"
        ) from error


def _check_inputs(
    where: str, inputs: dict[str, np.ndarray], normalize: bool | None, image_size: int | None
) -> dict[str, np.ndarray]:
    for part, x in inputs.items():
        if not x.size:
            raise _error(where, f"x_{part}", f"no values, shape {x.shape}", "one input or more")
        require_finite(f"{where}x_{part}", x)
    if normalize is not False and (normalize or any(x.ndim in (3, 4) for x in inputs.values())):
        sizes = {x.shape[1:] for x in inputs.values() if x.ndim == 3}
        if normalize is None and image_size is None and any(height != width for height, width in sizes):
            expected = f"(n, height, width, channels) or image_size or normalize=True for images, {_UNCHANGED}"
            raise _error(where, "x_train", f"shape {inputs['train'].shape}, which may be images or sequences", expected)
        inputs = _to_uint8(where, {part: _image_array(where, f"x_{part}", x) for part, x in inputs.items()})
    return _check_equal_parts(where, "x", inputs)


def _check_equal_parts(where: str, axis: str, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return both parts in dtypes of JAX; raise an InputError unless their examples have equal shapes and dtypes."""
    train, test = (as_jax_dtype(f"{where}{axis}_{part}", array) for part, array in parts.items())
    if train.shape[1:] != test.shape[1:]:
        expected = f"that of {axis}_train, {train.shape[1:]}"
        raise _error(where, f"{axis}_test", f"examples of shape {test.shape[1:]}", expected)
    if train.dtype != test.dtype:
        raise _error(where, f"{axis}_test", f"dtype {test.dtype}", f"that of {axis}_train, {train.dtype}")
    return {"train": train, "test": test}


def _image_array(where: str, key: str, x: np.ndarray) -> np.ndarray:
    """Return images as (n, height, width, channels) in a native dtype of NumPy."""
    if x.ndim not in (3, 4):
        raise _error(where, key, f"shape {x.shape}", "images (n, height, width) or (n, height, width, channels)")
    x = x[..., None] if x.ndim == 3 else x
    if not 1 <= x.shape[3] <= 4:
        raise _error(where, key, f"shape {x.shape}", f"1 to 4 channels on the last axis, or {_UNCHANGED}")
    return x if x.dtype.kind in "iuf" else x.astype(np.float32)


def _to_uint8(where: str, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert images to uint8; both parts have the same range."""
    floats = images["train"].dtype.kind == "f"
    if floats != (images["test"].dtype.kind == "f"):
        given, expected = images["test"].dtype, images["train"].dtype
        raise _error(where, "x_test", f"dtype {given}", f"the kind of x_train, {expected}")
    top = _white_value(where, images["train"]) if floats else 255
    slack = 0.5 / 255 * top if floats else 0  # values within half a step are rounded into the range
    pixels = {}
    for part, x in images.items():
        for extreme, outside in ((x.min(), x.min() < -slack), (x.max(), x.max() > top + slack)):
            if outside:
                expected = f"values in 0..{top}" + (", as in x_train" if part == "test" else "")
                if floats:
                    expected += f" (clip the few outside by numpy.clip(x, 0, {top}), or undo a normalization)"
                given = f"values {'down' if extreme < 0 else 'up'} to {extreme:g}"
                raise _error(where, f"x_{part}", given, f"{expected}; or {_UNCHANGED}")
        if floats:
            x = np.rint(np.asarray(x, np.result_type(x, np.float32)) * (255 / top)).clip(0, 255)
        pixels[part] = x.astype(np.uint8, copy=False)
    return pixels


def _white_value(where: str, x: np.ndarray) -> int:
    """Return the value of a white pixel in float images, 1 or 255, by the majority of the nonzero values."""
    if x.max() <= MAX_NEAR_ONE:
        return 1
    if 2 * np.count_nonzero(x > MAX_NEAR_ONE) > np.count_nonzero(x > 0):
        return 255
    expected = "values in 0..1 (clip the few outside by numpy.clip, or undo a normalization), or in 0..255 as uint8"
    given = f"floats up to {x.max():g}, most of them at most {MAX_NEAR_ONE}"
    raise _error(where, "x_train", given, f"{expected}; or {_UNCHANGED}")


def _check_labels(where: str, key: str, y: np.ndarray, class_names) -> np.ndarray:
    """Return labels as int32 (n,); raise an InputError unless they are class numbers.

    With `class_names` they may be those of the positions of each input, (n, ...).
    """
    if y.dtype.kind not in "ui":
        raise _error(where, key, f"dtype {y.dtype}", "integers, or class_names=() for targets other than classes")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 and class_names is None:
        expected = "(n,) or (n, 1), class_names for classes at positions, or class_names=() for other targets"
        raise _error(where, key, f"shape {y.shape}", expected)
    if not y.size:
        raise _error(where, key, "no labels", "one or more")
    if y.min() < 0 or y.max() >= 2**31:
        raise _error(where, key, f"labels from {y.min()} to {y.max()}", "class numbers from 0 to 2**31 - 1")
    return y.astype(np.int32)


def _number_classes(where: str, labels: dict[str, np.ndarray]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the names of the classes of y_train, and labels renumbered from 0."""
    classes = np.unique(labels["train"])
    unknown = np.setdiff1d(labels["test"], classes).tolist()
    if unknown:
        raise _error(where, "y_test", f"labels that are missing from y_train: {unknown[:5]}", "labels of y_train")
    labels = {part: np.searchsorted(classes, y).astype(np.int32) for part, y in labels.items()}
    return list(map(str, classes.tolist())), labels


def _require_keys(where: str, keys) -> None:
    missing = [key for key in _KEYS if key not in keys]
    if missing:
        raise _error(where, ", ".join(missing), f"only {sorted(keys, key=str)}", f"all of {', '.join(_KEYS)}")


def _error(where: str, key: str, given: str, expected: str) -> InputError:
    return InputError(f"{where}{key}: got {given}, expected {expected}")
