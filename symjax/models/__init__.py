"""Models as chains of segments that end at their stitch points."""

from symjax.models.registry import MODELS, create
from symjax.models.registry import known_models as known_models
from symjax.models.segmented import Member, Network, Segmented, StitchPoint, branch
from symjax.models.segmented import replace_branch as replace_branch

__all__ = ["MODELS", "Member", "Network", "Segmented", "StitchPoint", "branch", "create"]
