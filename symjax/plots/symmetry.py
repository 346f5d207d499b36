"""Figures of the symmetry experiment: commutation defects, homogeneity of GELU, and stitches that undo symmetries."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from symjax.checks import scalar
from symjax.plots.stitching import family_styles
from symjax.plots.style import PAPER, check_table, finish, heatmap, make_axes, palette


def defects(table: pd.DataFrame, path: str | Path | None = None, *, ax=None) -> Figure:
    """Draw a heat map of commutation defects: activations by kinds of matrices; members of the group are framed.

    Args:
      table: columns activation, matrix, member (whether the matrix is in the intertwiner group of the activation) and
        defect, drawn in the order of the rows. Of several draws, the largest defect of members and the smallest defect
        of other matrices is shown.
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> rows = [("permutation", True, 1e-16), ("orthogonal", False, 0.3)]
      >>> table = pd.DataFrame(rows, columns=["matrix", "member", "defect"]).assign(activation="relu")
      >>> figure = plots.defects(table)
      >>> [text.get_text() for text in figure.axes[0].texts]
      ['1e-16', '3e-01']
    """
    check_table(path, table, "activation matrix", "member defect")
    activations, kinds = list(table.activation.unique()), list(table.matrix.unique())
    worst = worst_defects(table)
    values = worst.defect.unstack("matrix").loc[activations, kinds]
    member = worst.member.unstack("matrix").loc[activations, kinds]
    with matplotlib.rc_context(PAPER):
        figure, grid = make_axes(ax, (1, 1), (1.05 * len(kinds) + 1.9, 0.34 * len(activations) + 1.5))
        axes = grid[0, 0]
        heatmap(
            np.maximum(values, 1e-17),
            ax=axes,
            norm=LogNorm(1e-16, 1),
            cmap="viridis",
            annot=values.map("{:.0e}".format),
            fmt="",
            annot_kws={"fontsize": 8},
            linewidths=0.5,
            cbar_kws={"label": "defect"},
        )
        for row, column in zip(*np.nonzero(member.to_numpy()), strict=True):
            axes.add_patch(Rectangle((column + 0.03, row + 0.05), 0.94, 0.9, fill=False, edgecolor="#d7301f", lw=1.4))
        axes.set(xlabel="", ylabel="")
        axes.set_xticklabels([kind.replace("_", "\n") for kind in kinds], rotation=0)
        axes.set_yticklabels([name.replace("_", " ") for name in activations], rotation=0)
        axes.tick_params(length=0)
        axes.set_title("|s(A x) - B s(x)| / |s(A x)| with the best B; framed: A in the group", fontsize=9, loc="left")
        return finish(figure, path, ax, grid)


def worst_defects(table: pd.DataFrame) -> pd.DataFrame:
    """Return member and worst defect by activation and matrix: the largest of members, the smallest of others."""
    grouped = table.groupby(["activation", "matrix"], sort=False)
    member = grouped.member.first()
    return pd.DataFrame({"member": member, "defect": grouped.defect.max().where(member, grouped.defect.min())})


def homogeneity(table: pd.DataFrame, slope: float, path: str | Path | None = None, *, ax=None) -> Figure:
    """Draw xi(l) = RMS(s(l X) - l s(X)) against l, a line per activation, and a line of the limiting slope.

    Args:
      table: columns activation, scale and xi.
      slope: the limiting slope for GELU.
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> table = pd.DataFrame({"activation": "gelu", "scale": [0.0, 1.0, 2.0], "xi": [0.0, 0.0, 0.2]})
      >>> len(plots.homogeneity(table, slope=0.1267).axes[0].lines)
      2
    """
    check_table(path, table, "activation", "scale xi")
    scalar("slope", slope, "a finite number", np.isfinite)
    with matplotlib.rc_context(PAPER):
        figure, grid = make_axes(ax, (1, 1), (4.6, 3.2))
        axes = grid[0, 0]
        colors = palette("colorblind", table.activation.nunique())
        for (name, rows), color in zip(table.groupby("activation", sort=False), colors, strict=True):
            axes.plot(rows.scale, rows.xi, color=color, linewidth=1.6, label=name.replace("_", " "))
        ends = np.array([0, table.scale.max()])
        axes.plot(ends, slope * ends, color="#777777", linewidth=1, linestyle="--", label=f"slope {slope:.5f}")
        axes.set(xlabel="scale $\\ell$", ylabel="$\\xi(\\ell)$ = RMS($s(\\ell X) - \\ell\\, s(X)$)")
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.set_xlim(*ends)
        axes.set_title("Deviation from positive homogeneity", fontsize=9, loc="left")
        axes.legend(frameon=False)
        return finish(figure, path, ax, grid)


def symmetry_penalties(table: pd.DataFrame, path: str | Path | None = None, *, ax=None) -> Figure:
    """Draw penalties by layer of networks stitched to their image under a symmetry: a dot per network and stitch.

    Args:
      table: columns seed, layer, family and penalty; layers and families are drawn in the order of the rows.
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> table = pd.DataFrame({"seed": [0, 1], "penalty": [0.1, -0.2]}).assign(layer="relu1", family="birkhoff")
      >>> plots.symmetry_penalties(table).axes[0].get_ylabel()
      'stitching penalty (percentage points)'
    """
    check_table(path, table, "seed layer family", "penalty")
    layers, families = list(table.layer.unique()), list(table.family.unique())
    styles = family_styles(families)
    with matplotlib.rc_context(PAPER):
        figure, grid = make_axes(ax, (1, 1), (max(4.6, 0.45 * len(layers) + 1.5), 3.2))
        axes = grid[0, 0]
        seeds = list(table.seed.unique())
        for family in families:
            name, color = styles[family]
            rows = table[table.family == family]
            shift = 0.5 * ((rows.seed.map(seeds.index) + 0.5) / len(seeds) - 0.5)
            axes.scatter(rows.layer.map(layers.index) + shift, rows.penalty, s=16, color=color, label=name, zorder=3)
        axes.axhline(0, color="#222222", linewidth=0.8)
        axes.set_xticks(range(len(layers)), layers, rotation=60 if len(layers) > 8 else 0)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.55, len(layers) - 0.45)
        axes.set_ylabel("stitching penalty (percentage points)")
        axes.yaxis.grid(True, color="#dddddd", linewidth=0.6)
        axes.set_title(
            "Front of a network, stitch, tail of the same network\nafter a random symmetry", fontsize=9, loc="left"
        )
        return finish(figure, path, ax, grid, legend={})
