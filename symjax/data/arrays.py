"""Data sets in arrays of the caller's own: a mapping, or an .npz file."""

import os
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from symjax.checks import flag, sequence
from symjax.data.dataset import Source, Split, held_array, plain_array, require_finite
from symjax.data.resize import resize_split
from symjax.errors import InputError

_PARTS = ("train", "test")
NEARLY_ONE = 1.5  # floats that resizing brought over 1 stay below
_KEYS = tuple(f"{axis}_{part}" for part in _PARTS for axis in "xy")
_OPTIONS = ("class_names", "normalize")
_AS_THEY_ARE = "normalize=False for inputs to be taken as they are"


def read_arrays(arrays: Mapping, image_size: int | None, *, name: str = "arrays", where: str = "") -> Source:
    """Makes a source of x_train, y_train, x_test and y_test, arrays of any library with one entry for each example.

    Inputs of 3 or 4 dimensions are images and become uint8, unless `normalize` is False: (n, height, width) or (n,
    height, width, channels) with 1 to 4 channels, of integers in 0..255, or floats in 0..1 or in 0..255, whichever
    x_train as a whole says: the few values by which resizing or rounding goes over 1 do not make it 0..255. Floats are
    rounded to whole 255ths. Refused are values more than half of one outside of the range, a range that is not clear,
    and (n, a, b) with a != b, which may be sequences, unless `image_size` or `normalize` says that they are images.

    Inputs of other dimensions (features, tokens, videos), and all inputs where `normalize` is False, stay as they are,
    and their `Dataset` has no mean and std. A sequence (n, length, channels) therefore needs normalize=False.

    Labels are integers from 0, (n,) or (n, 1). The numbers of y_train are the classes: renumbered from 0 in their order
    where there are gaps, and named by the original numbers.

    Args:
        arrays: x_train, y_train, x_test, y_test, and where needed
            class_names: a name for each class, of which labels then are the positions; or (), which says that targets
                are not classes: they may be any integers or floats (n, ...).
            normalize: True for images, False for inputs to be taken as they are. Default: as above.
        image_size: as in `symjax.data.load`.
        name: of the data set.
        where: what messages begin with.

    Raises:
        InputError: whatever is wrong with the arrays; the message names the key.
    """
    _require_keys(where, arrays)
    unknown = [key for key in arrays if key not in (*_KEYS, *_OPTIONS)]
    if unknown:
        raise _bad(where, ", ".join(map(str, unknown)), "no key that is known", ", ".join((*_KEYS, *_OPTIONS)))
    normalize, class_names = arrays.get("normalize"), arrays.get("class_names")
    if normalize is not None:
        normalize = flag(f"{where}normalize", normalize.item() if getattr(normalize, "ndim", 1) == 0 else normalize)
    if class_names is not None:
        class_names = sequence(f"{where}class_names", class_names, "names")
    inputs, targets = ({p: plain_array(f"{where}{a}_{p}", arrays[f"{a}_{p}"]) for p in _PARTS} for a in "xy")
    inputs = _inputs(where, inputs, normalize, image_size)
    if class_names is None or len(class_names):
        targets = {part: _labels(where, f"y_{part}", y) for part, y in targets.items()}
    targets = _alike(where, "y", targets)
    for part in _PARTS:
        if len(inputs[part]) != len(targets[part]):
            given = f"{len(inputs[part])} inputs for {len(targets[part])} targets"
            raise _bad(where, f"x_{part}", given, "as many of each")
    if class_names is None:
        class_names, targets = _classes(where, targets)
    train, test = (resize_split(Split(inputs[part], targets[part]), image_size) for part in _PARTS)
    return Source(name, train, test, tuple(class_names), normalize=normalize is not False)


def read_npz(path: str | os.PathLike, image_size: int | None) -> Source:
    """Reads what `read_arrays` takes from an .npz file. Nothing in it is unpickled.

    Args:
        path: the file. Other keys in it are not looked at.
        image_size: as in `symjax.data.load`.

    Raises:
        InputError: whatever is wrong with the file; the message names the file and the key.
    """
    path = pathlib.Path(os.path.expanduser(path))
    return read_arrays(_read(path), image_size, name=path.stem, where=f"name: {path}, ")


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not os.path.isfile(path):  # unlike Path.is_file without an error for a name that is too long
        raise InputError(f"name: there is no file {path}, wanted an .npz file with {', '.join(_KEYS)}.")
    try:
        with zipfile.ZipFile(path):
            pass
        with np.load(path, allow_pickle=False) as archive:
            _require_keys(f"name: {path}, ", archive)
            return {key: archive[key] for key in (*_KEYS, *_OPTIONS) if key in archive}
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy's header parser and the system: whatever a bad file makes of it
        raise InputError(
            f"name: cannot read {path} ({type(error).__name__}: {error}); wanted an .npz file of plain arrays, as "
            "numpy.savez writes it."
        ) from error


def _inputs(
    where: str, inputs: dict[str, np.ndarray], normalize: bool | None, image_size: int | None
) -> dict[str, np.ndarray]:
    for part, x in inputs.items():
        if not x.size:
            raise _bad(where, f"x_{part}", f"no values, shape {x.shape}", "one input or more")
        require_finite(f"{where}x_{part}", x)
    if normalize is not False and (normalize or any(x.ndim in (3, 4) for x in inputs.values())):
        sizes = {x.shape[1:] for x in inputs.values() if x.ndim == 3}
        if normalize is None and image_size is None and any(height != width for height, width in sizes):
            wanted = f"(n, height, width, channels) or image_size or normalize=True for images, {_AS_THEY_ARE}"
            raise _bad(where, "x_train", f"shape {inputs['train'].shape}, which may be images or sequences", wanted)
        inputs = _pixels(where, {part: _images(where, f"x_{part}", x) for part, x in inputs.items()})
    return _alike(where, "x", inputs)


def _alike(where: str, axis: str, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parts as JAX holds them; an InputError unless their examples have one shape and type."""
    train, test = (held_array(f"{where}{axis}_{part}", array) for part, array in parts.items())
    if train.shape[1:] != test.shape[1:]:
        raise _bad(where, f"{axis}_test", f"examples of shape {test.shape[1:]}", f"as {axis}_train, {train.shape[1:]}")
    if train.dtype != test.dtype:
        raise _bad(where, f"{axis}_test", f"dtype {test.dtype}", f"that of {axis}_train, {train.dtype}")
    return {"train": train, "test": test}


def _images(where: str, key: str, x: np.ndarray) -> np.ndarray:
    """(n, height, width, channels), of a type that NumPy knows by itself."""
    if x.ndim not in (3, 4):
        raise _bad(where, key, f"shape {x.shape}", "images (n, height, width) or (n, height, width, channels)")
    x = x[..., None] if x.ndim == 3 else x
    if not 1 <= x.shape[3] <= 4:
        raise _bad(where, key, f"shape {x.shape}", f"1 to 4 channels, on the last axis, or {_AS_THEY_ARE}")
    return x if x.dtype.kind in "iuf" else x.astype(np.float32)


def _pixels(where: str, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """uint8, of what one range holds."""
    floats = images["train"].dtype.kind == "f"
    if floats != (images["test"].dtype.kind == "f"):
        given, expected = images["test"].dtype, images["train"].dtype
        raise _bad(where, "x_test", f"dtype {given}", f"the kind of x_train, {expected}")
    top = _top(where, images["train"]) if floats else 255
    slack = 0.5 / 255 * top if floats else 0  # which rounds to a value within
    pixels = {}
    for part, x in images.items():
        for reached, outside in ((x.min(), x.min() < -slack), (x.max(), x.max() > top + slack)):
            if outside:
                wanted = f"values in 0..{top}" + (", as in x_train" if part == "test" else "")
                if floats:
                    wanted += f": clip the few outside by numpy.clip(x, 0, {top}), or undo a normalisation"
                wanted += f"; or {_AS_THEY_ARE}"
                raise _bad(where, f"x_{part}", f"values {'down' if reached < 0 else 'up'} to {reached:g}", wanted)
        if floats:
            x = np.rint(np.asarray(x, np.result_type(x, np.float32)) * (255 / top)).clip(0, 255)
        pixels[part] = x.astype(np.uint8, copy=False)
    return pixels


def _top(where: str, x: np.ndarray) -> int:
    """The value of a white pixel, 1 or 255: of floats whichever most of those that are not black say."""
    if x.max() <= NEARLY_ONE:
        return 1
    if 2 * np.count_nonzero(x > NEARLY_ONE) > np.count_nonzero(x > 0):
        return 255
    wanted = "values in 0..1 (clip the few outside by numpy.clip, or undo a normalisation), or in 0..255 as uint8"
    given = f"floats up to {x.max():g}, most of them at most {NEARLY_ONE}"
    raise _bad(where, "x_train", given, f"{wanted}; or {_AS_THEY_ARE}")


def _labels(where: str, key: str, y: np.ndarray) -> np.ndarray:
    """Class numbers (n,)."""
    if y.dtype.kind not in "ui":
        raise _bad(where, key, f"dtype {y.dtype}", "integers, or class_names=() for other targets than classes")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise _bad(where, key, f"shape {y.shape}", "(n,) or (n, 1), or class_names=() for other targets than classes")
    if not y.size:
        raise _bad(where, key, "no labels", "one or more")
    if y.min() < 0 or y.max() >= 2**31:
        raise _bad(where, key, f"labels from {y.min()} to {y.max()}", "class numbers from 0 to 2**31 - 1")
    return y.astype(np.int32)


def _classes(where: str, labels: dict[str, np.ndarray]) -> tuple[list[str], dict[str, np.ndarray]]:
    """The names of the classes of y_train, and labels renumbered from 0."""
    classes = np.unique(labels["train"])
    unknown = np.setdiff1d(labels["test"], classes).tolist()
    if unknown:
        raise _bad(where, "y_test", f"labels that y_train has not: {unknown[:5]}", "labels of y_train")
    labels = {part: np.searchsorted(classes, y).astype(np.int32) for part, y in labels.items()}
    return list(map(str, classes.tolist())), labels


def _require_keys(where: str, keys) -> None:
    missing = [key for key in _KEYS if key not in keys]
    if missing:
        raise _bad(where, ", ".join(missing), f"only {sorted(keys, key=str)}", f"all of {', '.join(_KEYS)}")


def _bad(where: str, key: str, given: str, wanted: str) -> InputError:
    return InputError(f"{where}{key}: got {given}; wanted {wanted}.")
