"""Merging of many networks by elements that map all of them to one common place, the universe.

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
from symjax.alignment.descent import Descent, element_of, solve
from symjax.alignment.inputs import aligned_paths, generator, parameters, symmetry_of
from symjax.alignment.leaves import acts, channels_of, on_host, set_channels, squared
from symjax.alignment.spaces import blocks_of
from symjax.alignment.task import MAX_SWEEPS
from symjax.checks import one_of, short
from symjax.errors import InputError
from symjax.groups import Symmetry
from symjax.network import Network
from symjax.spelling import one_line

METHODS = ("universe", "many")
STEPS = 50
TOLERANCE = 1e-3  # relative gain of a step of Frank-Wolfe below which it ends


class MergeInfo(NamedTuple):
    """How networks were merged.

    Attributes:
      elements: {space: (k, n, n)}: the element of each network.
      objective: the sum of squared distances of all pairs, at the start and after each sweep, NumPy float64. For
        "universe" the first entries are those of the steps of Frank-Wolfe, at doubly stochastic matrices.
      converged: whether a sweep changed nothing.
      cycle_error: `cycle_error` of the maps between the networks through the universe.
    """

    elements: dict[str, np.ndarray]
    objective: np.ndarray
    converged: bool
    cycle_error: float

    def __repr__(self):
        return one_line(self)


def merge(
    network: Network | Symmetry,
    members: Any,
    *,
    method: str = "universe",
    group: str = "permutation",
    data: Any = None,
    key: jax.Array | None = None,
) -> tuple[Any, MergeInfo]:
    """Return the mean of several networks, each after the element that brings it near to the others.

    Args:
      network: a `Network`; or a `Symmetry`, as in `match`.
      members: members with a leading axis of k networks, from 2.
      method: "universe": permutations of all networks and spaces together by Frank-Wolfe over doubly stochastic
        matrices, rounded by linear assignments (Crisostomi et al. 2024, C2M3), then sweeps as in "many". Heads start
        from the identity. "many": each network in turn is matched with the mean of the others until nothing changes
        (Ainsworth et al. 2023, MergeMany).
      group: "permutation", or "scaled_permutation", which first balances the scales of each network as `match` does.
      data: inputs of the network, if they are not real numbers.
      key: key of the order of networks and spaces; by default key 0.

    Returns:
      The merged network, whose running statistics are means (see `repair`), and `MergeInfo`.

    Raises:
      InputError: members of another structure, not stacked, or not finite; an unknown method or group.

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
    one_of("group", group, ("permutation", "scaled_permutation"))
    rng = generator(key)
    symmetry = symmetry_of(network, members, data)
    paths = aligned_paths(symmetry)
    leaves, is_stacked = parameters("members", members, symmetry, paths)
    count = len(next(iter(leaves.values())))
    if not is_stacked or count < 2:
        raise InputError(f"members: got {count if is_stacked else 'one'}, expected two or more, along a leading axis")
    blocks = blocks_of(symmetry, group, paths)
    leaves = {path: leaf.copy() for path, leaf in leaves.items()}  # balanced in place
    to, balanced = balance(leaves, blocks)
    descents = [Descent(blocks, _row(leaves, p), _row(leaves, p)) for p in range(count)]
    steps: list[float] = []
    if method == "universe":
        start, steps = _frank_wolfe([block.space for block in blocks if not block.families], leaves)
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
    return merged, MergeInfo(elements, np.array([*steps, *objectives]), converged and bool(balanced.all()), error)


def cycle_error(symmetry: Symmetry, maps: Mapping[tuple[int, int], Mapping[str, Any]]) -> float:
    """Return the share of channels that do not return to their places on a cycle i, j, l, i, the mean over cycles.

    Args:
      symmetry: of the networks.
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


def _frank_wolfe(spaces, leaves) -> tuple[dict[str, np.ndarray], list[float]]:
    """Return permutations (k, n, n) of all spaces, and the objective at each step before they are rounded.

    It maximizes |S|^2 - sum_p |U_p|^2 over doubly stochastic matrices, a polynomial on the line to a corner of the
    polytope, whose best step is therefore exact. Products are in float32, since only rounded permutations are used.
    """
    held = {
        path: [(s, axis) for s in spaces for axis in s.axes if axis.path == path and acts(s, axis)] for path in leaves
    }
    count = len(next(iter(leaves.values())))
    fixed = sum(_distances(leaf) for path, leaf in leaves.items() if not held[path])
    leaves = {path: leaf.astype(np.float32) for path, leaf in leaves.items() if held[path]}
    norm = sum(float((leaf**2).sum(dtype=float)) for leaf in leaves.values())
    soft = {space.name: np.tile(np.eye(space.size, dtype=np.float32), (count, 1, 1)) for space in spaces}
    grid = np.linspace(0, 1, 201)
    values: list[float] = []
    for _ in range(STEPS):
        slopes = {name: np.zeros_like(matrices) for name, matrices in soft.items()}
        for path, leaf in leaves.items():
            universe = _along(leaf, held[path], soft)
            others = universe.sum(0, keepdims=True) - universe
            for space, axis in held[path]:
                rest = _along(leaf, [other for other in held[path] if other[1] is not axis], soft)
                slopes[space.name] += channels_of(others, axis) @ channels_of(rest, axis).swapaxes(1, 2)
        corners = {name: _rounded(slope) for name, slope in slopes.items()}
        line = sum(
            (_on_line(leaf, held[path], soft, corners) for path, leaf in leaves.items()),
            np.polynomial.Polynomial([0.0]),
        )
        step = grid[np.argmax(line(grid))]
        values += [float(line(t)) for t in ((0, step) if not values else (step,))]
        soft = {name: ((1 - step) * soft[name] + step * corners[name]).astype(np.float32) for name in soft}
        if values[-1] - values[-2] <= TOLERANCE * abs(values[-2]):
            break
    rounded = {name: _rounded(matrices) for name, matrices in soft.items()}
    return rounded, [(count - 1) * norm - value + fixed for value in values]


def _distances(leaf: np.ndarray) -> float:
    """Return the sum of squared distances of all pairs, of (networks, ...)."""
    return float(len(leaf) * (leaf**2).sum() - (leaf.sum(0) ** 2).sum())


def _rounded(matrices: np.ndarray) -> np.ndarray:
    """Return the permutation matrices of largest inner product with these."""
    return solve("permutation", np.stack([matrices, 0 * matrices]))[0]


def _along(leaf: np.ndarray, held: list, matrices: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return (networks, ...) multiplied by matrices along axes."""
    leaf = leaf.copy()
    for space, axis in held:
        set_channels(leaf, axis, slice(None), matrices[space.name] @ channels_of(leaf, axis))
    return leaf


def _on_line(leaf: np.ndarray, held: list, start, corners) -> np.polynomial.Polynomial:
    """Return |S|^2 - sum_p |U_p|^2 of one parameter as a polynomial of the position between start and corners."""
    terms = [leaf]
    for space, axis in held:
        moved = [_along(term, [(space, axis)], start) for term in terms]
        order = corners[space.name].argmax(2)
        ends = []
        for term in terms:
            end = term.copy()
            set_channels(end, axis, slice(None), np.take_along_axis(channels_of(term, axis), order[:, :, None], 1))
            ends.append(end)
        zero = [np.zeros_like(leaf)]
        differences = [end - first for end, first in zip(ends, moved, strict=True)]
        terms = [a + b for a, b in zip(moved + zero, zero + differences, strict=True)]
    result = np.polynomial.Polynomial([0.0])
    for i, first in enumerate(terms):
        for j, second in enumerate(terms):
            value = np.vdot(first.sum(0), second.sum(0)) - np.vdot(first, second)
            result += np.polynomial.Polynomial([0.0] * (i + j) + [float(value)])
    return result


def _row(tree: Mapping[str, np.ndarray], p: int, keep: bool = True) -> dict[str, np.ndarray]:
    return {name: leaf[p : p + 1] if keep else leaf[p] for name, leaf in tree.items()}


def mean_leaf(leaves: Any) -> Any:
    """Return the mean of real leaves of several networks, and the first one of others."""
    first = leaves[0]
    if not jnp.issubdtype(jnp.result_type(first), jnp.floating):
        return first
    return np.mean([np.asarray(leaf, np.float64) for leaf in leaves], axis=0).astype(first.dtype)
