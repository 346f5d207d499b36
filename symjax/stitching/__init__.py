"""Stitching: the front of one model, a constrained linear layer on channels, the tail of another."""

from symjax.stitching.evaluate import evaluate_stitch as evaluate_stitch
from symjax.stitching.families import FAMILIES as FAMILIES
from symjax.stitching.families import Family as Family
from symjax.stitching.families import parse_families as parse_families
from symjax.stitching.fit import FitConfig as FitConfig
from symjax.stitching.fit import Plan as Plan
from symjax.stitching.matching import feature_moments as feature_moments
from symjax.stitching.matching import least_squares as least_squares
from symjax.stitching.matching import matched as matched
from symjax.stitching.stitched import Pair as Pair
from symjax.stitching.stitched import Stitch as Stitch
from symjax.stitching.stitched import apply_stitch as apply_stitch
from symjax.stitching.stitched import stitched_logits as stitched_logits
from symjax.stitching.sweep import PairResult as PairResult
from symjax.stitching.sweep import Sweep as Sweep
from symjax.stitching.sweep import check_plan as check_plan
