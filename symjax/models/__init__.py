"""Built-in models, and networks by name."""

from symjax.models import myrtle as myrtle
from symjax.models import resnet as resnet
from symjax.models.create import check_name as check_name
from symjax.models.create import create
from symjax.models.registry import MODELS, build, known_models, register
from symjax.network import Member as Member
from symjax.network import Network as Network

__all__ = ["MODELS", "build", "create", "known_models", "register"]
