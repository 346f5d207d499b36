"""Checks of the networks that are aligned, and their parameters as float64 arrays."""

import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import is_real, random_key, short
from symjax.errors import InputError
from symjax.groups import Symmetry
from symjax.network import Member, Network
from symjax.network.member import leaves_by_path
from symjax.ops.parallel import take

_SYMMETRIES: weakref.WeakKeyDictionary[Network, Symmetry] = weakref.WeakKeyDictionary()  # that of generic parameters


def generator(key: jax.Array | None) -> np.random.Generator:
    """Return the generator of a random key; by default that of key 0."""
    key = jax.random.key(0) if key is None else random_key("key", key)
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def symmetry_of(network: Any, a: Any, data: Any, name: str = "a") -> Symmetry:
    """Return the symmetry of a network, discovered once, or the symmetry that was given in its place."""
    if isinstance(network, Symmetry):
        return network
    if not isinstance(network, Network):
        raise InputError(f"network: got {short(network)}, expected a Network, or a Symmetry that discover returns")
    if network not in _SYMMETRIES:
        member = take(stacked(name, network, a)[0], 0)
        _SYMMETRIES[network] = network.symmetry(member, inputs_like(network, data))
    return _SYMMETRIES[network]


def inputs_like(network: Network, data: Any) -> Any:
    """Return two inputs of a network: the first ones of the data, or random numbers."""
    if data is not None:
        return jax.tree.map(lambda leaf: leaf[:2], data)
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(network.example)):
        raise InputError("data: got None, expected inputs, since they are not real numbers")
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=(2, *leaf.shape[1:])).astype(leaf.dtype), network.example)


def stacked(name: str, network: Network, members: Any) -> tuple[Member, bool]:
    """Return members with a leading axis, and whether they had it; raise an InputError for other or NaN variables."""
    shapes = {path: leaf.shape for path, leaf in leaves_by_path(network.shapes).items()}
    _, is_stacked = _checked(name, members, jax.tree.structure(network.shapes), shapes)
    return members if is_stacked else jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], members), is_stacked


def count_pairs(a: int, b: int) -> int:
    """Return the number of pairs of stacked networks, of which either may be a single one."""
    if 1 not in (a, b) and a != b:
        raise InputError(f"a, b: got {a} and {b} stacked networks, expected equally many, or one")
    return max(a, b)


def aligned_paths(symmetry: Symmetry) -> set[str]:
    """Return the paths of parameters that hold channels; for a network of those that are trained."""
    paths = {axis.path for space in symmetry.spaces.values() if space.verified for axis in space.axes}
    if _is_member(symmetry.treedef, symmetry.shapes):
        paths = {path for path in paths if not path.startswith("state/")}
    if not paths:
        raise InputError("network: got one without symmetries of its parameters, expected one with channels to align")
    return paths


def parameters(
    name: str, tree: Any, symmetry: Symmetry, paths: set[str], dtype: Any = np.float64
) -> tuple[dict[str, np.ndarray], bool]:
    """Return the parameters at the given paths, (networks, *shape), and whether networks are stacked."""
    leaves, is_stacked = _checked(name, tree, symmetry.treedef, symmetry.shapes)
    values = {path: np.asarray(leaf, dtype) for path, leaf in leaves.items() if path in paths}
    return {path: leaf if is_stacked else leaf[None] for path, leaf in values.items()}, is_stacked


def _is_member(treedef: Any, shapes: dict) -> bool:
    return isinstance(jax.tree.unflatten(treedef, list(shapes)), Member)


def _checked(name: str, tree: Any, treedef: Any, shapes: dict[str, tuple]) -> tuple[dict[str, Any], bool]:
    """Return the leaves of one network or of stacked ones by path, and whether networks are stacked."""
    if jax.tree.structure(tree) != treedef:
        expected = (
            "a member, as network.member returns" if _is_member(treedef, shapes) else "that of the network's parameters"
        )
        if name == "members":
            expected += "; several are stacked: jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *members)"
        raise InputError(f"{name}: got another structure, expected {expected}")
    leaves, lengths = dict(zip(shapes, jax.tree.leaves(tree), strict=True)), set()
    for path, leaf in leaves.items():
        shape, expected = jnp.shape(leaf), shapes[path]
        lengths.add(shape[:1] if len(shape) > len(expected) else ())
        if shape[len(shape) - len(expected) :] != expected or len(shape) > len(expected) + 1 or len(lengths) > 1:
            like = f"{expected}, or one more leading axis for stacked networks"
            raise InputError(f"{name}: got shape {shape} at {path}, expected {like}")
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
        if not (is_real(dtype) or jnp.issubdtype(dtype, jax.dtypes.prng_key)):
            raise InputError(f"{name}: got {dtype} at {path}, expected real numbers")
        if jnp.issubdtype(dtype, jnp.floating) and not np.isfinite(np.asarray(leaf)).all():
            raise InputError(f"{name}: got NaN or infinite entries at {path}, expected finite ones")
    if lengths == {(0,)}:
        raise InputError(f"{name}: got 0 stacked networks, expected one or more")
    return leaves, lengths != {()}


def checked_data(network: Any, method: str, data: Any) -> Any:
    """Return the data of a method as a pytree of arrays: inputs, or (inputs, targets)."""
    if data is None:
        if method in ("activations", "both", "straight_through", "cca"):
            expected = "inputs" if method != "straight_through" else "(inputs, targets)"
            raise InputError(f"data: got None, expected {expected} for method {method!r}")
        return None
    if not isinstance(network, Network):
        raise InputError("data: got some, expected None for a Symmetry: data are given to discover")
    inputs = data
    if method in ("straight_through", "sinkhorn"):
        if not (isinstance(data, (tuple, list)) and len(data) == 2):
            raise InputError(f"data: got a {type(data).__name__}, expected (inputs, targets) for method {method!r}")
        inputs = data[0]
    structure: Any = jax.tree.structure(network.example)
    if jax.tree.structure(inputs) != structure:
        raise InputError(f"data: got a {type(inputs).__name__}, expected inputs as in the network's example")
    data = jax.tree.map(np.asarray, data)
    for leaf, like in zip(jax.tree.leaves(inputs), jax.tree.leaves(network.example), strict=True):
        if np.shape(leaf)[1:] != like.shape[1:] or not len(leaf):
            raise InputError(f"data: got inputs of shape {np.shape(leaf)}, expected (n, {str(like.shape[1:])[1:]}")
        if np.issubdtype(np.asarray(leaf).dtype, np.floating) and not np.isfinite(leaf).all():
            raise InputError("data: got NaN or infinite inputs, expected finite ones")
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(lengths) > 1:
        raise InputError(f"data: got {short(sorted(lengths))} examples, expected equally many inputs and targets")
    return data
