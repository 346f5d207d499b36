"""What all figures share."""

import io
import re
from collections.abc import Iterable, Sequence
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symjax import checks, runs
from symjax.errors import InputError

PAPER = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}


def check(path: Path | None, table: pd.DataFrame, columns: str, numbers: str = "", *, name: str = "table") -> None:
    """Asks for what a figure needs before it is drawn.

    Args:
      path: of the figure, in a folder that is there; None where none is written.
      table: a table of one row at least.
      columns, numbers: names of its columns with blanks between; those of the second hold numbers.
      name: of the table in messages.

    Raises:
      InputError: it is not so.
    """
    folder = None if path is None else checks.path("path", path).parent
    if folder is not None and not folder.is_dir():
        raise InputError(f"path: got {path}, but there is no folder {folder}")
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"{name}: got {type(table).__name__}, wanted a pandas DataFrame")
    if absent := [column for column in (*columns.split(), *numbers.split()) if column not in table.columns]:
        raise InputError(f"{name}: columns {', '.join(absent)} are missing")
    if table.empty:
        raise InputError(f"{name}: has no rows")
    for column in numbers.split():
        if not all(isinstance(value, (Number, np.bool)) for value in table[column].unique()):
            raise InputError(f"{name}: {column} holds {table[column].dtype}, wanted numbers")


def axes_of(
    ax: Any, shape: tuple[int, int], figsize: tuple[float, float], count: int | None = None, **options
) -> tuple[Figure, np.ndarray]:
    """A new figure and its grid of axes; or the axes that the caller has, and the figure that they are in.

    Args:
      ax: None, or as many axes as there are panels, one alone or in any sequence.
      shape: rows and columns.
      figsize: of a new figure, in inches.
      count: of panels, where the grid has more; given axes are one row then.
      options: of `Figure.subplots`.

    Raises:
      InputError: `ax` is none of these.
    """
    if ax is None:
        figure = Figure(figsize=figsize, layout="constrained")
        return figure, figure.subplots(*shape, squeeze=False, **options)
    shape = shape if count is None else (1, count)
    given = np.ravel(ax) if isinstance(ax, (Axes, np.ndarray, list, tuple)) else []
    if len(given) != shape[0] * shape[1] or not all(isinstance(axes, Axes) for axes in given):
        raise InputError(f"ax: got {checks.short(ax)}, wanted {shape[0] * shape[1]} axes, one for each panel")
    for axes in given:
        axes.set_axisbelow(True)  # as of new ones, by `PAPER`
    return given[0].figure.figure, np.reshape(given, shape)


def finish(
    figure: Figure,
    path: Path | None,
    ax: Any,
    grid: np.ndarray,
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    legend: dict[str, Any] | None = None,
) -> Figure:
    """What stands around the panels of a new figure, at the panels of a given one; writes it where there is a path.

    Args:
      figure, grid: of `axes_of`.
      path, ax: as of the figure.
      title: of a new figure.
      xlabel, ylabel: of all panels.
      legend: options of `legend_below`; None for no legend.
    """
    if ax is None:
        for put, text in ((figure.suptitle, title), (figure.supxlabel, xlabel), (figure.supylabel, ylabel)):
            if text:
                put(text, fontsize=9)
        if legend is not None:
            legend_below(figure, **legend)
    else:
        for axes in grid.flat:
            axes.set_xlabel(xlabel or axes.get_xlabel())
        for axes in grid[:, 0]:
            axes.set_ylabel(" ".join(filter(None, (axes.get_ylabel(), ylabel))))
        if legend is not None and (handles := labelled(grid.flat)):
            grid.flat[-1].legend(handles.values(), handles, frameon=False, **legend)
    if path is not None:
        save(figure, path)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes `path`.png and `path`.pdf, each whole or not at all."""
    for suffix, options in {".png": {"dpi": 200}, ".pdf": {}}.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], **options)
        runs.write_bytes(Path(f"{path}{suffix}"), buffer.getvalue())


def palette(name: str, count: int) -> list[tuple]:
    """`count` colours of one of seaborn's palettes, or of a colour map of matplotlib's."""
    import seaborn  # here and below: it takes more than a second to import

    return seaborn.color_palette(name, count)


def heatmap(values: pd.DataFrame, **options) -> Axes:
    """`seaborn.heatmap`."""
    import seaborn

    return seaborn.heatmap(values, **options)


MARKERS = "os^DvPX<>h"
LINES = ("-", "--", "-.", ":")


def apart(names: Iterable) -> dict[Any, dict[str, Any]]:
    """For each of what has no order, such as classes, options of `Axes.plot` that tell it from the others.

    Ten colours, each with a marker of its own; what comes after the first ten has a colour with another marker and
    another kind of line.
    """
    colours = palette("tab10", 10)
    return {
        name: {
            "color": colours[i % 10],
            "marker": MARKERS[(i + i // 10) % 10],
            "linestyle": LINES[i // 10 % 4],
            "markersize": 4.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.4,
        }
        for i, name in enumerate(names)
    }


def in_order(names: Sequence) -> dict[Any, dict[str, Any]]:
    """Likewise for what has an order, such as layers: colours from dark to bright."""
    colours = palette("viridis", len(names))
    return {name: {"color": c, "marker": "o", "markersize": 2.5} for name, c in zip(names, colours, strict=True)}


def labelled(panels: Iterable[Axes]) -> dict[str, Any]:
    """Everything that has a label, once, by its label."""
    handles = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    return handles


def legend_below(figure: Figure, **options) -> None:
    """A legend of everything that has a label, once, below the axes, in as many columns as fit the figure's width."""
    handles = labelled(figure.axes)
    longest = max((len(re.sub(r"\$.*?\$", "GReLU", label)) for label in handles), default=1)
    inches = 0.07 * longest + 0.5  # of 9 point text with its handle
    columns = max(1, min(int((figure.get_size_inches()[0] - 0.2) / inches), len(handles)))
    columns = max(1, -(-len(handles) // -(-max(1, len(handles)) // columns)))  # rows of about equal length
    shown = list(handles.values()), list(handles)
    figure.legend(*shown, loc="outside lower center", ncols=columns, frameon=False, **options)
