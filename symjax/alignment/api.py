"""The element of a network's symmetry that brings one network as near as possible to another."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symjax.alignment.inputs import aligned_paths, checked_data, count_pairs, generator, parameters, symmetry_of
from symjax.alignment.spaces import blocks_of
from symjax.alignment.task import LEARNED, MatchInfo, Task
from symjax.checks import integer, one_of
from symjax.errors import InputError
from symjax.groups import Symmetry
from symjax.network import Network
from symjax.ops import parallel
from symjax.training import Recipe

METHODS = ("weights", "activations", "both", *LEARNED)
SEARCHED_GROUPS = ("permutation", "scaled_permutation", "largest")
MEMORY = 2**25  # entries of the parameters of all pairs that are aligned at once
CHUNK = 2**21  # such entries for a thread of "weights"


def match(
    network: Network | Symmetry,
    a: Any,
    b: Any,
    *,
    method: str = "weights",
    group: str = "permutation",
    data: Any = None,
    restarts: int = 1,
    epochs: int = 20,
    loss: Callable[[Any, Any], jax.Array] | None = None,
    key: jax.Array | None = None,
) -> tuple[dict[str, jax.Array], MatchInfo]:
    """Return the element of a network's symmetry that brings the parameters b as near as possible to a.

    `network.symmetry(a, x).act(b, element)` is the aligned network: it computes the function of b.

    Let bal(a) be the parameters of least norm that the group's scales make of a (`symjax.alignment.balance`; for
    "permutation" a itself). The objective is |bal(a) - k bal(b)|^2 over the trained parameters that hold channels of
    the symmetry, minimized over permutations k (for "largest" also signs and rotations). The element balances b, then
    applies k, then inverts the balancing of a. So neither the alignment nor the loss on a line between a and the
    aligned b depends on how the scales of a and b were chosen.

    Args:
      network: a `Network`; or, for parameters of any function, the `Symmetry` that `symjax.groups.discover` returns.
      a, b: members of the network (for a `Symmetry`: its parameters). With one more leading axis on every leaf they are
        several pairs, which are aligned together; either may be a single one.
      method: how permutations, signs and rotations k are found.
        "weights": block coordinate descent over the spaces of the symmetry, each step an exact linear assignment.
        "activations": assignments of the correlations of features at stitch points; spaces that no point holds are then
          matched by their weights. The objective is 1 - mean correlation, before and after.
        "both": coordinate descent for |a - k b|^2 / (|a|^2 + |b|^2) + 1 - mean correlation.
        "straight_through": weights are learned whose matching with b makes the loss at the midpoint of a and k b small.
        "sinkhorn": doubly stochastic matrices are learned, for the same loss or, without data, for |a - k b|^2.
        For these two the objective is the smallest midpoint loss up to each epoch. They are for small networks.
      group: "permutation"; "scaled_permutation": with positive scales where the symmetry has them; "largest": every
        space in its own group, with signs, rotations or invertible matrices.
      data: inputs of the network, which "weights" needs only if they are not real numbers; (inputs, targets) for
        "straight_through" and "sinkhorn".
      restarts: number of starts, of which the best is returned. The first starts from the spaces whose parameters
        depend on few others; the others start from random permutations.
      epochs: epochs of "straight_through" and "sinkhorn".
      loss: for "straight_through" and "sinkhorn", a function of outputs and targets of a batch that returns a scalar;
        by default cross-entropy.
      key: key of the restarts and of the order of spaces; by default key 0.

    Scales are balanced in float64. Assignments compare products in float32, or float64 if a parameter is float64.

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
    if method in LEARNED and group == "largest":
        raise InputError(f"group: got 'largest', expected permutation or scaled_permutation for method {method!r}")
    if method not in ("weights", "sinkhorn") and not isinstance(network, Network):
        raise InputError(f"network: got a {type(network).__name__}, expected a Network for method {method!r}")
    Recipe(loss=loss)  # checks it
    restarts, epochs = integer("restarts", restarts, 1), integer("epochs", epochs, 1)
    rng = generator(key)
    data = checked_data(network, method, data)
    symmetry = symmetry_of(network, a, data[0] if data is not None and method in LEARNED else data)
    paths = aligned_paths(symmetry)
    leaves_a, stacked_a = parameters("a", a, symmetry, paths, None)
    leaves_b, stacked_b = parameters("b", b, symmetry, paths, None)
    precision = np.result_type(np.float32, *(leaf.dtype for leaf in jax.tree.leaves((a, b)) if _is_double(leaf)))
    pairs = count_pairs(*(len(next(iter(leaves.values()))) for leaves in (leaves_a, leaves_b)))
    blocks = blocks_of(symmetry, group, paths)
    task = Task(network, symmetry, blocks, method, restarts, epochs, loss, data, precision, rng)
    balanced = any(space.balanced for block in blocks for space in block.spaces)
    working = np.float64 if balanced else precision
    size = restarts * sum(leaf[0].size for leaf in leaves_a.values())
    parts = -(-pairs * size // (CHUNK if method == "weights" else MEMORY))
    rows_of_parts = np.array_split(np.arange(pairs), min(parts, pairs))

    def run(rows: np.ndarray):
        members = [
            [parallel.take(tree, row % parallel.count_members(tree)) if stacked else tree for row in rows]
            for tree, stacked in ((a, stacked_a), (b, stacked_b))
            if method != "weights"
        ]
        leaves = [  # b changes in place, and a if it is balanced
            {
                path: _rows(leaf, rows).astype(working, "C" if copied else "K", copy=copied)
                for path, leaf in tree.items()
            }
            for tree, copied in ((leaves_a, balanced), (leaves_b, True))
        ]
        return task._replace(rng=deepcopy(rng)).run(*leaves, *members)  # the same orders of spaces for all parts

    from threadpoolctl import threadpool_limits  # imported here for a fast `import symjax`

    workers = min(len(rows_of_parts), os.cpu_count() or 1) if method == "weights" else 1
    # NumPy and SciPy release the GIL while they compute. Threads of OpenBLAS within these would wait for each other.
    limits = nullcontext() if workers == 1 else threadpool_limits(1, "blas")
    with limits, ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(run, rows_of_parts))
    element, info = _concatenated(results)
    if not (stacked_a or stacked_b):
        element, info = jax.tree.map(lambda value: value[0], (element, info))
    names = [name for name in symmetry.spaces if name in element]  # in network order; `jax.tree.map` sorts them
    info = info._replace(gain={name: info.gain[name] for name in names})
    return {name: jnp.asarray(element[name], jnp.result_type(float)) for name in names}, info


def _rows(leaf, rows):
    return np.broadcast_to(leaf, (len(rows), *leaf.shape[1:])) if len(leaf) == 1 else leaf[rows[0] : rows[-1] + 1]


def _is_double(leaf) -> bool:
    return getattr(leaf, "dtype", None) == np.float64


def _concatenated(results):
    """Return the elements and `MatchInfo` of all chunks; objectives of fewer sweeps keep their last value."""
    sweeps = max(info.objective.shape[1] for _, info in results)
    results = [
        (
            element,
            info._replace(objective=np.pad(info.objective, ((0, 0), (0, sweeps - info.objective.shape[1])), "edge")),
        )
        for element, info in results
    ]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)
