"""Intertwiner groups of activations, and their action on the weights of networks.

Godfrey et al. 2022 (arXiv 2205.14258), section 3.
"""

from symjax.groups.discovery import Axis, Space, Symmetry, discover
from symjax.groups.homogeneity import GELU_SLOPE, homogeneity_defect
from symjax.groups.matrix_groups import GROUPS, MatrixGroup
from symjax.groups.membership import Decision, is_intertwiner
from symjax.groups.table import INTERTWINERS, Intertwiner, polynomial

__all__ = [
    "GELU_SLOPE",
    "GROUPS",
    "INTERTWINERS",
    "Axis",
    "Decision",
    "Intertwiner",
    "MatrixGroup",
    "Space",
    "Symmetry",
    "discover",
    "homogeneity_defect",
    "is_intertwiner",
    "polynomial",
]
