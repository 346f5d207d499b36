"""Figure of the concepts that units detect along a path of rotations."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from symjax.plots.style import PAPER, check_table, distinct_styles, finish, make_axes
from symjax.tables import mean_interval

VALUES = {"detectors": "unique detectors", "mean_iou": "mean best IoU"}


def detectors(table: pd.DataFrame, path: str | Path | None = None, *, ax=None) -> Figure:
    """Draw unique detectors (top) and best IoU (bottom) against the power a of a rotation Q^a.

    There is a column for each layer. Lines are means over members. With two members or more, bands are 95 % t
    intervals.

    Args:
      table: rows as in results.csv of `experiments.dissect`; rows without an exponent are ignored.
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> table = pd.DataFrame({"exponent": [0.0, 1.0], "detectors": [8, 6], "mean_iou": [0.1, 0.05]})
      >>> figure = plots.detectors(table.assign(variant="resnet20", layer="block3.1", seed=0))
      >>> figure.axes[0].lines[0].get_ydata().tolist()
      [8.0, 6.0]
    """
    check_table(path, table, "variant layer seed", f"exponent {' '.join(VALUES)}")
    table = table[table.exponent.notna()]
    check_table(path, table, "exponent")
    layers, styles = list(table.layer.unique()), distinct_styles(table.variant.unique())
    with matplotlib.rc_context(PAPER):
        size = (max(4.2, 2.9 * len(layers)), 4.6)
        figure, grid = make_axes(ax, (len(VALUES), len(layers)), size, sharex=True)
        for row, (value, label) in zip(grid, VALUES.items(), strict=True):
            for axes, layer in zip(row, layers, strict=True):
                for variant, rows in table[table.layer == layer].groupby("variant", sort=False):
                    by_power = [(a, *mean_interval(of_power[value])) for a, of_power in rows.groupby("exponent")]
                    powers, centers, low, high = np.array(by_power).T
                    axes.plot(powers, centers, label=variant, **styles[variant])
                    axes.fill_between(powers, low, high, color=styles[variant]["color"], alpha=0.15, linewidth=0)
                axes.yaxis.grid(True, color="#dddddd", linewidth=0.6)
                axes.set_ylim(bottom=0)
            row[0].set_ylabel(label)
        for above, below, layer in zip(*grid, layers, strict=True):
            above.set_title(layer, fontsize=9)
            above.yaxis.set_major_locator(MaxNLocator(integer=True))
            below.set_xlabel("power a of the rotation")
        members = table.seed.nunique()
        over = f"mean and 95 % interval over {members} networks" if members > 1 else "one network"
        title = f"Units that detect concepts in the basis Q$^a$\n({over})"
        return finish(figure, path, ax, grid, title=title, legend={})
