"""Figures from tidy tables, nothing else."""

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
