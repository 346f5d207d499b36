"""What is known about a similarity measure, as data.

Each module of the package names its own in a tuple `MEASURES`; `symjax.similarity.MEASURES` joins them to a table, from
which `tests/test_measures.py` is generated: every claimed invariance is tested to hold, every other one to fail.
"""

from collections.abc import Callable
from dataclasses import dataclass

from symjax.similarity.factored import Factored

INVARIANCES = {
    "translation": "a constant vector added to every example (and every pixel)",
    "isotropic_scaling": "everything times one positive number",
    "orthogonal": "features times an orthogonal matrix",
    "invertible_linear": "features times an invertible matrix",
    "permutation": "features in another order",
    "positive_diagonal": "every feature times a positive number of its own",
    "sign_flip": "some features times -1",
    "cyclic_shift": "all maps moved by some pixels, those that leave at one edge coming in at the other",
}
"""Transformations of the features (channels) of one side, and the last of its maps, the other side left as it is."""

ORTHOGONAL = frozenset({"orthogonal", "permutation", "sign_flip"})
LINEAR = ORTHOGONAL | {"isotropic_scaling", "invertible_linear", "positive_diagonal"}
"""What comes with invariance under orthogonal and under invertible matrices."""


@dataclass(frozen=True)
class Measure:
    """A function of two representations that returns a 0-d array, and what holds for it.

    name: its name in tables; unique.
    fn: called as fn(x, y), with (n, d) or (n, h, w, c) on both sides; JAX can trace it.
    reference: paper, with the equation or section where that is known.
    range: the least and the largest value, infinite where there is no bound.
    kind: "similarity" or "distance".
    symmetric: whether fn(x, y) = fn(y, x).
    invariances: names from `INVARIANCES`: nothing changes when x or when y is so transformed.
    factor: called as factor(shapes, **options), with the shapes of all representations that will be compared with each
        other and the options of fn, returns fn in two parts (`Factored`); the same object for the same arguments.
    zero_channels: whether channels of zeros, added to x or to y, change nothing.
    one_map_size: whether fn refuses maps of different sizes, since by default pixels are its samples.
    """

    name: str
    fn: Callable
    reference: str
    range: tuple[float, float]
    kind: str
    symmetric: bool
    invariances: frozenset[str]
    factor: Callable[..., Factored] | None = None
    one_map_size: bool = False
    zero_channels: bool = False

    def __post_init__(self):
        if self.kind not in ("similarity", "distance"):
            raise ValueError(f"kind: got {self.kind!r}, must be 'similarity' or 'distance'")
        unknown = self.invariances - INVARIANCES.keys()
        if unknown:
            raise ValueError(f"invariances: {sorted(unknown)} are not known; see INVARIANCES")


def table(*groups: tuple[Measure, ...]) -> dict[str, Measure]:
    """Measures by name, from the `MEASURES` of several modules."""
    measures = [measure for group in groups for measure in group]
    names = [measure.name for measure in measures]
    if len(set(names)) < len(names):
        raise ValueError(f"names: {sorted(name for name in set(names) if names.count(name) > 1)} are there twice")
    return dict(zip(names, measures, strict=True))
