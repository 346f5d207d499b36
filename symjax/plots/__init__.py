"""Figures from tidy tables, nothing else."""

from symjax.plots.stitching import curves as curves
from symjax.plots.stitching import penalties as penalties
