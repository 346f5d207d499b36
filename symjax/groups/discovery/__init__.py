"""Symmetries of the parameters of any JAX function, discovered from its jaxpr; see docs/discovery.md."""

from symjax.groups.discovery.action import Axis, Space, Symmetry
from symjax.groups.discovery.search import discover

__all__ = ["Axis", "Space", "Symmetry", "discover"]
