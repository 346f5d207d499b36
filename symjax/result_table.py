"""Result tables of run folders: rows that are named by a key, added part by part, computed once, merged by their key.

    NAME.csv              all rows, sorted
    parts/PART.NAME.csv   the rows of one part, where a table has parts; NAME.csv is made of them

Two processes never write the same file: the first writes `PART.NAME.csv`, process 2 `PART+2.NAME.csv`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from symjax import hosts, runs
from symjax.errors import InputError

_FOLDER = "its folder"  # a column in which `merge` notes where a row is from


@dataclass(frozen=True)
class Schema:
    """The columns of a result table.

    Attributes:
      name: of the table and its file, such as "results".
      key: the columns that name a row, and their types.
      columns: the other columns that every row has. Rows may have more.
      part: the columns of the key that name the part to which a row belongs; without them the table has one file.
      order: the columns by which the whole table is sorted, stably; by default the key's.
      recomputable: whether rows of one key may differ between folders by rounding, so that `merge` takes the first.
    """

    name: str
    key: Mapping[str, type]
    columns: tuple[str, ...] = ()
    part: tuple[str, ...] = ()
    order: tuple[str, ...] | None = None
    recomputable: bool = False

    @property
    def required(self) -> tuple[str, ...]:
        """All columns that every row has."""
        return *self.key, *self.columns


class ResultTable:
    """A table in a run folder, which the process holds (`symjax.runs.open_folder`) while it writes.

    Args:
      folder: of the run.
      schema: of the table.
    """

    def __init__(self, folder: str | Path, schema: Schema):
        self.folder, self.schema = Path(folder), schema

    @property
    def path(self) -> Path:
        """The file of the whole table."""
        return self.folder / f"{self.schema.name}.csv"

    def rows(self) -> pd.DataFrame:
        """Return all rows, sorted; without any, an empty table with the schema's columns."""
        return self._read(self._files("*"))

    def missing(self, requested: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of `requested` for which the table has no row.

        Args:
          requested: one row for each combination of values that is needed, with columns of the key: all, or those that
            suffice because rows that agree in them are added together.
        """
        columns = list(requested.columns)
        existing = pd.MultiIndex.from_frame(self.rows()[columns])
        return requested[~pd.MultiIndex.from_frame(requested).isin(existing)].reset_index(drop=True)

    def select(self, requested: pd.DataFrame) -> pd.DataFrame:
        """Return the rows that agree with a row of `requested` (as of `missing`), in the order of `requested`."""
        columns = list(requested.columns)
        place = pd.Series(range(len(requested)), pd.MultiIndex.from_frame(requested))
        rows = self.rows()
        places = place.reindex(pd.MultiIndex.from_frame(rows[columns])).to_numpy()
        chosen = np.flatnonzero(~np.isnan(places))
        return rows.iloc[chosen[np.argsort(places[chosen], kind="stable")]].reset_index(drop=True)

    def add(self, rows: pd.DataFrame) -> None:
        """Write rows beside those that exist; a row replaces an older one of the same key.

        `assemble` brings the whole table up to date afterwards. Tables whose rows are details of rows of another table
        (learning curves) are written before it, so that a row exists only when everything that belongs to it does.
        """
        part, required = list(self.schema.part), self.schema.required
        rows = rows[[*required, *(name for name in rows.columns if name not in required)]]
        groups = rows.groupby(part, sort=False) if part else [((), rows)]
        for names, group in groups:
            path = self._file(names)
            if part:
                runs.make_folder(path.parent)
            frames = [self._read([path]), group] if path.exists() else [group]
            table = pd.concat(frames, ignore_index=True).drop_duplicates(list(self.schema.key), keep="last")
            runs.write_csv(path, self._ordered(table))

    def assemble(self) -> None:
        """Write the whole table from its parts; of several processes the first alone."""
        if self.schema.part and hosts.is_first():
            rows = self.rows()
            if len(rows) or self.path.exists():
                runs.write_csv(self.path, rows)

    def merge(self, folders: Sequence[Path], *, details_of: pd.DataFrame | None = None) -> int:
        """Write the rows of the same table in all `folders`, among which this one is; return how many there are.

        Args:
          folders: run folders of one configuration.
          details_of: rows of another table; rows that agree with none of them in the columns of its key are left out.

        Raises:
          InputError: two folders have different rows of one key.
        """
        tables = {folder: ResultTable(folder, self.schema).rows() for folder in folders}
        if details_of is not None:
            shared = [name for name in self.schema.key if name in details_of]
            owners = pd.MultiIndex.from_frame(details_of[shared])
            tables = {f: rows[pd.MultiIndex.from_frame(rows[shared]).isin(owners)] for f, rows in tables.items()}
        rows = _once({folder: rows for folder, rows in tables.items() if len(rows)}, self.schema)
        files = self._files("*")
        if len(rows):
            self.add(rows)
        for path in files:  # of single processes: all rows of a part are in one file now
            if "+" in path.name:
                path.unlink()
        self.assemble()
        return len(rows)

    def _file(self, names: tuple) -> Path:
        """The file to which this process writes a part."""
        if not self.schema.part:
            return self.path
        part = hosts.local_name(".".join(quote(str(name), safe=" :,-") for name in names))
        return self.folder / "parts" / f"{part}.{self.schema.name}.csv"

    def _files(self, part: str) -> list[Path]:
        """The files of a part, or of all."""
        if not self.schema.part:
            return [self.path] if self.path.exists() else []
        return sorted((self.folder / "parts").glob(f"{part}.{self.schema.name}.csv"))

    def _read(self, paths: Iterable[Path]) -> pd.DataFrame:
        schema = self.schema
        frames = [runs.read_csv(path, schema.required, dtype=schema.key) for path in paths]
        if not frames:
            return pd.DataFrame({name: pd.Series(dtype=schema.key.get(name)) for name in schema.required})
        # A process that is stopped after it has written details leaves them to another, which writes them again.
        return self._ordered(pd.concat(frames, ignore_index=True).drop_duplicates(list(schema.key)))

    def _ordered(self, rows: pd.DataFrame) -> pd.DataFrame:
        order = list(self.schema.key if self.schema.order is None else self.schema.order)
        return rows.sort_values(order, kind="stable", ignore_index=True) if order else rows


def _once(tables: Mapping[Path, pd.DataFrame], schema: Schema) -> pd.DataFrame:
    """The rows of all tables, each key once; an InputError where two folders have different rows of one key."""
    if not tables:
        return pd.DataFrame(columns=list(schema.required))
    key = list(schema.key)
    rows = pd.concat([table.assign(**{_FOLDER: str(folder)}) for folder, table in tables.items()], ignore_index=True)
    if schema.recomputable:
        rows = rows.drop_duplicates(key)
    rows = rows.drop_duplicates([column for column in rows.columns if column != _FOLDER])
    differing = rows[rows.duplicated(key, keep=False)]
    if len(differing):
        first, second = differing[(differing[key] == differing.iloc[0][key]).all(axis=1)].iloc[:2].to_dict("records")
        named = ", ".join(f"{column} {first[column]}" for column in key)
        names = [name for name in first if name != _FOLDER and not _equal(first[name], second[name])]
        shown = ", ".join(f"{name} {first[name]} and {second[name]}" for name in names[:3])
        raise InputError(
            f"folders: {first[_FOLDER]} and {second[_FOLDER]} have different rows of {named}: {shown}; "
            "leave one of the folders out, or delete the row's file in one"
        )
    return rows.drop(columns=_FOLDER)


def _equal(a: Any, b: Any) -> bool:
    return a == b or (pd.isna(a) and pd.isna(b))
