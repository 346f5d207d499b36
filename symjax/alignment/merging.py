"""Merge many networks: the element of each network maps it to one common place, the universe.

U_p is the network p after its element, and S the sum of all U_p. The objective sum_(p<q) |U_p - U_q|^2 =
k sum_p |U_p|^2 - |S|^2 is minimal where |S|^2 - sum_p |U_p|^2 is maximal, since permutations change no norms.
"""

from collections.abc import Mapping
from itertools import permutations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax.alignment.balance import balance
from symjax.alignment.canonical import map_to_first
from symjax.alignment.descent import Descent, element_of
from symjax.alignment.inputs import aligned_paths, checked_data, generator, parameters, symmetry_of
from symjax.alignment.leaves import on_host, squared
from symjax.alignment.spaces import blocks_of
from symjax.alignment.task import MAX_SWEEPS
from symjax.alignment.universe import frank_wolfe, sum_of_distances
from symjax.checks import one_of, scalar, short
from symjax.errors import InputError
from symjax.groups import Symmetry
from symjax.network import Network
from symjax.ops import parallel
from symjax.spelling import one_line

METHODS = ("universe", "many", "cca")


class MergeInfo(NamedTuple):
    """How networks were merged.

    Attributes:
      elements: {space: (k, n, n)}: the element of each network, or the matrices of "cca".
      objective: the sum of squared distances of all pairs, at the start and after each sweep, NumPy float64. For
        "universe" the first entries are those of the steps of Frank-Wolfe, at doubly stochastic matrices. For "cca" it
        has two entries, before and after.
      converged: whether a sweep changed nothing.
      cycle_error: `cycle_error` of the maps between the networks through the universe; 0 for "cca".
      action: the symmetry whose `act` applies the elements.
    """

    elements: dict[str, np.ndarray]
    objective: np.ndarray
    converged: bool
    cycle_error: float
    action: Symmetry

    def __repr__(self):
        return one_line(self)


def merge(
    network: Network | Symmetry,
    members: Any,
    *,
    method: str = "universe",
    group: str = "permutation",
    data: Any = None,
    ridge: float = 0.1,
    key: jax.Array | None = None,
) -> tuple[Any, MergeInfo]:
    """Return the mean of several networks, each after the element that brings it near to the others.

    Args:
      network: a `Network`; or a `Symmetry`, as in `match`.
      members: two or more members, stacked along a leading axis of every leaf.
      method: "universe": permutations of all networks and spaces together by Frank-Wolfe over doubly stochastic
        matrices, rounded by linear assignments (Crisostomi et al. 2024, C2M3), then sweeps as in "many". Heads start
        from the identity. "many": each network in turn is matched with the mean of the others until nothing changes
        (Ainsworth et al. 2023, MergeMany). "cca": all networks are mapped to the first one by linear maps from the
        canonical correlation analysis of their features at stitch points (Horoi et al. 2024, CCA Merge; see
        `symjax.alignment.canonical`), which keep their functions only approximately; spaces that no point holds are
        permuted. Its group is "permutation".
      group: "permutation", or "scaled_permutation", which first balances the scales of each network as `match` does.
      data: inputs of the network, for "cca" or if they are not real numbers.
      ridge: "cca" adds this share of the channels' mean variance to the variance of each; over 0. Large values keep
        directions of little variance from being scaled up.
      key: key of the order of networks and spaces; by default key 0.

    Returns:
      The merged network, whose running statistics are means (see `repair`), and `MergeInfo`.

    Raises:
      InputError: members of another structure, not stacked, or not finite; an unknown method or group; no data where
        they are needed.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from symjax.alignment import merge
      >>> from symjax.groups import discover
      >>> one = {"w": jnp.arange(6.0).reshape(2, 3), "v": jnp.ones((3, 1))}
      >>> symmetry = discover(lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"], one, jnp.ones((4, 2)))
      >>> other = {"w": one["w"][:, ::-1], "v": one["v"]}
      >>> merged, info = merge(symmetry, jax.tree.map(lambda *leaves: jnp.stack(leaves), one, other))
      >>> sorted(merged["w"][1].tolist()), info.cycle_error
      ([3.0, 4.0, 5.0], 0.0)
    """
    one_of("method", method, METHODS)
    one_of("group", group, ("permutation", "scaled_permutation")[: 1 if method == "cca" else None])
    ridge = scalar("ridge", ridge, "a number over 0", lambda value: 0 < value < float("inf"))
    if method == "cca":
        if not isinstance(network, Network):
            raise InputError(f"network: got a {type(network).__name__}, expected a Network for method 'cca'")
        data = checked_data(network, method, data)
    rng = generator(key)
    symmetry = symmetry_of(network, members, data, "members")
    paths = aligned_paths(symmetry)
    leaves, is_stacked = parameters("members", members, symmetry, paths)
    count = len(next(iter(leaves.values())))
    if not is_stacked or count < 2:
        raise InputError(f"members: got {count if is_stacked else 'one'}, expected two or more, along a leading axis")
    blocks = blocks_of(symmetry, group, paths)
    leaves = {path: leaf.copy() for path, leaf in leaves.items()}  # balanced in place
    if method == "cca":
        each = [jax.tree.map(lambda leaf: leaf[p], members) for p in range(count)]  # noqa: B023
        before = sum(map(sum_of_distances, leaves.values()))
        moved, elements, converged, action = map_to_first(
            network, symmetry, blocks, each, data, ridge, paths, rng, MAX_SWEEPS
        )
        moved = parallel.stack(moved)
        after = sum(map(sum_of_distances, parameters("members", moved, symmetry, paths)[0].values()))
        merged = jax.tree.map(mean_leaf, moved)
        return merged, MergeInfo(elements, np.array([before, after]), converged, 0.0, action)
    to, balanced = balance(leaves, blocks)
    descents = [Descent(blocks, _row(leaves, p), _row(leaves, p)) for p in range(count)]
    steps: list[float] = []
    if method == "universe":
        start, steps = frank_wolfe([block.space for block in blocks if not block.families], leaves)
        for p, descent in enumerate(descents):
            descent.act({**descent.total, **_row(start, p)})
    objectives, converged = _sweeps(descents, rng, start=method == "many")
    totals = {name: np.concatenate([descent.total[name] for descent in descents]) for name in descents[0].total}
    identity = {name: np.broadcast_to(np.eye(matrix.shape[-1]), matrix.shape) for name, matrix in to.items()}
    elements = element_of(blocks, totals, identity, to)
    moved = [
        symmetry.act(on_host(jax.tree.map(lambda leaf: leaf[p], members)), _row(elements, p, keep=False))  # noqa: B023
        for p in range(count)
    ]
    merged = jax.tree.map(lambda *leaves: mean_leaf(leaves), *moved)
    maps = {
        (i, j): symmetry.compose(_row(elements, j, keep=False), symmetry.inverse(_row(elements, i, keep=False)))
        for i, j in permutations(range(count), 2)
    }
    error = cycle_error(symmetry, maps)
    converged = converged and bool(balanced.all())
    return merged, MergeInfo(elements, np.array([*steps, *objectives]), converged, error, symmetry)


def cycle_error(symmetry: Symmetry, maps: Mapping[tuple[int, int], Mapping[str, Any]]) -> float:
    """Return the share of channels that do not return to their places on a cycle i, j, l, i, the mean over cycles.

    Args:
      symmetry: the symmetry of the networks.
      maps: {(i, j): the element that brings network j to i}, such as `match(network, i, j)`, for all ordered pairs.

    Returns:
      A number in [0, 1]; 0 for fewer than three networks.

    Raises:
      InputError: maps are missing, or not pairs with elements.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from symjax.alignment import cycle_error
      >>> from symjax.groups import discover
      >>> one = {"w": jnp.ones((2, 2)), "v": jnp.ones((2, 1))}
      >>> symmetry = discover(lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"], one, jnp.ones((4, 2)))
      >>> swap, same = {"w": jnp.eye(2)[::-1]}, {"w": jnp.eye(2)}
      >>> pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)]
      >>> cycle_error(symmetry, {pair: swap if 0 in pair else same for pair in pairs})
      0.0
      >>> cycle_error(symmetry, {pair: swap if pair in pairs[:2] else same for pair in pairs})
      1.0
    """
    pairs = isinstance(maps, Mapping) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in maps)
    if not pairs or not all(isinstance(element, Mapping) and element for element in maps.values()):
        raise InputError(f"maps: got {short(maps)}, expected a mapping of pairs (i, j) to elements with matrices")
    networks = sorted({network for pair in maps for network in pair})
    if missing := set(permutations(networks, 2)) - set(maps):
        raise InputError(f"maps: got none of {min(missing)}, expected those of all ordered pairs")
    errors = []
    for i, j, other in permutations(networks, 3):
        cycle = symmetry.compose(symmetry.compose(maps[j, i], maps[other, j]), maps[i, other])
        places = [np.abs(np.asarray(matrix)).argmax(-1) for matrix in cycle.values()]
        errors.append(np.concatenate([place != np.arange(len(place)) for place in places]).mean())
    return float(np.mean(errors)) if errors else 0.0


def _sweeps(descents: list[Descent], rng, start: bool) -> tuple[list[float], bool]:
    """Match each network in turn with the mean of the others; return the objectives, and whether nothing changed."""
    count, paths = len(descents), list(descents[0].b)
    norm = sum(float(squared(descent.b)[0]) for descent in descents)

    def total():
        return {path: sum(descent.b[path] for descent in descents) for path in paths}

    objectives, changed = [count * norm - float(squared(total())[0])], True
    while changed and len(objectives) <= MAX_SWEEPS:
        changed = False
        for p in rng.permutation(count):
            descent, whole = descents[p], total()
            descent.reset({path: (whole[path] - descent.b[path]) / (count - 1) for path in paths})
            if start and len(objectives) == 1:
                descent.start(np.zeros(1, int))
            changed |= bool(descent.sweep(rng).any())
        objectives.append(count * norm - float(squared(total())[0]))
    return objectives, not changed


def _row(tree: Mapping[str, np.ndarray], p: int, keep: bool = True) -> dict[str, np.ndarray]:
    return {name: leaf[p : p + 1] if keep else leaf[p] for name, leaf in tree.items()}


def mean_leaf(leaves: Any) -> Any:
    """Return the mean of real leaves of several networks, and the first one of others."""
    first = leaves[0]
    if not jnp.issubdtype(jnp.result_type(first), jnp.floating):
        return first
    return np.mean([np.asarray(leaf, np.float64) for leaf in leaves], axis=0).astype(first.dtype)
