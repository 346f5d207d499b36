"""Discover the symmetries of the parameters of any JAX function.

There are three steps. Labels of channels in the jaxpr propose spaces of channels that can be permuted (`labels`,
`candidates`). If a channel is scaled by a factor, its parameters are scaled by powers of it; a null space of gradients
at random parameters and inputs proposes these powers (`exponents`). Finally random elements act on the parameters, the
function is evaluated in float64, and candidates that change it are rejected.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from symjax.checks import integer
from symjax.errors import InputError
from symjax.groups.discovery.action import Space, Symmetry
from symjax.groups.discovery.candidates import CandidateSpace, find_candidate_spaces
from symjax.groups.discovery.exponents import exponents_of, gradients_needed
from symjax.groups.discovery.probe import Probe
from symjax.groups.matrix_groups import GROUPS

TOLERANCE = 1e-9
"""The largest relative change of the function, in float64, that an element of a symmetry may cause."""

CHECKS = 4
"""Random parameters, inputs and elements that verify a candidate."""


def discover(fn: Callable, params: Any, x: Any, *, seed: int = 0) -> Symmetry:
    """Return the symmetries of the parameters of `fn(params, x)`, each one verified in float64.

    Args:
      fn: any pure function in JAX from parameters and inputs to a pytree of arrays.
      params: a pytree; its floating-point leaves are acted on. Of their values only the signs and scales matter: the
        symmetry is that of generic parameters, drawn around these.
      x: a pytree; a few examples suffice. Its floating-point leaves are drawn anew, all others stay as they are.
      seed: seed of the random draws.

    Raises:
      InputError: `params` has no floating-point leaf; the function has no floating-point output or one that is NaN or
        infinite, or raises an error for these inputs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from symjax.groups import discover
      >>> params = {"w": jnp.ones((4, 8)), "b": jnp.zeros(8), "v": jnp.ones((8, 3))}
      >>> symmetry = discover(lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"], params, jnp.ones((5, 4)))
      >>> space = symmetry.spaces["w"]
      >>> space.size, space.group, {axis.path: axis.exponent for axis in space.axes}
      (8, 'positive_monomial', {'w': 1, 'b': 1, 'v': -1})
      >>> g = symmetry.sample(jax.random.key(0))
      >>> moved = symmetry.act(params, g)
    """
    seed = integer("seed", seed)
    with jax.enable_x64(True):
        return _discover(Probe(fn, params, x, seed))


def _discover(probe: Probe) -> Symmetry:
    candidates = find_candidate_spaces(probe)
    for probe.signed in (True, False):
        checks = [(*draw, *probe.values(*draw)) for draw in (probe.draw() for _ in range(CHECKS))]
        if all(np.isfinite(out).all() for check in checks for out in check[2]):
            break
    else:
        raise InputError(
            "fn: got NaN or infinite float64 outputs near these parameters and inputs, expected finite ones"
        )
    products = [probe.products() for _ in range(gradients_needed(candidates))]
    if not all(np.isfinite(leaf).all() for product in products for leaf in product if leaf is not None):
        raise InputError("fn: got a NaN or infinite gradient near these parameters and inputs, expected a finite one")
    spaces: dict[str, Space] = {}
    locations: dict[str, dict] = defaultdict(dict)
    for candidate in candidates:
        space = None
        for group, exponents in _candidate_actions(candidate, products):
            axes = tuple(axis._replace(exponent=e) for axis, e in zip(candidate.axes, exponents, strict=True))
            space = Space(candidate.name, candidate.size, group, axes, candidate.consistent, candidate.families)
            images = _images(probe, space, checks) if candidate.consistent else None
            if images is not None:
                break
        if space is not None:
            spaces[candidate.name] = space if images is not None else space._replace(verified=False)
            for point, positions in candidate.points.items() if images is not None else ():
                power = _power_at(point, space, positions, images)
                if positions is not None or power is None:
                    locations[point][candidate.name] = (positions, power)
    points = {name: v.aval.shape[-1] for name, v in probe.points.items() if v.aval.ndim}
    return Symmetry(spaces, probe.treedef, probe.shapes, points, dict(locations))


def _images(probe, space, checks) -> list | None:
    """Return (matrix, named values before, after) for random elements of a space; None if one changes the function."""
    symmetry = Symmetry({space.name: space._replace(families=())}, probe.treedef, probe.shapes, {}, {})
    images = []
    for params, data, outputs, named in checks:
        matrix = _element(probe.rng, space.group, space.size)
        moved_params = jax.tree.leaves(symmetry.act(probe.treedef.unflatten(params), {space.name: matrix}))
        after, images_of_named = probe.values(moved_params, data)
        if not _equal(outputs, after):
            return None
        images.append((matrix, named, images_of_named))
    return images


def _equal(before, after):
    pairs = zip(before, after, strict=True)
    return all(np.abs(a - b).max(initial=0) <= TOLERANCE * np.abs(a).max(initial=0) for a, b in pairs)


def _power_at(name, space, positions, images):
    """Return the power of an element that acts on a named value, or None if no power does."""
    powers = (1, -1, 0, 2, -2, 3, -3, 4, -4) if positions is not None else (0,)
    for power in powers:
        for matrix, before, after in images:
            expected = before[name]
            if positions is not None:
                expected = space.apply_along(expected, -1, positions, matrix, power)
            if not _equal([after[name]], [expected]):
                break
        else:
            return power
    return None


def _element(rng, group, size) -> np.ndarray:
    """Return a random element of a group; it is not the identity, and for signed groups it has a negative entry."""
    if not GROUPS[group].monomial:
        first, second = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
        return first * (rng.uniform(0.5, 2, size) if group == "general_linear" else 1) @ second
    order = rng.permutation(size)
    order = np.roll(order, 1) if (order == np.arange(size)).all() else order
    entries = np.exp(rng.normal(size=size) - 0.5) if "monomial" in group else np.ones(size)
    if group in ("signed_permutation", "monomial"):
        entries *= np.where(rng.permutation(size) == 0, -1, rng.choice([-1, 1], size))
    return np.eye(size)[order] * entries[:, None]


def _candidate_actions(candidate: CandidateSpace, products) -> Iterator[tuple[str, list]]:
    """Yield groups with exponents for the axes, the largest group first."""
    count = len(candidate.axes)
    scaling = None if candidate.families else exponents_of(candidate, products)
    if scaling is not None:
        if candidate.size > 1 and all(e in (-1, 0, 1) for e in scaling):
            yield "general_linear", scaling
        if all(isinstance(e, int) for e in scaling):
            yield "monomial", scaling
        yield "positive_monomial", scaling
    if candidate.size == 1 and scaling is None:
        return
    if not candidate.families:
        if candidate.size > 1:
            yield "orthogonal", [1] * count
        signs = [[1] * count, [int(not read) for read in candidate.reads]]
        writes = [i for i, read in enumerate(candidate.reads) if not read]
        # The signs act on all axes that read, and on each subset of the axes that write.
        for bits in range(2 ** len(writes)) if len(writes) <= 6 else ():
            signs.append([1 - (i in writes and bits >> writes.index(i) & 1) for i in range(count)])
        for pattern in {tuple(s): s for s in signs}.values():
            yield "signed_permutation", pattern
    yield "permutation", [0] * count
