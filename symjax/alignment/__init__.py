"""Alignment of networks by the elements of their symmetry."""

from symjax.alignment.api import match
from symjax.alignment.interpolation import Barrier, barrier, interpolate
from symjax.alignment.repair import repair
from symjax.alignment.stitches import element_stitches
from symjax.alignment.task import MatchInfo

__all__ = ["Barrier", "MatchInfo", "barrier", "element_stitches", "interpolate", "match", "repair"]
