"""Panels in a grid, and learning curves in them: a panel per layer, a line per series."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symjax.plots.style import PAPER, legend_below, save


def panel_grid(
    count: int, width: float, height: float, *, columns: int = 4, margins: tuple[float, float] = (0.0, 0.0), **options
) -> tuple[Figure, np.ndarray]:
    """A figure and its grid of at least `count` axes, at most `columns` across; what is over is hidden.

    Args:
      count: of panels.
      width, height: of each, in inches.
      columns: at most.
      margins: what the figure has besides, across and down.
      options: of `Figure.subplots`.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns + margins[0], height * rows + margins[1]), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, grid


def curve_panels(
    table: pd.DataFrame, path: Path, *, series: str, value: str, styles: Mapping[str, tuple[str, Any]], title: str
) -> Figure | None:
    """Draws a panel per layer and in it a line per series over epochs: the mean of its rows, and their range.

    Args:
      table: columns layer, epoch, `series` and `value`, in the order in which layers and series are to stand.
      path: without a suffix; `.png` and `.pdf` are written.
      series, value: names of columns.
      styles: from each series to its label and colour.
      title: of the values' axis.

    Returns:
      The figure that was written; None for an empty table.
    """
    if table.empty:
        return None
    layers, names = list(table.layer.unique()), list(table[series].unique())
    with matplotlib.rc_context(PAPER):
        figure, grid = panel_grid(len(layers), 2.4, 2.1, margins=(0.8, 0.9), sharex=True, sharey=True)
        for axes, layer in zip(grid.flat, layers, strict=False):
            axes.set_title(layer, fontsize=9)
            axes.grid(True, color="#dddddd", linewidth=0.6)
            for name in names:
                chosen = table[(table.layer == layer) & (table[series] == name)]
                if chosen.empty:
                    continue
                by_epoch = chosen.groupby("epoch")[value]
                label, colour = styles[name]
                axes.plot(by_epoch.mean(), color=colour, linewidth=1.4, label=label)
                axes.fill_between(by_epoch.min().index, by_epoch.min(), by_epoch.max(), color=colour, alpha=0.15, lw=0)
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        figure.supylabel(title, fontsize=9)
        legend_below(figure)
        save(figure, path)
    return figure
