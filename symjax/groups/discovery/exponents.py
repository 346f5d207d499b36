"""The powers of a channel's factor by which its parameters are scaled, from a null space of gradients."""

from fractions import Fraction

import numpy as np

from symjax.groups.discovery.action import Axis
from symjax.groups.discovery.candidates import CandidateSpace

TOLERANCE = 1e-4
"""Largest error of exponents from a null space; proposed exponents are rounded to integers and verified."""


def gradients_needed(candidates) -> int:
    """Return the number of gradients that give each space more equations than exponents."""
    return max(
        (-(-(len(candidate.axes) + 4) // candidate.size) + 3 for candidate in candidates if not candidate.families),
        default=0,
    )


def exponents_of(candidate: CandidateSpace, products) -> list | None:
    """Return the exponents e of a scaling of channels, with sum_axis e_axis <gradient, parameters at the channel> = 0.

    Of several solutions, return the one with -1 on all axes that read the channels and the least sum of |e|: for a
    batch norm, it scales the affine parameters, and neither kernel nor statistics. None if there is no solution.
    """
    pairs = list(zip(candidate.axes, candidate.leaves, strict=True))
    rows = np.concatenate([np.stack([_at_channels(axis, p[leaf]) for axis, leaf in pairs], 1) for p in products])
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1)
    norms = np.linalg.norm(rows, axis=0)
    nonzero = norms > 1e-11 * norms.max(initial=0)
    if nonzero.sum() < 2:
        return None
    rows, norms = rows[:, nonzero], norms[nonzero]
    _, values, vectors = np.linalg.svd(rows / norms)
    basis = (vectors[(values > 1e-9 * values[0]).sum() :] / norms).T  # (axes, dimensions)
    if not basis.shape[1]:
        return None
    basis = np.linalg.qr(basis)[0]
    reads = np.array(candidate.reads)[nonzero]
    for fixed_rows in [basis[reads]] if reads.any() else [-basis[[i]] for i in range(len(basis))]:
        vector = _sparsest(basis, fixed_rows)
        if vector is not None:
            all_exponents = np.zeros(len(nonzero))
            all_exponents[nonzero] = vector
            return _integers(all_exponents)
    return None


def _at_channels(axis: Axis, product) -> np.ndarray:
    """Return the sums of a leaf's entries at each channel."""
    product = np.moveaxis(product, axis.axis, -1)
    index: list[slice | int] = [slice(None)] * product.ndim
    for d, i in axis.index:
        index[d - (d > axis.axis)] = i
    return product[tuple(index)].reshape(-1, product.shape[-1]).sum(0)[axis.positions].sum(1)


def _sparsest(basis, fixed_rows):
    """Return the combination of columns with `fixed_rows @ z = -1` and the least sum of absolute values, or None."""
    from scipy.optimize import linprog  # imported here for a fast --help

    left, values, right = np.linalg.svd(fixed_rows)
    rank = int((values > TOLERANCE * max(values[0], TOLERANCE)).sum())
    start = -(right[:rank].T / values[:rank]) @ left[:, :rank].T @ np.ones(len(fixed_rows))
    if not rank or np.abs(fixed_rows @ start + 1).max() > TOLERANCE:
        return None
    start, free = basis @ start, basis @ right[rank:].T
    axes, k = free.shape
    if not k:
        return start
    one = np.eye(axes)
    result = linprog(  # the simplex method, which is the default, fails now and then for some hundred axes
        np.r_[np.zeros(k), np.ones(axes)],
        A_ub=np.block([[free, -one], [-free, -one]]),
        b_ub=np.r_[-start, start],
        bounds=[(None, None)] * k + [(0, None)] * axes,
        method="highs-ipm",
    )
    return start + free @ result.x[:k] if result.status == 0 else None


def _integers(vector) -> list:
    """Return the smallest integer multiple of the vector if its numbers are small, otherwise the numbers themselves."""
    unit = np.abs(vector[np.abs(vector) > TOLERANCE]).min(initial=np.inf)
    vector = vector / unit
    for multiple in range(1, 7):
        scaled = vector * multiple
        if np.abs(scaled - np.round(scaled)).max() < TOLERANCE:
            return [int(e) for e in np.round(scaled)]
    return [float(Fraction(float(e)).limit_denominator(10**6)) for e in vector]
