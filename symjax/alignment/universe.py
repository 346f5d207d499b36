"""Permutations of many networks at once by Frank-Wolfe (Crisostomi et al. 2024, C2M3), for `merge`."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from symjax.alignment.descent import solve
from symjax.alignment.leaves import acts, channels_of, set_channels

STEPS = 50
TOLERANCE = 1e-3  # relative gain of a step below which it ends


def frank_wolfe(spaces, leaves) -> tuple[dict[str, np.ndarray], list[float]]:
    """Return permutations (k, n, n) of all spaces, and the objective at each step before they are rounded.

    It maximizes |S|^2 - sum_p |U_p|^2 over doubly stochastic matrices. On the line to a corner of the polytope this is
    a polynomial; the step is its maximum over 201 positions. Products are in float32, since only rounded permutations
    are used.
    """
    held = {
        path: [(s, axis) for s in spaces for axis in s.axes if axis.path == path and acts(s, axis)] for path in leaves
    }
    count = len(next(iter(leaves.values())))
    fixed = sum(sum_of_distances(leaf) for path, leaf in leaves.items() if not held[path])
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


def sum_of_distances(leaf: np.ndarray) -> float:
    """Return the sum of squared distances of all pairs, of (networks, ...)."""
    return float(len(leaf) * (leaf**2).sum() - (leaf.sum(0) ** 2).sum())


def _rounded(matrices: np.ndarray) -> np.ndarray:
    """Return the permutation matrices of largest inner product with these."""
    with ThreadPoolExecutor() as pool:  # SciPy releases the GIL
        return np.concatenate(list(pool.map(lambda one: solve("permutation", one[None, None])[0], matrices)))


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
