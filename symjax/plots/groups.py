"""Distances within and across groups of networks, layer by layer."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symjax.plots.panels import panel_grid
from symjax.plots.similarity import measure_title
from symjax.plots.style import PAPER, check_table, finish

COLORS = {"generalizing": "#2171b5", "memorizing": "#d7301f", "across": "#6b6b6b"}
MARKERS = {"generalizing": "o", "memorizing": "s", "across": "^"}


def group_distances(means: pd.DataFrame, path: str | Path | None = None, *, ax=None) -> Figure:
    """Draw a panel per measure: the mean distance of pairs within each group and across groups, over layers.

    Args:
      means: columns measure, layer, pairs ("generalizing", "memorizing" or "across"), mean, low and high, the ends of
        the interval; measures and layers are drawn in the order of the rows.
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> means = pd.DataFrame({"pairs": ["generalizing", "memorizing", "across"], "mean": [0.1, 0.4, 0.5]})
      >>> means = means.assign(measure="svcca", layer="relu1", low=means["mean"] - 0.05, high=means["mean"] + 0.05)
      >>> plots.group_distances(means).axes[0].get_ylabel()
      'SVCCA distance'
    """
    check_table(path, means, "measure layer pairs", "mean low high", name="means")
    measures, layers = list(means.measure.unique()), list(means.layer.unique())
    with matplotlib.rc_context(PAPER):
        width = max(3.1, 0.3 * len(layers) + 1)
        figure, grid = panel_grid(len(measures), width, 2.7, ax=ax, columns=3, margins=(0.0, 0.5))
        for axes, measure in zip(grid.flat, measures, strict=False):
            for i, kind in enumerate(COLORS):
                rows = means[(means.measure == measure) & (means.pairs == kind)].set_index("layer").loc[layers]
                errors = [rows["mean"] - rows.low, rows.high - rows["mean"]]
                axes.errorbar(
                    np.arange(len(layers)) + 0.08 * (i - 1),
                    rows["mean"].to_numpy(float),
                    yerr=np.stack(errors).astype(float),
                    color=COLORS[kind],
                    marker=MARKERS[kind],
                    markersize=4,
                    linewidth=1.4,
                    elinewidth=0.9,
                    capsize=2,
                    label=kind,
                )
            axes.set_xticks(np.arange(len(layers)), layers, rotation=60 if len(layers) > 8 else 0)
            axes.set_xlim(-0.4, len(layers) - 0.6)
            axes.set_ylim(bottom=0)
            axes.set_ylabel(f"{measure_title(measure)} distance")
            axes.yaxis.grid(True, color="#dddddd", linewidth=0.6)
        title = "Equal layers of two networks of one group, and of different groups (mean, 95 % interval)"
        return finish(figure, path, ax, grid, title=title, legend={})
