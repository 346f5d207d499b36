"""Hyperparameters chosen by validation, and penalty against sparsity."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from symjax.checks import scalar, sequence
from symjax.plots.panels import bottom_axes, panel_grid
from symjax.plots.stitching import family_styles
from symjax.plots.style import PAPER, check_table, finish
from symjax.tables import mean


def chosen_values(chosen: pd.DataFrame, values: Sequence[float], path: str | Path | None = None, *, ax=None) -> Figure:
    """Draw a histogram per layer: the number of pairs for which each value was chosen.

    Args:
      chosen: columns pair, layer and hyperparameter, one row per pair and layer.
      values: the possible values, in the order of the bars.
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> chosen = pd.DataFrame({"pair": ["0-1", "1-0"], "layer": ["relu1", "relu1"], "hyperparameter": [0.1, 0.1]})
      >>> figure = plots.chosen_values(chosen, (0.01, 0.1))
      >>> [int(bar.get_height()) for bar in figure.axes[0].patches]
      [0, 2]
    """
    values = sequence("values", values, "numbers")
    for value in values:
        scalar("values", value, "numbers", lambda value: value == value)
    check_table(path, chosen, "pair layer", "hyperparameter", name="chosen")
    layers = list(chosen.layer.unique())
    with matplotlib.rc_context(PAPER):
        figure, grid = panel_grid(len(layers), 2.0, 1.8, ax=ax, margins=(0.6, 1.1), sharey=True)
        for axes, layer in zip(grid.flat, layers, strict=False):
            counts = chosen[chosen.layer == layer].hyperparameter.value_counts()
            axes.bar(range(len(values)), [counts.get(value, 0) for value in values], width=0.8, color="#d7301f")
            axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
            axes.set_title(layer, fontsize=9)
            axes.tick_params(axis="x", length=0, labelbottom=True)
            axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
            axes.yaxis.grid(True, color="#dddddd", linewidth=0.6)
        pairs = chosen.pair.nunique()
        title = f"Chosen values of {pairs} pairs" if pairs > 1 else "Chosen value of one pair"
        title = f"{title}, layer by layer"
        return finish(figure, path, ax, grid, title=title, xlabel="value chosen by validation", ylabel="pairs")


def sparsity(table: pd.DataFrame, path: str | Path | None = None, *, ax=None) -> Figure:
    """Draw a panel per layer with the penalty against the share of zero entries: a line for lasso, points for others.

    Points are means over pairs, with standard deviations (n - 1) in both directions if there are several pairs. All
    panels have the same scale.

    Args:
      table: rows as in results.csv.
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> rows = [("lasso:0.1", 0.3, 5.0), ("lasso:1", 0.7, 12.0), ("birkhoff", 0.9, 14.0)]
      >>> table = pd.DataFrame(rows, columns=["family", "sparsity", "penalty"]).assign(pair="0-1", layer="relu1")
      >>> plots.sparsity(table).axes[0].get_title()
      'relu1'
    """
    check_table(path, table, "pair layer family", "sparsity penalty")
    layers, families = list(table.layer.unique()), list(table.family.unique())
    styles = family_styles(families)
    lasso = [family for family in families if family.startswith("lasso")]
    several = table.pair.nunique() > 1
    with matplotlib.rc_context(PAPER):
        figure, grid = panel_grid(len(layers), 2.6, 2.3, ax=ax, margins=(0.6, 1.1), sharex=True, sharey=True)
        for axes, layer in zip(grid.flat, layers, strict=False):
            grouped = table[table.layer == layer].groupby("family")[["sparsity", "penalty"]]
            means, deviation = grouped.agg(mean), grouped.std()
            line = means.loc[lasso]
            axes.plot(line.sparsity, line.penalty, color=styles[lasso[0]][1] if lasso else None, linewidth=1, zorder=1)
            for family in families:
                name, color = styles[family]
                x, y = means.loc[family]
                dx, dy = deviation.loc[family] if several else (None, None)
                marker = "o" if family in lasso else "*" if family.startswith("birkhoff") else "s"
                size = 10 if marker == "*" else 5
                error_color = styles[lasso[0]][1] if family in lasso else color  # light colors would be invisible
                style = {
                    "color": color,
                    "ecolor": error_color,
                    "mec": "#222222",
                    "mew": 0.5,
                    "elinewidth": 0.7,
                    "capsize": 1.5,
                }
                axes.errorbar(x, y, dy, dx, fmt=marker, ms=size, label=name, **style)
            axes.set_title(layer, fontsize=9)
            axes.set_xlim(-0.04, 1.04)
            axes.tick_params(labelleft=True)
            axes.axhline(0, color="#222222", linewidth=0.6, zorder=0)
            axes.grid(True, color="#dddddd", linewidth=0.6)
        for axes in bottom_axes(grid):
            axes.set_xlabel("share of zero entries")
        pairs = f"mean and standard deviation over {table.pair.nunique()} pairs" if several else "one pair"
        title, label = f"Penalty of sparse stitches at each layer ({pairs})", "stitching penalty (percentage points)"
        return finish(figure, path, ax, grid, title=title, ylabel=label, legend={})
