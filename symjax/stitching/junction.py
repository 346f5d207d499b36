"""Where a stitch leads from and to: a point of A's network, and a point of B's."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from symjax.errors import InputError, renamed
from symjax.network import Member, Network, StitchPoint
from symjax.similarity.alignment import enlarge
from symjax.spelling import one_line

PyTree = Any


class Junction(NamedTuple):
    """A point of A's network and a point of B's.

    Attributes:
      a, b: the indices of the points.
      front, tail: the points.
      is_plain: whether they are one point of one network.
      resize: how A's features are brought to the size of B's, by their axes between examples and channels: "none",
        "mean" (pooled by means, where each axis of A's is a multiple of B's) or "nearest" (nearest neighbour).
      dtype: of B's features; None where it is A's.
    """

    a: int
    b: int
    front: StitchPoint
    tail: StitchPoint
    is_plain: bool
    resize: str = "none"
    dtype: Any = None

    __repr__ = one_line

    @property
    def shape(self) -> tuple[int, int]:
        """Of the stitch's matrix: (d_b, d_a)."""
        return self.tail.channels, self.front.channels

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the points; one name where they have the same."""
        return tuple(dict.fromkeys((self.front.name, self.tail.name)))

    @property
    def columns(self) -> dict[str, Any]:
        """How tables call it; `layer_b` and `resize` are left out where it is one point of one network."""
        columns = {"layer": self.front.name, "layer_index": self.a, "starred": self.front.starred}
        return columns if self.is_plain else columns | {"layer_b": self.tail.name, "resize": self.resize}


def point_pair(point: Any) -> tuple[Any, Any]:
    """Return (point of A, point of B), of such a pair or of one point that is both."""
    return tuple(point) if isinstance(point, (tuple, list)) and len(point) == 2 else (point, point)


def parse_point_pairs(network: Network, network_b: Network, text: str) -> tuple[tuple[int, int], ...]:
    """Return pairs (index in A's network, index in B's) of points, in program order, each once.

    Args:
      network, network_b: of A and of B.
      text: names with commas between: of a point of both networks, as relu1, or of A's and of B's, as relu2:block3.
        Or "all": the points that have one name in both and can be stitched.

    Raises:
      InputError: no such points; for "all", none that can be stitched.
    """
    if network is network_b and text == "all":
        return tuple((index, index) for index in network.parse_points(text))
    names, names_b = ([point.name for point in one.points] for one in (network, network_b))
    if text == "all":
        pairs = {(names.index(name), names_b.index(name)) for name in names if name in names_b}
        if chosen := [pair for pair in pairs if _is_possible(network, network_b, *pair)]:
            return tuple(sorted(chosen))
        why = "none that can be stitched have one name" if pairs else "none have one name"
        raise InputError(
            f"layers: got 'all' between different points: {why}; expected pairs such as {names[0]}:{names_b[0]} of "
            f"points of {network.name}, {', '.join(names)}, and of {network_b.name}, {', '.join(names_b)}"
        )
    if not isinstance(text, str) or not text.strip(", "):
        network.parse_points(text)  # its errors
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
    """Return the junction of point number `a` of A's network and number `b` of B's.

    Raises:
      InputError: features of unequal ranks (maps and vectors), or a point inside of a block where what else crosses
        the split differs from what B's tail reads.
    """
    front, tail = network.points[a], network_b.points[b]
    if network is network_b and a == b:
        return Junction(a, b, front, tail, True)
    named = (f"{front.name} of {network.name}", f"{tail.name} of {network_b.name}")
    if len(front.shape) != len(tail.shape):
        raise InputError(
            f"points: features of shapes {front.shape} at {named[0]} and {tail.shape} at {named[1]} cannot be "
            "stitched; expected equally many axes, as maps (height, width, channels) of both"
        )
    of_a, of_b = _crossing(network, a), _crossing(network_b, b)
    if of_a[1:] != of_b[1:]:
        described = [", ".join(f"{dtype}{list(shape)}" for shape, dtype in v[1:]) or "nothing" for v in (of_a, of_b)]
        raise InputError(
            f"points: beside the features {described[0]} crosses at {named[0]}, and {described[1]} at {named[1]}; "
            "choose points that are not starred (not inside of a residual block)"
        )
    return Junction(a, b, front, tail, False, _resize(front.shape[:-1], tail.shape[:-1]), of_b[0][1])


def _crossing(network: Network, point: int) -> list[tuple]:
    """Shapes for one example and types of what crosses at a point."""
    values = jax.eval_shape(lambda member, x: network.front(member, x, point), network.shapes, network.example)
    return [(value.shape[1:], value.dtype) for value in values]


def _resize(size: Sequence[int], target: Sequence[int]) -> str:
    if size == target:
        return "none"
    return "mean" if all(n % m == 0 for n, m in zip(size, target, strict=True)) else "nearest"


def resized(features: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Return features (examples, *own size, channels) brought to another size, as `Junction.resize` says."""
    examples, *own, channels = features.shape
    how = _resize(tuple(own), size)
    if how == "mean":
        blocks = [length for n, m in zip(own, size, strict=True) for length in (m, n // m)]
        return features.reshape(examples, *blocks, channels).mean(axis=tuple(range(2, 2 * len(size) + 1, 2)))
    return enlarge(features, size, range(1, len(size) + 1)) if how == "nearest" else features


def as_read(junction: Junction, features: jax.Array) -> jax.Array:
    """Return A's features in the size and type of those that B's tail reads."""
    if junction.is_plain:
        return features
    return resized(features, junction.tail.shape[:-1]).astype(junction.dtype)


def carried_to(junctions: Sequence[Junction], network: Network, a: Member, x: PyTree) -> list[tuple]:
    """Return what A's front carries across each junction, features first, as B's tails read it."""
    fronts = network.fronts(a, x, [junction.a for junction in junctions])
    return [
        (as_read(junction, features), *others) for junction, (features, *others) in zip(junctions, fronts, strict=True)
    ]


def moment_features(junctions: Sequence[Junction], networks, pair, x: PyTree) -> list[tuple[jax.Array, jax.Array]]:
    """Return features of A, as B's tail reads them, and of B, of a batch, at each junction."""
    points = [junction.a for junction in junctions], [junction.b for junction in junctions]
    of_a, of_b = (
        network.features(member, x, list(dict.fromkeys(indices)))
        for network, member, indices in zip(networks, pair, points, strict=True)
    )
    return [(as_read(one, of_a[one.front.name]), of_b[one.tail.name]) for one in junctions]
