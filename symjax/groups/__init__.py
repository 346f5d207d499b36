"""Intertwiner groups of activations, and how they act on the weights of networks.

Godfrey et al. 2022 (arXiv 2205.14258), section 3.
"""

from symjax.groups.decide import Decision, is_intertwiner
from symjax.groups.discovery import Axis, Discovered, Space, discover
from symjax.groups.homogeneity import GELU_SLOPE, homogeneity_defect
from symjax.groups.matrix_groups import GROUPS, MatrixGroup
from symjax.groups.table import INTERTWINERS, Intertwiner, polynomial

__all__ = [
    "GELU_SLOPE",
    "GROUPS",
    "INTERTWINERS",
    "Axis",
    "Decision",
    "Discovered",
    "Intertwiner",
    "MatrixGroup",
    "Space",
    "discover",
    "homogeneity_defect",
    "is_intertwiner",
    "polynomial",
]
