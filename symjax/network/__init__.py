"""Any JAX model, split at values that it names."""

from symjax.network.member import Member
from symjax.network.naming import stitch_point
from symjax.network.network import Network, StitchPoint

__all__ = ["Member", "Network", "StitchPoint", "stitch_point"]
