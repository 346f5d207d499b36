"""Results of steps: rows of a table, appended to a file immediately, so that none is lost if the step is killed.

A row has the name of the step, a case, a figure or None, its unit and a comment. A later row of the same step and case
replaces the earlier one.
"""

import contextlib
import json
import math
import os
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Report:
    step: str
    path: Path
    deadline: float  # value of time.monotonic() at which the step is killed
    rehearse: bool = False

    def left(self) -> float:
        """Return the seconds until the step is killed."""
        return self.deadline - time.monotonic()

    def row(self, case: str, figure: float | None, unit: str, comment: str = "") -> None:
        if figure is not None and not math.isfinite(figure := float(figure)):
            figure, comment = None, f"{figure}; {comment}"
        row = {"step": self.step, "case": case, "figure": figure, "unit": unit, "comment": comment}
        with self.path.open("a") as file:
            file.write("\n" + json.dumps(row))  # begins a new line, because the previous one may be incomplete
        print(f"{self.step}: {case}: {spell(figure)} {unit} {comment}", flush=True)

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Report an error or a missing package within the context as a row of the table, and continue the step."""
        try:
            yield
        except ModuleNotFoundError as error:
            self.row(name, None, "not installed", error.name or str(error))
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            self.row(name, None, "failed", f"{type(error).__name__}: {lines[0][:160]}")


def read(path: Path) -> list[dict]:
    """Return the rows of a file, without an incomplete last line of a process that was killed."""
    rows: dict[tuple[str, str], dict] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            rows[row["step"], row["case"]] = row
    return list(rows.values())


def spell(figure: float | None) -> str:
    if figure is None:
        return "-"
    return f"{figure:.3g}" if abs(figure) < 1000 else f"{figure:,.0f}"


def table(rows: Sequence[dict]) -> str:
    """Return the rows as an aligned table in Markdown."""
    header = ("step", "case", "figure", "unit", "comment")
    cells = [header, *((r["step"], r["case"], spell(r["figure"]), r["unit"], r["comment"]) for r in rows)]
    cells = [[cell.replace("|", "/") for cell in row] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header) - 1)] + [len("comment")]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    """Write a file atomically."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
