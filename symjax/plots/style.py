"""Style, checks and layout common to all figures."""

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

from symjax import checks
from symjax.errors import InputError
from symjax.ops import files

PAPER: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}


def check_table(
    path: str | Path | None, table: pd.DataFrame, columns: str, numbers: str = "", *, name: str = "table"
) -> None:
    """Check the arguments of a figure before it is drawn.

    Args:
      path: path of the figure in an existing folder; None if it is not written.
      table: a table of one row or more.
      columns: names of required columns, separated by blanks.
      numbers: names of required columns with numbers, separated by blanks.
      name: name of the table in messages.

    Raises:
      InputError: an argument is invalid.
    """
    folder = None if path is None else checks.path("path", path).parent
    if folder is not None and not folder.is_dir():
        raise InputError(f"path: got {path}, expected a path in an existing folder, {folder} does not exist")
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"{name}: got {type(table).__name__}, expected a pandas DataFrame")
    if missing := [column for column in (*columns.split(), *numbers.split()) if column not in table.columns]:
        raise InputError(f"{name}: got a table without {', '.join(missing)}, expected these columns")
    if table.empty:
        raise InputError(f"{name}: got no rows, expected one or more")
    for column in numbers.split():
        if not all(isinstance(value, (Number, np.bool)) for value in table[column].unique()):
            raise InputError(f"{name}: got {table[column].dtype} in column {column}, expected numbers")


def make_axes(
    ax: Any, shape: tuple[int, int], figsize: tuple[float, float], count: int | None = None, **options
) -> tuple[Figure, np.ndarray]:
    """Return a new figure with a grid of axes, or the given axes with their figure.

    Args:
      ax: None, or as many axes as there are panels, a single one or in a sequence.
      shape: numbers of rows and columns.
      figsize: size of a new figure in inches.
      count: number of panels if the grid has more; given axes then form one row.
      options: options of `Figure.subplots`.

    Raises:
      InputError: `ax` has another type or number of axes.
    """
    if ax is None:
        figure = Figure(figsize=figsize, layout="constrained")
        return figure, figure.subplots(*shape, squeeze=False, **options)
    shape = shape if count is None else (1, count)
    given: Any = np.ravel(np.asarray(ax, object)) if isinstance(ax, (Axes, np.ndarray, list, tuple)) else []
    if len(given) != shape[0] * shape[1] or not all(isinstance(axes, Axes) for axes in given):
        raise InputError(f"ax: got {checks.short(ax)}, expected {shape[0] * shape[1]} axes, one for each panel")
    for axes in given:
        axes.set_axisbelow(True)  # as `PAPER` sets for new axes
    return given[0].figure.figure, np.reshape(given, shape)


def finish(
    figure: Figure,
    path: str | Path | None,
    ax: Any,
    grid: np.ndarray,
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    legend: dict[str, Any] | None = None,
) -> Figure:
    """Add title, labels and legend to a new figure, or labels and legend to given axes; write the figure to `path`.

    Args:
      figure, grid: as returned by `make_axes`.
      path, ax: as in all figures, see `symjax.plots`.
      title: title of a new figure.
      xlabel, ylabel: labels common to all panels.
      legend: options of `legend_below`; None for no legend.

    Returns:
      The figure.
    """
    if ax is None and legend is not None and len(grid) == 1 and not grid[0, 0].get_ylabel():
        grid[0, 0].set_ylabel(ylabel)  # beside the panels, where that of the figure would be beside the legend, too
        ylabel = ""
    if ax is None:
        for add, text in ((figure.suptitle, title), (figure.supxlabel, xlabel), (figure.supylabel, ylabel)):
            if text:
                add(text, fontsize=9)
        if legend is not None:
            legend_below(figure, **legend)
    else:
        for axes in grid.flat:
            axes.set_xlabel(xlabel or axes.get_xlabel())
        for axes in grid[:, 0]:
            axes.set_ylabel(" ".join(filter(None, (axes.get_ylabel(), ylabel))))
        if legend is not None and (handles := labeled(grid.flat)):
            grid.flat[-1].legend(handles.values(), handles, frameon=False, **legend)
    if path is not None:
        save(figure, path)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write `path`.png and `path`.pdf, each atomically."""
    formats: dict[str, dict[str, Any]] = {".png": {"dpi": 200}, ".pdf": {}}
    for suffix, options in formats.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], **options)
        files.write_bytes(Path(f"{path}{suffix}"), buffer.getvalue())


def palette(name: str, count: int) -> list[tuple]:
    """Return `count` colors of a palette of seaborn or a color map of matplotlib."""
    import seaborn  # imported in functions, since the import takes more than a second

    return seaborn.color_palette(name, count)


def heatmap(values: pd.DataFrame, **options) -> Axes:
    """Draw `seaborn.heatmap`."""
    import seaborn

    return seaborn.heatmap(values, **options)


MARKERS = "os^DvPX<>h"
LINES = ("-", "--", "-.", ":")


def distinct_styles(names: Iterable) -> dict[Any, dict[str, Any]]:
    """Return options of `Axes.plot` for each name that distinguish it from the others, for names without an order.

    The first ten names have different colors and markers; later ones repeat a color with another marker and line
    style.
    """
    colors = palette("tab10", 10)
    return {
        name: {
            "color": colors[i % 10],
            "marker": MARKERS[(i + i // 10) % 10],
            "linestyle": LINES[i // 10 % 4],
            "markersize": 4.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.4,
        }
        for i, name in enumerate(names)
    }


def sequential_styles(names: Sequence) -> dict[Any, dict[str, Any]]:
    """Return options of `Axes.plot` for names with an order, such as layers: colors from dark to bright."""
    colors = palette("viridis", len(names))
    return {name: {"color": c, "marker": "o", "markersize": 2.5} for name, c in zip(names, colors, strict=True)}


def labeled(panels: Iterable[Axes]) -> dict[str, Any]:
    """Return {label: handle} for all labeled artists, each label once."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    return handles


def legend_below(figure: Figure, **options) -> None:
    """Add a legend of all labels below the axes, in as many columns as fit in the width of the figure.

    The figure becomes higher for more than two rows.
    """
    handles = labeled(figure.axes)
    longest = max((len(re.sub(r"\$.*?\$", "GReLU", label)) for label in handles), default=1)
    inches = 0.07 * longest + 0.5  # width of 9 point text and its handle
    columns = max(1, min(int((figure.get_size_inches()[0] - 0.2) / inches), len(handles)))
    rows = -(-max(1, len(handles)) // columns)
    columns = max(1, -(-len(handles) // rows))  # rows of about equal length
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.19 * max(0, rows - 2))  # figures have space for two rows
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=columns, frameon=False, **options
    )
