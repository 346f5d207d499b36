"""What a run found: its finding in words, its tables, the names of its figures, how it was called and how long it took.

Each command leaves it as `summary.json` in its run folder; `experiments.report` makes one page of many.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from symjax import runs
from symjax.errors import InputError

SUMMARY = "summary.json"
FIELDS = ("experiment", "title", "finding", "tables", "figures", "command", "seconds", "versions")


@dataclass(frozen=True)
class Summary:
    """What one run folder has to tell.

    Attributes:
      folder: where it lies.
      title: what was compared on what, in one line.
      finding: what came out, in one or two sentences with measured numbers.
      tables: from captions to tables, whose entries are numbers or text.
      figures: names of figures in the folder, without suffix.
      experiment: the name of the command, such as stitch; with the next three filled in by whoever ran it.
      command: the command line.
      seconds: how long the runs of the command in this folder took together that came to their end.
      versions: as `runs.versions` gives them.
    """

    folder: Path
    title: str
    finding: str
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: tuple[str, ...] = ()
    experiment: str = ""
    command: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """For a terminal."""
        tables = [f"{caption}:\n\n{table.to_string()}\n" for caption, table in self.tables.items()]
        return "\n".join([f"{self.title}\n", *tables, f"{self.finding}\n", f"results: {self.folder}"])


def write(summary: Summary) -> None:
    """Writes `summary.json`; the time of earlier runs in the same folder is added to this one's."""
    path, seconds = Path(summary.folder, SUMMARY), summary.seconds
    if path.exists():
        try:
            seconds += read(summary.folder).seconds
        except InputError:  # of an older version or broken: replaced
            pass
    runs.write_json(
        path,
        {
            "experiment": summary.experiment,
            "title": summary.title,
            "finding": summary.finding,
            "tables": {name: json.loads(table.to_json(orient="split")) for name, table in summary.tables.items()},
            "figures": list(summary.figures),
            "command": summary.command,
            "seconds": round(seconds, 1),
            "versions": summary.versions,
        },
    )


def read(folder: runs.PathLike) -> Summary:
    """The summary of a run folder; an InputError where there is none or it is broken."""
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
    """Of each group of a pandas `SeriesGroupBy` its mean as text, with ± standard deviation (n - 1) if all have two.

    A group with NaN has the mean NaN.
    """
    spell = f"{{:z.{digits}f}}".format  # z: no -0.0
    text = grouped.agg(mean).map(spell)
    return text + " ± " + grouped.agg(lambda s: s.std(skipna=False)).map(spell) if (grouped.size() > 1).all() else text


def mean(values: pd.Series) -> float:
    """NaN where one value is: what failed is not to vanish from a mean."""
    return values.mean(skipna=False)


def with_both_layers(table: pd.DataFrame) -> pd.DataFrame:
    """The table with, for example, "relu1 to relu2" for its `layer` where `layer_b` is another one."""
    if "layer_b" not in table:
        return table
    differ = table.layer_b.notna() & (table.layer_b != table.layer)
    return table.assign(layer=table.layer.where(~differ, table.layer + " to " + table.layer_b.astype(str)))


def over_networks(count: int, what: str = "mean ± deviation") -> str:
    """What numbers are of so many networks: `what` over them, of one the number itself."""
    return f"{what} over {count} networks" if count > 1 else "of one network"


def _table(index: list, columns: list, data: list) -> pd.DataFrame:
    return pd.DataFrame(data, index=index, columns=columns)
