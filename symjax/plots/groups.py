"""Distances within and across groups of networks, layer by layer."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symjax.plots.panels import panel_grid
from symjax.plots.similarity import NAMES
from symjax.plots.style import PAPER, check, finish

COLOURS = {"generalizing": "#2171b5", "memorizing": "#d7301f", "across": "#6b6b6b"}
MARKERS = {"generalizing": "o", "memorizing": "s", "across": "^"}


def groups(means: pd.DataFrame, path: Path | None = None, *, ax=None) -> Figure:
    """A panel per measure: over layers, the mean distance of pairs within each group and across, with its interval.

    Args:
      means: measure, layer, pairs ("generalizing", "memorizing" or "across"), mean, low, high, in the order in which
        measures and layers are to stand.
      path, ax: as of all figures, see `symjax.plots`.

    Returns:
      The figure.
    """
    check(path, means, "measure layer pairs", "mean low high", name="means")
    measures, layers = list(means.measure.unique()), list(means.layer.unique())
    with matplotlib.rc_context(PAPER):
        width = max(3.1, 0.3 * len(layers) + 1)
        figure, grid = panel_grid(len(measures), width, 2.7, ax=ax, columns=3, margins=(0.0, 0.5))
        for axes, measure in zip(grid.flat, measures, strict=False):
            for i, kind in enumerate(COLOURS):
                chosen = means[(means.measure == measure) & (means.pairs == kind)].set_index("layer").loc[layers]
                reach = [chosen["mean"] - chosen.low, chosen.high - chosen["mean"]]
                axes.errorbar(
                    np.arange(len(layers)) + 0.08 * (i - 1),
                    chosen["mean"].to_numpy(float),
                    yerr=np.stack(reach).astype(float),
                    color=COLOURS[kind],
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
            axes.set_ylabel(f"{NAMES.get(measure, measure)} distance")
            axes.yaxis.grid(True, color="#dddddd", linewidth=0.6)
        title = "Equal layers of two networks of a group, and of one of each (mean, 95 % interval)"
        return finish(figure, path, ax, grid, title=title, legend={})
