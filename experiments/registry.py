"""The registry of experiments: the constant EXPERIMENT of each module, which `report` and `merge` read.

Only the modules of the runs that are read are imported.
"""

import ast
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import experiments

if TYPE_CHECKING:
    import pandas as pd


class PublishedTable(NamedTuple):
    """Published figures.

    Attributes:
      columns: names of the columns.
      rows: {name: an entry for each column}.
    """

    columns: Sequence[str]
    rows: Mapping[str, Sequence]

    def to_frame(self) -> "pd.DataFrame":
        """Return the table as a data frame."""
        import pandas as pd  # imported here, since the list of commands does not need it

        return pd.DataFrame.from_dict(dict(self.rows), orient="index", columns=list(self.columns))


class Results(Protocol):
    """The results in a run folder."""

    def merge(self, folders: Sequence[Path]) -> int:
        """Write the results of all `folders`, which include this one; return the number of rows."""


@dataclass(frozen=True)
class Experiment:
    """An experiment in the report, and how its run folders are merged.

    Attributes:
      place: its place in the report, in which experiments are sorted by this number.
      published: published figures by caption, read off tables and plots of papers, to stand beside ours.
      published_on: the data set of these figures; None if they are not of one data set.
      results: function from a run folder to its results; by default the table "results" of the `Schema`s of its module.
        The other tables of these `Schema`s are merged, too.
      unit: what the number that `Results.merge` returns counts.
      reports_unfinished: whether `Results.merge` prints what is not finished; otherwise runs without a summary are
        reported.
    """

    place: float
    published: Mapping[str, PublishedTable] = field(default_factory=dict)
    published_on: str | None = "cifar10"
    results: Callable[[Path], Results] | None = None
    unit: str = "rows"
    reports_unfinished: bool = False


def files() -> dict[str, Path]:
    """Return the files of the modules of `experiments`, by name."""
    modules = pkgutil.iter_modules(experiments.__path__)
    return {module.name: Path(module.module_finder.path, f"{module.name}.py") for module in modules}


def commands() -> dict[str, str]:
    """Return the first line of the docstring of each command, without imports, which would take seconds."""
    sources = {name: path.read_text(encoding="utf-8") for name, path in files().items()}
    docstrings = {name: ast.get_docstring(ast.parse(s)) for name, s in sources.items() if "\n    run_command(" in s}
    return {name: (docstring or "").partition("\n")[0] for name, docstring in docstrings.items()}


def find(name: str) -> Experiment | None:
    """Return the experiment of a name, such as "stitch"; None if there is none."""
    if name not in files():
        return None
    return getattr(importlib.import_module(f"experiments.{name}"), "EXPERIMENT", None)
