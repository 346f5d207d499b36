"""Result tables of run folders: rows with a unique key, added in parts and merged by key.

A command computes only the rows that its table lacks. A table has these files:

    NAME.csv              all rows, sorted
    parts/PART.NAME.csv   the rows of one part, for a table with parts; NAME.csv is assembled from them

Processes write separate files: the first process `PART.NAME.csv`, process 2 `PART+2.NAME.csv`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from symjax.errors import InputError
from symjax.ops import files, hosts

_FOLDER = "its folder"  # a temporary column in `merge`


@dataclass(frozen=True)
class Schema:
    """The columns of a result table.

    Attributes:
      name: the name of the table and of its file, such as "results".
      key: the columns that identify a row, and their types.
      columns: the other required columns. Rows can have more.
      part: the columns of the key that identify the part of a row; without them the table has one file.
      order: the columns by which the table is sorted, stably; by default those of the key.
      recomputable: whether rows with one key can differ by rounding between folders; `merge` then takes the first one.
      optional: further columns of the key, which hold strings, with their defaults. Files have them unless all rows
        have the default.
    """

    name: str
    key: Mapping[str, type]
    columns: tuple[str, ...] = ()
    part: tuple[str, ...] = ()
    order: tuple[str, ...] | None = None
    recomputable: bool = False
    optional: Mapping[str, str] = field(default_factory=dict)

    @property
    def required(self) -> tuple[str, ...]:
        """All columns that every row has."""
        return *self.key, *self.columns

    @property
    def full_key(self) -> list[str]:
        """The columns that identify a row, with the optional ones."""
        return [*self.key, *self.optional]

    def filled(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows with all optional columns."""
        texts = {name: rows[name].fillna(value) if name in rows else value for name, value in self.optional.items()}
        return rows.assign(**texts)

    def reduced(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows without the optional columns in which all have the default."""
        given = [name for name, value in self.optional.items() if name in rows and (rows[name] == value).all()]
        return rows.drop(columns=given)


class ResultTable:
    """A table in a run folder, which the process must lock (`symjax.ops.runs.open_folder`) to write.

    Args:
      folder: the run folder.
      schema: the columns of the table.
    """

    def __init__(self, folder: str | Path, schema: Schema):
        self.folder, self.schema = Path(folder), schema

    @property
    def path(self) -> Path:
        """The file of the whole table."""
        return self.folder / f"{self.schema.name}.csv"

    def rows(self) -> pd.DataFrame:
        """Return all rows, sorted; without any, an empty table with the schema's columns."""
        return self._read(self._files())

    def missing(self, requested: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of `requested` for which the table has no row.

        Args:
          requested: a row for each required combination of values of key columns. Columns of the key may be absent if
            rows that differ only in these are always added together.
        """
        columns = list(requested.columns)
        existing = pd.MultiIndex.from_frame(self.rows()[columns])
        return requested[~pd.MultiIndex.from_frame(requested).isin(existing)].reset_index(drop=True)

    def select(self, requested: pd.DataFrame) -> pd.DataFrame:
        """Return the rows that agree with a row of `requested` (see `missing`), in the order of `requested`."""
        columns = list(requested.columns)
        positions = pd.Series(range(len(requested)), pd.MultiIndex.from_frame(requested))
        rows = self.rows()
        positions = positions.reindex(pd.MultiIndex.from_frame(rows[columns])).to_numpy()
        chosen = np.flatnonzero(~np.isnan(positions))
        rows = rows.iloc[chosen[np.argsort(positions[chosen], kind="stable")]].reset_index(drop=True)
        return self.schema.reduced(rows)

    def add(self, rows: pd.DataFrame) -> None:
        """Add rows; a row replaces an older one of the same key. Call `assemble` afterwards.

        If another table has details of these rows, such as learning curves, add the details first, so that every row
        has its details.
        """
        for path, group in self._by_file(self.schema.filled(rows)):
            frames = [self._read([path]), group] if path.exists() else [group]
            self._write(path, pd.concat(frames, ignore_index=True).drop_duplicates(self.schema.full_key, keep="last"))

    def assemble(self) -> None:
        """Write the whole table from its parts, in the first process."""
        if self.schema.part and hosts.is_first():
            rows = self.rows()
            if len(rows) or self.path.exists():
                files.write_csv(self.path, self.schema.reduced(rows))

    def merge(self, folders: Sequence[Path], *, details_of: Schema | None = None) -> int:
        """Write the rows of the same table in all `folders`, which include this one; return the number of rows.

        Args:
          folders: run folders of one configuration.
          details_of: the schema of another table, whose key is part of this one's. Rows that belong to none of its rows
            in the folders are omitted.

        Raises:
          InputError: two folders have different rows of one key.
        """
        tables = {folder: ResultTable(folder, self.schema).rows() for folder in folders}
        if details_of is not None:
            key = details_of.full_key
            owners = pd.concat([ResultTable(folder, details_of).rows()[key] for folder in folders])
            owners = pd.MultiIndex.from_frame(owners)
            tables = {f: rows[pd.MultiIndex.from_frame(rows[key]).isin(owners)] for f, rows in tables.items()}
        rows = _unique_rows({folder: rows for folder, rows in tables.items() if len(rows)}, self.schema)
        old = set(self._files())
        for path, group in self._by_file(rows) if len(rows) else ():
            self._write(path, group)
            old.discard(path)
        for path in old:  # of omitted details, and of single processes, whose rows are now in the file of the part
            path.unlink()
        self.assemble()
        return len(rows)

    def _file(self, names: tuple) -> Path:
        """Return the file to which this process writes a part."""
        if not self.schema.part:
            return self.path
        part = hosts.local_name(".".join(quote(str(name), safe=" :,-") for name in names))
        return self.folder / "parts" / f"{part}.{self.schema.name}.csv"

    def _files(self) -> list[Path]:
        """Return the files of all parts."""
        if not self.schema.part:
            return [self.path] if self.path.exists() else []
        return sorted((self.folder / "parts").glob(f"*.{self.schema.name}.csv"))

    def _by_file(self, rows: pd.DataFrame) -> Iterator[tuple[Path, pd.DataFrame]]:
        """Yield the files to which this process writes rows, and the rows of each."""
        part, required = list(self.schema.part), self.schema.required
        rows = rows[[*required, *(name for name in rows.columns if name not in required)]]
        for names, group in rows.groupby(part, sort=False) if part else [((), rows)]:
            yield self._file(names), group

    def _write(self, path: Path, rows: pd.DataFrame) -> None:
        if self.schema.part:
            files.make_folder(path.parent)
        files.write_csv(path, self._ordered(self.schema.reduced(rows)))

    def _read(self, paths: Iterable[Path]) -> pd.DataFrame:
        schema = self.schema
        types = {**schema.key, **dict.fromkeys(schema.optional, str)}
        frames = [schema.filled(files.read_csv(path, schema.required, dtype=types)) for path in paths]
        if not frames:
            columns = (*schema.required, *schema.optional)
            return pd.DataFrame({name: pd.Series(dtype=types.get(name)) for name in columns})
        # Details can be duplicate: another process writes them again if their process stopped before it added the rows.
        return self._ordered(pd.concat(frames, ignore_index=True).drop_duplicates(schema.full_key))

    def _ordered(self, rows: pd.DataFrame) -> pd.DataFrame:
        order = list(self.schema.key if self.schema.order is None else self.schema.order)
        return rows.sort_values(order, kind="stable", ignore_index=True) if order else rows


def _unique_rows(tables: Mapping[Path, pd.DataFrame], schema: Schema) -> pd.DataFrame:
    """Return the rows of all tables without duplicates; raise an InputError if two rows of one key differ."""
    if not tables:
        return pd.DataFrame(columns=list(schema.required))
    key = schema.full_key
    rows = pd.concat([table.assign(**{_FOLDER: str(folder)}) for folder, table in tables.items()], ignore_index=True)
    if schema.recomputable:
        rows = rows.drop_duplicates(key)
    rows = rows.drop_duplicates([column for column in rows.columns if column != _FOLDER])
    differing = rows[rows.duplicated(key, keep=False)]
    if len(differing):
        first, second = differing[(differing[key] == differing.iloc[0][key]).all(axis=1)].iloc[:2].to_dict("records")
        key_text = ", ".join(f"{column} {first[column]}" for column in key)
        names = [name for name in first if name != _FOLDER and not _equal(first[name], second[name])]
        values = ", ".join(f"{name} {first[name]} and {second[name]}" for name in names[:3])
        raise InputError(
            f"folders: got different rows of {key_text} in {first[_FOLDER]} and {second[_FOLDER]} ({values}), expected "
            "equal rows; leave one of the folders out, or delete the row's file in one"
        )
    return rows.drop(columns=_FOLDER)


def _equal(a: Any, b: Any) -> bool:
    return a == b or (pd.isna(a) and pd.isna(b))
