"""Figures from tidy tables, nothing else."""

from symjax.plots.rotation import rotation_curves as rotation_curves
from symjax.plots.rotation import rotations as rotations
from symjax.plots.selection import choices as choices
from symjax.plots.selection import sparsity as sparsity
from symjax.plots.similarity import by_layer as by_layer
from symjax.plots.similarity import heatmaps as heatmaps
from symjax.plots.similarity import of_equal_layers as of_equal_layers
from symjax.plots.stitching import curves as curves
from symjax.plots.stitching import penalties as penalties
