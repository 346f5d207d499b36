"""Run folders: the files of a command, from which the same command resumes.

A folder belongs to one configuration, which is stored in its `config.json`. `symjax.ops.files` reads and writes the
files.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import platform
import re
import sys
import uuid
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import jax

import symjax
from symjax.errors import InputError
from symjax.ops import hosts
from symjax.ops.files import CONFIG, TEMPORARY, PathLike, read_json, to_text, write_bytes, write_json

_LOCK = ".lock"
_JOB = ".job"

STRUCTURE = "the model's code has changed since the members were trained, or the JAX code that it calls"


@contextlib.contextmanager
def open_folder(folder: PathLike, kind: str, config: Mapping[str, Any]) -> Iterator[pathlib.Path]:
    """Lock `folder` as the run folder of `config` for a `with` statement, whose value is the path.

    If another process has locked it, print that on stderr and wait. The operating system releases the lock when the
    process ends. In a job of several processes (`symjax.ops.hosts`) all call this function, and the first one locks.

    Args:
      folder: created if it is missing.
      kind: the kind of the contents, such as "zoo".
      config: JSON-able, everything on which the contents depend. It is saved in `config.json` with the versions of the
        first run.

    Raises:
      InputError: the folder belongs to another configuration (the message lists the differing keys), has other
        contents, cannot be written, or is not shared by the processes of a job.
    """
    folder = pathlib.Path(folder)
    with contextlib.ExitStack() as stack:
        if hosts.is_first():
            stack.enter_context(_locked(folder, kind, config))
        if hosts.count() > 1:
            _check_shared(folder)
            check_config(folder, kind, config)
        try:
            yield folder
        except BaseException as error:
            hosts.report_failure(error)  # before the lock is released, since other processes may be writing
            raise


def _check_shared(folder: pathlib.Path) -> None:
    """Raise an InputError unless all processes can read a file that the first one has written."""

    def read() -> str | None:
        try:
            return (folder / _JOB).read_text()
        except OSError:
            return None

    if hosts.is_first():
        write_bytes(folder / _JOB, uuid.uuid4().hex.encode())
    hosts.barrier(f"{folder} is locked")
    hosts.all_agree(f"{folder}", read)


@contextlib.contextmanager
def _locked(folder: pathlib.Path, kind: str, config: Mapping[str, Any]) -> Iterator[None]:
    """Lock `folder` for this process; create it and its `config.json` if they are missing."""
    check_folder(folder, kind, config)  # before anything is written
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("ab")
    except OSError as error:
        raise _unusable(folder, f"cannot be written ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder} is in use by another process; waiting for it to finish", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        _delete_temporary(folder)
        if not check_folder(folder, kind, config):  # again, since another process may have taken it meanwhile
            write_json(folder / CONFIG, {"kind": kind, "config": dict(config), "versions": versions()})
        yield


def _delete_temporary(folder: pathlib.Path) -> None:
    """Delete temporary files of killed processes in a locked folder and its subfolders."""
    for path in [*folder.glob(f".*{TEMPORARY}"), *folder.glob(f"*/.*{TEMPORARY}")]:
        if re.fullmatch(rf"\..+\.[0-9a-f]{{32}}{re.escape(TEMPORARY)}", path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def check_folder(folder: PathLike, kind: str, config: Mapping[str, Any]) -> bool:
    """Return whether the folder already belongs to `config`; nothing is written and locks are ignored.

    Raises:
      InputError: as in `open_folder`.
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
            except OSError as error:  # the name is too long
                reason = error.strerror
        if reason:
            raise _unusable(folder, f"cannot be created ({reason})") from None
        return False
    except OSError as error:
        raise _unusable(folder, f"cannot be read ({error.strerror})") from None
    if CONFIG in contents:
        check_config(folder, kind, config)
        return True
    if contents:
        raise _unusable(folder, f"has contents but no {CONFIG}", kind)
    return False


def read_config(folder: PathLike, kind: str) -> dict:
    """Return the configuration of a run folder.

    Raises:
      InputError: it is not a run folder, or of another kind, or its `config.json` is damaged.
    """
    path = pathlib.Path(folder, CONFIG)
    if not path.exists():
        raise InputError(f"folder: got {folder}, which has no {CONFIG}, expected a {kind} folder")
    document = read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("config"), dict) or "kind" not in document:
        raise InputError(f"folder: got {path}, which symjax has not written, expected another folder")
    if document["kind"] != kind:
        raise InputError(f"folder: got {folder}, a {document['kind']} folder, expected a {kind} folder")
    return document["config"]


def check_config(folder: PathLike, kind: str, config: Mapping[str, Any]) -> None:
    """Raise an InputError that lists the differing keys if `folder` belongs to another configuration."""
    differences = compare(read_config(folder, kind), json.loads(to_text(config)))
    if differences:
        listed = "".join(
            f"\n  {key}: saved {saved}, requested {requested}" for key, (saved, requested) in differences.items()
        )
        if any(key.rpartition(".")[2] == "structure" for key in differences):
            listed += f"\nstructure: {STRUCTURE}."
        raise InputError(
            f"folder: got {folder}, which belongs to another configuration, expected another folder ({_flags(kind)}); "
            f"or delete this one:{listed}"
        )


def _unusable(folder: pathlib.Path, problem: str, kind: str = "") -> InputError:
    flags = f" ({_flags(kind)})" if kind else ""
    return InputError(f"folder: got {folder}, which {problem}, expected another one{flags}")


def _flags(kind: str) -> str:
    """Return the flags of commands for folders of this kind."""
    return "--zoo, of experiments.zoo --out" if kind == "zoo" else "--out"


def compare(saved: Mapping[str, Any], requested: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[str, str]]:
    """Return the dotted keys at which two JSON objects differ, each with both values as JSON."""
    differences: dict[str, tuple[str, str]] = {}
    for key in [*saved, *(key for key in requested if key not in saved)]:
        a, b = saved.get(key, _ABSENT), requested.get(key, _ABSENT)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            differences |= compare(a, b, f"{prefix}{key}.")
        elif a is _ABSENT or b is _ABSENT or a != b:
            values = ["absent" if value is _ABSENT else json.dumps(value) for value in (a, b)]
            differences[f"{prefix}{key}"] = values[0], values[1]
    return differences


_ABSENT = object()


def versions() -> dict[str, str]:
    """Return the versions of Python and of packages, and the kind of device."""
    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "symjax": getattr(symjax, "__version__", "unknown"),
        **{name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "backend": device.platform,
        "device": device.device_kind,
    }
