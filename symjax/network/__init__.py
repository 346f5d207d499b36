"""Any JAX model, split at values that it names."""

from symjax.network.member import Member
from symjax.network.naming import StitchPoint, stitch_point
from symjax.network.network import Network

__all__ = ["Member", "Network", "StitchPoint", "stitch_point"]
