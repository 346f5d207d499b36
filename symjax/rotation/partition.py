"""Partition the matrices of a run among processes, and group those that train together in one process."""

from symjax.rotation.plan import RotationCase
from symjax.rotation.results import Unit

# From (model, layers) to pairs of a seed and its cases.
UnitGroups = dict[tuple[str, tuple[str, ...]], list[tuple[int, list[RotationCase]]]]


def split_units(units: list[Unit], parts: int) -> list[Unit]:
    """Divide the cases of units until there are at least `parts` units, or until each unit has a single case."""
    cuts, most = -(-parts // max(1, len(units))), max((len(unit[3]) for unit in units), default=0)
    while cuts < most and sum(min(cuts, len(unit[3])) for unit in units) < parts:
        cuts += 1
    shares = ((*unit[:3], unit[3][first::cuts]) for unit in units for first in range(cuts))
    return [share for share in shares if share[3]]


def group_units(units: list[Unit]) -> UnitGroups:
    """Group units that train together: layers of one member with equal cases.

    Members with the same layers are listed under one key, since they use the same compiled programs.
    """
    layers: dict[tuple[str, int, tuple[RotationCase, ...]], list[str]] = {}
    for model, layer, seed, cases in units:
        layers.setdefault((model, seed, tuple(cases)), []).append(layer)
    groups: UnitGroups = {}
    for (model, seed, cases), common_layers in layers.items():
        groups.setdefault((model, tuple(common_layers)), []).append((seed, list(cases)))
    return groups
