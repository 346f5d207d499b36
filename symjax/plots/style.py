"""What all figures share."""

import io
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
