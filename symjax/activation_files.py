"""Formats of activation files. Each returns functions by array name that read one array."""

import importlib
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from symjax.errors import InputError

IDS = "ids"  # the name of the entry or file with IDs of examples
Readers = dict[str, Callable[[], Any]]
UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)


def readers_of_folder(folder: Path) -> Readers:
    readers: Readers = {}
    ids: Readers = {}
    paths = [path for path in folder.iterdir() if path.suffix.lower() in FORMATS and not path.name.startswith(".")]
    for path in sorted(paths, key=lambda path: _natural(path.name)):
        of_file = readers_of_file(path)
        if path.stem == IDS and len(of_file) == 1:
            ids[path.name] = of_file.popitem()[1]
        elif IDS in of_file:
            ids[path.name] = of_file.pop(IDS)
        for name, read in of_file.items():
            layer = path.stem if len(of_file) == 1 else f"{path.stem}/{name}"
            if layer in readers:
                raise InputError(f"path: got two files of the layer {layer!r} in {folder}, expected one")
            readers[layer] = read
    return readers | ({IDS: partial(_common_ids, folder, ids)} if ids else {})


def _common_ids(folder: Path, readers: Readers) -> Any:
    """Return the IDs that the files of a folder hold, if they are equal."""
    (first, ids), *others = ((name, np.asarray(read())) for name, read in readers.items())
    for name, other in others:
        if not np.array_equal(ids, other):
            raise InputError(f"path: got other IDs in {name} than in {first} of {folder}, expected the same examples")
    return ids


def readers_of_file(path: Path) -> Readers:
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"path: got {path}, expected a folder or a file {', '.join(FORMATS)}")
    return _reading(path, FORMATS[path.suffix.lower()])


def _reading(path: Path, read: Callable[[Path], Any]) -> Any:
    """Return read(path); raise an InputError with the reason if it fails."""
    try:
        return read(path)
    except InputError:
        raise
    except Exception as error:
        is_of_safetensors = type(error).__module__.partition(".")[0] == "safetensors"  # its own type of exceptions
        if not is_of_safetensors and not isinstance(error, UNREADABLE):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"path: got {path}, which cannot be read ({reason}), expected a {path.suffix} file") from error


def _entry(path: Path, read: Callable[[Path], Any]) -> Callable[[], Any]:
    return lambda: _reading(path, read)


def _npy(path: Path) -> Readers:
    np.load(path, mmap_mode="r", allow_pickle=False)  # raises an error now if the file is damaged
    return {path.stem: _entry(path, lambda path: _bfloat16(np.load(path, mmap_mode="r", allow_pickle=False)))}


def _bfloat16(array: np.ndarray) -> np.ndarray:
    """Return an array with its dtype, since NumPy writes bfloat16 as two bytes of unknown type."""
    return array.view(jnp.bfloat16) if array.dtype == np.dtype("V2") else array


def _npz(path: Path) -> Readers:
    def reader(name):
        def read(path):
            with np.load(path, allow_pickle=False) as archive:
                return _bfloat16(archive[name])

        return _entry(path, read)

    with np.load(path, allow_pickle=False) as archive:
        return {name: reader(name) for name in archive.files}


def _safetensors(path: Path) -> Readers:
    library = _import("safetensors", path)

    def reader(name):
        def read(path):
            with library.safe_open(path, framework="numpy") as file:
                return file.get_tensor(name)

        return _entry(path, read)

    with library.safe_open(path, framework="numpy") as file:
        return {name: reader(name) for name in sorted(file.keys(), key=_natural)}


def _hdf5(path: Path) -> Readers:
    library = _import("h5py", path)

    def reader(name):
        def read(path):
            with library.File(path, "r") as file:
                return file[name][()]

        return _entry(path, read)

    names: list[str] = []
    with library.File(path, "r") as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, library.Dataset) else None)
    return {name: reader(name) for name in sorted(names, key=_natural)}


FORMATS: dict[str, Callable[[Path], Readers]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
}


def _import(package: str, path: Path):
    try:
        return importlib.import_module(package)
    except ImportError as error:
        given = f"path: got {path}, which needs the package {package}"
        raise InputError(f"{given}, expected it to be installed: pip install {package}") from error


def _natural(name: str) -> list:
    """Return a key that sorts numbers in names by their value."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
