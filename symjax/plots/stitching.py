"""Stitching penalties as grouped bars, and learning curves."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symjax.checks import flag
from symjax.plots.bars import grouped_bars, width_of_bars
from symjax.plots.panels import curve_panels
from symjax.plots.style import PAPER, axes_of, check, finish, palette
from symjax.summary import mean, with_both_layers

# How a family is called in a figure, and its colour: greys for what is not trained, blues for linear maps of falling
# rank, warm colours for G_ReLU. Families that are not listed take what is left of a neutral palette.
STYLE = {
    "chosen by validation": ("chosen by validation", "#222222"),
    "identity": ("identity (no stitch)", "#4d4d4d"),
    "matched": ("$G_{\\mathrm{ReLU}}$ matched (closed form)", "#f6c667"),
    "least_squares": ("least squares (closed form)", "#b8b8b8"),
    "full": ("full", "#08306b"),
    "orthogonal": ("orthogonal", "#6a51a3"),
    "lasso": ("lasso", "#2b8c8c"),
    "lasso_proximal": ("lasso (proximal)", "#2b8c8c"),
    "birkhoff": ("$G_{\\mathrm{ReLU}}$ (Birkhoff)", "#d7301f"),
    "birkhoff_published": ("$G_{\\mathrm{ReLU}}$ (published recipe)", "#fc8d59"),
    "softsort": ("$G_{\\mathrm{ReLU}}$ (SoftSort)", "#fdae8b"),
    "rank8": ("rank 8", "#2171b5"),
    "rank4": ("rank 4", "#4292c6"),
    "rank2": ("rank 2", "#6baed6"),
    "rank1": ("rank 1", "#9ecae1"),
}


def style_of(families: list[str]) -> dict[str, tuple[str, tuple]]:
    """Name and colour per family; siblings (lasso:0.1, birkhoff:1) share a hue and differ in lightness."""
    unnamed = [family for family in families if not (STYLE.get(family) or STYLE.get(family.partition(":")[0]))]
    spare = iter(palette("husl", len(families)) if unnamed else ())
    styles, seen = {}, {}
    for family in families:
        base, _, number = family.partition(":")
        name, colour = (family, next(spare)) if family in unnamed else STYLE.get(family) or STYLE[base]
        count = seen[base] = seen.get(base, -1) + 1
        colour = np.asarray(matplotlib.colors.to_rgb(colour))
        styles[family] = (f"{name} {number}".strip(), tuple(colour + (1 - colour) * min(0.15 * count, 0.75)))
    return styles


def penalties(table: pd.DataFrame, path: Path | None = None, *, ax=None, percent: bool = True) -> Figure:
    """Grouped bars: a group per layer, a bar per family, the mean penalty over pairs with its deviation (n - 1).

    Args:
      table: rows as of results.csv, in the order in which layers and families are to stand.
      path, ax: as of all figures, see `symjax.plots`.
      percent: whether accuracies and penalties are in percent, or scores of another metric.

    Returns:
      The figure.
    """
    unit, name = ("percentage points", "accuracy") if flag("percent", percent) else ("score", "score")
    check(path, table, "pair layer family starred", "penalty clean_accuracy")
    table = with_both_layers(table)
    starred = table.groupby("layer").starred.first()
    names = {layer: layer if "*" in layer or not starred[layer] else f"{layer}*" for layer in table.layer.unique()}
    styles = style_of(list(table.family.unique()))
    clean = f"{mean(table.clean_accuracy):{'.1f' if percent else '.3g'}}{' %' * percent}"
    with matplotlib.rc_context(PAPER):
        figure, grid = axes_of(ax, (1, 1), (max(6.5, width_of_bars(len(names), len(styles))), 3.8))
        axes = grid[0, 0]
        grouped_bars(axes, table.assign(layer=table.layer.map(names)), series="family", value="penalty", styles=styles)
        axes.set_ylabel(f"stitching penalty ({unit})")
        pairs = table.pair.nunique()
        axes.set_title(
            f"Front of one network, stitch, tail of another: {name} lost at each layer\n"
            f"(mean and standard deviation over {pairs} pair{'s' if pairs > 1 else ''}; "
            f"clean {name} {clean})",
            fontsize=9,
            loc="left",
        )
        return finish(figure, path, ax, grid, legend={"handlelength": 1.1})


def curves(table: pd.DataFrame, path: Path | None = None, *, ax=None) -> Figure | None:
    """Training accuracy over epochs: a panel per layer, a line per family that trains, its mean and range over pairs.

    An empty table (no family trains) has no figure.
    """
    if isinstance(table, pd.DataFrame) and table.empty:
        return None
    check(path, table, "pair layer family", "learning_rate epoch accuracy")
    table = with_both_layers(table)
    # Of several step sizes the one that fits best in the end.
    last = table[table.epoch == table.epoch.max()]
    fit = last.groupby(["layer", "family", "learning_rate"]).accuracy.mean()
    best = fit.groupby(["layer", "family"]).idxmax()
    chosen = pd.MultiIndex.from_frame(table[["layer", "family", "learning_rate"]]).isin(list(best))
    styles = style_of(list(table.family.unique()))
    pairs, several = table.pair.nunique(), table.learning_rate.nunique() > 1
    over = f"mean and range over {pairs} pairs" if pairs > 1 else "one pair"
    return curve_panels(
        table[chosen],
        path,
        ax,
        series="family",
        value="accuracy",
        styles=styles,
        label="accuracy in training (%)",
        title=f"Stitches in training, before they are rounded ({over}{', the best step sizes' if several else ''})",
    )
