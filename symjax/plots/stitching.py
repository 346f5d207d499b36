"""Stitching penalties as grouped bars, and learning curves."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symjax.checks import flag
from symjax.plots.bars import bars_width, grouped_bars
from symjax.plots.panels import curve_panels
from symjax.plots.style import PAPER, check_table, finish, make_axes, palette
from symjax.tables import mean, with_both_layers

# The label and colour of each family: greys for stitches without training, blues for linear maps of decreasing rank,
# warm colours for G_ReLU. Other families have colours of a neutral palette.
FAMILY_STYLES = {
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


def family_styles(families: list[str]) -> dict[str, tuple[str, tuple]]:
    """Return {family: (label, colour)}; variants (lasso:0.1, lasso:1) have the same hue and different lightness."""
    unlisted = [
        family for family in families if not (FAMILY_STYLES.get(family) or FAMILY_STYLES.get(family.partition(":")[0]))
    ]
    spare = iter(palette("husl", len(families)) if unlisted else ())
    styles: dict[str, tuple[str, tuple]] = {}
    variants: dict[str, int] = {}
    for family in families:
        base, _, number = family.partition(":")
        name, colour = (family, next(spare)) if family in unlisted else FAMILY_STYLES.get(family) or FAMILY_STYLES[base]
        count = variants[base] = variants.get(base, -1) + 1
        colour = np.asarray(matplotlib.colors.to_rgb(colour))
        styles[family] = (f"{name} {number}".strip(), tuple(colour + (1 - colour) * min(0.15 * count, 0.75)))
    return styles


def penalties(table: pd.DataFrame, path: str | Path | None = None, *, ax=None, percent: bool = True) -> Figure:
    """Draw grouped bars: the mean penalty of each layer and family over pairs, with standard deviation (n - 1).

    Args:
      table: rows as in results.csv; layers and families are drawn in the order of the rows.
      path, ax: as in all figures, see `symjax.plots`.
      percent: whether accuracies and penalties are in percent; otherwise they are scores of another metric.

    Returns:
      The figure.
    """
    unit, name = ("percentage points", "accuracy") if flag("percent", percent) else ("score", "score")
    check_table(path, table, "pair layer family starred", "penalty clean_accuracy")
    table = with_both_layers(table)
    starred = table.groupby("layer").starred.first()
    names = {layer: layer if "*" in layer or not starred[layer] else f"{layer}*" for layer in table.layer.unique()}
    styles = family_styles(list(table.family.unique()))
    clean = f"{mean(table.clean_accuracy):{'.1f' if percent else '.3g'}}{' %' * percent}"
    with matplotlib.rc_context(PAPER):
        figure, grid = make_axes(ax, (1, 1), (max(6.5, bars_width(len(names), len(styles))), 3.8))
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


def curves(table: pd.DataFrame, path: str | Path | None = None, *, ax=None) -> Figure | None:
    """Draw a panel per layer with training accuracy over epochs: mean and range over pairs of each trained family.

    Returns:
      The figure; None for an empty table (no family is trained).
    """
    if isinstance(table, pd.DataFrame) and table.empty:
        return None
    check_table(path, table, "pair layer family", "learning_rate epoch accuracy")
    table = with_both_layers(table)
    # Choose the step size with the highest accuracy in the last epoch.
    last = table[table.epoch == table.epoch.max()]
    fit = last.groupby(["layer", "family", "learning_rate"]).accuracy.mean()
    best = fit.groupby(["layer", "family"]).idxmax()
    chosen = pd.MultiIndex.from_frame(table[["layer", "family", "learning_rate"]]).isin(list(best))
    styles = family_styles(list(table.family.unique()))
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
