"""The Birkhoff polytope: projections onto doubly stochastic matrices, and conversion to and from permutations.

A doubly stochastic matrix is nonnegative with row and column sums of one; permutation matrices are the vertices of this
set. Every function takes matrices as the last two axes of an array, with any leading batch axes, and works under `jit`,
`vmap` and `grad`. Values (NaN, sign) are checked only where they are concrete.
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
