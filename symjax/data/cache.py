"""A folder of decoded arrays that survives concurrent, killed and failing writers.

An entry is a folder named by its key: one .npy file per array and a manifest.json with their sizes and checksums. It
is written under another name and renamed when complete, so an entry is whole or absent; what is damaged later is found
by its checksum. Nothing in here is ever executed or unpickled, and the folder may be deleted at any time.
"""

import contextlib
import errno
import io
import json
import os
import pathlib
import shutil
import time
import uuid
import warnings
import zlib
from collections.abc import Callable

import numpy as np

from symjax.errors import InputError

_MANIFEST = "manifest.json"
_TEMPORARY = ".tmp-"
_ABANDONED_AFTER = 24 * 3600  # seconds; a temporary folder as old as this has no writer any more

Arrays = dict[str, np.ndarray]


class _Damaged(Exception):
    """An entry that is there but is not what its writer wrote."""


def default_folder() -> pathlib.Path:
    """$SYMJAX_CACHE, else $XDG_CACHE_HOME/symjax, else ~/.cache/symjax."""
    if own := os.environ.get("SYMJAX_CACHE"):
        return pathlib.Path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG specification has relative paths ignored
        return pathlib.Path(base, "symjax")
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise InputError("cache_dir: this user has no home folder; wanted a folder in cache_dir or SYMJAX_CACHE.")
    return pathlib.Path(home, ".cache", "symjax")


def cache_folder(cache_dir: str | os.PathLike | None) -> pathlib.Path:
    """The given folder, or the default one."""
    return pathlib.Path(os.path.expanduser(cache_dir)) if cache_dir else default_folder()


def cached(folder: pathlib.Path, key: str, make: Callable[[], tuple[Arrays, dict]]) -> tuple[Arrays, dict]:
    """The arrays and the JSON-able facts that `make` returns, from the entry `key` of the folder if it is there.

    A damaged entry is made again, and a folder that cannot be written is done without: both with a warning.
    """
    entry = folder / key
    try:
        found = _read(entry)
    except _Damaged as damage:
        warnings.warn(f"The cache entry {entry} is damaged ({damage}); it is made again.", stacklevel=2)
        found = None
    except OSError as error:
        warnings.warn(f"The cache entry {entry} cannot be read ({error}); going on without it.", stacklevel=2)
        return make()
    if found is not None:
        return found
    arrays, facts = make()
    try:
        _write(entry, arrays, facts)
    except OSError as error:
        warnings.warn(
            f"The cache folder {folder} cannot be written ({error}); the next load will be as slow. "
            "Set SYMJAX_CACHE to a folder that can.",
            stacklevel=2,
        )
    return arrays, facts


def _read(entry: pathlib.Path) -> tuple[Arrays, dict] | None:
    """The contents of an entry, every byte checked; None where there is none."""
    try:
        manifest = json.loads((entry / _MANIFEST).read_bytes())
        contents = manifest["contents"]
        if _checksum(_canonical(contents)) != manifest["crc32"]:
            raise _Damaged(f"checksum of {_MANIFEST}")
        arrays = {name: _read_array(entry / f"{name}.npy", **facts) for name, facts in contents["arrays"].items()}
        return arrays, contents["facts"]
    except (FileNotFoundError, NotADirectoryError):
        if entry.is_file() or (entry.is_dir() and os.listdir(entry)):
            raise _Damaged("a file is missing") from None
        return None
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise _Damaged(f"unreadable {_MANIFEST}: {error}") from None


def _read_array(path: pathlib.Path, *, size: int, crc32: int) -> np.ndarray:
    seen = path.stat().st_size
    if seen != size:
        raise _Damaged(f"{path.name} has {seen} bytes, not {size}")
    # Read, not memory-mapped: a file cut short under a map would kill the process.
    array = np.load(path, allow_pickle=False)
    if _checksum(array) != crc32:
        raise _Damaged(f"checksum of {path.name}")
    return array


def _write(entry: pathlib.Path, arrays: Arrays, facts: dict) -> None:
    """Publishes an entry by one rename. Where two writers meet, the first entry stays."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    _sweep(entry.parent)
    temporary = entry.parent / f"{_TEMPORARY}{entry.name}-{uuid.uuid4().hex}"
    try:
        temporary.mkdir()
        described = {}
        for name, array in arrays.items():
            array = np.ascontiguousarray(array)
            path = temporary / f"{name}.npy"
            with path.open("wb") as file:
                np.save(file, array, allow_pickle=False)
                _flush(file)
            described[name] = {"size": path.stat().st_size, "crc32": _checksum(array)}
        contents = {"arrays": described, "facts": facts}
        with (temporary / _MANIFEST).open("wb") as file:
            file.write(_canonical({"contents": contents, "crc32": _checksum(_canonical(contents))}))
            _flush(file)
        _flush_folder(temporary)
        _publish(temporary, entry)
        _flush_folder(entry.parent)
    finally:
        _remove(temporary)


def _publish(temporary: pathlib.Path, entry: pathlib.Path) -> None:
    if _rename_if_free(temporary, entry):
        return
    with contextlib.suppress(_Damaged):
        if _read(entry) is not None:
            return  # another writer was first
    # What is there is damaged. It is moved away before the new one comes, so that the entry is whole or absent; if yet
    # another writer comes in between, that writer's entry stays.
    aside = temporary.with_name(f"{temporary.name}-old")
    with contextlib.suppress(FileNotFoundError):
        os.rename(entry, aside)
    try:
        _rename_if_free(temporary, entry)
    finally:
        _remove(aside)


def _rename_if_free(source: pathlib.Path, target: pathlib.Path) -> bool:
    """Renames a folder, unless something other than an empty folder has the target's name."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise
    return True


def _remove(path: pathlib.Path) -> None:
    """Removes a folder or a file, if it is there and may be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _sweep(folder: pathlib.Path) -> None:
    """Removes what killed writers left behind."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                _remove(path)


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _checksum(data: bytes | np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(data).view(np.uint8).reshape(-1) if isinstance(data, np.ndarray) else data)


def _flush(file: io.BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
