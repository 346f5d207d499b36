"""Image sets in a NumPy archive of the caller's own."""

import os
import pathlib
import zipfile

import numpy as np

from symjax.data.dataset import Source, Split
from symjax.data.resize import resize
from symjax.errors import InputError

_PARTS = ("train", "test")
NEARLY_ONE = 1.5  # floats that resizing brought over 1 stay below
_KEYS = tuple(f"{axis}_{part}" for part in _PARTS for axis in "xy")


def read_npz(path: str | os.PathLike, image_size: int | None) -> Source:
    """Reads x_train, y_train, x_test and y_test from an .npz file. Nothing in it is unpickled.

    Images are (n, height, width) or (n, height, width, channels) with 1 to 4 channels: integers in 0..255, or floats in
    0..1 or in 0..255, whichever x_train as a whole says: the few values by which resizing or rounding goes over 1 do
    not make it 0..255. Floats are rounded to whole 255ths; where they reach more than half of one outside of the range,
    or the range is not clear, they are refused.
    Labels are integers from 0, (n,) or (n, 1). The numbers of y_train are the classes: renumbered from 0 in their order
    where there are gaps, and named by the original numbers.

    Args:
        path: the file.
        image_size: as in `symjax.data.load`.

    Raises:
        InputError: whatever is wrong with the file; the message names the file and the key.
    """
    path = pathlib.Path(os.path.expanduser(path))
    arrays = _read(path)
    images = _images(path, arrays)
    labels = {part: _labels(path, f"y_{part}", arrays[f"y_{part}"]) for part in _PARTS}
    for part in _PARTS:
        if len(images[part]) != len(labels[part]):
            raise _bad(
                path, f"x_{part}", f"{len(images[part])} images for {len(labels[part])} labels", "as many of each"
            )
    classes = np.unique(labels["train"])
    unseen = np.setdiff1d(labels["test"], classes).tolist()
    if unseen:
        raise _bad(path, "y_test", f"labels that y_train has not: {unseen[:5]}", "labels of y_train")
    labels = {part: np.searchsorted(classes, y).astype(np.int32) for part, y in labels.items()}
    if image_size is not None:
        images = {part: resize(x, image_size) for part, x in images.items()}
    _, height, width, _ = images["train"].shape
    if height != width:
        raise InputError(
            f"image_size: not given, and the images in {path} have {height}x{width} pixels; wanted a size to bring "
            "them to."
        )
    return Source(
        name=path.stem,
        train=Split(images["train"], labels["train"]),
        test=Split(images["test"], labels["test"]),
        class_names=tuple(map(str, classes.tolist())),
    )


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not os.path.isfile(path):  # unlike Path.is_file without an error for a name that is too long
        raise InputError(f"name: there is no file {path}, wanted an .npz file with {', '.join(_KEYS)}.")
    try:
        with zipfile.ZipFile(path):
            pass
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in _KEYS if key not in archive]
            if missing:
                raise _bad(path, ", ".join(missing), f"only {sorted(archive)}", f"all of {', '.join(_KEYS)}")
            return {key: archive[key] for key in _KEYS}
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy's header parser and the system: whatever a bad file makes of it
        raise InputError(
            f"name: cannot read {path} ({type(error).__name__}: {error}); wanted an .npz file of plain arrays, as "
            "numpy.savez writes it."
        ) from error


def _images(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    checked = {part: _check_images(path, f"x_{part}", arrays[f"x_{part}"]) for part in _PARTS}
    shapes = {part: x.shape[1:] for part, x in checked.items()}
    kinds = {part: x.dtype.kind == "f" for part, x in checked.items()}
    if shapes["train"] != shapes["test"]:
        raise _bad(path, "x_test", f"images of shape {shapes['test']}", f"those of x_train, {shapes['train']}")
    if kinds["train"] != kinds["test"]:
        raise _bad(path, "x_test", f"dtype {checked['test'].dtype}", f"the kind of x_train, {checked['train'].dtype}")
    top = _top(path, checked["train"])
    slack = 0.5 / 255 * top if kinds["train"] else 0  # which rounds to a value within
    pixels = {}
    for part, x in checked.items():
        for reached, outside in ((x.min(), x.min() < -slack), (x.max(), x.max() > top + slack)):
            if outside:
                wanted = f"values in 0..{top}" + (", as in x_train" if part == "test" else "")
                if kinds[part]:
                    wanted += f": clip the few outside by numpy.clip(x, 0, {top}), or undo a normalisation"
                raise _bad(path, f"x_{part}", f"values {'down' if reached < 0 else 'up'} to {reached:g}", wanted)
        pixels[part] = (np.rint(x * (255 / top)).clip(0, 255) if kinds[part] else x).astype(np.uint8)
    return pixels


def _top(path: pathlib.Path, x: np.ndarray) -> int:
    """The value of a white pixel, 1 or 255: of floats whichever most of those that are not black say."""
    if x.dtype.kind != "f" or x.max() <= NEARLY_ONE:
        return 1 if x.dtype.kind == "f" else 255
    if 2 * np.count_nonzero(x > NEARLY_ONE) > np.count_nonzero(x > 0):
        return 255
    wanted = "values in 0..1 (clip the few outside by numpy.clip, or undo a normalisation), or in 0..255 as uint8"
    raise _bad(path, "x_train", f"floats up to {x.max():g}, most of them at most {NEARLY_ONE}", wanted)


def _check_images(path: pathlib.Path, key: str, x: np.ndarray) -> np.ndarray:
    """NHWC images of a real dtype, finite and not empty."""
    if x.dtype.kind not in "uif":
        raise _bad(path, key, f"dtype {x.dtype}", "integers or floats")
    if x.ndim not in (3, 4):
        raise _bad(path, key, f"shape {x.shape}", "(n, height, width) or (n, height, width, channels)")
    x = x[..., None] if x.ndim == 3 else x
    if not x.size:
        raise _bad(path, key, f"no pixels, shape {x.shape}", "one image or more")
    if not 1 <= x.shape[3] <= 4:
        raise _bad(path, key, f"shape {x.shape}", "1 to 4 channels, on the last axis")
    if not np.isfinite(x.min()) or not np.isfinite(x.max()):
        raise _bad(path, key, "NaN or infinite values", "finite values")
    return x


def _labels(path: pathlib.Path, key: str, y: np.ndarray) -> np.ndarray:
    if y.dtype.kind not in "ui":
        raise _bad(path, key, f"dtype {y.dtype}", "integers")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise _bad(path, key, f"shape {y.shape}", "(n,) or (n, 1)")
    if not y.size:
        raise _bad(path, key, "no labels", "one or more")
    if y.min() < 0 or y.max() >= 2**31:
        raise _bad(path, key, f"labels from {y.min()} to {y.max()}", "class numbers from 0 to 2**31 - 1")
    return y


def _bad(path: pathlib.Path, key: str, seen: str, wanted: str) -> InputError:
    return InputError(f"name: {path}, {key}: got {seen}; wanted {wanted}.")
