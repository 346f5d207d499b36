"""Learning dynamics: curves over epochs, and heat maps over layers and epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symjax.checks import flag, integer, scalar, short, text
from symjax.errors import InputError
from symjax.plots.panels import bottom_axes, panel_grid
from symjax.plots.similarity import measure_title
from symjax.plots.style import (
    PAPER,
    check_table,
    distinct_styles,
    finish,
    heatmap,
    make_axes,
    sequential_styles,
)
from symjax.tables import mean

HEAT = {"cmap": "viridis", "vmin": 0.0, "vmax": 1.0, "cbar": False, "linewidths": 0.5, "fmt": "z.2f"}


def over_time(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    ax=None,
    panel: str,
    line: str,
    label: str,
    title: str,
    ordered: bool = True,
    chance: dict | None = None,
    xlabel: str = "epoch",
) -> Figure:
    """Draw a panel per value of column `panel` with a curve over epochs per value of column `line`.

    Curves are means over seeds; bands are one standard deviation (n - 1) to each side.

    Args:
      table: columns epoch, seed, value, `panel` and `line`; panels and lines are drawn in the order of the rows.
      path, ax: as in all figures, see `symjax.plots`.
      panel: name of the column of panels.
      line: name of the column of lines.
      label: label of the axis of values.
      title: title of the figure.
      ordered: whether the lines have an order, such as layers, which their colors then show.
      chance: {panel: value expected by chance}, drawn as a dotted line.
      xlabel: what the column epoch counts.

    Returns:
      The figure.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> rows = [(epoch, seed, 0.5 + 0.1 * epoch + 0.01 * seed) for epoch in (0, 1, 2) for seed in (0, 1)]
      >>> table = pd.DataFrame(rows, columns=["epoch", "seed", "value"]).assign(measure="cca", layer="relu1")
      >>> figure = plots.over_time(table, panel="measure", line="layer", label="similarity", title="To the end")
      >>> figure.axes[0].lines[0].get_ydata().round(3).tolist()
      [0.505, 0.605, 0.705]
    """
    for name, value in {"panel": panel, "line": line, "label": label, "title": title, "xlabel": xlabel}.items():
        text(name, value, empty=name in ("label", "title", "xlabel"))
    check_table(path, table, f"{panel} {line} seed", "epoch value")
    panels, lines = list(table[panel].unique()), list(table[line].unique())
    _check_chance(chance, panels)
    columns = next((n for n in (4, 3, 2) if len(panels) % n == 0), min(4, len(panels)))
    styles = sequential_styles(lines) if flag("ordered", ordered) else distinct_styles(lines)
    epochs = sorted(table.epoch.unique())
    with matplotlib.rc_context(PAPER):
        margins = max(0.4, 5.2 - 2.7 * columns), 0.9
        figure, grid = panel_grid(
            len(panels), 2.7, 2.5, ax=ax, columns=columns, margins=margins, sharex=True, sharey=True
        )
        for axes, name in zip(grid.flat, panels, strict=False):
            for line_name, style in styles.items():
                grouped = table[(table[panel] == name) & (table[line] == line_name)].groupby("epoch").value
                if len(grouped) == 0:
                    continue
                means, deviation = grouped.agg(mean), grouped.std().fillna(0)
                axes.plot(means.index, means, linewidth=1.4, label=line_name, **style)
                band = means - deviation, means + deviation
                axes.fill_between(means.index, *band, color=style["color"], alpha=0.15 if ordered else 0.08, lw=0)
            if chance is not None:
                axes.axhline(chance[name], color="#222222", linewidth=0.8, linestyle=":", label="chance")
            axes.set_title(measure_title(name), fontsize=9)
            axes.grid(True, color="#dddddd", linewidth=0.6)
            if epochs[-1] > 2 * len(epochs):  # early epochs are close to each other
                ticks = epochs[:: -(-len(epochs) // 6)]
                axes.set_xscale("symlog", linthresh=1)
                axes.set_xticks(ticks, [str(epoch) for epoch in ticks])
        for axes in bottom_axes(grid):
            axes.set_xlabel(xlabel)
        return finish(figure, path, ax, grid, title=title, ylabel=label, legend={})


def over_layers(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    ax=None,
    title: str,
    chance: dict | None = None,
    max_panels: int = 4,
) -> Figure:
    """Draw a panel per epoch with a curve over layers per class, which shows the sensitivity of layers to the class.

    Args:
      table: columns seed, epoch, layer, class and value; layers and classes are drawn in the order of the rows.
      path, ax: as in all figures, see `symjax.plots`.
      title: title of the figure.
      chance: {layer: value expected by chance}, drawn as a dotted line.
      max_panels: largest number of panels; the first and last epochs are always included.

    Returns:
      The figure.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> rows = [(layer, name, 0.5) for layer in ("relu1", "relu2") for name in ("cat", "dog")]
      >>> table = pd.DataFrame(rows, columns=["layer", "class", "value"]).assign(seed=0, epoch=1)
      >>> figure = plots.over_layers(table, title="Sensitivity to classes", chance={"relu1": 0.1, "relu2": 0.2})
      >>> [line.get_label() for line in figure.axes[0].lines]
      ['cat', 'dog', 'chance']
    """
    check_table(path, table, "layer class seed", "epoch value")
    text("title", title, empty=True)
    layers, classes = list(table.layer.unique()), list(table["class"].unique())
    epochs = _spaced(sorted(table.epoch.unique()), integer("max_panels", max_panels, 1))
    _check_chance(chance, layers)
    with matplotlib.rc_context(PAPER):
        width = max(2.1, 0.25 * len(layers) + 0.8)
        figure, grid = make_axes(ax, (1, len(epochs)), (width * len(epochs) + 0.5, 3.5), sharey=True)
        for axes, epoch in zip(grid.flat, epochs, strict=True):
            for name, style in distinct_styles(classes).items():
                rows = table[(table.epoch == epoch) & (table["class"] == name)]
                means = rows.groupby("layer").value.agg(mean).reindex(layers)
                axes.plot(range(len(layers)), means, linewidth=1.4, label=name, **style)
            if chance is not None:
                levels = [chance[layer] for layer in layers]
                axes.plot(range(len(layers)), levels, color="#222222", linewidth=0.8, linestyle=":", label="chance")
            axes.set_xticks(range(len(layers)), layers, rotation=60 if len(layers) > 4 else 0)
            axes.set_xlim(-0.4, len(layers) - 0.6)
            axes.set_title(f"epoch {epoch}", fontsize=9)
            axes.grid(True, color="#dddddd", linewidth=0.6)
        grid[0, 0].set_ylabel("correlation with the class")
        return finish(figure, path, ax, grid, title=title, legend={})


def layers_by_time(table: pd.DataFrame, path: str | Path | None = None, *, ax=None) -> Figure:
    """Draw a panel per measure: the similarity of each layer at each epoch with itself at the end of the training.

    Args:
      table: columns measure, seed, epoch, layer, end_layer and value; rows with layer = end_layer are used.
      path, ax: as in all figures, see `symjax.plots`.

    Returns:
      The figure.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> rows = [(epoch, layer, 0.5) for epoch in (0, 1, 2) for layer in ("relu1", "relu2")]
      >>> table = pd.DataFrame(rows, columns=["epoch", "layer", "value"]).assign(measure="cca", seed=0)
      >>> figure = plots.layers_by_time(table.assign(end_layer=table.layer))
      >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
      ['relu2', 'relu1']
    """
    check_table(path, table, "measure seed layer end_layer", "epoch value")
    same = table[table.layer == table.end_layer]
    measures, layers, epochs = list(same.measure.unique()), list(same.layer.unique()), sorted(same.epoch.unique())
    with matplotlib.rc_context(PAPER):
        height = 0.32 * len(layers) + 0.75
        size = (max(4.5, 0.5 * len(epochs) + 1), height * len(measures) + 0.5)
        figure, grid = make_axes(ax, (len(measures), 1), size, sharex=True)
        for axes, measure in zip(grid.flat, measures, strict=True):
            means = same[same.measure == measure].groupby(["layer", "epoch"]).value.agg(mean).unstack("epoch")
            # The layer closest to the input is at the bottom, as in the published figure.
            _draw_heatmap(means.reindex(index=layers[::-1], columns=epochs), axes, annot=len(epochs) <= 16)
            axes.set_title(measure_title(measure), fontsize=9)
        grid[-1, 0].set_xlabel("epoch")
        return finish(figure, path, ax, grid, title="Each layer at an epoch with the same layer at the end")


def layers_by_layers(
    table: pd.DataFrame, path: str | Path | None = None, *, ax=None, max_panels: int = 6
) -> Figure | None:
    """Draw a row per measure and a panel per epoch: layers at the epoch (vertical) by layers at the end (horizontal).

    Measures that compare equal layers only have no row.

    Args:
      table: as in `layers_by_time`.
      path, ax: as in all figures, see `symjax.plots`.
      max_panels: largest number of panels in a row; the first and last epochs are always included.

    Returns:
      The figure; None if all measures compare equal layers only.

    Raises:
      InputError: an argument has a wrong type, or columns are missing.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> layers = ("relu1", "relu2")
      >>> rows = [(epoch, layer, end, 0.5) for epoch in (0, 4) for layer in layers for end in layers]
      >>> table = pd.DataFrame(rows, columns=["epoch", "layer", "end_layer", "value"]).assign(measure="cca", seed=0)
      >>> [axes.get_title() for axes in plots.layers_by_layers(table).axes]
      ['epoch 0', 'epoch 4']
    """
    check_table(path, table, "measure seed layer end_layer", "epoch value")
    table = table[table.measure.isin(table[table.layer != table.end_layer].measure)]
    if table.empty:
        return None
    measures, layers = list(table.measure.unique()), list(table.layer.unique())
    epochs = _spaced(sorted(table.epoch.unique()), integer("max_panels", max_panels, 1))
    side = max(1.5, 0.3 * len(layers) + 0.3)
    with matplotlib.rc_context(PAPER):
        size = (side * len(epochs) + 0.6, (side + 0.1) * len(measures) + 0.6)
        figure, grid = make_axes(ax, (len(measures), len(epochs)), size, sharex=True, sharey=True)
        for row, measure in zip(grid, measures, strict=True):
            for axes, epoch in zip(row, epochs, strict=True):
                rows = table[(table.measure == measure) & (table.epoch == epoch)]
                means = rows.groupby(["layer", "end_layer"]).value.agg(mean).unstack()
                _draw_heatmap(
                    means.reindex(index=layers[::-1], columns=layers), axes, annot=len(layers) <= 5, square=True
                )
            row[0].set_ylabel(measure_title(measure))
        for axes, epoch in zip(grid[0], epochs, strict=True):
            axes.set_title(f"epoch {epoch}", fontsize=9)
        for axes in grid[-1]:
            axes.tick_params(axis="x", rotation=90)
        return finish(figure, path, ax, grid, xlabel="layer at the end", ylabel="layer at the epoch")


def _check_chance(chance: dict | None, names: list) -> None:
    """Raise an InputError unless `chance` is None or has a number for each name."""
    if chance is not None:
        if not isinstance(chance, Mapping) or not set(names) <= set(chance):
            raise InputError(f"chance: got {short(chance)}, expected a number for each of {', '.join(map(str, names))}")
        for name in names:
            scalar("chance", chance[name], "numbers", lambda value: True)


def _spaced(values: Sequence, count: int) -> list:
    """Return at most `count` of the values, evenly spaced, including the first and the last."""
    return [values[i] for i in sorted(set(np.rint(np.linspace(0, len(values) - 1, count)).astype(int)))]


def _draw_heatmap(means: pd.DataFrame, axes, annot: bool, square: bool = False) -> None:
    settings = HEAT | {"vmin": min(0.0, np.nanmin(means.to_numpy()))}
    heatmap(means, ax=axes, annot=annot, annot_kws={"fontsize": 7}, square=square, **settings)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(length=0)
    axes.tick_params(axis="y", rotation=0)
