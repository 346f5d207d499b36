"""Balanced parameters: those of least norm that scales, or invertible matrices, make of given ones.

Let the channels of a space be multiplied by A on some axes of parameters, and by its inverse transposed on others. With
the sum G of the channels' products W W' over the former, and H over the latter, the squared norm of the parameters is

    f(A) = tr(A G A') + tr(A^-T H A^-1) + constant = tr(M G) + tr(M^-1 H) + constant,   M = A' A.

Its derivative is zero at M G M = H alone: M is the geometric mean of G^-1 and H. f is convex along geodesics, so this
is its minimum. For the scale a of one channel, G, H and M are numbers, and M = a^2 = |W_out| / |W_in|, a ratio of
norms. Every step is therefore an exact minimum over one space, and the norm never increases. In logarithms of scales f
is a sum of exponentials, convex in all spaces at once: the minimum is unique, where it exists, and does not depend on
the scales of the given parameters (the theorem of Kempf and Ness). What remains to be aligned are permutations, signs
and rotations.

For powers other than 1 and -1 of a scale exp(t), f(t) = sum_e w_e exp(2 e t). With P and N the sums of
|e| w_e exp(2 e t) over positive and negative e, f' = 0 where log P - log N = 0, which increases in t at a rate of at
most 2 (max e - min e). A step of -(log P - log N) divided by this rate never passes the minimum, so f decreases. For
two powers the step is exact. Where a parameter holds the space on r dimensions, its terms are exp(2 sum_i e_i t_i)
with r channels each, at most the mean of exp(2 r e_i t_i) over i. So f has a separable bound with powers r e that is
equal at t = 0, and both decrease with the step divided by r.
"""

import numpy as np

from symjax.alignment.leaves import acts, apply, channels_of

MAX_SWEEPS = 2000
TOLERANCE = 1e-13  # of logarithms of factors
SINGULAR = 1e-12  # relative size of an eigenvalue that counts as zero: no least norm exists


def balance(leaves: dict[str, np.ndarray], blocks) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Bring parameters (networks, *shape) to their least norm, in place.

    Channels whose parameters on one side are all zero, and spaces with singular products, stay as they are.

    Returns:
      Matrices (networks, n, n) by name of space, and for each network whether the steps converged.
    """
    spaces = [space for block in blocks for space in block.spaces if space.balanced]
    count = len(next(iter(leaves.values())))
    total = {space.name: np.broadcast_to(np.eye(space.size), (count, *2 * [space.size])).copy() for space in spaces}
    active = np.arange(count)
    for _ in range(MAX_SWEEPS if spaces else 0):
        largest = np.zeros(len(active))
        for space in spaces:
            step = _scales(leaves, space, active) if space.balanced == "scales" else _matrices(leaves, space, active)
            apply(leaves, space, step, active)
            total[space.name][active] = step @ total[space.name][active]
            largest = np.maximum(largest, np.abs(step - np.eye(space.size)).max((1, 2)))
        active = active[largest > TOLERANCE * (1 + 10 * any(space.balanced == "matrices" for space in spaces))]
        if not len(active):
            break
    converged = np.ones(count, bool)
    converged[active] = not spaces
    return total, converged


def _scales(leaves, space, rows):
    exponents = {axis.exponent for axis in space.axes if axis.exponent}
    sums = np.zeros((2, len(rows), space.size))
    for axis in space.axes:
        if axis.exponent:
            values = channels_of(leaves[axis.path], axis, rows)
            sums[int(axis.exponent < 0)] += abs(axis.exponent) * np.einsum("pcr,pcr->pc", values, values)
    balanced = (sums > 0).all(0)
    ratio = np.where(balanced, sums[1], 1) / np.where(balanced, sums[0], 1)
    rate = 2 * (max(exponents, default=0) - min(exponents, default=-1)) * _repeats(space)
    factors = np.exp(np.log(ratio) / rate)
    return factors[:, :, None] * np.eye(space.size)


def _repeats(space):
    """Return the largest number of dimensions of one parameter on which the space acts, which shortens its steps."""
    return max(len({axis.axis for axis in space.axes if axis.path == path}) for path in {a.path for a in space.axes})


def _matrices(leaves, space, rows):
    sums = np.zeros((2, len(rows), space.size, space.size))
    for axis in space.axes:
        if acts(space, axis):
            values = channels_of(leaves[axis.path], axis, rows)
            sums[int(axis.exponent < 0)] += values @ values.swapaxes(1, 2)
    values = np.linalg.eigvalsh(sums)
    regular = (values[..., 0] > SINGULAR * values[..., -1]).all(0) & (values[..., -1] > 0).all(0)
    first, second = np.where(regular[:, None, None], sums, np.eye(space.size))
    # M = L^-T (L' H L)^1/2 L^-1, G = L L', H = K K'. Singular values of K' L have more digits than their squares.
    left, right = np.linalg.cholesky(first), np.linalg.cholesky(second)
    _, roots, vectors = np.linalg.svd(right.swapaxes(1, 2) @ left)
    factor = np.linalg.solve(left.swapaxes(1, 2), vectors.swapaxes(1, 2) * np.sqrt(roots)[:, None, :])
    vectors, roots, _ = np.linalg.svd(factor)  # M = factor factor'
    return (vectors * roots[:, None, :]) @ vectors.swapaxes(1, 2)


def power_of(matrices, exponent):
    """Return powers of symmetric positive definite matrices (count, n, n)."""
    values, vectors = np.linalg.eigh((matrices + matrices.swapaxes(1, 2)) / 2)
    return (vectors * np.maximum(values, np.finfo(float).tiny)[:, None, :] ** exponent) @ vectors.swapaxes(1, 2)
