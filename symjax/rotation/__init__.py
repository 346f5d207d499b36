"""Rotation penalties: accuracy lost to a fixed random matrix before an activation, when all later layers retrain."""

from symjax.rotation.matrices import KINDS, parse_kinds, sample_rotation
from symjax.rotation.plan import CaseResult, RotationCase, RotationPlan
from symjax.rotation.retrain import Retraining
from symjax.rotation.tail import RotatedTail

__all__ = [
    "KINDS",
    "CaseResult",
    "Retraining",
    "RotatedTail",
    "RotationCase",
    "RotationPlan",
    "parse_kinds",
    "sample_rotation",
]
