"""What changes over a training: curves, and heat maps over layers and time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symjax.birkhoff.checks import scalar
from symjax.checks import flag, integer, text
from symjax.errors import InputError
from symjax.plots.panels import lowest, panel_grid
from symjax.plots.similarity import NAMES
from symjax.plots.style import PAPER, apart, axes_of, check, finish, heatmap, in_order
from symjax.summary import mean

HEAT = {"cmap": "viridis", "vmin": 0.0, "vmax": 1.0, "cbar": False, "linewidths": 0.5, "fmt": ".2f"}


def over_time(
    table: pd.DataFrame,
    path: Path | None = None,
    *,
    ax=None,
    panel: str,
    line: str,
    label: str,
    title: str,
    ordered: bool = True,
    chance: dict | None = None,
) -> Figure:
    """A panel per value of column `panel`, in it a curve over epochs per value of column `line`.

    Curves are means over seeds, bands one standard deviation (n - 1) to each side.

    Args:
      table: epoch, seed, value and both columns, in the order in which panels and lines are to stand.
      path, ax: as of all figures, see `symjax.plots`.
      panel, line: columns.
      label: of the value's axis.
      title: of the figure.
      ordered: whether the lines have an order, such as layers, that their colours are to show.
      chance: for each panel, what to expect of nothing but chance; drawn dotted.

    Returns:
      The figure.
    """
    for name, words in {"panel": panel, "line": line, "label": label, "title": title}.items():
        text(name, words, empty=name in ("label", "title"))
    check(path, table, f"{panel} {line} seed", "epoch value")
    panels, lines = list(table[panel].unique()), list(table[line].unique())
    _check_chance(chance, panels)
    columns = next((n for n in (4, 3, 2) if len(panels) % n == 0), min(4, len(panels)))
    looks = in_order(lines) if flag("ordered", ordered) else apart(lines)
    epochs = sorted(table.epoch.unique())
    with matplotlib.rc_context(PAPER):
        options = {"margins": (max(0.4, 5.2 - 2.7 * columns), 0.9), "sharex": True, "sharey": True}
        figure, grid = panel_grid(len(panels), 2.7, 2.5, ax=ax, columns=columns, **options)
        for axes, name in zip(grid.flat, panels, strict=False):
            for which, look in looks.items():
                chosen = table[(table[panel] == name) & (table[line] == which)].groupby("epoch").value
                if len(chosen) == 0:
                    continue
                means, deviation = chosen.agg(mean), chosen.std().fillna(0)
                axes.plot(means.index, means, linewidth=1.4, label=which, **look)
                band = means - deviation, means + deviation
                axes.fill_between(means.index, *band, color=look["color"], alpha=0.15 if ordered else 0.08, lw=0)
            if chance is not None:
                axes.axhline(chance[name], color="#222222", linewidth=0.8, linestyle=":", label="chance")
            axes.set_title(NAMES.get(name, name), fontsize=9)
            axes.grid(True, color="#dddddd", linewidth=0.6)
            if epochs[-1] > 2 * len(epochs):  # early epochs lie close
                shown = epochs[:: -(-len(epochs) // 6)]
                axes.set_xscale("symlog", linthresh=1)
                axes.set_xticks(shown, [str(epoch) for epoch in shown])
        for axes in lowest(grid):
            axes.set_xlabel("epoch")
        return finish(figure, path, ax, grid, title=title, ylabel=label, legend={})


def over_layers(
    table: pd.DataFrame,
    path: Path | None = None,
    *,
    ax=None,
    title: str,
    chance: dict | None = None,
    moments: int = 4,
) -> Figure:
    """A panel per epoch, in it a curve over layers per class: how sensitive each layer is to it.

    Args:
      table: seed, epoch, layer, class, value, in the order in which layers and classes are to stand.
      path, ax: as of all figures, see `symjax.plots`.
      title: of the figure.
      chance: for each layer, what to expect of nothing but chance; drawn dotted.
      moments: of more epochs so many are shown, the first and the last among them.

    Returns:
      The figure.
    """
    check(path, table, "layer class seed", "epoch value")
    text("title", title, empty=True)
    layers, classes = list(table.layer.unique()), list(table["class"].unique())
    epochs = _some(sorted(table.epoch.unique()), integer("moments", moments, 1))
    _check_chance(chance, layers)
    with matplotlib.rc_context(PAPER):
        width = max(2.1, 0.25 * len(layers) + 0.8)
        figure, grid = axes_of(ax, (1, len(epochs)), (width * len(epochs) + 0.5, 3.5), sharey=True)
        for axes, epoch in zip(grid.flat, epochs, strict=True):
            for name, look in apart(classes).items():
                chosen = table[(table.epoch == epoch) & (table["class"] == name)]
                means = chosen.groupby("layer").value.agg(mean).reindex(layers)
                axes.plot(range(len(layers)), means, linewidth=1.4, label=name, **look)
            if chance is not None:
                shown = [chance[layer] for layer in layers]
                axes.plot(range(len(layers)), shown, color="#222222", linewidth=0.8, linestyle=":", label="chance")
            axes.set_xticks(range(len(layers)), layers, rotation=60 if len(layers) > 4 else 0)
            axes.set_xlim(-0.4, len(layers) - 0.6)
            axes.set_title(f"epoch {epoch}", fontsize=9)
            axes.grid(True, color="#dddddd", linewidth=0.6)
        grid[0, 0].set_ylabel("correlation with the class")
        return finish(figure, path, ax, grid, title=title, legend={})


def layers_by_time(table: pd.DataFrame, path: Path | None = None, *, ax=None) -> Figure:
    """A panel per measure: how alike each layer at each moment is to itself at the end of the training.

    Args:
      table: measure, seed, epoch, layer, end_layer, value; rows with layer = end_layer count.
      path, ax: as of all figures, see `symjax.plots`.

    Returns:
      The figure.
    """
    check(path, table, "measure seed layer end_layer", "epoch value")
    same = table[table.layer == table.end_layer]
    measures, layers, epochs = list(same.measure.unique()), list(same.layer.unique()), sorted(same.epoch.unique())
    with matplotlib.rc_context(PAPER):
        height = 0.32 * len(layers) + 0.75
        size = (max(4.5, 0.5 * len(epochs) + 1), height * len(measures) + 0.5)
        figure, grid = axes_of(ax, (len(measures), 1), size, sharex=True)
        for axes, measure in zip(grid.flat, measures, strict=True):
            means = same[same.measure == measure].groupby(["layer", "epoch"]).value.agg(mean).unstack("epoch")
            # The input is below, as in the published figure.
            _heat(means.reindex(index=layers[::-1], columns=epochs), axes, annot=len(epochs) <= 16)
            axes.set_title(NAMES.get(measure, measure), fontsize=9)
        grid[-1, 0].set_xlabel("epoch")
        return finish(figure, path, ax, grid, title="Each layer at an epoch with the same layer at the end")


def layers_by_layers(table: pd.DataFrame, path: Path | None = None, *, ax=None, moments: int = 6) -> Figure | None:
    """A row per measure, a panel per epoch: each layer then (up) with each layer at the end (across).

    Measures that compare layers of one name alone have no row; without any other there is no figure.

    Args:
      table: as of `layers_by_time`.
      path, ax: as of all figures, see `symjax.plots`.
      moments: of more epochs so many are shown, the first and the last among them.

    Returns:
      The figure.
    """
    check(path, table, "measure seed layer end_layer", "epoch value")
    table = table[table.measure.isin(table[table.layer != table.end_layer].measure)]
    if table.empty:
        return None
    measures, layers = list(table.measure.unique()), list(table.layer.unique())
    epochs = _some(sorted(table.epoch.unique()), integer("moments", moments, 1))
    side = max(1.5, 0.3 * len(layers) + 0.3)
    with matplotlib.rc_context(PAPER):
        size = (side * len(epochs) + 0.6, (side + 0.1) * len(measures) + 0.6)
        figure, grid = axes_of(ax, (len(measures), len(epochs)), size, sharex=True, sharey=True)
        for row, measure in zip(grid, measures, strict=True):
            for axes, epoch in zip(row, epochs, strict=True):
                chosen = table[(table.measure == measure) & (table.epoch == epoch)]
                means = chosen.groupby(["layer", "end_layer"]).value.agg(mean).unstack()
                _heat(means.reindex(index=layers[::-1], columns=layers), axes, annot=len(layers) <= 5, square=True)
            row[0].set_ylabel(NAMES.get(measure, measure))
        for axes, epoch in zip(grid[0], epochs, strict=True):
            axes.set_title(f"epoch {epoch}", fontsize=9)
        for axes in grid[-1]:
            axes.tick_params(axis="x", rotation=90)
        return finish(figure, path, ax, grid, xlabel="layer at the end", ylabel="layer at the epoch")


def _check_chance(chance: dict | None, wanted: list) -> None:
    """An InputError unless it is None or has a number for each of these."""
    if chance is not None:
        if not isinstance(chance, Mapping) or not set(wanted) <= set(chance):
            raise InputError(f"chance: wanted a number for each of {', '.join(map(str, wanted))}")
        for name in wanted:
            scalar("chance", chance[name], "numbers", lambda value: True)


def _some(values: Sequence, count: int) -> list:
    return [values[i] for i in sorted(set(np.rint(np.linspace(0, len(values) - 1, count)).astype(int)))]


def _heat(mean: pd.DataFrame, axes, annot: bool, square: bool = False) -> None:
    settings = HEAT | {"vmin": min(0.0, np.nanmin(mean.to_numpy()))}
    heatmap(mean, ax=axes, annot=annot, annot_kws={"fontsize": 7}, square=square, **settings)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(length=0)
    axes.tick_params(axis="y", rotation=0)
