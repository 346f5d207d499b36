"""Curves of means with confidence intervals."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from symjax.checks import flag, one_of, sequence, short, text
from symjax.errors import InputError
from symjax.plots.panels import bottom_axes, panel_grid
from symjax.plots.style import PAPER, check_table, distinct_styles, finish, sequential_styles
from symjax.tables import mean_interval


def mean_curves(
    table: pd.DataFrame,
    path: Path | None = None,
    *,
    ax=None,
    x: str,
    y: str = "value",
    line: str,
    panel: str,
    xlabel: str | None = None,
    ylabel: str | None = None,
    title: str = "",
    ordered: bool = False,
    sharey: bool = True,
    interval: tuple[str, str] | None = None,
    xscale: str = "linear",
) -> Figure:
    """Draw a panel per value of `panel` with a curve over `x` per value of `line`.

    Curves are means of the rows that agree in panel, line and x; bands are 95 % confidence intervals by Student's t,
    cut where they exceed the range of the curves, or those of columns of the table.

    Args:
      table: columns `x`, `y`, `line` and `panel`; panels and lines are drawn in the order of the rows.
      path, ax: as in all figures, see `symjax.plots`.
      x, y, line, panel: names of columns.
      xlabel, ylabel: labels of the axes, by default the names of the columns.
      title: title of the figure.
      ordered: whether the lines have an order, which their colors then show.
      sharey: whether all panels have the same vertical axis.
      interval: names of columns with the ends of the bands, for a table with one row for each point of a curve.
      xscale: "linear" or "log", with ticks at powers of 2.

    Returns:
      The figure.

    Raises:
      InputError: columns are missing or have no numbers.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> table = pd.DataFrame({"k": [1, 2, 1, 2], "value": [50.0, 90.0, 54.0, 94.0]})
      >>> table = table.assign(method="pca", layer="relu1")
      >>> labels = {"xlabel": "directions", "ylabel": "accuracy (%)"}
      >>> figure = plots.mean_curves(table, x="k", line="method", panel="layer", **labels)
      >>> figure.axes[0].lines[0].get_ydata().tolist()
      [52.0, 92.0]
    """
    for name, value in {"x": x, "y": y, "line": line, "panel": panel}.items():
        text(name, value)
    xlabel, ylabel = x if xlabel is None else xlabel, y if ylabel is None else ylabel
    for name, value in {"xlabel": xlabel, "ylabel": ylabel, "title": title}.items():
        text(name, value, empty=True)
    ends = () if interval is None else sequence("interval", interval, "names of two columns")
    if interval is not None and len(ends) != 2:
        raise InputError(f"interval: got {short(interval)}, expected names of two columns")
    check_table(path, table, f"{line} {panel}", " ".join((x, y, *map(str, ends))))
    ordered, sharey = flag("ordered", ordered), flag("sharey", sharey)
    one_of("xscale", xscale, ("linear", "log"))
    panels, lines = list(table[panel].unique()), list(table[line].unique())
    styles = sequential_styles(lines) if ordered else distinct_styles(lines)
    with matplotlib.rc_context(PAPER):
        figure, grid = panel_grid(len(panels), 2.6, 2.1, ax=ax, margins=(0.3, 0.7), sharey=sharey)
        curves = {}
        for axes, name in zip(grid.flat, panels, strict=False):
            for label, rows in table[table[panel] == name].groupby(line, sort=False):
                curves[name, label] = _points(rows, x, y, interval)
                axes.plot(*curves[name, label][:2], label=str(label), **styles[label])
            axes.set_title(str(name), fontsize=9)
            if xscale == "log":
                axes.set_xscale("log", base=2)
                axes.xaxis.set_major_formatter("{x:g}")
            else:
                axes.xaxis.set_major_locator(MaxNLocator(5, integer=bool((table[x] % 1 == 0).all())))
        limits = [axes.get_ylim() for axes in grid.flat]  # those of the curves, so that wide intervals are cut off
        for (name, label), (positions, _, low, high) in curves.items():
            axes = grid.flat[panels.index(name)]
            axes.fill_between(positions, low, high, color=styles[label]["color"], alpha=0.2, linewidth=0)
        for axes, limit in zip(grid.flat, limits, strict=True):
            if interval is None:
                axes.set_ylim(limit)
        for axes in bottom_axes(grid):
            axes.set_xlabel(xlabel)
        return finish(figure, path, ax, grid, title=title, ylabel=ylabel, legend={})


def _points(rows: pd.DataFrame, x: str, y: str, interval: tuple[str, str] | None) -> np.ndarray:
    """Return x, mean, low and high of a curve, (4, points)."""
    if interval is not None:
        return rows.sort_values(x)[[x, y, *interval]].to_numpy(float).T
    return np.array([(position, *mean_interval(values)) for position, values in rows.groupby(x)[y]]).T
