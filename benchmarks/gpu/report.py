"""What a step finds: rows of a table, each appended to a file as soon as it is known, so that a kill loses none.

A row has the step's name, a case, a figure (None: there is none), its unit and a comment. A later row of the same step
and case takes the place of the earlier one.
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
    deadline: float  # of time.monotonic(), at which the step is killed
    rehearse: bool = False

    def left(self) -> float:
        """Seconds until the step is killed."""
        return self.deadline - time.monotonic()

    def row(self, case: str, figure: float | None, unit: str, comment: str = "") -> None:
        if figure is not None and not math.isfinite(figure := float(figure)):
            figure, comment = None, f"{figure}; {comment}"
        row = {"step": self.step, "case": case, "figure": figure, "unit": unit, "comment": comment}
        with self.path.open("a") as file:
            file.write("\n" + json.dumps(row))  # the line before may be torn
        print(f"{self.step}: {case}: {spell(figure)} {unit} {comment}", flush=True)

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Within it an error is a row of the table, and the step goes on; so is a package that is not installed."""
        try:
            yield
        except ModuleNotFoundError as error:
            self.row(name, None, "not installed", error.name or str(error))
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            self.row(name, None, "failed", f"{type(error).__name__}: {lines[0][:160]}")


def read(path: Path) -> list[dict]:
    """The rows of a file; a last line that is torn, because its writer was killed, is left out."""
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
    """The rows as a table in Markdown, readable as text."""
    header = ("step", "case", "figure", "unit", "comment")
    cells = [header, *((r["step"], r["case"], spell(r["figure"]), r["unit"], r["comment"]) for r in rows)]
    cells = [[cell.replace("|", "/") for cell in row] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header) - 1)] + [len("comment")]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    """Writes a file at once or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
