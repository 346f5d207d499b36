"""Grids of panels, and learning curves with a panel per layer and a line per series."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from symjax.plots.style import PAPER, finish, make_axes
from symjax.tables import mean


def panel_grid(
    count: int,
    width: float,
    height: float,
    *,
    ax: Any = None,
    columns: int = 4,
    margins: tuple[float, float] = (0.0, 0.0),
    **options,
) -> tuple[Figure, np.ndarray]:
    """Return a figure and a grid of `count` axes or more in at most `columns` columns; surplus axes are hidden.

    Axes given as `ax` form one row.

    Args:
      count: number of panels.
      width, height: size of a panel in inches.
      ax: as in all figures, see `symjax.plots`.
      columns: largest number of columns.
      margins: additional width and height of the figure in inches.
      options: options of `Figure.subplots`.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (width * columns + margins[0], height * rows + margins[1])
    figure, grid = make_axes(ax, (rows, columns), size, count, **options)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, grid


def bottom_axes(grid: np.ndarray) -> list[Axes]:
    """Return the lowest visible axes of each column of a grid, after showing the labels of their ticks."""
    bottom = [next(axes for axes in column[::-1] if axes.get_visible()) for column in grid.T]
    for axes in bottom:
        axes.tick_params(labelbottom=True)
    return bottom


def curve_panels(
    table: pd.DataFrame,
    path: str | Path | None,
    ax: Any,
    *,
    series: str,
    value: str,
    styles: Mapping[str, tuple[str, Any]],
    label: str,
    title: str,
) -> Figure | None:
    """Draw a panel per layer with a line over epochs per series: the mean of its rows, with a band for their range.

    Args:
      table: columns layer, epoch, `series` and `value`; layers and series are drawn in the order of the rows.
      path, ax: as in all figures, see `symjax.plots`.
      series: name of the column of series.
      value: name of the column of values.
      styles: {series: (label, color)}.
      label: label of the axis of values.
      title: title of the figure.

    Returns:
      The figure; None for an empty table.
    """
    if table.empty:
        return None
    layers, names = list(table.layer.unique()), list(table[series].unique())
    with matplotlib.rc_context(PAPER):
        figure, grid = panel_grid(len(layers), 2.4, 2.1, ax=ax, margins=(0.8, 1.1), sharex=True, sharey=True)
        for axes, layer in zip(grid.flat, layers, strict=False):
            axes.set_title(layer, fontsize=9)
            axes.grid(True, color="#dddddd", linewidth=0.6)
            for name in names:
                rows = table[(table.layer == layer) & (table[series] == name)]
                if rows.empty:
                    continue
                by_epoch = rows.groupby("epoch")[value]
                series_label, color = styles[name]
                marker = "o" if by_epoch.ngroups == 1 else None  # a line through one point is invisible
                axes.plot(by_epoch.agg(mean), color=color, linewidth=1.4, marker=marker, label=series_label)
                axes.fill_between(by_epoch.min().index, by_epoch.min(), by_epoch.max(), color=color, alpha=0.15, lw=0)
        for axes in bottom_axes(grid):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        return finish(figure, path, ax, grid, title=title, ylabel=label, legend={})
