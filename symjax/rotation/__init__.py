"""Rotation penalties: what a fixed random matrix before an activation costs, when all behind it may learn again."""

from symjax.rotation.matrices import KINDS as KINDS
from symjax.rotation.matrices import parse_kinds as parse_kinds
from symjax.rotation.matrices import sample_rotation as sample_rotation
from symjax.rotation.retrain import Case as Case
from symjax.rotation.retrain import Found as Found
from symjax.rotation.retrain import Plan as Plan
from symjax.rotation.retrain import Retraining as Retraining
from symjax.rotation.tail import RotatedTail as RotatedTail
