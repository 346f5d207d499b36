"""Similarity of representations: CCA and its relatives, CKA, Procrustes, and their forms for the symmetries of ReLU.

Functions take two representations (n, d) or (n, h, w, c), examples first, and are pure: good under `jit`, `vmap` and
`grad`. `MEASURES` lists those that return a number with what is known about each: reference, range, invariances.
"""

from symjax.similarity.inputs import FewExamplesWarning
from symjax.similarity.measure import INVARIANCES, Measure, table

# The modules of the CCA family.
# (imports here)

# CKA, Procrustes, wreath forms and matching: `from symjax.similarity import cka, ...` and the names they export.
# (imports here)

MEASURES = table(
    # cca.MEASURES, svcca.MEASURES, ...
    # cka.MEASURES, procrustes.MEASURES, ...
)

__all__ = [
    "INVARIANCES",
    "MEASURES",
    "FewExamplesWarning",
    "Measure",
]
