"""The summary of a run: conclusion, tables, names of figures, command line and time.

Each command writes it as `summary.json` to its run folder; `experiments.report` combines summaries in one page.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from symjax.errors import InputError
from symjax.ops import files

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
    tables = {name: json.loads(table.to_json(orient="split")) for name, table in summary.tables.items()}
    changed = {"tables": tables, "figures": list(summary.figures), "seconds": round(seconds, 1)}
    files.write_json(path, {name: getattr(summary, name) for name in FIELDS} | changed)


def read(folder: files.PathLike) -> Summary:
    """Return the summary of a run folder; raise an InputError where it is missing or damaged."""
    path = Path(folder, SUMMARY)
    values = files.read_json(path)
    try:
        known = {name: values[name] for name in FIELDS}
        known["tables"] = {name: _table(**table) for name, table in known["tables"].items()}
        known["figures"] = tuple(known["figures"])
        return Summary(folder=Path(folder), **known)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a summary of this version ({error!r}); run its command again") from None


def _table(index: list, columns: list, data: list) -> pd.DataFrame:
    return pd.DataFrame(data, index=index, columns=columns)
