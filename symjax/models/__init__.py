"""Models as chains of segments that end at their stitch points."""

from symjax.models.registry import MODELS as MODELS
from symjax.models.registry import create as create
from symjax.models.registry import known_models as known_models
from symjax.models.segmented import Member as Member
from symjax.models.segmented import Network as Network
from symjax.models.segmented import Segmented as Segmented
from symjax.models.segmented import StitchPoint as StitchPoint
from symjax.models.segmented import branch as branch
from symjax.models.segmented import replace_branch as replace_branch
