"""Rotation penalties as grouped bars, and learning curves of the retraining."""

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from symjax.plots.bars import bars_width, grouped_bars
from symjax.plots.panels import curve_panels
from symjax.plots.style import PAPER, check_table, finish, make_axes
from symjax.tables import mean

# The label and color of each kind of matrix.
KIND_STYLES = {
    "none": ("none (retrained alone)", "#b8b8b8"),
    "permutation": ("permutation", "#f6c667"),
    "g_relu": ("$G_{\\mathrm{ReLU}}$", "#d7301f"),
    "orthogonal": ("orthogonal", "#6a51a3"),
}


def rotations(table: pd.DataFrame, path: str | Path | None = None, *, ax=None) -> Figure:
    """Draw a panel per model with grouped bars: mean penalty of each layer and kind, with standard deviation (n - 1).

    Args:
      table: rows as in results.csv; models, layers and kinds are drawn in the order of the rows.
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> rows = [("permutation", 0, 0.1), ("permutation", 1, 0.3), ("orthogonal", 0, 4.0), ("orthogonal", 1, 5.0)]
      >>> table = pd.DataFrame(rows, columns=["kind", "repeat", "penalty"])
      >>> table = table.assign(model="mcnn", layer="conv1", seed=0, baseline=90.0)
      >>> plots.rotations(table).axes[0].get_title()
      'mcnn (baseline 90.0 %)'
    """
    check_table(path, table, "model layer seed kind repeat", "penalty baseline")
    models = list(table.model.unique())
    width = max(4.2, bars_width(table.layer.nunique(), table.kind.nunique()))
    with matplotlib.rc_context(PAPER):
        figure, grid = make_axes(ax, (1, len(models)), (max(5.5, width * len(models)), 3.8), sharey=True)
        for axes, model in zip(grid.flat, models, strict=True):
            rows = table[table.model == model]
            grouped_bars(axes, rows, series="kind", value="penalty", styles=KIND_STYLES)
            axes.set_title(f"{model} (baseline {mean(rows.drop_duplicates('seed').baseline):.1f} %)", fontsize=9)
        grid[0, 0].set_ylabel("rotation penalty (percentage points)")
        over, several = describe_draws(table)
        over = f"mean and standard deviation over {over}" if several else over
        title = f"Accuracy lost to a fixed random matrix before an activation\n({over})"
        return finish(figure, path, ax, grid, title=title, legend={"handlelength": 1.1})


def describe_draws(table: pd.DataFrame) -> tuple[str, bool]:
    """Return a text that counts the matrices and members behind a mean, and whether there are several."""
    repeats, members = (int(table[column].nunique()) for column in ("repeat", "seed"))
    matrices = "one matrix" if repeats == 1 else f"{repeats} matrices"
    description = matrices if members == 1 else f"{matrices} in each of {members} members"
    return description, repeats * members > 1


def rotation_curves(table: pd.DataFrame, path: str | Path | None = None, *, ax=None) -> Figure | None:
    """Draw a panel per model and layer with validation accuracy over epochs: mean and range of each kind.

    Args:
      table: rows as in curves.csv; models, layers and kinds are drawn in the order of the rows.
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure; None for an empty table.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> table = pd.DataFrame({"epoch": [1, 2, 1, 2], "val_accuracy": [80.0, 88.0, 70.0, 75.0]})
      >>> table["kind"] = ["permutation", "permutation", "orthogonal", "orthogonal"]
      >>> table = table.assign(model="mcnn", layer="conv1", seed=0, repeat=0)
      >>> [axes.get_title() for axes in plots.rotation_curves(table).axes]
      ['conv1']
    """
    check_table(path, table, "model layer seed kind repeat", "epoch val_accuracy")
    named = table.assign(layer=table.model + ", " + table.layer) if table.model.nunique() > 1 else table
    over, several = describe_draws(table)
    return curve_panels(
        named,
        path,
        ax,
        series="kind",
        value="val_accuracy",
        styles=KIND_STYLES,
        label="validation accuracy (%)",
        title=f"Retraining behind a fixed random matrix ({f'mean and range over {over}' if several else over})",
    )
