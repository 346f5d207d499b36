"""What all figures share."""

import io
import re
from pathlib import Path

from matplotlib.figure import Figure

from symjax import runs

PAPER = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}


def save(figure: Figure, path: Path) -> None:
    """Writes `path`.png and `path`.pdf, each whole or not at all."""
    for suffix, options in {".png": {"dpi": 200}, ".pdf": {}}.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], **options)
        runs.write_bytes(Path(f"{path}{suffix}"), buffer.getvalue())


def legend_below(figure: Figure, **options) -> None:
    """A legend of everything that has a label, once, below the axes, in as many columns as fit the figure's width."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    longest = max((len(re.sub(r"\$.*?\$", "GReLU", label)) for label in handles), default=1)
    inches = 0.07 * longest + 0.5  # of 9 point text with its handle
    columns = max(1, min(int((figure.get_size_inches()[0] - 0.2) / inches), len(handles)))
    shown = list(handles.values()), list(handles)
    figure.legend(*shown, loc="outside lower center", ncols=columns, frameon=False, **options)
