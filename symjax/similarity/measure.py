"""The properties of a similarity measure, as data.

Each module of the package lists its measures in a tuple `MEASURES`, and `symjax.similarity` joins them to a table.
`tests/test_measures.py` tests for each measure that every listed invariance holds and every other one fails.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from symjax.similarity.split_measure import SplitMeasure

INVARIANCES = {
    "translation": "add a constant vector to every example (and every pixel)",
    "isotropic_scaling": "multiply everything by one positive number",
    "orthogonal": "multiply the features by an orthogonal matrix",
    "invertible_linear": "multiply the features by an invertible matrix",
    "permutation": "permute the features",
    "positive_diagonal": "multiply each feature by its own positive number",
    "sign_flip": "multiply some features by -1",
    "cyclic_shift": "shift all maps cyclically by some pixels",
}
"""Transformations of the features (channels) of one side, the last one of its maps. The other side is unchanged."""

ORTHOGONAL = frozenset({"orthogonal", "permutation", "sign_flip"})
LINEAR = ORTHOGONAL | {"isotropic_scaling", "invertible_linear", "positive_diagonal"}
"""Invariances implied by invariance under orthogonal matrices, and by that under invertible matrices."""


@dataclass(frozen=True)
class Measure:
    """A function of two representations that returns a 0-d array, with its properties.

    Attributes:
        name: unique name in tables.
        fn: called as fn(x, y) with (n, d) or (n, h, w, c) on both sides; traceable by JAX.
        reference: the paper, with the equation or section where known.
        range: the smallest and the largest value; infinite where there is no bound.
        kind: "similarity" or "distance".
        symmetric: whether fn(x, y) = fn(y, x).
        invariances: names in `INVARIANCES`: transforming x or y in these ways does not change the value.
        split: split(shapes, **options) returns fn as a `SplitMeasure`, given the shapes of all representations to be
            compared and the options of fn. It returns the same object for the same arguments.
        one_map_size: whether fn rejects maps of different sizes by default, since pixels are its samples.
        zero_channels: whether appending zero channels to x or to y does not change the value.
        counts_channels: whether zero channels do change the value, but prepare(x, width) of `split` takes the number of
            channels before zero channels were appended and leaves these out.
        lost_with: lost_with(**options) returns which of "translation" and "zero_channels" do not hold with these
            options of fn; None if no option changes them.
        title: the name in figures; by default `name`.
        differentiable: whether the derivatives are not zero everywhere, as those of counts are.
        ends_at_equal: whether fn(x, x) is the best value: the largest similarity or the distance 0.
        min_examples: the smallest number of examples that fn takes with its default options.
        cost: operations for n examples and p features.
        bias: the value for independent data, and what it depends on.
        use: when to use it.
    """

    name: str
    fn: Callable
    reference: str
    range: tuple[float, float]
    kind: str
    symmetric: bool
    invariances: frozenset[str]
    split: Callable[..., SplitMeasure] | None = None
    one_map_size: bool = False
    zero_channels: bool = False
    counts_channels: bool = False
    lost_with: Callable[..., frozenset[str]] | None = None
    title: str = ""
    differentiable: bool = True
    ends_at_equal: bool = True
    min_examples: int = 2
    cost: str = ""
    bias: str = ""
    use: str = ""

    def __post_init__(self):
        if self.kind not in ("similarity", "distance"):
            raise ValueError(f"kind: got {self.kind!r}, expected 'similarity' or 'distance'")
        unknown = self.invariances - INVARIANCES.keys()
        if unknown:
            raise ValueError(f"invariances: got {sorted(unknown)}, expected names in INVARIANCES")

    def with_properties_of(self, options):
        """Return the measure with the invariances and `zero_channels` that hold with these options of fn."""
        lost = self.lost_with(**options) if self.lost_with else frozenset()
        zero_channels = self.zero_channels and "zero_channels" not in lost
        return replace(self, invariances=self.invariances - lost, zero_channels=zero_channels)
