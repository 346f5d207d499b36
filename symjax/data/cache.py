"""A cache folder of decoded arrays that tolerates concurrent, killed and failing writers.

An entry is a folder named by its key. It has one .npy file for each array and a manifest.json with their sizes and
checksums. An entry is written under a temporary name and renamed when it is complete, so that it is whole or absent.
Later damage is detected by checksums. No content is executed or unpickled. The folder may be deleted at any time.
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
_ABANDONED_AFTER = 24 * 3600  # seconds, after which a temporary folder has no writer

Arrays = dict[str, np.ndarray]


class _Damaged(Exception):
    """An existing entry differs from what was written."""


def default_folder() -> pathlib.Path:
    """Return $SYMJAX_CACHE, else $XDG_CACHE_HOME/symjax, else ~/.cache/symjax."""
    if folder := os.environ.get("SYMJAX_CACHE"):
        return pathlib.Path(folder)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG specification says to ignore relative paths
        return pathlib.Path(base, "symjax")
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise InputError("cache_dir: got none for a user without a home folder, expected a folder or SYMJAX_CACHE")
    return pathlib.Path(home, ".cache", "symjax")


def cache_folder(cache_dir: str | os.PathLike | None) -> pathlib.Path:
    """Return the given folder, or the default one."""
    return pathlib.Path(os.path.expanduser(cache_dir)) if cache_dir else default_folder()


def cached(folder: pathlib.Path, key: str, make: Callable[[], tuple[Arrays, dict]]) -> tuple[Arrays, dict]:
    """Return the arrays and the JSON metadata that `make` returns, from the entry `key` if it exists.

    A damaged entry is made again. If the folder cannot be written, nothing is cached. Both raise a warning.
    """
    entry = folder / key
    try:
        contents = _read(entry)
    except _Damaged as damage:
        warnings.warn(f"The cache entry {entry} is damaged ({damage}); it is made again.", stacklevel=2)
        contents = None
    except OSError as error:
        warnings.warn(f"The cache entry {entry} cannot be read ({error}); it is not used.", stacklevel=2)
        return make()
    if contents is not None:
        return contents
    arrays, metadata = make()
    try:
        _write(entry, arrays, metadata)
    except OSError as error:
        warnings.warn(
            f"The cache folder {folder} cannot be written ({error}); the next load will be as slow. "
            "Set SYMJAX_CACHE to a writable folder.",
            stacklevel=2,
        )
    return arrays, metadata


def _read(entry: pathlib.Path) -> tuple[Arrays, dict] | None:
    """Return the contents of an entry after checking all checksums; None if there is no entry."""
    try:
        manifest = json.loads((entry / _MANIFEST).read_bytes())
        contents = manifest["contents"]
        if _checksum(_canonical(contents)) != manifest["crc32"]:
            raise _Damaged(f"checksum of {_MANIFEST}")
        arrays = {
            name: _read_array(entry / f"{name}.npy", **checksums) for name, checksums in contents["arrays"].items()
        }
        return arrays, contents["facts"]
    except (FileNotFoundError, NotADirectoryError):
        if entry.is_file() or (entry.is_dir() and os.listdir(entry)):
            raise _Damaged("a file is missing") from None
        return None
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise _Damaged(f"unreadable {_MANIFEST}: {error}") from None


def _read_array(path: pathlib.Path, *, size: int, crc32: int) -> np.ndarray:
    actual = path.stat().st_size
    if actual != size:
        raise _Damaged(f"{path.name} has {actual} bytes, not {size}")
    # Not memory-mapped, since truncation of a mapped file would kill the process.
    array = np.load(path, allow_pickle=False)
    if _checksum(array) != crc32:
        raise _Damaged(f"checksum of {path.name}")
    return array


def _write(entry: pathlib.Path, arrays: Arrays, metadata: dict) -> None:
    """Publish an entry by one rename. Of concurrent writers the first one wins."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(entry.parent)
    temporary = entry.parent / f"{_TEMPORARY}{entry.name}-{uuid.uuid4().hex}"
    try:
        temporary.mkdir()
        checksums = {}
        for name, array in arrays.items():
            array = np.ascontiguousarray(array)
            path = temporary / f"{name}.npy"
            with path.open("wb") as file:
                np.save(file, array, allow_pickle=False)
                _flush(file)
            checksums[name] = {"size": path.stat().st_size, "crc32": _checksum(array)}
        contents = {"arrays": checksums, "facts": metadata}
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
    # The existing entry is damaged. It is moved away first, so that the entry is always whole or absent. If another
    # writer publishes an entry in between, that entry stays.
    damaged = temporary.with_name(f"{temporary.name}-old")
    with contextlib.suppress(FileNotFoundError):
        os.rename(entry, damaged)
    try:
        _rename_if_free(temporary, entry)
    finally:
        _remove(damaged)


def _rename_if_free(source: pathlib.Path, target: pathlib.Path) -> bool:
    """Rename a folder, unless the target exists and is not an empty folder; return whether it was renamed."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise
    return True


def _remove(path: pathlib.Path) -> None:
    """Remove a folder or a file, if it exists and permissions allow."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _remove_abandoned(folder: pathlib.Path) -> None:
    """Remove temporary folders of killed writers."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                _remove(path)


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _checksum(data: bytes | memoryview | np.ndarray) -> int:
    if isinstance(data, np.ndarray):
        data = np.ascontiguousarray(data).view(np.uint8).reshape(-1).data
    return zlib.crc32(data)


def _flush(file: io.BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
