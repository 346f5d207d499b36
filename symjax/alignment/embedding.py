"""Networks of smaller width as members of a wider network, for partial matching."""

from typing import Any

import jax
import numpy as np

from symjax.alignment.inputs import checked_data, inputs_like, stacked, symmetry_of
from symjax.checks import is_real, short
from symjax.errors import InputError
from symjax.groups import Axis, Symmetry
from symjax.network import Member, Network
from symjax.ops.parallel import take

TOLERANCE = 1e-3  # largest change of the function, relative to its largest output


def embed(narrow: Network, members: Any, wide: Network, like: Any, *, data: Any = None) -> Member:
    """Return members of a network as members of a wider one that compute the same function.

    The channels of each space come first; the remaining ones have parameters 0, so that nothing writes or reads them.
    With b embedded in this way, `match(wide, a, b)` is a partial matching: |a - k b|^2 is minimized over all maps of
    the channels of b to different channels of a. On the line to the aligned b, channels of a without a partner shrink.

    Args:
      narrow, members: a network, and a member or members with a leading axis.
      wide: a network of the same architecture, with as many channels or more in each space of its symmetry.
      like: a member of `wide`.
      data: inputs of both networks, if they are not real numbers; otherwise drawn at random. The functions of the first
        member are compared there.

    Raises:
      InputError: networks that differ by more than numbers of channels; a function that depends on the number of
        channels, such as a layer norm.

    Example:
      >>> import jax, jax.numpy as jnp, symjax
      >>> from symjax.alignment import embed
      >>> def mlp(p, x):
      ...     return jax.nn.relu(x @ p["w"]) @ p["v"]
      >>> small, large = ({"w": jnp.ones((2, n)), "v": jnp.ones((n, 3))} for n in (4, 6))
      >>> narrow, wide = (symjax.Network.from_function(mlp, p, example=jnp.ones((1, 2))) for p in (small, large))
      >>> embed(narrow, narrow.member(small), wide, wide.member(large)).params["w"][0].tolist()
      [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    """
    for name, network in (("narrow", narrow), ("wide", wide)):
        if not isinstance(network, Network):
            raise InputError(f"{name}: got {short(network)}, expected a Network")
    members, is_stacked = stacked("members", narrow, members)
    like, _ = stacked("like", wide, like)
    data = checked_data(narrow, "weights", data)
    small, large = symmetry_of(narrow, members, data), symmetry_of(wide, like, data)
    if list(small.shapes) != list(large.shapes):
        raise InputError("wide: got a network of other parameters, expected those of narrow in other widths")
    places, leaves = _places(small, large), []
    for (path, shape), leaf in zip(large.shapes.items(), jax.tree.leaves(members), strict=True):
        narrow_shape = small.shapes[path]
        if len(narrow_shape) != len(shape) or any(
            n != shape[d] and (path, d) not in places for d, n in enumerate(narrow_shape)
        ):
            expected = f"{narrow_shape}, or more channels of a space of the symmetry"
            raise InputError(f"wide: got shape {shape} at {path}, expected {expected}")
        if is_real(leaf.dtype):
            index = [places.get((path, d), np.arange(n)) for d, n in enumerate(narrow_shape)]
            zeros = np.zeros((len(leaf), *shape), leaf.dtype)
            zeros[np.ix_(np.arange(len(leaf)), *index)] = leaf
            leaf = zeros
        leaves.append(leaf)
    embedded = jax.tree.unflatten(large.treedef, leaves)
    x = inputs_like(narrow, data)
    outputs = [
        jax.tree.leaves(network.apply(take(each, 0), x)) for network, each in ((narrow, members), (wide, embedded))
    ]
    change = max(float(np.abs(a - b).max() / (np.abs(a).max() or 1)) for a, b in zip(*outputs, strict=True))
    if not change <= TOLERANCE:
        expected = "one without operations over channels, such as layer norm"
        raise InputError(
            f"narrow: got a network whose outputs change by {change:.1e} with more channels, expected {expected}"
        )
    return embedded if is_stacked else take(embedded, 0)


def _places(small: Symmetry, large: Symmetry) -> dict[tuple[str, int], np.ndarray]:
    """Return the positions in the wide parameters of those in the narrow ones, by path and dimension."""
    places: dict[tuple[str, int], np.ndarray] = {}
    for space in small.spaces.values():
        other = large.spaces.get(space.name)
        if other is None or [_place(axis) for axis in space.axes] != [_place(axis) for axis in other.axes]:
            continue
        if other.size < space.size:
            raise InputError(f"wide: got {other.size} channels of {space.name}, expected {space.size} or more")
        for axis, target in zip(space.axes, other.axes, strict=True):
            new = np.arange(small.shapes[axis.path][axis.axis])
            places.setdefault((axis.path, axis.axis), new)[axis.positions] = target.positions[: space.size]
    return places


def _place(axis: Axis) -> tuple:
    return (axis.path, axis.axis, axis.index, axis.positions.shape[1])
