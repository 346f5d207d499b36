"""What a run has to retrain: sets of matrices, shared out among processes, and side by side within one."""

from symjax.rotation.plan import Case
from symjax.rotation.results import Unit

Runs = dict[tuple[str, tuple[str, ...]], list[tuple[int, list[Case]]]]  # by model and layers: seeds with matrices


def divided(units: list[Unit], parts: int) -> list[Unit]:
    """At least so many units if there can be: where there are fewer, their matrices are shared out."""
    cuts, most = -(-parts // max(1, len(units))), max((len(unit[3]) for unit in units), default=0)
    while cuts < most and sum(min(cuts, len(unit[3])) for unit in units) < parts:
        cuts += 1
    shares = ((*unit[:3], unit[3][first::cuts]) for unit in units for first in range(cuts))
    return [share for share in shares if share[3]]


def side_by_side(units: list[Unit]) -> Runs:
    """Layers of a member that lack the same matrices train together; members at the same layers share programs."""
    layers: dict[tuple[str, int, tuple[Case, ...]], list[str]] = {}
    for name, layer, seed, cases in units:
        layers.setdefault((name, seed, tuple(cases)), []).append(layer)
    runs: Runs = {}
    for (name, seed, cases), theirs in layers.items():
        runs.setdefault((name, tuple(theirs)), []).append((seed, list(cases)))
    return runs
