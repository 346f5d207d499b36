"""Stitching penalties as grouped bars, and learning curves."""

import itertools
import re
from collections.abc import Mapping
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

OTHER_STYLES = {"chosen by validation": ("chosen by validation", "#222222")}
"""The name and color of series that are not families."""


def family_styles(families: list[str]) -> dict[str, tuple[str, tuple]]:
    """Return {label: (name, color)} of stitch families, by their labels, from their registry.

    Variants (lasso:0.1, lasso:1) have the same hue and different lightness. Labels of families that are not registered,
    or have no color, have colors of a neutral palette.
    """
    registered = {label: OTHER_STYLES.get(label) or _registered_style(*label.split("@")) for label in families}
    spare = iter(palette("husl", len(families)) if any(color is None for _, color in registered.values()) else ())
    styles: dict[str, tuple[str, tuple]] = {}
    variants: dict[tuple, int] = {}
    for label, (name, color) in registered.items():
        color = matplotlib.colors.to_rgb(next(spare) if color is None else color)
        kind = re.split("[:@]", label)[0], color
        count = variants[kind] = variants.get(kind, -1) + 1
        styles[label] = (name, tuple(np.asarray(color) + (1 - np.asarray(color)) * min(0.15 * count, 0.75)))
    return styles


def _registered_style(label: str, objective: str = "") -> tuple[str, str | None]:
    """Return the name and the color of a family, or its label and None; `objective` is appended to the name."""
    from symjax.stitching.families import find_family  # here: importing all of stitching takes seconds

    family, number = find_family(label) or (None, "")
    suffix = f" ({objective})" if objective else ""
    if family is None:
        return label + suffix, None
    color = family.color
    if isinstance(color, Mapping):
        color = color.get(float(number or family.default()))
    return f"{family.title} {number}".strip() + suffix, color


def penalties(table: pd.DataFrame, path: str | Path | None = None, *, ax=None, percent: bool = True) -> Figure:
    """Draw grouped bars: the mean penalty of each layer and family over pairs, with standard deviation (n - 1).

    Controls are markers at the bars of their families, at the mean penalty. Each objective has bars of its own.

    Args:
      table: rows as in results.csv; layers and families are drawn in the order of the rows.
      path, ax: as in all figures, see `symjax.plots`.
      percent: whether accuracies and penalties are in percent; otherwise they are scores of another metric.

    Returns:
      The figure.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> rows = [("relu1", "full", 0.5), ("relu1", "rank1", 40.0)]
      >>> table = pd.DataFrame(rows, columns=["layer", "family", "penalty"])
      >>> figure = plots.penalties(table.assign(pair="0-1", starred=False, clean_accuracy=90.0))
      >>> [float(bar.get_height()) for bar in figure.axes[0].patches]
      [0.5, 40.0]
    """
    unit, name = ("percentage points", "accuracy") if flag("percent", percent) else ("score", "score")
    check_table(path, table, "pair layer family starred", "penalty clean_accuracy")
    table = with_both_layers(table)
    if "objective" in table:
        other = table.objective != "task"
        table = table.assign(family=table.family.where(~other, table.family + "@" + table.objective))
    starred = table.groupby("layer").starred.first()
    names = {layer: layer if "*" in layer or not starred[layer] else f"{layer}*" for layer in table.layer.unique()}
    styles = family_styles(list(table.family.unique()))
    table = table.assign(layer=table.layer.map(names), control=table.control if "control" in table else "related")
    clean = f"{mean(table.clean_accuracy):{'.1f' if percent else '.3g'}}{' %' * percent}"
    with matplotlib.rc_context(PAPER):
        figure, grid = make_axes(ax, (1, 1), (max(6.5, bars_width(len(names), len(styles))), 3.8))
        axes = grid[0, 0]
        related = table[table.control == "related"]
        centers = grouped_bars(axes, related, series="family", value="penalty", styles=styles)
        controls = table[table.control != "related"].groupby("control", sort=False)
        for marker, (of_control, rows) in zip(itertools.cycle("ox^sDv"), controls, strict=False):
            means = rows.groupby(["family", "layer"]).penalty.agg(mean).unstack()
            means = means.reindex(list(centers)).reindex(columns=list(related.layer.unique()))
            style = {"marker": marker, "s": 9, "color": "#222222", "linewidth": 0.7, "zorder": 3}
            axes.scatter(
                np.concatenate(list(centers.values())), means.to_numpy().ravel(), label=str(of_control), **style
            )
        axes.set_ylabel(f"stitching penalty ({unit})")
        pairs = table.pair.nunique()
        over = f"mean and standard deviation over {pairs} pairs" if pairs > 1 else "one pair"
        axes.set_title(
            f"Front of one network, stitch, tail of another: {name} lost at each layer\n({over}; clean {name} {clean})",
            fontsize=9,
            loc="left",
        )
        return finish(figure, path, ax, grid, legend={"handlelength": 1.1})


def curves(table: pd.DataFrame, path: str | Path | None = None, *, ax=None) -> Figure | None:
    """Draw a panel per layer with training accuracy over epochs: mean and range over pairs of each trained family.

    Of several learning rates, the one with the highest accuracy in the last epoch is drawn.

    Args:
      table: columns pair, layer, family, learning_rate, epoch and accuracy, as in curves.csv; layers and families are
        drawn in the order of the rows.
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure; None for an empty table (no family is trained).

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> table = pd.DataFrame({"epoch": [1, 2], "accuracy": [70.0, 85.0]})
      >>> figure = plots.curves(table.assign(pair="0-1", layer="relu1", family="full", learning_rate=0.03))
      >>> figure.axes[0].lines[0].get_ydata().tolist()
      [70.0, 85.0]
    """
    if isinstance(table, pd.DataFrame) and table.empty:
        return None
    check_table(path, table, "pair layer family", "learning_rate epoch accuracy")
    table = with_both_layers(table)

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
        title=f"Stitches in training, before they are rounded ({over}{', the best learning rates' if several else ''})",
    )
