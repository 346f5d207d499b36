"""Pages of text, tables and figures, as Markdown and as self-contained HTML."""

import base64
import io
import os
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import pandas as pd
from PIL import Image, UnidentifiedImageError

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 3rem; border-top: 1px solid #ddd; padding-top: 1rem; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0 1.5rem; display: block; overflow-x: auto; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap; }
tr > :first-child { text-align: left; } caption { text-align: left; color: #555; padding: .3rem 0; }
pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; white-space: pre-wrap; }
img { max-width: 100%; height: auto; }
.conclusion { font-size: 1.1rem; } .notes { color: #555; font-size: .9rem; }
"""


@dataclass(frozen=True)
class Section:
    """One section of a page.

    Attributes:
      title: the heading.
      text: a paragraph.
      figures: paths of PNG files; for a missing file the page says so.
      tables: {caption: table}.
      reference_tables: {caption: table}, shown after `tables`, such as published numbers.
      command: a command line.
      notes: the last line.
    """

    title: str
    text: str
    figures: tuple[Path, ...] = ()
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    reference_tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    command: str = ""
    notes: str = ""


def duration(seconds: float) -> str:
    """Return a time as text in hours, minutes or seconds."""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.1f} min" if minutes >= 1 else f"{seconds:.0f} s"


def markdown(title: str, sections: list[Section], folder: Path) -> str:
    """Return the page as Markdown, with links to figures relative to `folder`."""
    lines = [f"# {title}", ""]
    lines += [f"- [{section.title}](#section-{i})" for i, section in enumerate(sections, 1)] + [""]
    for i, section in enumerate(sections, 1):
        lines += [f'<a id="section-{i}"></a>', "", f"## {section.title}", "", section.text.replace("\n", "\\\n"), ""]
        for path in section.figures:
            link = Path(os.path.relpath(path, folder)).as_posix().replace(" ", "%20")
            lines += [f"![{path.stem}](<{link}>)" if path.exists() else f"(no figure at {path})", ""]
        for caption, table in (section.tables | section.reference_tables).items():
            lines += [f"{_capital(caption)}:", "", *_rows(table), ""]
        lines += ["```", section.command, "```", "", section.notes, ""]
    return "\n".join(lines)


def html(title: str, sections: list[Section]) -> str:
    """Return the page as one HTML file with embedded figures."""
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style></head>',
        "<body>",
        f"<h1>{escape(title)}</h1>",
        "<ul>",
        *(f'<li><a href="#section-{i}">{escape(s.title)}</a></li>' for i, s in enumerate(sections, 1)),
        "</ul>",
    ]
    for i, section in enumerate(sections, 1):
        parts += [
            f'<h2 id="section-{i}">{escape(section.title)}</h2>',
            f'<p class="conclusion">{escape(section.text).replace(chr(10), "<br>")}</p>',
        ]
        parts += [_picture(path) for path in section.figures]
        for caption, table in (section.tables | section.reference_tables).items():
            body = table.rename_axis(index=None, columns=None).to_html(border=0, na_rep="")
            parts.append(body.replace(">\n", f">\n<caption>{escape(_capital(caption))}</caption>\n", 1))
        parts += [f"<pre>{escape(section.command)}</pre>", f'<p class="notes">{escape(section.notes)}</p>']
    return "\n".join([*parts, "</body></html>", ""])


def _picture(path: Path) -> str:
    if not path.exists():
        return f"<p>(no figure at {escape(str(path))})</p>"
    content = path.read_bytes()
    data, width = base64.b64encode(content).decode(), display_width(content)
    size = f' width="{width}"' if width else ""
    return f'<p><img alt="{escape(path.stem, quote=True)}"{size} src="data:image/png;base64,{data}"></p>'


def display_width(png: bytes) -> int | None:
    """Return the width of a PNG in CSS pixels (96 per inch) by its resolution; None where it has no resolution.

    With this width the letters of all figures have the same size on a page.
    """
    try:
        with Image.open(io.BytesIO(png)) as image:
            resolution = image.info.get("dpi", (0, 0))[0]
            return round(image.width / resolution * 96) if resolution else None
    except UnidentifiedImageError:
        return None


def _rows(table: pd.DataFrame) -> list[str]:
    """Return a table as lines of Markdown."""
    cells = [
        ["", *table.columns],
        *([index, *row] for index, row in zip(table.index, table.to_numpy(object), strict=True)),
    ]
    text = [[_cell(cell) for cell in row] for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in text]
    return [lines[0], "|---" + "|---:" * len(table.columns) + "|", *lines[1:]]


def _cell(value) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}"
    return str(value).replace("|", "\\|")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
