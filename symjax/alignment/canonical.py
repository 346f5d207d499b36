"""Linear maps between networks by canonical correlation analysis of their features (Horoi et al. 2024, CCA Merge).

For features x of a reference and y of another network, canonical variates P' x and Q' y have the largest correlations,
and T = P^-T Q' maps y to the place of x. With S = covariance + ridge and the singular value decomposition
U s V' of S_xx^-1/2 S_xy S_yy^-1/2 it is T = S_xx^1/2 U V' S_yy^-1/2. Where y = M x and the ridge is 0, T is M^-1.

Parameters that write channels, such as the outputs of kernels, biases and scales of norms, are multiplied by T, those
that read them by T^-T. This keeps the function if what is between commutes with T; a ReLU does so only for permutations
with positive scales, a batch norm only for permutations. So the mapped network computes its function approximately.
"""

import jax
import numpy as np

from symjax.alignment.balance import power_of
from symjax.alignment.descent import Descent, descend, element_of
from symjax.alignment.features import held_points, moments_of, sum_at, values_program
from symjax.alignment.inputs import parameters
from symjax.alignment.leaves import on_host
from symjax.groups import Space, Symmetry
from symjax.ops.parallel import take


def map_to_first(network, symmetry: Symmetry, blocks, members: list, data, ridge: float, paths, rng, max_sweeps: int):
    """Map networks to the first one: spaces at stitch points by T, the others by permutations of weights.

    Returns:
      The members after their maps; {space: (k, n, n)}; whether the permutations converged; the `Symmetry` that acts by
      general matrices.
    """
    maps = _maps(network, symmetry, blocks, members, data, ridge)
    acting = _general(symmetry, maps, paths)
    members = [
        acting.act(on_host(member), {name: matrices[p] for name, matrices in maps.items()})
        for p, member in enumerate(members)
    ]
    rest, converged = [block for block in blocks if block.space.name not in maps], True
    if rest:
        leaves, _ = parameters("members", jax.tree.map(lambda *parts: np.stack(parts), *members), symmetry, paths)
        a = {path: np.repeat(leaf[:1], len(leaf), 0) for path, leaf in leaves.items()}
        descent = Descent(rest, a, leaves)
        descent.start(np.arange(1, len(members)))
        converged = bool(descend(descent, rng, max_sweeps)[1].all())
        permutations = element_of(rest, descent.total)
        members = [acting.act(member, take(permutations, p)) for p, member in enumerate(members)]
        maps |= permutations
    return members, maps, converged, acting


def _maps(network, symmetry, blocks, members, data, ridge):
    """Return T for all spaces at stitch points, (k, n, n), of the sums of covariances over the points of a space."""
    held = {
        point: spaces
        for point, entries in held_points(network, symmetry, blocks).items()
        if (spaces := [entry for entry in entries if entry[2] == 1])
    }
    run = values_program(network, tuple(held))

    def covariances(a, b):
        sums: dict = {}
        for point, (cross, *_) in moments_of(run, a, b, data).items():
            for space, positions, _ in held[point]:
                sums[space.name] = sums.get(space.name, 0) + sum_at(cross[None], positions)
        return sums

    first = covariances(members[0], members[0])
    maps = {name: [np.eye(matrix.shape[-1])] for name, matrix in first.items()}
    for member in members[1:]:
        own, cross = covariances(member, member), covariances(members[0], member)
        for name, matrices in maps.items():
            x, y = (_regular(side[name], ridge) for side in (first, own))
            left, _, right = np.linalg.svd(power_of(x, -0.5) @ cross[name] @ power_of(y, -0.5))
            matrices.append((power_of(x, 0.5) @ left @ right @ power_of(y, -0.5))[0])
    return {name: np.stack(matrices) for name, matrices in maps.items()}


def _regular(covariance, ridge):
    size = covariance.shape[-1]
    return covariance + ridge * (np.trace(covariance[0]) / size or 1) * np.eye(size)


def _general(symmetry: Symmetry, names, paths) -> Symmetry:
    """Return a symmetry that acts on the named spaces by general matrices, on trained parameters alone."""
    spaces = dict(symmetry.spaces)
    for name in names:
        axes = tuple(
            axis._replace(exponent=0 if axis.path not in paths else -1 if axis.reads else 1)
            for axis in spaces[name].axes
        )
        spaces[name] = Space(name, spaces[name].size, "general_linear", axes, True, ())
    return Symmetry(spaces, symmetry.treedef, symmetry.shapes, {}, {})
