"""Pages of findings, tables and figures, as Markdown and as HTML that holds its pictures."""

import base64
import os
import struct
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import pandas as pd

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 3rem; border-top: 1px solid #ddd; padding-top: 1rem; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0 1.5rem; display: block; overflow-x: auto; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap; }
tr > :first-child { text-align: left; } caption { text-align: left; color: #555; padding: .3rem 0; }
pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; white-space: pre-wrap; }
img { max-width: 100%; height: auto; }
.finding { font-size: 1.1rem; } .notes { color: #555; font-size: .9rem; }
"""


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
      title: its heading.
      text: a paragraph.
      figures: paths of PNG files; those that are missing are named as missing.
      tables: captions and tables.
      beside: likewise, of others.
      command: a command line.
      notes: a last line.
    """

    title: str
    text: str
    figures: tuple[Path, ...] = ()
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    beside: dict[str, pd.DataFrame] = field(default_factory=dict)
    command: str = ""
    notes: str = ""


def duration(seconds: float) -> str:
    """Seconds as a reader would say it."""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.1f} min" if minutes >= 1 else f"{seconds:.0f} s"


def markdown(title: str, sections: list[Section], folder: Path) -> str:
    """The page as Markdown in `folder`, from which its links to figures start."""
    lines = [f"# {title}", ""]
    lines += [f"- [{section.title}](#section-{i})" for i, section in enumerate(sections, 1)] + [""]
    for i, section in enumerate(sections, 1):
        lines += [f'<a id="section-{i}"></a>', "", f"## {section.title}", "", section.text.replace("\n", "\\\n"), ""]
        for path in section.figures:
            link = Path(os.path.relpath(path, folder)).as_posix().replace(" ", "%20")
            lines += [f"![{path.stem}](<{link}>)" if path.exists() else f"(no figure at {path})", ""]
        for caption, table in (section.tables | section.beside).items():
            lines += [f"{_capital(caption)}:", "", *_rows(table), ""]
        lines += ["```", section.command, "```", "", section.notes, ""]
    return "\n".join(lines)


def html(title: str, sections: list[Section]) -> str:
    """The page as one HTML file; pictures are in it, so that it can be sent."""
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
            f'<p class="finding">{escape(section.text).replace(chr(10), "<br>")}</p>',
        ]
        parts += [_picture(path) for path in section.figures]
        for caption, table in (section.tables | section.beside).items():
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
    """The width in CSS pixels, 96 to the inch, that a PNG says it has on paper; None where it does not say.

    So letters of all figures have one size on a page, whatever a figure's width in pixels.
    """
    place, found = 8, {}
    while place + 8 <= len(png):
        length, name = struct.unpack(">I4s", png[place : place + 8])
        found.setdefault(name, png[place + 8 : place + 8 + length])
        place += length + 12
    physical = found.get(b"pHYs", b"")
    if len(physical) != 9 or len(found.get(b"IHDR", b"")) != 13:
        return None
    (pixels,), (per_metre, _, unit) = struct.unpack(">I", found[b"IHDR"][:4]), struct.unpack(">IIB", physical)
    return round(pixels / per_metre / 0.0254 * 96) if unit == 1 and per_metre else None


def _rows(table: pd.DataFrame) -> list[str]:
    """A table as lines of Markdown."""
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
