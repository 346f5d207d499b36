"""Stitching: connect the front of one model to the tail of another by a constrained linear layer on channels."""

from symjax.stitching.api import StitchResult, stitch
from symjax.stitching.evaluate import evaluate_stitch
from symjax.stitching.families import FAMILIES, Family, parse_families, register_family
from symjax.stitching.matching import feature_moments, least_squares, matched
from symjax.stitching.plan import FitConfig, Plan
from symjax.stitching.results import load_stitch
from symjax.stitching.stitched import Pair, Stitch, apply_stitch
from symjax.stitching.stitched import stitched_output as stitched_output
from symjax.stitching.sweep import PairResult, Sweep
from symjax.stitching.sweep import check_plan as check_plan

__all__ = [
    "FAMILIES",
    "Family",
    "FitConfig",
    "Pair",
    "PairResult",
    "Plan",
    "Stitch",
    "StitchResult",
    "Sweep",
    "apply_stitch",
    "evaluate_stitch",
    "feature_moments",
    "least_squares",
    "load_stitch",
    "matched",
    "parse_families",
    "register_family",
    "stitch",
]
