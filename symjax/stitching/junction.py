"""Junctions: the point of A's network and the point of B's network that a stitch connects."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from symjax.errors import InputError, renamed
from symjax.network import Member, Network, StitchPoint
from symjax.similarity.inputs import enlarge
from symjax.spelling import one_line

PyTree = Any


class Junction(NamedTuple):
    """A point of A's network and a point of B's.

    Attributes:
      a, b: the indices of the points.
      front, tail: the points.
      is_same_point: whether both are one point of one network.
      resize: how the axes of A's features between examples and channels are resized to those of B's: "none", "mean"
        (mean pooling, if each axis of A is a multiple of that of B) or "nearest" (nearest neighbour).
      dtype: of B's features; None if `is_same_point`.
    """

    a: int
    b: int
    front: StitchPoint
    tail: StitchPoint
    is_same_point: bool
    resize: str = "none"
    dtype: Any = None

    def __repr__(self):
        return one_line(self)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (d_b, d_a) of the matrix of a stitch."""
        return self.tail.channels, self.front.channels

    @property
    def widths(self) -> str:
        """The numbers of channels, for messages."""
        front, tail = self.front, self.tail
        return f"{front.channels} channels at {front.name} of A and {tail.channels} at {tail.name} of B"

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of both points, or their common name."""
        return tuple(dict.fromkeys((self.front.name, self.tail.name)))

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of result tables, without `layer_b` and `resize` if `is_same_point`."""
        columns = {"layer": self.front.name, "layer_index": self.a, "starred": self.front.starred}
        return columns if self.is_same_point else columns | {"layer_b": self.tail.name, "resize": self.resize}


def point_pair(point: Any) -> tuple[Any, Any]:
    """Return (point of A, point of B), given such a pair or one point for both."""
    return tuple(point) if isinstance(point, (tuple, list)) and len(point) == 2 else (point, point)


def parse_point_pairs(network: Network, network_b: Network, text: str) -> tuple[tuple[int, int], ...]:
    """Return pairs (index in A's network, index in B's) of points, in program order, each once.

    Args:
      network, network_b: of A and of B.
      text: names with commas between. A name is that of a point of both networks, such as relu1, or of a point of A
        and a point of B, such as relu2:block3. "all" selects all points with equal names that can be stitched.

    Raises:
      InputError: a point does not exist; for "all", no points can be stitched.
    """
    if network is network_b and text == "all":
        return tuple((index, index) for index in network.parse_points(text))
    names, names_b = ([point.name for point in net.points] for net in (network, network_b))
    if text == "all":
        pairs = {(names.index(name), names_b.index(name)) for name in names if name in names_b}
        if chosen := [pair for pair in pairs if _is_possible(network, network_b, *pair)]:
            return tuple(sorted(chosen))
        reason = "none that can be stitched have equal names" if pairs else "none have equal names"
        raise InputError(
            f"layers: got 'all' between different points: {reason}; expected pairs such as {names[0]}:{names_b[0]} of "
            f"points of {network.name}, {', '.join(names)}, and of {network_b.name}, {', '.join(names_b)}"
        )
    if not isinstance(text, str) or not text.strip(", "):
        network.parse_points(text)  # raises an InputError
    pairs = set()
    with renamed(point="layers"):
        for part in filter(None, map(str.strip, text.split(","))):
            first, colon, second = part.partition(":") if part not in names else (part, "", "")
            pairs.add((network.index(first), network_b.index(second if colon else first)))
    return tuple(sorted(pairs))


def _is_possible(network: Network, network_b: Network, a: int, b: int) -> bool:
    try:
        junction(network, network_b, a, b)
    except InputError:
        return False
    return True


def junction(network: Network, network_b: Network, a: int, b: int) -> Junction:
    """Return the junction of point number `a` of A's network and point number `b` of B's network.

    Raises:
      InputError: features of unequal ranks (maps and vectors), or a point inside a residual block whose other values
        that cross the split differ in number, shape or dtype from those that B's tail reads.
    """
    front, tail = network.points[a], network_b.points[b]
    if network is network_b and a == b:
        return Junction(a, b, front, tail, True)
    names = (f"{front.name} of {network.name}", f"{tail.name} of {network_b.name}")
    if len(front.shape) != len(tail.shape):
        raise InputError(
            f"points: got features of shapes {front.shape} at {names[0]} and {tail.shape} at {names[1]}, "
            "expected equally many axes, as maps (height, width, channels) of both"
        )
    values_a, values_b = _crossing(network, a), _crossing(network_b, b)
    if values_a[1:] != values_b[1:]:
        others = [
            ", ".join(f"{dtype}{list(shape)}" for shape, dtype in values[1:]) or "nothing"
            for values in (values_a, values_b)
        ]
        raise InputError(
            f"points: got {others[0]} across the split at {names[0]}, besides features, and {others[1]} at {names[1]}, "
            "expected points that are not starred (not inside a residual block)"
        )
    return Junction(a, b, front, tail, False, _resize_method(front.shape[:-1], tail.shape[:-1]), values_b[0][1])


def _crossing(network: Network, point: int) -> list[tuple]:
    """Return (shape for one example, dtype) of each value that crosses the split at a point."""
    values = jax.eval_shape(lambda member, x: network.front(member, x, point), network.shapes, network.example)
    return [(value.shape[1:], value.dtype) for value in values]


def _resize_method(size: Sequence[int], target: Sequence[int]) -> str:
    if size == target:
        return "none"
    return "mean" if all(n % m == 0 for n, m in zip(size, target, strict=True)) else "nearest"


def resize(features: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Return features (examples, *axes, channels) resized to (examples, *size, channels), see `Junction.resize`."""
    examples, *axes, channels = features.shape
    method = _resize_method(tuple(axes), size)
    if method == "mean":
        blocks = [length for n, m in zip(axes, size, strict=True) for length in (m, n // m)]
        return features.reshape(examples, *blocks, channels).mean(axis=tuple(range(2, 2 * len(size) + 1, 2)))
    return enlarge(features, size, range(1, len(size) + 1)) if method == "nearest" else features


def to_tail_input(junction: Junction, features: jax.Array) -> jax.Array:
    """Return A's features in the size and dtype of those that B's tail reads."""
    if junction.is_same_point:
        return features
    return resize(features, junction.tail.shape[:-1]).astype(junction.dtype)


def carried_values(junctions: Sequence[Junction], network: Network, a: Member, x: PyTree) -> list[tuple]:
    """Return the values that cross each junction, first A's features in the form that B's tail reads."""
    fronts = network.fronts(a, x, [junction.a for junction in junctions])
    return [
        (to_tail_input(junction, features), *others)
        for junction, (features, *others) in zip(junctions, fronts, strict=True)
    ]


def paired_features(junctions: Sequence[Junction], networks, pair, x: PyTree) -> list[tuple[jax.Array, jax.Array]]:
    """Return (features of A in the form that B's tail reads, features of B) of a batch at each junction."""
    points = [junction.a for junction in junctions], [junction.b for junction in junctions]
    features_a, features_b = (
        network.features(member, x, list(dict.fromkeys(indices)))
        for network, member, indices in zip(networks, pair, points, strict=True)
    )
    return [(to_tail_input(j, features_a[j.front.name]), features_b[j.tail.name]) for j in junctions]
