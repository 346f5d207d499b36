"""The summary of a run: conclusion, tables, names of figures, command line and time.

Each command writes it as `summary.json` to its run folder; `experiments.report` combines summaries in one page.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from symjax import runs
from symjax.errors import InputError

SUMMARY = "summary.json"
FIELDS = ("experiment", "title", "conclusion", "tables", "figures", "command", "seconds", "versions")


@dataclass(frozen=True)
class Summary:
    """The summary of one run folder.

    Attributes:
      folder: the run folder.
      title: one line that says what was compared on which data.
      conclusion: one or two sentences with measured numbers.
      tables: {caption: table}; entries are numbers or text.
      figures: names of figures in the folder, without suffix.
      experiment: name of the command, such as stitch. The caller sets this field and the following ones.
      command: the command line.
      seconds: total time of the completed runs of the command in this folder.
      versions: versions of libraries, as `runs.versions` returns them.
    """

    folder: Path
    title: str
    conclusion: str
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: tuple[str, ...] = ()
    experiment: str = ""
    command: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """Return the summary as text for a terminal."""
        tables = [f"{caption}:\n\n{table.to_string()}\n" for caption, table in self.tables.items()]
        return "\n".join([f"{self.title}\n", *tables, f"{self.conclusion}\n", f"results: {self.folder}"])


def write(summary: Summary) -> None:
    """Write `summary.json`; the time of earlier runs in the same folder is added."""
    path, seconds = Path(summary.folder, SUMMARY), summary.seconds
    if path.exists():
        try:
            seconds += read(summary.folder).seconds
        except InputError:  # a summary of an older version or a damaged one is replaced
            pass
    runs.write_json(
        path,
        {
            "experiment": summary.experiment,
            "title": summary.title,
            "conclusion": summary.conclusion,
            "tables": {name: json.loads(table.to_json(orient="split")) for name, table in summary.tables.items()},
            "figures": list(summary.figures),
            "command": summary.command,
            "seconds": round(seconds, 1),
            "versions": summary.versions,
        },
    )


def read(folder: runs.PathLike) -> Summary:
    """Return the summary of a run folder; raise an InputError where it is missing or damaged."""
    path = Path(folder, SUMMARY)
    values = runs.read_json(path)
    try:
        known = {name: values[name] for name in FIELDS}
        known["tables"] = {name: _table(**table) for name, table in known["tables"].items()}
        known["figures"] = tuple(known["figures"])
        return Summary(folder=Path(folder), **known)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a summary of this version ({error!r}); run its command again") from None


def mean_and_deviation(grouped, digits: int) -> pd.Series:
    """Return the mean of each group as text, with ± standard deviation (n - 1) if all groups have two rows or more.

    Args:
      grouped: a pandas `SeriesGroupBy`. The mean of a group with a NaN is NaN.
      digits: number of decimal places.
    """
    to_text = f"{{:z.{digits}f}}".format  # z: no -0.0
    text = grouped.agg(mean).map(to_text)
    return (
        text + " ± " + grouped.agg(lambda s: s.std(skipna=False)).map(to_text) if (grouped.size() > 1).all() else text
    )


def mean(values: pd.Series) -> float:
    """Return the mean; NaN if any value is NaN, so that failures are not hidden."""
    return values.mean(skipna=False)


def with_both_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with `layer` replaced by, for example, "relu1 to relu2" where `layer_b` differs from it."""
    if "layer_b" not in table:
        return table
    differs = table.layer_b.notna() & (table.layer_b != table.layer)
    return table.assign(layer=table.layer.where(~differs, table.layer + " to " + table.layer_b.astype(str)))


def over_networks(count: int, what: str = "mean ± deviation") -> str:
    """Return the words for a statistic `what` over `count` networks, as in captions."""
    return f"{what} over {count} networks" if count > 1 else "of one network"


def _table(index: list, columns: list, data: list) -> pd.DataFrame:
    return pd.DataFrame(data, index=index, columns=columns)
