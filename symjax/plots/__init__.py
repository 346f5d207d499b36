"""Figures from tidy tables, nothing else.

Every function returns its figure, or None where the table has nothing to draw, and takes two arguments:

  path: where to write it, without a suffix, as `.png` and `.pdf`; in a folder that is there. By default nowhere.
  ax: axes of matplotlib to draw on, in place of those of a new figure: one for each panel, in the order of the panels;
    one alone, or several as `plt.subplots` returns them or in a list. An InputError says how many a figure has. The
    labels that a new figure has at its sides are at these axes then, the legend is in the last one, and the title of
    several panels is left out. Panels have one scale where these axes share it. `path` writes the whole figure that
    they are in.
"""

from symjax.plots.dynamics import layers_by_layers, layers_by_time, over_layers, over_time
from symjax.plots.freezing import freezing
from symjax.plots.groups import groups
from symjax.plots.rotation import draws as draws
from symjax.plots.rotation import rotation_curves, rotations
from symjax.plots.selection import choices, sparsity
from symjax.plots.similarity import by_layer, heatmaps
from symjax.plots.similarity import of_equal_layers as of_equal_layers
from symjax.plots.stitching import curves, penalties
from symjax.plots.symmetry import defects, homogeneity, undone
from symjax.plots.symmetry import worst_defects as worst_defects

__all__ = [
    "by_layer",
    "choices",
    "curves",
    "defects",
    "freezing",
    "groups",
    "heatmaps",
    "homogeneity",
    "layers_by_layers",
    "layers_by_time",
    "over_layers",
    "over_time",
    "penalties",
    "rotation_curves",
    "rotations",
    "sparsity",
    "undone",
]
