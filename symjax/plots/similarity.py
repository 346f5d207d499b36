"""Similarities of layers as heat maps and as bars."""

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from symjax.errors import InputError
from symjax.plots.bars import grouped_bars, width_of_bars
from symjax.plots.panels import panel_grid
from symjax.plots.style import PAPER, axes_of, check, finish, heatmap, palette
from symjax.summary import mean

# How a measure is called in a figure; others by their own name.
NAMES = {
    "cca": "CCA",
    "svcca": "SVCCA",
    "pwcca": "PWCCA",
    "cka": "CKA",
    "channel_normalized_cka": "CKA, channels normalised",
    "wreath_cka": "$G_{\\mathrm{ReLU}}$-CKA",
    "procrustes": "orthogonal Procrustes",
    "wreath_procrustes": "$G_{\\mathrm{ReLU}}$-Procrustes",
    "permutation_procrustes": "permutation Procrustes",
    "soft_matching": "soft matching",
}


def is_distance(measure: str) -> bool:
    """Whether a measure is small where layers are alike; what returns distances is called so."""
    return measure.endswith("distance")


def of_two_models(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that compare two different models: `same_model` says which do not, without it equal labels do."""
    if "same_model" in table.columns:
        return table[~table.same_model.astype(bool)]
    return table[table.model_a != table.model_b]


def of_equal_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Measure, layer, pair and value of equal layers of two different models.

    A measure that is not symmetric has the mean of both orders.
    """
    table = of_two_models(table)
    same = table[table.layer_a == table.layer_b].rename(columns={"layer_a": "layer"})
    same = same.assign(pair=[f"{min(p)}-{max(p)}" for p in zip(same.model_a, same.model_b, strict=True)])
    return same.groupby(["measure", "layer", "pair"], sort=False).value.agg(mean).reset_index()


def heatmaps(table: pd.DataFrame, path: Path | None = None, *, ax=None) -> Figure | None:
    """A panel per measure: the mean over pairs for each layer of the first model with each layer of the second.

    Measures that compare layers of one name alone have no panel; without any other there is no figure.

    A model compared with itself does not enter the mean, unless the table has no two different models.

    Args:
      table: measure, layer_a, layer_b, value, in the order in which measures and layers are to stand; model_a and
        model_b where there are several models, and same_model where the two sides are not one set
        (`Pairwise.to_frame`).
      path, ax: as of all figures, see `symjax.plots`.

    Returns:
      The figure.
    """
    check(path, table, "measure layer_a layer_b", "value")
    if {"model_a", "model_b"} <= set(table.columns) and len(different := of_two_models(table)):
        table = different
    crossed = table[table.measure.isin(table[table.layer_a != table.layer_b].measure)]
    if crossed.empty:
        return None
    measures = list(crossed.measure.unique())
    rows, columns = list(crossed.layer_a.unique()), list(crossed.layer_b.unique())
    if set(rows) == set(columns):
        columns = rows  # one order on both sides
    # Of many layers the squares are smaller, and what is written in them.
    most_layers = max(len(rows), len(columns))
    square, fontsize = (0.42, 8) if most_layers <= 12 else (0.34, 6)
    longest = max(len(str(layer)) for layer in rows + columns)
    side = max(2.2, square * most_layers + 0.6) + 0.075 * max(0, longest - 5)
    with matplotlib.rc_context(PAPER):
        figure, grid = panel_grid(len(measures), side, side + 0.15, ax=ax, columns=3, margins=(0.4, 0.3))
        for axes, measure in zip(grid.flat, measures, strict=False):
            chosen = crossed[crossed.measure == measure]
            means = chosen.groupby(["layer_a", "layer_b"]).value.agg(mean).unstack()
            means = means.reindex(index=rows, columns=columns)
            least, most = means.min(axis=None), means.max(axis=None)
            heatmap(
                means,
                ax=axes,
                vmin=min(0.0, least),
                # Similarities end at 1, distances where they end; what is alike is bright.
                vmax=most if is_distance(measure) else max(1.0, most),
                cmap="viridis_r" if is_distance(measure) else "viridis",
                annot=True,
                fmt=".2f",
                annot_kws={"fontsize": fontsize},
                square=True,
                cbar=False,
                linewidths=0.5,
            )
            axes.set_title(NAMES.get(measure, measure), fontsize=9)
            axes.set(xlabel="", ylabel="")
            axes.tick_params(length=0)
            axes.tick_params(axis="y", rotation=0)
        around = {"xlabel": "layer of the second model", "ylabel": "layer of the first model"}
        return finish(figure, path, ax, grid, **around)


def by_layer(table: pd.DataFrame, path: Path | None = None, *, ax=None) -> Figure:
    """Grouped bars: a group per layer, a bar per measure, its mean and deviation (n - 1) over pairs of models.

    Args:
      table: as for `heatmaps`, with model_a and model_b; rows of equal layers of two different models count.
      path, ax: as of all figures, see `symjax.plots`.

    Returns:
      The figure.

    Raises:
      InputError: no row compares equal layers of two different models.
    """
    check(path, table, "measure layer_a layer_b model_a model_b", "value")
    same = of_equal_layers(table)
    if same.empty:
        raise InputError("table: has no row of equal layers (layer_a, layer_b) of two different models")
    measures = list(same.measure.unique())
    colours = palette("colorblind", len(measures))
    styles = {measure: (NAMES.get(measure, measure), colour) for measure, colour in zip(measures, colours, strict=True)}
    pairs = same.pair.nunique()
    with matplotlib.rc_context(PAPER):
        width = max(5.5, width_of_bars(same.layer.nunique(), len(measures)))
        figure, grid = axes_of(ax, (1, 1), (width, 3.4))
        axes = grid[0, 0]
        grouped_bars(axes, same, series="measure", value="value", styles=styles)
        kinds = dict.fromkeys("distance" if is_distance(measure) else "similarity" for measure in measures)
        axes.set_ylabel(" or ".join(kinds))
        axes.set_title(
            "The same layer of two networks that differ in their seed\n"
            f"({f'mean and standard deviation over {pairs} pairs' if pairs > 1 else 'one pair'})",
            fontsize=9,
            loc="left",
        )
        return finish(figure, path, ax, grid, legend={"handlelength": 1.1})
