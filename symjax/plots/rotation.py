"""Rotation penalties as grouped bars, and the learning curves of what was retrained."""

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from symjax.plots.bars import grouped_bars, width_of_bars
from symjax.plots.panels import curve_panels
from symjax.plots.style import PAPER, axes_of, check, finish
from symjax.summary import mean

# How a kind of matrix is called in a figure, and its colour.
KINDS = {
    "none": ("none (retrained alone)", "#b8b8b8"),
    "permutation": ("permutation", "#f6c667"),
    "g_relu": ("$G_{\\mathrm{ReLU}}$", "#d7301f"),
    "orthogonal": ("orthogonal", "#6a51a3"),
}


def rotations(table: pd.DataFrame, path: Path | None = None, *, ax=None) -> Figure:
    """Grouped bars, a panel per model: a group per layer, a bar per kind, the mean penalty and its deviation (n - 1).

    Args:
      table: rows as of results.csv, in the order in which models, layers and kinds are to stand.
      path, ax: as of all figures, see `symjax.plots`.

    Returns:
      The figure.
    """
    check(path, table, "model layer seed kind repeat", "penalty baseline")
    models = list(table.model.unique())
    width = max(4.2, width_of_bars(table.layer.nunique(), table.kind.nunique()))
    with matplotlib.rc_context(PAPER):
        figure, grid = axes_of(ax, (1, len(models)), (max(5.5, width * len(models)), 3.8), sharey=True)
        for axes, model in zip(grid.flat, models, strict=True):
            rows = table[table.model == model]
            grouped_bars(axes, rows, series="kind", value="penalty", styles=KINDS)
            axes.set_title(f"{model} (baseline {mean(rows.drop_duplicates('seed').baseline):.1f} %)", fontsize=9)
        grid[0, 0].set_ylabel("rotation penalty (percentage points)")
        over, several = draws(table)
        over = f"mean and standard deviation over {over}" if several else over
        title = f"Accuracy lost to a fixed random matrix before an activation\n({over})"
        return finish(figure, path, ax, grid, title=title, legend={"handlelength": 1.1})


def draws(table: pd.DataFrame) -> tuple[str, bool]:
    """What a mean over rows of one model, layer and kind goes over, in words, and whether it is of more than one."""
    repeats, members = (int(table[column].nunique()) for column in ("repeat", "seed"))
    matrices = "one matrix" if repeats == 1 else f"{repeats} matrices"
    words = matrices if members == 1 else f"{matrices} in each of {members} members"
    return words, repeats * members > 1


def rotation_curves(table: pd.DataFrame, path: Path | None = None, *, ax=None) -> Figure | None:
    """Validation accuracy over epochs: a panel per model and layer, a line per kind, its mean and range."""
    check(path, table, "model layer seed kind repeat", "epoch val_accuracy")
    named = table.assign(layer=table.model + ", " + table.layer) if table.model.nunique() > 1 else table
    over, several = draws(table)
    return curve_panels(
        named,
        path,
        ax,
        series="kind",
        value="val_accuracy",
        styles=KINDS,
        label="validation accuracy (%)",
        title=f"Retraining behind a fixed random matrix ({f'mean and range over {over}' if several else over})",
    )
