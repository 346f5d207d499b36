"""Grouped bars: several series of repeated measurements at every layer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from symjax.tables import mean


def grouped_bars(
    axes: Axes, table: pd.DataFrame, *, series: str, value: str, styles: Mapping[str, tuple[str, Any]]
) -> dict[str, np.ndarray]:
    """Draw a group of bars per layer and a bar per series: the mean of its rows with standard deviation (n - 1).

    There are no error bars if every bar has a single row. A group with a NaN has no bar (seaborn would ignore the NaN).

    Args:
      axes: the axes to draw on.
      table: columns layer, `series` and `value`; layers and series are drawn in the order of the rows.
      series: name of the column of series.
      value: name of the column of values.
      styles: {series: (label, color)}.

    Returns:
      {series: the centers of its bars, in the order of the layers}.
    """
    layers, names = list(table.layer.unique()), list(table[series].unique())
    grouped = table.groupby([series, "layer"])[value]
    means, deviation = grouped.agg(mean).unstack(), grouped.std().fillna(0).unstack()
    width, positions, centers = 0.86 / len(names), np.arange(len(layers)), {}
    for i, name in enumerate(names):
        label, color = styles[name]
        centers[name] = positions + (i - (len(names) - 1) / 2) * width
        axes.bar(
            centers[name],
            means.loc[name, layers],
            width=0.92 * width,
            yerr=deviation.loc[name, layers] if (grouped.size() > 1).any() else None,
            label=label,
            color=color,
            error_kw={"elinewidth": 0.8, "capsize": 1.6, "capthick": 0.8, "ecolor": "#222222"},
        )
    axes.axhline(0, color="#222222", linewidth=0.8)
    axes.set_xticks(positions, layers, rotation=60 if len(layers) > 8 else 0)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(layers) - 0.45)
    axes.yaxis.grid(True, color="#dddddd", linewidth=0.6)
    return centers


def bars_width(layers: int, series: int) -> float:
    """Return the approximate width of grouped bars in inches."""
    return 0.16 * layers * (series + 2) + 1
