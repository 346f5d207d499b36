"""Grouped bars: what is measured at every layer in several ways, many times over."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from symjax.summary import mean


def grouped_bars(
    axes: Axes, table: pd.DataFrame, *, series: str, value: str, styles: Mapping[str, tuple[str, Any]]
) -> None:
    """Draws a group per layer and in it a bar per series: the mean of its rows, with their deviation (n - 1).

    Without error bars where every bar stands for one row.

    Args:
      axes: to draw on.
      table: columns layer, `series` and `value`, in the order in which layers and series are to stand.
      series, value: names of columns.
      styles: from each series to its label and colour.
    """
    layers, names = list(table.layer.unique()), list(table[series].unique())
    grouped = table.groupby([series, "layer"])[value]
    means, deviation = grouped.agg(mean).unstack(), grouped.std().fillna(0).unstack()
    width, positions = 0.86 / len(names), np.arange(len(layers))
    for i, name in enumerate(names):
        label, colour = styles[name]
        axes.bar(
            positions + (i - (len(names) - 1) / 2) * width,
            means.loc[name, layers],
            width=0.92 * width,
            yerr=deviation.loc[name, layers] if (grouped.size() > 1).any() else None,
            label=label,
            color=colour,
            error_kw={"elinewidth": 0.8, "capsize": 1.6, "capthick": 0.8, "ecolor": "#222222"},
        )
    axes.axhline(0, color="#222222", linewidth=0.8)
    axes.set_xticks(positions, layers, rotation=60 if len(layers) > 8 else 0)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(layers) - 0.45)
    axes.yaxis.grid(True, color="#dddddd", linewidth=0.6)


def width_of_bars(layers: int, series: int) -> float:
    """Inches that grouped bars take, about."""
    return 0.16 * layers * (series + 2) + 1
