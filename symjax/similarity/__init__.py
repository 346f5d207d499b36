"""Similarity of representations: CCA and its relatives, CKA, Procrustes, and their forms for the symmetries of ReLU.

Functions take two representations (n, d) or (n, h, w, c), examples first, and are pure: good under `jit`, `vmap` and
`grad`. `MEASURES` lists those that return a number with what is known about each: reference, range, invariances.
"""

# The modules of the CCA family.
# (imports here)
# CKA, Procrustes, wreath forms and matching
from symjax.similarity.alignment import Matching, Rotation
from symjax.similarity.cka import MEASURES as CKA_MEASURES
from symjax.similarity.cka import channel_normalized_cka, cka, cka_distance
from symjax.similarity.hsic import hsic
from symjax.similarity.inputs import FewExamplesWarning
from symjax.similarity.measure import INVARIANCES, Measure, table
from symjax.similarity.procrustes import MEASURES as PROCRUSTES_MEASURES
from symjax.similarity.procrustes import (
    permutation_procrustes,
    permutation_procrustes_distance,
    procrustes,
    procrustes_distance,
)
from symjax.similarity.soft_matching import MEASURES as SOFT_MATCHING_MEASURES
from symjax.similarity.soft_matching import Transport, soft_matching, soft_matching_distance
from symjax.similarity.wreath import MEASURES as WREATH_MEASURES
from symjax.similarity.wreath import (
    wreath_cka,
    wreath_cka_distance,
    wreath_procrustes,
    wreath_procrustes_distance,
)

MEASURES = table(
    # cca.MEASURES, svcca.MEASURES, ...
    CKA_MEASURES,
    PROCRUSTES_MEASURES,
    WREATH_MEASURES,
    SOFT_MATCHING_MEASURES,
)

__all__ = [
    "INVARIANCES",
    "MEASURES",
    "FewExamplesWarning",
    "Matching",
    "Measure",
    "Rotation",
    "Transport",
    "channel_normalized_cka",
    "cka",
    "cka_distance",
    "hsic",
    "permutation_procrustes",
    "permutation_procrustes_distance",
    "procrustes",
    "procrustes_distance",
    "soft_matching",
    "soft_matching_distance",
    "wreath_cka",
    "wreath_cka_distance",
    "wreath_procrustes",
    "wreath_procrustes_distance",
]
