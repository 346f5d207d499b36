"""Symmetries of the parameters of any JAX function, found from its jaxpr; see docs/discovery.md."""

from symjax.groups.discovery.action import Axis, Discovered, Space
from symjax.groups.discovery.search import discover

__all__ = ["Axis", "Discovered", "Space", "discover"]
