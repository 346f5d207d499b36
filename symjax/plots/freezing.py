"""Freeze training compared with normal training."""

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from symjax.plots.style import PAPER, check_table, finish, make_axes, palette
from symjax.tables import over_networks


def freezing(metrics: pd.DataFrame, cost: pd.DataFrame, path: str | Path | None = None, *, ax=None) -> Figure:
    """Draw validation accuracy over epochs, and the cost of a step relative to normal training; a color per schedule.

    Args:
      metrics: columns schedule, seed, epoch and validation_accuracy (in [0, 1]); schedules are drawn in the order of
        the rows.
      cost: columns schedule, epoch (from 0, at its beginning) and share (of the operations of a normal step).
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> rows = [("normal", 1, 0.5), ("normal", 2, 0.8), ("2/4", 1, 0.5), ("2/4", 2, 0.7)]
      >>> metrics = pd.DataFrame(rows, columns=["schedule", "epoch", "validation_accuracy"]).assign(seed=0)
      >>> cost = pd.DataFrame({"schedule": ["normal", "2/4", "2/4"], "epoch": [0, 0, 1], "share": [1.0, 1.0, 0.6]})
      >>> plots.freezing(metrics, cost).axes[0].get_ylabel()
      'validation accuracy (%)'
    """
    check_table(path, metrics, "schedule seed", "epoch validation_accuracy", name="metrics")
    check_table(path, cost, "schedule", "epoch share", name="cost")
    schedules = list(metrics.schedule.unique())
    with matplotlib.rc_context(PAPER):
        figure, grid = make_axes(ax, (1, 2), (7, 3.2))
        left, right = grid.flat
        for color, schedule in zip(palette("colorblind", len(schedules)), schedules, strict=True):
            grouped = 100 * metrics[metrics.schedule == schedule].set_index("epoch").validation_accuracy
            mean, deviation = (getattr(grouped.groupby("epoch"), name)() for name in ("mean", "std"))
            deviation = deviation.fillna(0)
            left.plot(mean.index, mean, color=color, linewidth=1.4, label=schedule)
            left.fill_between(mean.index, mean - deviation, mean + deviation, color=color, alpha=0.15, lw=0)
            steps = cost[cost.schedule == schedule]
            edges = [*steps.epoch, steps.epoch.iloc[-1] + 1]
            right.stairs(100 * steps.share, edges, color=color, linewidth=1.6, baseline=None)
        left.set(xlabel="epoch", ylabel="validation accuracy (%)")
        right.set(xlabel="epoch", ylabel="operations of a step (% of normal)", ylim=(0, 105))
        members = metrics.seed.nunique()
        over = over_networks(members, "mean and standard deviation")
        for axes in (left, right):
            axes.grid(True, color="#dddddd", linewidth=0.6)
        title = f"Freeze training compared with normal training ({over})"
        return finish(figure, path, ax, grid, title=title, legend={})
