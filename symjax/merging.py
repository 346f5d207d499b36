"""Folders of one configuration, computed apart, made into one by the keys of their rows.

What is in two folders is taken once where it is the same in both, and is an error where it is not: nothing counts
twice. The folder that is made is among those that are read, so that a merge can be repeated, and gone on with where it
was interrupted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from symjax import runs
from symjax.errors import InputError


@dataclass(frozen=True)
class Parts:
    """How a kind of folder keeps its rows: files NAME + `rows` in parts/, one name for each part of the results.

    Attributes:
      key: columns that name a row.
      optional: further ones that some tables lack, and for each the column whose values it has there.
      rows: how the names of their files end; what follows a + before it is of a process of its own.
      curves: likewise, of files whose rows belong to a row that they name in `key`; none where empty.
      curve_key: further columns that name a row of these.
      arrays: a folder of files NAME.npz, whose arrays belong to rows; none where empty.
      prefix: from a row, how the names of its arrays begin.
    """

    key: tuple[str, ...]
    rows: str = ".csv"
    curves: str = ""
    curve_key: tuple[str, ...] = ()
    arrays: str = ""
    prefix: Callable[[pd.Series], str] = str
    optional: Mapping[str, str] = MappingProxyType({})

    def completed(self, frames: dict[Path, pd.DataFrame]) -> tuple[dict[Path, pd.DataFrame], tuple[str, ...]]:
        """Tables that all have the optional columns that one of them has, and the columns that name a row of them."""
        there = {name: other for name, other in self.optional.items() if any(name in f for f in frames.values())}
        for name, other in there.items():
            frames = {
                folder: frame.assign(**{name: frame[name].fillna(frame[other]) if name in frame else frame[other]})
                for folder, frame in frames.items()
            }
        return frames, (*self.key, *there)


def merge_parts(parts: Parts, folders: Sequence[Path], out: Path) -> int:
    """Writes everything that belongs to rows of `folders` into `out`, one of them; how many rows there are.

    The rows of a part are written last, so that all that belongs to a row is there when it is.

    Raises:
      InputError: a row, or what belongs to it, differs between two folders; a broken file.
    """
    for name in (parts.arrays, "parts"):
        runs.make_folder(out / name)
    count = 0
    for name in sorted({name for folder in folders for name in _names(folder, parts.rows)}):
        rows = {folder: _read(folder, name, parts.rows, parts.key) for folder in folders}
        rows, row_key = parts.completed({folder: frame for folder, frame in rows.items() if len(frame)})
        merged = merge_rows(rows, row_key)
        count += len(merged)
        if parts.arrays:
            _merge_arrays(parts, name, rows, out)
        if parts.curves:
            key = (*parts.key, *parts.curve_key)
            curves = {folder: _read(folder, name, parts.curves, key) for folder in rows}
            # Of a run that was stopped between the two, curves have no rows, and will be computed again.
            curves, curve_key = parts.completed({folder: frame for folder, frame in curves.items() if len(frame)})
            row_key = [name for name in row_key if name in curve_key]
            curves = {folder: _of_rows(frame, rows[folder], row_key) for folder, frame in curves.items()}
            curves = {folder: frame for folder, frame in curves.items() if len(frame)}
            if curves:
                _write(out, name, parts.curves, merge_rows(curves, (*curve_key, *parts.curve_key)))
        _write(out, name, parts.rows, merged)
    return count


def merge_rows(frames: dict[Path, pd.DataFrame], key: Iterable[str]) -> pd.DataFrame:
    """The rows of all frames, each key once.

    Raises:
      InputError: one key has different rows in two folders; the message names the key and both.
    """
    key = list(key)
    every = pd.concat([frame.assign(**{_FOLDER: str(folder)}) for folder, frame in frames.items()], ignore_index=True)
    once = every.drop_duplicates([column for column in every.columns if column != _FOLDER])
    twice = once[once.duplicated(key, keep=False)]
    if len(twice):
        first = twice.iloc[0]
        same = twice[(twice[key] == first[key]).all(axis=1)]
        other = same.iloc[1]
        differing = [name for name in once.columns if name != _FOLDER and not _equal(first[name], other[name])]
        named = ", ".join(f"{column} {first[column]}" for column in key)
        shown = ", ".join(f"{name} {first[name]} and {other[name]}" for name in differing[:3])
        raise InputError(
            f"folders: {first[_FOLDER]} and {other[_FOLDER]} have different rows of {named}: {shown}; "
            "leave one of the folders out, or delete the row's file in one"
        )
    return once.drop(columns=_FOLDER).reset_index(drop=True)


def merge_table(name: str, key: str, folders: Sequence[Path], out: Path) -> None:
    """Merges the table `name` of those of `folders` that have it, in the order of `key`, the first row of each.

    For what all folders have and can be computed again: on different devices an accuracy may differ by an image.
    """
    frames = [runs.read_csv(folder / name, (key,)) for folder in folders if (folder / name).exists()]
    if frames:
        runs.write_csv(out / name, pd.concat(frames).drop_duplicates(key).sort_values(key))


_FOLDER = "its folder"


def _equal(a, b) -> bool:
    return a == b or (pd.isna(a) and pd.isna(b))


def _names(folder: Path, ending: str) -> set[str]:
    """Of parts, without the mark of a process."""
    return {path.name.removesuffix(ending).partition("+")[0] for path in (folder / "parts").glob(f"*{ending}")}


def _read(folder: Path, name: str, ending: str, key: Iterable[str]) -> pd.DataFrame:
    parts = folder / "parts"
    paths = sorted({*parts.glob(f"{name}{ending}"), *parts.glob(f"{name}+*{ending}")})
    frames = [runs.read_csv(path, key) for path in paths]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(key))


def _of_rows(curves: pd.DataFrame, rows: pd.DataFrame, key: Iterable[str]) -> pd.DataFrame:
    if curves.empty:
        return curves
    key = list(key)
    return curves[pd.MultiIndex.from_frame(curves[key]).isin(pd.MultiIndex.from_frame(rows[key]))]


def _write(out: Path, name: str, ending: str, frame: pd.DataFrame) -> None:
    """All rows of a part in one file; then those of single processes go."""
    runs.write_csv(out / "parts" / f"{name}{ending}", frame)
    for path in (out / "parts").glob(f"{name}+*{ending}"):
        path.unlink()


def _merge_arrays(parts: Parts, name: str, rows: dict[Path, pd.DataFrame], out: Path) -> None:
    found: dict[str, tuple[Path, np.ndarray]] = {}
    for folder, theirs in rows.items():
        arrays = runs.read_npz(folder / parts.arrays / f"{name}.npz")
        prefixes = tuple(parts.prefix(row) for _, row in theirs.iterrows())
        for key, array in arrays.items():
            if not key.startswith(prefixes):
                continue
            other, known = found.setdefault(key, (folder, array))
            if known.dtype != array.dtype or not np.array_equal(known, array, equal_nan=array.dtype.kind == "f"):
                raise InputError(
                    f"folders: {other} and {folder} have different arrays {key} in {parts.arrays}/{name}.npz; leave "
                    "one of the folders out, or delete the row's files in one"
                )
    runs.write_npz(out / parts.arrays / f"{name}.npz", {key: array for key, (_, array) in found.items()})
