"""The element of a network's symmetry that brings one network as near as possible to another."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax.alignment.balance import balance
from symjax.alignment.descent import Descent, descend
from symjax.alignment.leaves import channels_of
from symjax.alignment.spaces import Block, blocks_of
from symjax.checks import integer, one_of, random_key, short
from symjax.errors import InputError
from symjax.groups import Symmetry
from symjax.network import Network
from symjax.spelling import one_line

METHODS = ("weights",)
SEARCHED_GROUPS = ("permutation", "scaled_permutation", "largest")
MAX_SWEEPS = 100
CHUNK = 2**25  # entries of the parameters of all pairs that are aligned at once


class MatchInfo(NamedTuple):
    """How a `match` was found. For pairs of stacked networks all arrays have a leading axis of pairs.

    Attributes:
      objective: the objective at the start and after each sweep, (sweeps + 1,), NumPy float64; never increasing. Pairs
        that converge earlier keep their last value.
      converged: whether a sweep changed nothing before `MAX_SWEEPS`, and the balancing of scales converged.
      gain: {space: cosine between the channels' parameters in a and in b, after less before the alignment}.
      restart: which restart has the smallest objective, 0 being the first.
    """

    objective: np.ndarray
    converged: np.ndarray
    gain: dict[str, np.ndarray]
    restart: np.ndarray

    def __repr__(self):
        return one_line(self)


def match(
    network: Network | Symmetry,
    a: Any,
    b: Any,
    *,
    method: str = "weights",
    group: str = "permutation",
    data: Any = None,
    restarts: int = 1,
    key: jax.Array | None = None,
) -> tuple[dict[str, jax.Array], MatchInfo]:
    """Return the element of a network's symmetry that brings the parameters b as near as possible to a.

    `network.symmetry(a, x).act(b, element)` is the aligned network: it computes the function of b.

    Let bal(a) be the parameters of least norm among all that the group's scales make of a (`symjax.alignment.balance`;
    for "permutation" a itself). The objective is |bal(a) - k bal(b)|^2 over the trained parameters that hold channels
    of the symmetry, and over permutations k (for "largest" also signs and rotations). The element is that of bal(b),
    then k, then the inverse of that of bal(a). So neither the alignment nor the loss on a line between a and the
    aligned b depends on how the scales of a and b were chosen.

    Args:
      network: a `Network`; or, for parameters of any function, the `Symmetry` that `symjax.groups.discover` returns.
      a, b: members of the network (for a `Symmetry`: its parameters). With one more leading axis on every leaf they are
        several pairs, which are aligned together; either may be a single one.
      method: "weights": block coordinate descent over the spaces of the symmetry, each step an exact linear assignment.
      group: "permutation"; "scaled_permutation": with positive scales where the symmetry has them; "largest": every
        space in its own group, with signs, rotations or invertible matrices.
      data: inputs of the network; for "weights" they may be omitted if the inputs are real numbers.
      restarts: number of starts, of which the best is returned. The first starts from the spaces whose parameters
        depend on few others; the others start from random permutations.
      key: key of the restarts and of the order of spaces; by default key 0.

    Returns:
      {space: matrix (n, n)} for all verified spaces, and `MatchInfo`.

    Raises:
      InputError: a or b are not parameters of this network or not finite; an unknown method or group; data missing
        where they are needed.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from symjax.alignment import match
      >>> from symjax.groups import discover
      >>> a = {"w": jnp.arange(6.0).reshape(2, 3), "v": jnp.ones((3, 1))}
      >>> symmetry = discover(lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"], a, jnp.ones((4, 2)))
      >>> b = symmetry.act(a, symmetry.sample(jax.random.key(1)))
      >>> element, info = match(symmetry, a, b, group="scaled_permutation")
      >>> bool(info.converged), bool(abs(symmetry.act(b, element)["w"] - a["w"]).max() < 1e-5)
      (True, True)
    """
    one_of("method", method, METHODS)
    one_of("group", group, SEARCHED_GROUPS)
    restarts = integer("restarts", restarts, 1)
    key = jax.random.key(0) if key is None else random_key("key", key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    symmetry = _symmetry(network, a, data)
    leaves = {name: _leaves(name, value, symmetry, network) for name, value in (("a", a), ("b", b))}
    sizes = {len(leaf) for tree, _ in leaves.values() for leaf in tree.values()} - {1}
    if len(sizes) > 1:
        raise InputError(f"a, b: got {short(sorted(sizes))} stacked networks, expected equally many of both, or one")
    blocks = blocks_of(symmetry, group, leaves["a"][0])
    stacked = leaves["a"][1] or leaves["b"][1]
    results = [
        _match(blocks, first, second, restarts, rng) for first, second in _chunks(leaves["a"][0], leaves["b"][0])
    ]
    element, info = _concatenated(results)
    if not stacked:
        element, info = jax.tree.map(lambda value: value[0], (element, info))
    return {name: jnp.asarray(matrix, jnp.result_type(float)) for name, matrix in element.items()}, info


def _symmetry(network, a, data) -> Symmetry:
    if isinstance(network, Symmetry):
        return network
    if not isinstance(network, Network):
        raise InputError(f"network: got {short(network)}, expected a Network, or a Symmetry that discover returns")
    if data is None:
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(network.example)):
            raise InputError("data: got None, expected inputs, since they are not real numbers")
        data = jax.tree.map(lambda leaf: np.ones((2, *leaf.shape[1:]), leaf.dtype), network.example)
    structure: Any = jax.tree.structure(network.shapes)
    if jax.tree.structure(a) != structure:
        raise InputError("a: got another structure, expected a member of the network")
    first = jax.tree.map(lambda leaf, like: leaf[0] if jnp.ndim(leaf) > len(like.shape) else leaf, a, network.shapes)
    return network.symmetry(network.member(first), data)


def _leaves(name, tree, symmetry, network) -> tuple[dict[str, np.ndarray], bool]:
    """Return the parameters that are aligned, (pairs, *shape) in float64, and whether networks are stacked."""
    leaves, treedef = jax.tree.flatten(tree)
    shapes = symmetry.shapes
    if treedef != symmetry.treedef:
        raise InputError(f"{name}: got another structure, expected that of the network's parameters")
    extra = {jnp.ndim(leaf) - len(shape) for leaf, shape in zip(leaves, shapes.values(), strict=True)}
    for leaf, (path, shape) in zip(leaves, shapes.items(), strict=True):
        if extra not in ({0}, {1}) or jnp.shape(leaf)[jnp.ndim(leaf) - len(shape) :] != shape:
            raise InputError(f"{name}: got shape {jnp.shape(leaf)} at {path}, expected {shape}")
    held = {axis.path for space in symmetry.spaces.values() if space.verified for axis in space.axes}
    if not isinstance(network, Symmetry):
        held = {path for path in held if not path.startswith("state/")}
    if not held:
        raise InputError("network: got one without symmetries of its parameters, expected one with channels to align")
    result = {}
    for leaf, path in zip(leaves, shapes, strict=True):
        if path in held:
            values = np.asarray(leaf, np.float64)
            if not np.isfinite(values).all():
                raise InputError(f"{name}: got NaN or infinite entries at {path}, expected finite parameters")
            result[path] = values if extra == {1} else values[None]
    return result, extra == {1}


def _chunks(a, b):
    pairs = max(len(leaf) for tree in (a, b) for leaf in tree.values())
    step = max(1, CHUNK // sum(leaf[0].size for leaf in a.values()))
    for start in range(0, pairs, step):
        yield tuple(
            {path: leaf[start : start + step] if len(leaf) > 1 else leaf for path, leaf in tree.items()}
            for tree in (a, b)
        )


def _concatenated(results):
    sweeps = max(info.objective.shape[1] for _, info in results)
    results = [
        (
            element,
            info._replace(objective=np.pad(info.objective, ((0, 0), (0, sweeps - info.objective.shape[1])), "edge")),
        )
        for element, info in results
    ]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def _match(blocks: list[Block], a, b, restarts: int, rng):
    """Return elements and `MatchInfo` for dicts of (pairs, *shape); one of them may have a single network."""
    a, b = ({path: leaf.copy() for path, leaf in tree.items()} for tree in (a, b))
    (to_a, converged_a), (to_b, converged_b) = balance(a, blocks), balance(b, blocks)
    pairs = max(len(converged_a), len(converged_b))
    rows = np.repeat(np.arange(pairs), restarts)
    spread = {len(tree): rows % len(tree) for tree in (converged_a, converged_b)}
    descent = Descent(blocks, *({path: leaf[spread[len(leaf)]] for path, leaf in tree.items()} for tree in (a, b)))
    before = _cosines(blocks, descent.a, descent.b)
    first = np.arange(len(rows)) % restarts == 0
    descent.shuffle(rng, np.flatnonzero(~first))
    descent.start(np.flatnonzero(first))
    objective, converged = descend(descent, rng, MAX_SWEEPS)
    best = objective[:, -1].reshape(pairs, restarts).argmin(1)
    chosen = np.arange(pairs) * restarts + best
    after = _cosines(blocks, descent.a, descent.b)
    gain = {name: (after[name] - before[name])[chosen] for name in after}
    total = {name: matrices[chosen] for name, matrices in descent.total.items()}
    info = MatchInfo(objective[chosen], converged[chosen] & converged_a & converged_b, gain, best)
    return _element(blocks, to_a, total, to_b), info


def _cosines(blocks, a, b):
    cosines = {}
    for space in (space for block in blocks for space in block.spaces):
        sums = np.zeros((3, len(next(iter(b.values())))))
        for axis in space.axes:
            x, y = (channels_of(tree[axis.path], axis) for tree in (a, b))
            sums += [np.einsum("pcr,pcr->p", *pair) for pair in ((x, y), (x, x), (y, y))]
        cosines[space.name] = sums[0] / np.sqrt(np.maximum(sums[1] * sums[2], np.finfo(float).tiny))
    return cosines


def _element(blocks, to_a, total, to_b):
    """Return the elements that act as those of b's balance, then `total`, then the inverse of those of a's balance."""
    element = {}
    for block in blocks:
        place = total[block.space.name].argmax(2) if block.families else None
        for family in block.families:  # the matrices of a part of b: that which the permutation moves to its place
            for j, part in enumerate(family):
                matrices = np.empty_like(total[part.name])
                for row, order in enumerate(place):
                    i = int(np.flatnonzero(order == j)[0])
                    matrices[row] = total[family[i].name][row]
                    if part.balanced:
                        a = to_a[family[i].name]
                        matrices[row] = np.linalg.solve(a[row % len(a)], matrices[row])
                element[part.name] = matrices
        space = block.space
        element[space.name] = total[space.name]
        if space.balanced:
            element[space.name] = np.linalg.solve(to_a[space.name], total[space.name])
        for space in block.spaces:
            if space.balanced:
                element[space.name] = element[space.name] @ to_b[space.name]
    return element
