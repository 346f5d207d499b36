"""Alignment of networks by the elements of their symmetry."""

from symjax.alignment.api import match
from symjax.alignment.embedding import embed
from symjax.alignment.interpolation import Barrier, barrier, interpolate
from symjax.alignment.merging import MergeInfo, cycle_error, merge
from symjax.alignment.repair import repair
from symjax.alignment.stitches import element_stitches
from symjax.alignment.task import MatchInfo

__all__ = [
    "Barrier",
    "MatchInfo",
    "MergeInfo",
    "barrier",
    "cycle_error",
    "element_stitches",
    "embed",
    "interpolate",
    "match",
    "merge",
    "repair",
]
