"""Figures from tidy tables, nothing else."""

from symjax.plots.dynamics import layers_by_layers as layers_by_layers
from symjax.plots.dynamics import layers_by_time as layers_by_time
from symjax.plots.dynamics import over_layers as over_layers
from symjax.plots.dynamics import over_time as over_time
from symjax.plots.freezing import freezing as freezing
from symjax.plots.groups import groups as groups
from symjax.plots.selection import choices as choices
from symjax.plots.selection import sparsity as sparsity
from symjax.plots.similarity import by_layer as by_layer
from symjax.plots.similarity import heatmaps as heatmaps
from symjax.plots.similarity import of_equal_layers as of_equal_layers
from symjax.plots.stitching import curves as curves
from symjax.plots.stitching import penalties as penalties
