"""Alignment of networks by the elements of their symmetry."""

from symjax.alignment.api import match
from symjax.alignment.stitches import element_stitches
from symjax.alignment.task import MatchInfo

__all__ = ["MatchInfo", "element_stitches", "match"]
