"""Junctions: the point of A's network and the point of B's network that a stitch connects."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from symjax.errors import InputError, renamed
from symjax.network import Network, StitchPoint
from symjax.ops.parallel import Execution, each_stack, take
from symjax.similarity.inputs import enlarge
from symjax.spelling import one_line
from symjax.stitching.controls import NOISE, RELATED, TASK, WRONG_LAYER, Point, cluster_noise

PyTree = Any


class Junction(NamedTuple):
    """A point of A's network and a point of B's.

    Attributes:
      a, b: the indices of the points.
      front, tail: the points.
      is_same_point: whether both are one point of one network.
      resize: how the axes of A's features between examples and channels are resized to those of B's: "none", "mean"
        (mean pooling, if each axis of A is a multiple of that of B) or "nearest" (nearest neighbor).
      dtype: of B's features; None if `is_same_point`.
      control, objective: as in `symjax.stitching.controls.Point`.
      replaced: the index of the point that the control "wrong_layer" replaces by `a`; None for other controls.
      layer: the name of the point of A, before it is replaced.
      starred: whether the point of `layer` is starred.
    """

    a: int
    b: int
    front: StitchPoint
    tail: StitchPoint
    is_same_point: bool
    resize: str = "none"
    dtype: Any = None
    control: str = RELATED
    objective: str = TASK
    replaced: int | None = None
    layer: str = ""
    starred: bool = False

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
        return tuple(dict.fromkeys((self.layer, self.tail.name)))

    @property
    def layer_index(self) -> int:
        """The index of the point that `layer` names."""
        return self.a if self.replaced is None else self.replaced

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What identifies the junction in result tables: layer, layer_b, control and objective."""
        return self.layer, self.tail.name, self.control, self.objective

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of result tables, without `layer_b` and `resize` if `is_same_point`."""
        columns = {"layer": self.layer, "layer_index": self.layer_index, "starred": self.starred}
        columns |= {} if self.is_same_point else {"layer_b": self.tail.name, "resize": self.resize}
        columns |= {} if self.control == RELATED else {"control": self.control}
        columns |= {} if self.replaced is None else {"front_layer": self.front.name}
        return columns if self.objective == TASK else columns | {"objective": self.objective}


def as_point(point: Any) -> Point:
    """Return the `Point` for an element of `Plan.points`."""
    return point if isinstance(point, Point) else Point(*point_pair(point))


def point_pair(point: Any) -> tuple[Any, Any]:
    """Return (point of A, point of B), given such a pair or one point for both."""
    return tuple(point) if isinstance(point, (tuple, list)) and len(point) == 2 else (point, point)


def parse_point_pairs(network: Network, network_b: Network, text: str) -> tuple[tuple[int, int], ...]:
    """Return pairs (index in A's network, index in B's) of points, in program order, each once.

    Args:
      network, network_b: the networks of A and B.
      text: comma-separated names. A name is that of a point of both networks, such as relu1, or of a point of A and a
        point of B, such as relu2:block3. "all" selects all points with equal names that can be stitched.

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
        make_junction(network, network_b, a, b)
    except InputError:
        return False
    return True


def wrong_point(network: Network, network_b: Network, a: int, b: int) -> int | None:
    """Return the point of A's network that the control "wrong_layer" stitches to point `b`; None if there is none.

    It is the point farthest from `a` that has as many channels as point `b`, or the farthest of all if none has.
    """
    channels = network_b.points[b].channels
    others = [i for i in range(len(network.points)) if i != a and not (network is network_b and i == b)]
    order = sorted(others, key=lambda i: (network.points[i].channels != channels, -abs(i - a)))
    return next((i for i in order if _is_possible(network, network_b, i, b)), None)


def make_junction(
    network: Network, network_b: Network, a: int, b: int, control: str = RELATED, objective: str = TASK
) -> Junction:
    """Return the junction of point number `a` of A's network and point number `b` of B's network.

    Raises:
      InputError: features of unequal ranks (maps and vectors), or a point inside a residual block at which the other
        values across the split, such as a skip connection, differ in number, shape or dtype from those that B reads.
    """
    replaced, point = None, network.points[a]
    if control == WRONG_LAYER:
        replaced, a = a, wrong_point(network, network_b, a, b)
        if a is None:
            raise InputError(f"controls: got {point.name} alone, expected another point for the control wrong_layer")
    front, tail = network.points[a], network_b.points[b]
    rest = (control, objective, replaced, point.name, point.starred)
    if network is network_b and a == b:
        return Junction(a, b, front, tail, True, "none", None, *rest)
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
    method = _resize_method(front.shape[:-1], tail.shape[:-1])
    return Junction(a, b, front, tail, False, method, values_b[0][1], *rest)


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


def carried_values(junctions: Sequence[Junction], network: Network, pair, x: PyTree, classes=None) -> list[tuple]:
    """Return the values that cross each junction, first the front's features in the form that B's tail reads.

    Args:
      junctions: the junctions.
      network: the network of the fronts.
      pair: A, B and the members of controls.
      x: inputs.
      classes: the classes of the inputs, for noise clusters.
    """

    def values(member, group):
        return network.fronts(member, x, [junction.a for junction in group])

    return [
        (to_tail_input(junction, features), *others)
        for junction, (features, *others) in zip(
            junctions, _of_fronts(values, junctions, pair, x, classes), strict=True
        )
    ]


def paired_features(
    junctions: Sequence[Junction], networks, pair, x: PyTree, classes=None
) -> list[tuple[jax.Array, jax.Array]]:
    """Return (features of the front in the form that B's tail reads, features of B) of a batch at each junction."""

    def values(member, group):
        features = networks[0].features(member, x, list(dict.fromkeys(junction.a for junction in group)))
        return [(features[junction.front.name],) for junction in group]

    fronts = _of_fronts(values, junctions, pair, x, classes)
    features_b = networks[1].features(pair.b, x, list(dict.fromkeys(junction.b for junction in junctions)))
    return [
        (to_tail_input(j, features), features_b[j.tail.name]) for j, (features,) in zip(junctions, fronts, strict=True)
    ]


def each_tail(
    fn: Callable, junctions: Sequence[Junction], items: Sequence[PyTree], execution: Execution
) -> list[PyTree]:
    """Return `fn(junction, item)` of each; fronts of one tail run as one program if their items have equal types."""
    groups: dict[tuple, list[int]] = {}
    for i, junction in enumerate(junctions):
        groups.setdefault((junction.b, junction.objective), []).append(i)
    results: list[PyTree] = [None] * len(junctions)
    for indices in groups.values():
        of_tail = partial(fn, junctions[indices[0]])
        if len(indices) == 1:
            results[indices[0]] = of_tail(items[indices[0]])
            continue
        stacks = [jax.tree.map(lambda leaf: leaf[None], items[i]) for i in indices]
        for i, result in zip(indices, each_stack(of_tail, stacks, execution), strict=True):
            results[i] = take(result, 0)
    return results


def _of_fronts(values: Callable, junctions: Sequence[Junction], pair, x: PyTree, classes) -> list[tuple]:
    """Return the values of each junction: `values(member, its junctions)`, or noise for the control `NOISE`."""
    groups: dict[str, list[int]] = {}
    for i, junction in enumerate(junctions):
        groups.setdefault(RELATED if junction.control in (WRONG_LAYER, NOISE) else junction.control, []).append(i)
    results: list[tuple] = [()] * len(junctions)
    for name, indices in groups.items():
        member = pair.a if name == RELATED else pair.controls[name]
        for i, crossing in zip(indices, values(member, [junctions[i] for i in indices]), strict=True):
            is_noise = junctions[i].control == NOISE
            results[i] = cluster_noise(pair.controls[NOISE], x, classes, crossing) if is_noise else crossing
    return results
