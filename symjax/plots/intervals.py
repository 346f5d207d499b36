"""Estimates with intervals, one below the other."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symjax.checks import text
from symjax.plots.style import PAPER, check_table, finish, make_axes


def intervals(
    table: pd.DataFrame, path: str | Path | None = None, *, ax=None, name: str, value: str, xlabel: str, title: str = ""
) -> Figure:
    """Draw a point with its interval for each row, the first row at the top.

    Args:
      table: columns `name`, `value`, low and high.
      path, ax: as in all figures, see `symjax.plots`.
      name, value: names of columns.
      xlabel: label of the horizontal axis.
      title: title of the figure.

    Returns:
      The figure.

    Raises:
      InputError: columns are missing or have no numbers.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> table = pd.DataFrame({"measure": ["cka", "svcca"], "rank": [1.0, 2.0], "low": [1.0, 1.5], "high": [1.5, 2.0]})
      >>> figure = plots.intervals(table, name="measure", value="rank", xlabel="rank")
      >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
      ['cka', 'svcca']
    """
    for argument, given in {"name": name, "value": value, "xlabel": xlabel}.items():
        text(argument, given)
    text("title", title, empty=True)
    check_table(path, table, name, f"{value} low high")
    centers, places = table[value].to_numpy(float), np.arange(len(table))
    with matplotlib.rc_context(PAPER):
        figure, grid = make_axes(ax, (1, 1), (4.6, 0.16 * len(table) + 1))
        axes = grid[0, 0]
        axes.hlines(places, table.low, table.high, color="#4477aa", alpha=0.5, linewidth=2)
        axes.plot(centers, places, "o", color="#4477aa", markersize=3.5)
        axes.set_yticks(places, table[name].astype(str))
        axes.set_ylim(len(table) - 0.4, -0.6)
        axes.xaxis.grid(True, color="#dddddd", linewidth=0.6)
        return finish(figure, path, ax, grid, title=title, xlabel=xlabel)
