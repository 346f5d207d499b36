"""The table of all measures."""

from symjax.checks import short
from symjax.errors import InputError
from symjax.similarity.cca import MEASURES as CCA_MEASURES
from symjax.similarity.cka import MEASURES as CKA_MEASURES
from symjax.similarity.fourier import MEASURES as FOURIER_MEASURES
from symjax.similarity.measure import Measure, table
from symjax.similarity.pls import MEASURES as PLS_MEASURES
from symjax.similarity.procrustes import MEASURES as PROCRUSTES_MEASURES
from symjax.similarity.pwcca import MEASURES as PWCCA_MEASURES
from symjax.similarity.soft_matching import MEASURES as SOFT_MATCHING_MEASURES
from symjax.similarity.svcca import MEASURES as SVCCA_MEASURES
from symjax.similarity.wreath import MEASURES as WREATH_MEASURES

MEASURES = table(
    CCA_MEASURES,
    SVCCA_MEASURES,
    PWCCA_MEASURES,
    PLS_MEASURES,
    FOURIER_MEASURES,
    CKA_MEASURES,
    PROCRUSTES_MEASURES,
    WREATH_MEASURES,
    SOFT_MATCHING_MEASURES,
)
"""Every `Measure` by name."""


def as_measure(name, value):
    """Return the `Measure` for a name in `MEASURES`; return a `Measure` or a function unchanged.

    Raises:
        InputError: anything else; the message names the argument `name`.
    """
    if isinstance(value, Measure):
        return value
    if isinstance(value, str) and value in MEASURES:
        return MEASURES[value]
    if not callable(value):
        known = ", ".join(MEASURES)
        raise InputError(f"{name}: got {short(value)}, expected one of {known}, a Measure or a function")
    return value
