"""Images in folders of the caller's own, one folder a class."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from symjax.data import cache
from symjax.data.dataset import Source, Split
from symjax.data.resize import stack
from symjax.errors import InputError

_SUFFIXES = (".png", ".jpg", ".jpeg")
_PARTS = ("train", "test")
_GREY = ("1", "L", "LA", "La")  # modes of Pillow
_LAYOUT = 1  # of the cache entries; a new number makes old ones unused


def read_folder(path: str | os.PathLike, image_size: int | None, cache_dir: str | os.PathLike | None) -> Source:
    """Reads path/train/<class>/* and path/test/<class>/*, decoding them once: later calls read the cache.

    Files whose names end in .png, .jpg or .jpeg are images, others are not looked at. Classes are the folders of
    train, in the order of their sorted names. Images are grey where all of them are, else RGB; transparency is left
    out. A folder without train and test is refused, because a test part is not for symjax to choose.

    Args:
        path: the folder.
        image_size: as in `symjax.data.load`. Without it, all images need to have one size.
        cache_dir: the cache's folder; default `cache.default_folder()`.

    Raises:
        InputError: no such folders, classes without images, images of several sizes or of more than 8 bits, or files
            that Pillow cannot read.
    """
    root = pathlib.Path(os.path.expanduser(path)).resolve()
    try:
        files = {part: _files(root, part) for part in _PARTS}
        paths = {part: [path for of_class in files[part].values() for path in of_class] for part in _PARTS}
        key = f"folder-{image_size or 'native'}-{_fingerprint(root, paths)}"
    except OSError as error:
        raise InputError(f"name: cannot read the folder {root}: {error}") from error
    classes = list(files["train"])
    unknown = [name for name in files["test"] if name not in classes]
    if unknown:
        raise InputError(f"name: {root} has the classes {unknown[:5]} in test alone; wanted those of train: {classes}.")
    arrays, _ = cache.cached(cache.cache_folder(cache_dir), key, lambda: (_decode_all(root, paths, image_size), {}))
    splits = {}
    for part in _PARTS:
        labels = [classes.index(name) for name, of_class in files[part].items() for _ in of_class]
        splits[part] = Split(arrays[part], np.array(labels, np.int32))
    return Source(root.name, **splits, class_names=tuple(classes))


def _files(root: pathlib.Path, part: str) -> dict[str, list[pathlib.Path]]:
    """The images of each class, all sorted by name."""
    wanted = f"images in {root}/train/<class>/ and {root}/test/<class>/, {', '.join(_SUFFIXES)}"
    if not (root / part).is_dir():
        raise InputError(f"name: the folder {root} has no folder {part!r}; wanted {wanted}.")
    folders = sorted(path for path in (root / part).iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {folder.name: sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES) for folder in folders}
    empty = [name for name, of_class in files.items() if not of_class] if part == "train" else []
    if empty or not any(files.values()):
        which = f"folders without images: {', '.join(empty)}" if empty else "no folders with images"
        raise InputError(f"name: {root / part} has {which}; wanted {wanted}.")
    return files


def _fingerprint(root: pathlib.Path, paths: dict[str, list[pathlib.Path]]) -> str:
    """Changes whenever a file does: names, sizes and times are enough, and cost no reading."""
    stats = [(str(path.relative_to(root)), path.stat()) for part in _PARTS for path in paths[part]]
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(json.dumps([_LAYOUT, facts]).encode()).hexdigest()[:16]


def _decode_all(root: pathlib.Path, paths: dict[str, list[pathlib.Path]], image_size: int | None) -> cache.Arrays:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("name: a folder of images needs Pillow, not installed; wanted: pip install pillow.") from error

    def opened(path: pathlib.Path, read):
        try:
            with Image.open(path) as image:
                if image.mode[0] in "IF":  # of 16 or 32 bits
                    raise InputError(f"name: {path} is of mode {image.mode}; wanted 8 bits a channel.")
                return read(image)
        except InputError:
            raise
        except Exception as error:  # Pillow has one for each format
            raise InputError(f"name: {path} cannot be read as an image: {error}") from error

    def decoded(part: str) -> Iterator[np.ndarray]:
        for path in paths[part]:
            image = opened(path, lambda image: np.asarray(image.convert(mode)))
            yield image.reshape(*image.shape[:2], -1)

    every = (path for part in _PARTS for path in paths[part])
    mode = "L" if all(opened(path, lambda image: image.mode in _GREY) for path in every) else "RGB"
    return {part: stack(decoded(part), len(paths[part]), image_size, str(root / part)) for part in _PARTS}
