"""Data sets from folders of images, one folder per class."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from symjax.data import cache
from symjax.data.dataset import Source, Split
from symjax.data.resize import stack
from symjax.errors import InputError

_SUFFIXES = (".png", ".jpg", ".jpeg")
_PARTS = ("train", "test")
_GRAY = ("1", "L", "LA", "La")  # gray modes of Pillow
_LAYOUT = 1  # version of cache entries; entries of other versions are ignored


def read_folder(path: str | os.PathLike, image_size: int | None, cache_dir: str | os.PathLike | None) -> Source:
    """Read path/train/<class>/* and path/test/<class>/*. Decoded images are cached for later calls.

    Files with names ending in .png, .jpg or .jpeg are images; other files are ignored. Classes are the folders of
    train, sorted by name. Images are gray if all of them are, otherwise RGB; transparency is dropped. Both train and
    test are required, since symjax does not choose a test part.

    Args:
        path: the folder.
        image_size: as in `symjax.data.load`. Without it, all images must have the same size.
        cache_dir: the cache folder; default `cache.default_folder()`.

    Raises:
        InputError: a folder is missing; a class has no images; images differ in size or have more than 8 bits; Pillow
            cannot read a file.
    """
    root = pathlib.Path(os.path.expanduser(path)).resolve()
    try:
        files = {part: _files(root, part) for part in _PARTS}
        paths = {part: [path for class_files in files[part].values() for path in class_files] for part in _PARTS}
        key = f"folder-{image_size or 'native'}-{_fingerprint(root, paths)}"
    except OSError as error:
        raise InputError(f"name: got {root}, which cannot be read ({error}), expected a folder of images") from error
    classes = list(files["train"])
    unknown = [name for name in files["test"] if name not in classes]
    if unknown:
        raise InputError(
            f"name: got {root} with classes {unknown[:5]} in test only, expected classes of train: {classes}"
        )
    arrays, _ = cache.cached(cache.cache_folder(cache_dir), key, lambda: (_decode_all(root, paths, image_size), {}))
    splits: dict[str, Any] = {}
    for part in _PARTS:
        labels = [classes.index(name) for name, class_files in files[part].items() for _ in class_files]
        splits[part] = Split(arrays[part], np.array(labels, np.int32))
    return Source(root.name, **splits, class_names=tuple(classes))


def _files(root: pathlib.Path, part: str) -> dict[str, list[pathlib.Path]]:
    """Return the image files of each class, sorted by name."""
    expected = f"images in {root}/train/<class>/ and {root}/test/<class>/, {', '.join(_SUFFIXES)}"
    if not (root / part).is_dir():
        raise InputError(f"name: got {root} without a folder {part!r}, expected {expected}")
    folders = sorted(path for path in (root / part).iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {folder.name: sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES) for folder in folders}
    empty = [name for name, class_files in files.items() if not class_files] if part == "train" else []
    if empty or not any(files.values()):
        given = f"folders without images: {', '.join(empty)}" if empty else "no folders with images"
        raise InputError(f"name: got {root / part} with {given}, expected {expected}")
    return files


def _fingerprint(root: pathlib.Path, paths: dict[str, list[pathlib.Path]]) -> str:
    """Return a fingerprint of names, sizes and times of all files."""
    stats = [(str(path.relative_to(root)), path.stat()) for part in _PARTS for path in paths[part]]
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(json.dumps([_LAYOUT, facts]).encode()).hexdigest()[:16]


def _decode_all(root: pathlib.Path, paths: dict[str, list[pathlib.Path]], image_size: int | None) -> cache.Arrays:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(
            f"name: got {root}, a folder of images, expected an installed Pillow (pip install pillow)"
        ) from error

    def read_with(path: pathlib.Path, function):
        try:
            with Image.open(path) as image:
                if image.mode[0] in "IF":  # of 16 or 32 bits
                    raise InputError(f"name: got {path} of mode {image.mode}, expected 8 bits per channel")
                return function(image)
        except InputError:
            raise
        except Exception as error:  # the type depends on the format
            raise InputError(f"name: got {path}, expected an image that Pillow can read: {error}") from error

    def decoded(part: str) -> Iterator[np.ndarray]:
        for path in paths[part]:
            image = read_with(path, lambda image: np.asarray(image.convert(mode)))
            yield image.reshape(*image.shape[:2], -1)

    all_paths = (path for part in _PARTS for path in paths[part])
    mode = "L" if all(read_with(path, lambda image: image.mode in _GRAY) for path in all_paths) else "RGB"
    return {part: stack(decoded(part), len(paths[part]), image_size, str(root / part)) for part in _PARTS}
