"""The Birkhoff polytope: projections onto doubly stochastic matrices, and ways to and from permutations.

A doubly stochastic matrix is nonnegative and all its rows and columns sum to one; the permutation matrices are the
vertices of the set. Every function takes matrices as the last two axes of an array, with any leading batch axes, works
under `jit`, `vmap` and `grad`, and looks at values (NaN, sign) only when they are concrete.
"""

from symjax.birkhoff.permutations import nearest_permutation, permutation_matrix, softsort
from symjax.birkhoff.projection import ProjectionInfo, projection_birkhoff
from symjax.birkhoff.scaling import SinkhornInfo, sinkhorn

__all__ = [
    "ProjectionInfo",
    "SinkhornInfo",
    "nearest_permutation",
    "permutation_matrix",
    "projection_birkhoff",
    "sinkhorn",
    "softsort",
]
