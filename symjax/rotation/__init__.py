"""Rotation penalties: what a fixed random matrix before an activation costs, when all behind it may learn again."""

from symjax.rotation.matrices import KINDS, parse_kinds, sample_rotation
from symjax.rotation.plan import Case, Found, Plan
from symjax.rotation.retrain import Retraining
from symjax.rotation.tail import RotatedTail

__all__ = ["KINDS", "Case", "Found", "Plan", "Retraining", "RotatedTail", "parse_kinds", "sample_rotation"]
