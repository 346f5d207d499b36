"""Alignment of networks by the elements of their symmetry."""

from symjax.alignment.api import MatchInfo, match

__all__ = ["MatchInfo", "match"]
