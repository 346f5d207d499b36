"""Correlations between the channels of two networks' features, for the spaces of their symmetry."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from symjax.errors import InputError

BATCH = 256


def correlations(network, symmetry, blocks, pairs, data, to_a, to_b) -> dict[str, np.ndarray]:
    """Return {space: (2, pairs, n, n)}, correlations for even and for odd powers of the space's matrix.

    They are correlations of channels over examples and pixels, summed over the points that hold the space, and divided
    by the number of channels of all spaces and points, so that those of a network with itself sum to 1. For rotations
    they are covariances of the balanced features, divided by the sum of singular values.

    Args:
      network, symmetry, blocks: those of the alignment.
      pairs: members (a, b).
      data: inputs.
      to_a, to_b: matrices (pairs or 1, n, n) that balance the members.
    """
    held = held_points(network, symmetry, blocks)
    result: dict[str, np.ndarray] = {}
    run = values_program(network, tuple(held))
    moments = [moments_of(run, a, b, data) for a, b in pairs]
    for point, spaces in held.items():
        cross = np.stack([of_pair[point][0] for of_pair in moments])
        norms = [np.sqrt(np.stack([of_pair[point][side] for of_pair in moments])) for side in (1, 2)]
        norms = norms[0][:, :, None] * norms[1][:, None, :]
        correlation = np.where(norms > 0, cross, 0) / np.where(norms > 0, norms, 1)
        for space, positions, power in spaces:
            if space.compact == "orthogonal":
                score = sum_at(cross, positions)
                for side, total in enumerate((to_a, to_b)):
                    acting = total.get(space.name, np.eye(space.size)[None])
                    acting = acting if power > 0 else np.linalg.inv(acting).swapaxes(1, 2)
                    score = acting @ score if side == 0 else score @ acting.swapaxes(1, 2)
                largest = np.linalg.svd(score, compute_uv=False).sum(1)[:, None, None]
                score = score * space.size / np.maximum(largest, np.finfo(float).tiny)
            else:
                score = sum_at(correlation, positions) / positions.shape[1]
            scores = result.setdefault(space.name, np.zeros((2, *score.shape)))
            scores[int(space.compact == "signed_permutation" and power % 2 == 1)] += score
    units = sum(space.size for spaces in held.values() for space, *_ in spaces)
    return {name: scores / units for name, scores in result.items()}


def sum_at(cross, positions):
    """Return the sums over repeated positions of the channels, (pairs, n, n)."""
    return sum(cross[:, column[:, None], column[None, :]] for column in positions.T)


def held_points(network, symmetry, blocks) -> dict[str, list]:
    """Return {point: [(space, positions, power)]} for the spaces, without parts, that stitch points hold."""
    held: dict[str, list] = {}
    for block in blocks:
        for point in [point.name for point in network.points if not block.families]:
            positions, power = symmetry.places_at(point).get(block.space.name, (None, None))
            if positions is not None and power is not None:
                held.setdefault(point, []).append((block.space, positions, power))
    if not held:
        raise InputError("method: got one that compares features, expected 'weights': no stitch point holds a space")
    return held


def moments_of(run, a, b, data):
    """Return {point: (covariances (d, d), variances of a (d,), of b)} over all examples and pixels, in float64.

    Channels that are constant up to rounding of their mean get variance 0; otherwise rounding errors would correlate.
    """
    totals: dict = {}
    examples = len(jax.tree.leaves(data)[0])
    for start in range(0, examples, BATCH):
        batch = jax.tree.map(lambda leaf: leaf[start : start + BATCH], data)  # noqa: B023
        for point, new in run(a, b, batch).items():
            count, *rest = (np.asarray(value, np.float64) for value in new)
            if not all(np.isfinite(value).all() for value in rest):
                raise InputError(f"a, b: got NaN or infinite features at {point}, expected finite ones")
            totals[point] = _merged(totals[point], (count, *rest)) if point in totals else (count, *rest)
    result = {}
    for point, (count, *means, cross, var_a, var_b) in totals.items():
        if count < 2:
            raise InputError(f"data: got one sample of the features at {point}, expected two or more examples")
        least = [count * (8 * np.finfo(np.float32).eps * mean) ** 2 for mean in means]
        result[point] = (cross, *(np.where(v > low, v, 0) for v, low in zip((var_a, var_b), least, strict=True)))
    return result


def _merged(first, second):
    """Return the sums of squares about the joint means, of those about the means of two sets of samples."""
    (n, a, b, *sums), (m, a2, b2, *more) = first, second
    factor, a_step, b_step = n * m / (n + m), a2 - a, b2 - b
    shifts = (np.outer(a_step, b_step), a_step**2, b_step**2)
    sums = [x + y + factor * shift for x, y, shift in zip(sums, more, shifts, strict=True)]
    return (n + m, a + a_step * m / (n + m), b + b_step * m / (n + m), *sums)


@lru_cache(maxsize=8)
def values_program(network, points):
    """Return the sums of `moments_of` for a batch; cached, so that a process compiles the program once."""

    @jax.jit
    def run(a, b, x):
        result = {}
        values = [network.features(member, x, points) for member in (a, b)]
        for point in points:
            x_a, x_b = (value[point].reshape(-1, value[point].shape[-1]) for value in values)
            means = x_a.mean(0), x_b.mean(0)
            x_a, x_b = x_a - means[0], x_b - means[1]
            cross = jnp.matmul(x_a.T, x_b, precision="highest")
            result[point] = (jnp.float32(len(x_a)), *means, cross, (x_a**2).sum(0), (x_b**2).sum(0))
        return result

    return run
