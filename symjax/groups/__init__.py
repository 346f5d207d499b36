"""Intertwiner groups of activations, and how they act on the weights of networks.

Godfrey et al. 2022 (arXiv 2205.14258), section 3.
"""

from symjax.groups.decide import Decision as Decision
from symjax.groups.decide import is_intertwiner as is_intertwiner
from symjax.groups.homogeneity import GELU_SLOPE as GELU_SLOPE
from symjax.groups.homogeneity import homogeneity_defect as homogeneity_defect
from symjax.groups.matrix_groups import GROUPS as GROUPS
from symjax.groups.matrix_groups import MatrixGroup as MatrixGroup
from symjax.groups.symmetry import Element as Element
from symjax.groups.symmetry import Symmetry as Symmetry
from symjax.groups.table import INTERTWINERS as INTERTWINERS
from symjax.groups.table import Intertwiner as Intertwiner
from symjax.groups.table import polynomial as polynomial
