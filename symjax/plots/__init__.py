"""Figures from tidy tables.

Every function returns its figure, or None if the table has nothing to draw, and takes two common arguments:

  path: path without suffix in an existing folder, to which the figure is written as `.png` and `.pdf`. By default the
    figure is not written.
  ax: matplotlib axes to draw on, instead of those of a new figure: one for each panel, in the order of the panels; a
    single one, a list, or an array as `plt.subplots` returns it. An InputError says how many axes a figure has. Labels
    at the sides of a new figure are then at the axes, the legend is in the last one, and the title of several panels is
    left out. Panels share their scale if the axes do. `path` writes the whole figure of the axes.
"""

from symjax.plots.dissection import detectors
from symjax.plots.dynamics import layers_by_layers, layers_by_time, over_layers, over_time
from symjax.plots.freezing import freezing
from symjax.plots.groups import group_distances
from symjax.plots.intervals import intervals
from symjax.plots.lines import mean_curves
from symjax.plots.networks import dendrogram, embedding
from symjax.plots.rotation import describe_draws as describe_draws
from symjax.plots.rotation import rotation_curves, rotations
from symjax.plots.selection import chosen_values, sparsity
from symjax.plots.similarity import by_layer, distance_matrix, heatmaps
from symjax.plots.similarity import equal_layers as equal_layers
from symjax.plots.stitching import curves, penalties
from symjax.plots.symmetry import defects, homogeneity, symmetry_penalties
from symjax.plots.symmetry import worst_defects as worst_defects

__all__ = [
    "by_layer",
    "chosen_values",
    "curves",
    "defects",
    "dendrogram",
    "detectors",
    "distance_matrix",
    "embedding",
    "freezing",
    "group_distances",
    "heatmaps",
    "homogeneity",
    "intervals",
    "layers_by_layers",
    "layers_by_time",
    "mean_curves",
    "over_layers",
    "over_time",
    "penalties",
    "rotation_curves",
    "rotations",
    "sparsity",
    "symmetry_penalties",
]
