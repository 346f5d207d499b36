"""Pages of text, tables and figures, as Markdown and as self-contained HTML."""

import base64
import io
import os
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import pandas as pd
from PIL import Image, UnidentifiedImageError

# Colors, fonts and tables of the documentation, also in dark mode; the page needs no network.
STYLE = """
:root { color-scheme: light dark; --text: #212121; --muted: #616161; --line: #e0e0e0; --code: #f5f5f5; --page: #fff;
  --primary: #4051b5; --link: #4051b5; }
@media (prefers-color-scheme: dark) { :root { --text: #e2e4e9; --muted: #a9adb8; --line: #40434f; --code: #272a35;
  --page: #1e2129; --link: #8c9eff; } }
body { font: 16px/1.6 system-ui, sans-serif; margin: 0; background: var(--page); color: var(--text); }
header { background: var(--primary); color: #fff; }
header h1 { font-size: 1.3rem; margin: 0 auto; }
header h1, main { max-width: 62rem; padding: .8rem 1rem; box-sizing: border-box; }
main { margin: 0 auto 4rem; }
h2 { font-weight: 400; line-height: 1.3; margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
.table { overflow-x: auto; margin: .5rem 0 1.5rem; }
table { border-collapse: collapse; font-size: .8rem; border: 1px solid var(--line); }
th, td { padding: .5rem .9rem; text-align: right; border-top: 1px solid var(--line); white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
tr > :first-child { text-align: left; }
.caption { color: var(--muted); font-size: .9rem; margin: 1.5rem 0 0; }
pre { background: var(--code); padding: .7rem 1rem; font: .8rem/1.5 ui-monospace, monospace; overflow-x: auto; }
img { max-width: 100%; height: auto; background: #fff; border-radius: .3rem; }
.conclusion { font-size: 1.05rem; } .notes { color: var(--muted); font-size: .9rem; overflow-wrap: anywhere; }
@media (max-width: 44rem) { th, td { padding: .4rem .6rem; } }
@media print { :root { --text: #000; --page: #fff; } }
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
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>",
        f"<body><header><h1>{escape(title)}</h1></header>",
        "<main>",
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
            parts.append(f'<p class="caption">{escape(_capital(caption))}</p>\n<div class="table">{body}</div>')
        parts += [f"<pre>{escape(section.command)}</pre>", f'<p class="notes">{escape(section.notes)}</p>']
    return "\n".join([*parts, "</main></body></html>", ""])


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
