"""Run folders: what a command keeps on disk, so that the same command again goes on from there.

A folder belongs to one configuration, which its `config.json` holds, and so do its tables and archives: they carry a
mark of it, and where one lies in the folder of another, it is not read. Every file is written under another name and
renamed when complete, so it is whole or absent; nothing is pickled.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import pathlib
import platform
import re
import sys
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any, BinaryIO

import jax
import numpy as np
import pandas as pd

import symjax
from symjax import hosts, interruption
from symjax.errors import InputError

CONFIG = "config.json"
MARK = "configuration"  # the column of a table, and the array of an archive, that says whose it is
_LOCK = ".lock"
_JOB = ".job"
_TEMPORARY = ".tmp"

STRUCTURE = "the model's code has changed since the members were trained, or JAX's that it calls"

PathLike = str | os.PathLike


# --- folders ---


@contextlib.contextmanager
def open_folder(folder: PathLike, kind: str, config: Mapping[str, Any]) -> Iterator[pathlib.Path]:
    """Holds `folder` as the run folder of `config`; the path is what a `with` statement gets.

    Where another process holds it, this says so on stderr and waits for its end. The lock is the operating system's and
    goes with its process, however that ends. Of a job of several processes (`symjax.hosts`) the first holds the folder
    for all; each of them calls this.

    Args:
      folder: made where it is missing.
      kind: what the folder holds, such as "zoo".
      config: all that its contents depend on, JSON-able. Kept in `config.json` beside the versions that began it.

    Raises:
      InputError: the folder belongs to another configuration, which the message compares with this one key by key; it
        has other contents; it cannot be written; or the processes of a job do not share it.
    """
    folder = pathlib.Path(folder)
    with contextlib.ExitStack() as stack:
        if hosts.is_first():
            stack.enter_context(_held(folder, kind, config))
        if hosts.count() > 1:
            _check_shared(folder)
            check_config(folder, kind, config)
        try:
            yield folder
        except BaseException as error:
            hosts.report_failure(error)  # the others may be writing: the folder is held until they have stopped
            raise


def _check_shared(folder: pathlib.Path) -> None:
    """An InputError unless all processes see what the first one has just written."""

    def look() -> str | None:
        try:
            return (folder / _JOB).read_text()
        except OSError:
            return None

    if hosts.is_first():
        write_bytes(folder / _JOB, uuid.uuid4().hex.encode())
    hosts.barrier(f"{folder} is held")
    hosts.all_agree(f"{folder}", look)


@contextlib.contextmanager
def _held(folder: pathlib.Path, kind: str, config: Mapping[str, Any]) -> Iterator[None]:
    """Holds `folder` for this process; makes it and its `config.json` where they are missing."""
    check_folder(folder, kind, config)  # before anything is written
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("ab")
    except OSError as error:
        raise InputError(f"folder: {folder} cannot be written ({error.strerror}); take another folder") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder} is in use by another process; waiting for it to finish", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        _sweep(folder)
        if not check_folder(folder, kind, config):  # by now another process may have made it its own
            write_json(folder / CONFIG, {"kind": kind, "config": dict(config), "versions": versions()})
        yield


def _sweep(folder: pathlib.Path) -> None:
    """Deletes what killed writers left, in the folder and in those that lie in it; it is held, so they are no more."""
    for path in [*folder.glob(f".*{_TEMPORARY}"), *folder.glob(f"*/.*{_TEMPORARY}")]:
        if re.fullmatch(rf"\..+\.[0-9a-f]{{32}}{re.escape(_TEMPORARY)}", path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def check_folder(folder: PathLike, kind: str, config: Mapping[str, Any]) -> bool:
    """Whether the folder belongs to `config` already; nothing is written.

    Raises:
      InputError: as of `open_folder`. That the folder is in use is none.
    """
    folder = pathlib.Path(folder)
    try:
        contents = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    except FileNotFoundError:
        parent = next(path for path in folder.absolute().parents if path.exists())
        reason = None if os.access(parent, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
        for name in folder.absolute().relative_to(parent).parts:
            try:
                (parent / name).lstat()
            except FileNotFoundError:
                pass
            except OSError as error:  # it is too long
                reason = error.strerror
        if reason:
            raise InputError(f"folder: {folder} cannot be made ({reason}); take another folder") from None
        return False
    except OSError as error:
        raise InputError(f"folder: {folder} cannot be read ({error.strerror})") from None
    if CONFIG in contents:
        check_config(folder, kind, config)
        return True
    if contents:
        raise InputError(f"folder: {folder} has contents but no {CONFIG}; take another folder ({_flags(kind)})")
    return False


def read_config(folder: PathLike, kind: str) -> dict:
    """The configuration of a run folder.

    Raises:
      InputError: it is no run folder, or one of another kind, or its `config.json` is broken.
    """
    path = pathlib.Path(folder, CONFIG)
    if not path.exists():
        raise InputError(f"folder: {folder} is not a {kind} folder: it has no {CONFIG}")
    document = read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("config"), dict) or "kind" not in document:
        raise InputError(f"folder: {path} was not written by symjax; take another folder")
    if document["kind"] != kind:
        raise InputError(f"folder: {folder} is a {document['kind']} folder, wanted a {kind} folder; take another one")
    return document["config"]


def check_config(folder: PathLike, kind: str, config: Mapping[str, Any]) -> None:
    """Raises an InputError that names the differing keys where `folder` belongs to another configuration."""
    differences = compare(read_config(folder, kind), json.loads(_dump(config)))
    if differences:
        listed = "".join(f"\n  {key}: {theirs} there, {ours} here" for key, (theirs, ours) in differences.items())
        if any(key.rpartition(".")[2] == "structure" for key in differences):
            listed += f"\nstructure: {STRUCTURE}."
        raise InputError(
            f"folder: {folder} belongs to another configuration:{listed}\n"
            f"Take another folder ({_flags(kind)}), or delete this one."
        )


def _flags(kind: str) -> str:
    """With which a command is given folders of this kind."""
    return "--zoo, of experiments.zoo --out" if kind == "zoo" else "--out"


def compare(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[str, str]]:
    """The keys, dotted, at which two JSON objects differ, each with both values as JSON."""
    differences = {}
    for key in [*theirs, *(key for key in ours if key not in theirs)]:
        a, b = theirs.get(key, _ABSENT), ours.get(key, _ABSENT)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            differences |= compare(a, b, f"{prefix}{key}.")
        elif a is _ABSENT or b is _ABSENT or a != b:
            differences[f"{prefix}{key}"] = tuple("absent" if v is _ABSENT else json.dumps(v) for v in (a, b))
    return differences


_ABSENT = object()


def fingerprint(config: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits that name a JSON-able configuration, whatever the order of its keys."""
    return hashlib.sha256(_dump(config).encode()).hexdigest()[:10]


def mark(path: PathLike) -> str | None:
    """What marks a file at `path` as of its run folder: the fingerprint of all that `check_folder` compares.

    None outside of run folders. The folder is the nearest one above; files lie up to three levels deep in it.
    """
    for folder in list(pathlib.Path(path).absolute().parents)[:3]:
        if (folder / CONFIG).is_file():
            document = read_json(folder / CONFIG)
            if not isinstance(document, dict) or not {"kind", "config"} <= set(document):
                return None
            owner = {key: document[key] for key in ("kind", "config")}
            return fingerprint(json.loads(_dump(owner), parse_int=float))  # 1 and 1.0 are equal, as in `compare`
    return None


def check_mark(path: PathLike, found: str, delete: PathLike | None = None) -> None:
    """An InputError where a mark that is `found` at `path` is not that of its folder.

    `delete` is what to delete to have it made again, by default the file. Files of folders that older versions have
    made carry no mark, and are taken to be theirs.
    """
    own = mark(path)
    if own is not None and found != own:
        raise InputError(
            f"{path}: made with another configuration ({found}) than its folder's ({own}); delete {delete or 'it'} and "
            "run the command again to have it made"
        )


def versions() -> dict[str, str]:
    """What computes here: packages, Python, and the kind of device."""
    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "symjax": getattr(symjax, "__version__", "unknown"),
        **{name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "backend": device.platform,
        "device": device.device_kind,
    }


# --- files ---


def make_folder(path: PathLike) -> None:
    """Makes a folder in one that is there, if it is missing; an InputError where it cannot be made."""
    try:
        pathlib.Path(path).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"folder: {path} cannot be written ({error.strerror or error})") from error


def write_json(path: PathLike, value: Any) -> None:
    """Writes a JSON-able value, readably."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    _write(path, lambda file: file.write(text.encode()))


def read_json(path: PathLike) -> Any:
    """What `write_json` wrote; an InputError where the file is missing or broken."""
    try:
        return json.loads(_read(path).decode())
    except ValueError as error:  # undecodable bytes, too
        raise _broken(path, "JSON", error) from None


def write_csv(path: PathLike, frame: pd.DataFrame) -> None:
    """Writes a table without its index, marked in a last column.

    Floats are written so that they read back the same, float32 as float64.
    """
    if (own := mark(path)) is not None:
        frame = frame.assign(**{MARK: own})
    # As float32 they would have fewer digits, and other ones after a run that was stopped has read and written them.
    short = {name: "float64" for name, dtype in frame.dtypes.items() if dtype in ("float32", "float16")}
    frame = frame.astype(short)
    text = frame.to_csv(index=False)
    _write(path, lambda file: file.write(text.encode()))


def read_csv(
    path: PathLike,
    columns: Iterable[str] = (),
    *,
    dtype: Mapping[str, type] | None = None,
    delete: PathLike | None = None,
) -> pd.DataFrame:
    """What `write_csv` wrote; columns of `dtype` are read as of these types, others by how they look.

    Raises:
      InputError: the file is missing, broken or of another configuration (see `check_mark`), or lacks one of `columns`.
    """
    data = _read(path)
    try:
        if not data.endswith(b"\n"):
            raise ValueError("its last line is cut short")
        frame = pd.read_csv(io.BytesIO(data), dtype={**(dtype or {}), MARK: str})  # digits alone would be a number
    except ValueError as error:  # pandas' own parser errors, too
        raise _broken(path, "CSV", error, delete) from None
    if absent := [column for column in columns if column not in frame.columns]:
        what = delete or "the file"
        raise InputError(f"{path}: columns {', '.join(absent)} are missing; delete {what} to have it made again")
    if MARK in frame.columns:
        for found in frame.pop(MARK).unique():
            check_mark(path, found, delete)
    return frame


def write_npz(path: PathLike, arrays: Mapping[str, Any]) -> None:
    """Writes named arrays of numbers, uncompressed, and a mark."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    if (own := mark(path)) is not None:
        arrays[MARK] = np.array(own)

    def write(file):
        with zipfile.ZipFile(file, "w") as archive:  # np.savez has no room for an array called "file"
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)

    _write(path, write)


def read_npz(path: PathLike) -> dict[str, np.ndarray]:
    """What `write_npz` wrote; an InputError where the file is missing, broken or of another configuration."""
    data = _read(path)
    try:
        if not data.startswith(b"PK"):  # what else np.load knows, it would not name
            raise ValueError("not a zip file")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):  # other members come as bytes
            raise ValueError("it holds more than arrays")
    except (ValueError, EOFError, KeyError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise _broken(path, "npz", error) from None
    if MARK in arrays:
        check_mark(path, str(arrays.pop(MARK)))
    return arrays


def write_bytes(path: PathLike, data: bytes) -> None:
    """Writes bytes, such as a drawn figure."""
    _write(path, lambda file: file.write(data))


def _write(path: PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file under another name and renames it when it is complete and on the disk."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")
    with interruption.deferred():
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
        finally:
            with contextlib.suppress(OSError):  # it is there only if something went wrong
                temporary.unlink()


def _read(path: PathLike) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _broken(path: PathLike, kind: str, error: Exception, delete: PathLike | None = None) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"{path}: not a whole {kind} file ({reason}); delete {delete or 'it'} to have it made again")


def _dump(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
