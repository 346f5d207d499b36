"""The files of run folders: JSON, tables and arrays, written atomically.

A file is written under a temporary name and renamed when it is complete, so it is complete or absent. Nothing is
pickled. Tables and archives contain the fingerprint of their run folder; a file with another fingerprint, or with none,
is an error.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from symjax.errors import InputError
from symjax.ops import interruption

CONFIG = "config.json"
FINGERPRINT = "configuration"  # the column of tables and the array of archives with the fingerprint of their folder
TEMPORARY = ".tmp"

PathLike = str | os.PathLike


# --- fingerprints ---


def to_text(config: Mapping[str, Any]) -> str:
    """Return a JSON-able configuration as text that does not depend on the order of its keys."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(config: Mapping[str, Any]) -> str:
    """Return a hash of ten hexadecimal digits of a JSON-able configuration, independent of the order of its keys."""
    return hashlib.sha256(to_text(config).encode()).hexdigest()[:10]


def folder_fingerprint(path: PathLike) -> str | None:
    """Return the fingerprint of the kind and configuration of the run folder of the file `path`.

    The run folder is the nearest of the three folders above the file that has a `config.json`; None if there is none.
    """
    for folder in list(pathlib.Path(path).absolute().parents)[:3]:
        if (folder / CONFIG).is_file():
            document = read_json(folder / CONFIG)
            if not isinstance(document, dict) or not {"kind", "config"} <= set(document):
                return None
            owner = {key: document[key] for key in ("kind", "config")}
            return fingerprint(json.loads(to_text(owner), parse_int=float))  # 1 and 1.0 are equal in `runs.compare`
    return None


def check_fingerprint(path: PathLike, saved: str | None, delete: PathLike | None = None) -> None:
    """Raise an InputError if the fingerprint saved in the file `path` is not that of its run folder.

    Args:
      path: the file.
      saved: the fingerprint in the file, or None.
      delete: the path that the message says to delete, by default the file.
    """
    expected = folder_fingerprint(path)
    if expected is not None and saved != expected:
        raise InputError(
            f"{path}: written with another configuration ({saved or 'none'}), expected {expected}, that of its folder; "
            f"delete {delete or 'it'} and run again"
        )


# --- reading and writing ---


def make_folder(path: PathLike) -> None:
    """Create a folder in an existing one if it is missing; raise an InputError if that fails."""
    try:
        pathlib.Path(path).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"folder: got {path}, which cannot be written ({error.strerror or error}), expected another one"
        ) from error


def write_json(path: PathLike, value: Any) -> None:
    """Write a JSON-able value with indentation."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    _write(path, lambda file: file.write(text.encode()))


def read_json(path: PathLike) -> Any:
    """Read a file of `write_json`; raise an InputError if it is missing or damaged."""
    try:
        return json.loads(_read(path).decode())
    except ValueError as error:  # also undecodable bytes
        raise _damaged(path, "JSON", error) from None


def write_csv(path: PathLike, frame: pd.DataFrame) -> None:
    """Write a table without its index, with the fingerprint of its run folder as last column.

    Floats are read back exactly, float32 as float64.
    """
    if (mark := folder_fingerprint(path)) is not None:
        frame = frame.assign(**{FINGERPRINT: mark})
    # float32 would be written with fewer digits, which change when a resumed run reads and writes them again.
    frame = frame.astype({name: "float64" for name, dtype in frame.dtypes.items() if dtype in ("float32", "float16")})
    text = frame.to_csv(index=False)
    _write(path, lambda file: file.write(text.encode()))


def read_csv(
    path: PathLike,
    columns: Iterable[str] = (),
    *,
    dtype: Mapping[str, type] | None = None,
    delete: PathLike | None = None,
) -> pd.DataFrame:
    """Read a table of `write_csv`.

    Args:
      path: the file.
      columns: the columns that the table must have.
      dtype: the types of columns; the types of other columns are inferred.
      delete: the path that the messages say to delete, by default the file.

    Raises:
      InputError: the file is missing, damaged or of another configuration, or lacks one of `columns`.
    """
    data = _read(path)
    try:
        if not data.endswith(b"\n"):
            raise ValueError("its last line is cut short")
        types = {**(dtype or {}), FINGERPRINT: str}  # pandas would infer numbers
        header = pd.read_csv(io.BytesIO(data), nrows=0).columns
        # `write_csv` writes nothing for missing values; by default pandas reads strings such as "None" as missing, too.
        missing_values = {name: [""] for name in header if types.get(name) is not str}
        frame = pd.read_csv(io.BytesIO(data), dtype=types, keep_default_na=False, na_values=missing_values)
    except ValueError as error:  # also the parser errors of pandas
        raise _damaged(path, "CSV", error, delete) from None
    if missing := [column for column in columns if column not in frame.columns]:
        target = delete or "the file"
        raise InputError(f"{path}: got no columns {', '.join(missing)}, expected them; delete {target} and run again")
    for saved in frame.pop(FINGERPRINT).unique() if FINGERPRINT in frame.columns else [None]:
        check_fingerprint(path, saved, delete)
    return frame


def write_npz(path: PathLike, arrays: Mapping[str, Any]) -> None:
    """Write named arrays of numbers, uncompressed, with the fingerprint of their run folder."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    if (mark := folder_fingerprint(path)) is not None:
        arrays[FINGERPRINT] = np.array(mark)

    def write(file):
        with zipfile.ZipFile(file, "w") as archive:  # np.savez cannot write an array named "file"
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)

    _write(path, write)


def read_npz(path: PathLike) -> dict[str, np.ndarray]:
    """Read an archive of `write_npz`; raise an InputError if it is missing, damaged or of another configuration."""
    data = _read(path)
    try:
        if not data.startswith(b"PK"):  # np.load also reads other formats
            raise ValueError("not a zip file")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        # np.load returns other entries as bytes.
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it holds more than arrays")
    except (ValueError, EOFError, KeyError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, "npz", error) from None
    check_fingerprint(path, str(arrays.pop(FINGERPRINT)) if FINGERPRINT in arrays else None)
    return arrays


def write_bytes(path: PathLike, data: bytes) -> None:
    """Write bytes, such as a figure."""
    _write(path, lambda file: file.write(data))


def _write(path: PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file under a temporary name and rename it when it is complete and on the disk."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
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
            with contextlib.suppress(OSError):  # it exists only after an error
                temporary.unlink()


def _read(path: PathLike) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _damaged(path: PathLike, kind: str, error: Exception, delete: PathLike | None = None) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"{path}: not a complete {kind} file ({reason}); delete {delete or 'it'} and run again")
