"""Panels in a grid, and learning curves in them: a panel per layer, a line per series."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from symjax.plots.style import PAPER, axes_of, finish
from symjax.summary import mean


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
    """A figure and its grid of at least `count` axes, at most `columns` across; what is over is hidden.

    Where `ax` is given, these axes in one row.

    Args:
      count: of panels.
      width, height: of each, in inches.
      ax: as of all figures, see `symjax.plots`.
      columns: at most.
      margins: what the figure has besides, across and down.
      options: of `Figure.subplots`.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (width * columns + margins[0], height * rows + margins[1])
    figure, grid = axes_of(ax, (rows, columns), size, count, **options)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, grid


def lowest(grid: np.ndarray) -> list[Axes]:
    """Of each column of a grid the lowest axes that are not hidden, which get the labels of their ticks."""
    found = [next(axes for axes in column[::-1] if axes.get_visible()) for column in grid.T]
    for axes in found:
        axes.tick_params(labelbottom=True)
    return found


def curve_panels(
    table: pd.DataFrame,
    path: Path | None,
    ax: Any,
    *,
    series: str,
    value: str,
    styles: Mapping[str, tuple[str, Any]],
    label: str,
    title: str,
) -> Figure | None:
    """Draws a panel per layer and in it a line per series over epochs: the mean of its rows, and their range.

    Args:
      table: columns layer, epoch, `series` and `value`, in the order in which layers and series are to stand.
      path, ax: as of all figures, see `symjax.plots`.
      series, value: names of columns.
      styles: from each series to its label and colour.
      label: of the values' axis.
      title: of the figure.

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
                chosen = table[(table.layer == layer) & (table[series] == name)]
                if chosen.empty:
                    continue
                by_epoch = chosen.groupby("epoch")[value]
                spelled, colour = styles[name]
                axes.plot(by_epoch.agg(mean), color=colour, linewidth=1.4, label=spelled)
                axes.fill_between(by_epoch.min().index, by_epoch.min(), by_epoch.max(), color=colour, alpha=0.15, lw=0)
        for axes in lowest(grid):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        return finish(figure, path, ax, grid, title=title, ylabel=label, legend={})
