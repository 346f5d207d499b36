"""Similarities of layers as heat maps and bars."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symjax.checks import sequence, short, text
from symjax.errors import InputError
from symjax.plots.bars import bars_width, grouped_bars
from symjax.plots.panels import panel_grid
from symjax.plots.style import PAPER, check_table, finish, heatmap, make_axes, palette
from symjax.similarity import MEASURES
from symjax.tables import mean


def measure_title(measure: str) -> str:
    """Return the title of a measure in figures; its name if it is not in `MEASURES`."""
    return (measure in MEASURES and MEASURES[measure].title) or measure


def is_distance(measure: str) -> bool:
    """Return whether a measure is a distance; one that is not in `MEASURES` is, if its name ends with "distance"."""
    return MEASURES[measure].kind == "distance" if measure in MEASURES else measure.endswith("distance")


def different_models(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that compare different models, by column `same_model` if present, otherwise by labels."""
    if "same_model" in table.columns:
        return table[~table.same_model.astype(bool)]
    return table[table.model_a != table.model_b]


def equal_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Return measure, layer, pair and value for equal layers of different models.

    For a measure that is not symmetric, the value is the mean of both orders.
    """
    table = different_models(table)
    same = table[table.layer_a == table.layer_b].rename(columns={"layer_a": "layer"})
    same = same.assign(pair=[f"{min(p)}-{max(p)}" for p in zip(same.model_a, same.model_b, strict=True)])
    return same.groupby(["measure", "layer", "pair"], sort=False).value.agg(mean).reset_index()


def heatmaps(table: pd.DataFrame, path: str | Path | None = None, *, ax=None) -> Figure | None:
    """Draw a heat map per measure: layers of the first model by layers of the second, averaged over pairs of models.

    Measures that compare equal layers only have no panel. Comparisons of a model with itself are left out, unless the
    table has no others.

    Args:
      table: columns measure, layer_a, layer_b and value, such as `Pairwise.to_frame` returns; for several models also
        model_a and model_b, and same_model if the two sides are different sets. Measures and layers are drawn in the
        order of the rows. The axes name the models if there are two and their labels are texts.
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure; None if all measures compare equal layers only.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import numpy as np
      >>> from symjax import pairwise, plots
      >>> layers = {name: np.random.default_rng(i).normal(size=(2, 30, 3)) for i, name in enumerate(("relu1", "relu2"))}
      >>> table = pairwise(layers, "cka").to_frame().assign(measure="cka")
      >>> [axes.get_title() for axes in plots.heatmaps(table).axes]
      ['CKA']
    """
    check_table(path, table, "measure layer_a layer_b", "value")
    if {"model_a", "model_b"} <= set(table.columns) and len(rows := different_models(table)):
        table = rows
    crossed = table[table.measure.isin(table[table.layer_a != table.layer_b].measure)]
    if crossed.empty:
        return None
    measures = list(crossed.measure.unique())
    rows, columns = list(crossed.layer_a.unique()), list(crossed.layer_b.unique())
    if set(rows) == set(columns):
        columns = rows  # the same order on both axes
    # For many layers, squares and the numbers in them are smaller.
    most_layers = max(len(rows), len(columns))
    square, fontsize = (0.42, 8) if most_layers <= 12 else (0.34, 6)
    longest = max(len(str(layer)) for layer in rows + columns)
    side = max(2.2, square * most_layers + 0.6) + 0.075 * max(0, longest - 5)
    with matplotlib.rc_context(PAPER):
        figure, grid = panel_grid(len(measures), side, side + 0.15, ax=ax, columns=3, margins=(0.4, 0.3))
        for axes, measure in zip(grid.flat, measures, strict=False):
            means = crossed[crossed.measure == measure].groupby(["layer_a", "layer_b"]).value.agg(mean).unstack()
            means = means.reindex(index=rows, columns=columns)
            least, most = means.min(axis=None), means.max(axis=None)
            heatmap(
                means,
                ax=axes,
                vmin=min(0.0, least),
                # The upper limit is 1 for similarities and the largest value for distances; similar layers are bright.
                vmax=most if is_distance(measure) else max(1.0, most),
                cmap="viridis_r" if is_distance(measure) else "viridis",
                annot=True,
                fmt="z.2f",
                annot_kws={"fontsize": fontsize},
                square=True,
                cbar=False,
                linewidths=0.5,
            )
            axes.set_title(measure_title(measure), fontsize=9)
            axes.set(xlabel="", ylabel="")
            axes.tick_params(length=0)
            axes.tick_params(axis="y", rotation=0)
        names = ["the first model", "the second model"]
        if {"model_a", "model_b"} <= set(table.columns) and len(table[["model_a", "model_b"]].drop_duplicates()) == 1:
            models = table.iloc[0][["model_a", "model_b"]]
            names = [name if isinstance(name, str) else default for name, default in zip(models, names, strict=True)]
        return finish(figure, path, ax, grid, xlabel=f"layer of {names[1]}", ylabel=f"layer of {names[0]}")


def by_layer(table: pd.DataFrame, path: str | Path | None = None, *, ax=None) -> Figure:
    """Draw grouped bars: the mean of each layer and measure over pairs of models, with standard deviation (n - 1).

    Args:
      table: as in `heatmaps`, with model_a and model_b; rows of equal layers of different models are used.
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure.

    Raises:
      InputError: no row compares equal layers of different models.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> rows = [("relu1", 0.8), ("relu2", 0.6)]
      >>> table = pd.DataFrame(rows, columns=["layer_a", "value"]).assign(measure="cka", model_a=0, model_b=1)
      >>> figure = plots.by_layer(table.assign(layer_b=table.layer_a))
      >>> [float(bar.get_height()) for bar in figure.axes[0].patches]
      [0.8, 0.6]
    """
    check_table(path, table, "measure layer_a layer_b model_a model_b", "value")
    same = equal_layers(table)
    if same.empty:
        raise InputError("table: got no rows of equal layers of different models, expected one or more")
    measures = list(same.measure.unique())
    colors = palette("colorblind", len(measures))
    styles = {measure: (measure_title(measure), color) for measure, color in zip(measures, colors, strict=True)}
    pairs, seeds = same.pair.nunique(), " that differ in their seed"
    with matplotlib.rc_context(PAPER):
        width = max(5.5, bars_width(same.layer.nunique(), len(measures)))
        figure, grid = make_axes(ax, (1, 1), (width, 3.4))
        axes = grid[0, 0]
        grouped_bars(axes, same, series="measure", value="value", styles=styles)
        kinds = dict.fromkeys("distance" if is_distance(measure) else "similarity" for measure in measures)
        axes.set_ylabel(" or ".join(kinds))
        axes.set_title(
            f"The same layer of two networks{'' if table.model_a.map(type).eq(str).all() else seeds}\n"
            f"({f'mean and standard deviation over {pairs} pairs' if pairs > 1 else 'one pair'})",
            fontsize=9,
            loc="left",
        )
        return finish(figure, path, ax, grid, legend={"handlelength": 1.1})


def distance_matrix(
    distances: pd.DataFrame, groups: Sequence[str], path: str | Path | None = None, *, ax=None, label: str = "distance"
) -> Figure:
    """Draw a distance matrix as a heat map with lines between groups of models.

    The colors cover the distances of different models; the diagonal is blank.

    Args:
      distances: (models, models), in the order in which they are drawn; groups are consecutive.
      groups: the name of the group of each model.
      path, ax: as in all figures, see `symjax.plots`.
      label: label of the colors.

    Returns:
      The figure.

    Raises:
      InputError: the matrix is not square, or there is not one group for each model.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> figure = plots.distance_matrix(pd.DataFrame([[0.0, 0.4], [0.4, 0.0]]), ["a", "b"])
      >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
      ['a', 'b']
    """
    if not isinstance(distances, pd.DataFrame) or len(set(distances.shape)) != 1 or not len(distances):
        raise InputError(f"distances: got {short(getattr(distances, 'shape', distances))}, expected a square table")
    check_table(path, distances, "", name="distances")
    if not all(map(pd.api.types.is_numeric_dtype, distances.dtypes)):
        raise InputError(f"distances: got {set(map(str, distances.dtypes))}, expected numbers")
    names = [text("groups", group) for group in sequence("groups", groups, "names")]
    text("label", label, empty=True)
    if len(names) != len(distances):
        raise InputError(f"groups: got {len(names)}, expected one for each of {len(distances)} models")
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    centers = [(start + end) / 2 for start, end in zip(starts, [*starts[1:], len(names)], strict=True)]
    with matplotlib.rc_context(PAPER):
        side = min(7.0, 2.2 + 0.11 * len(names))
        figure, grid = make_axes(ax, (1, 1), (side + 0.8, side))
        axes = grid[0, 0]
        same = np.eye(len(names), dtype=bool) & (len(names) > 1)
        heatmap(distances, ax=axes, cmap="viridis_r", mask=same, square=True, cbar_kws={"label": label})
        for start in starts[1:]:
            axes.axhline(start, color="white", linewidth=1)
            axes.axvline(start, color="white", linewidth=1)
        labels = [names[start] for start in starts]
        axes.set_xticks(centers, labels, rotation=0)
        axes.set_yticks(centers, labels, rotation=0)
        axes.tick_params(length=0)
        return finish(figure, path, ax, grid)
