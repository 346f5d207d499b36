"""Checks of the networks that are aligned, and their parameters as float64 arrays."""

import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import random_key, short
from symjax.errors import InputError
from symjax.groups import Symmetry
from symjax.network import Member, Network

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
    structure: Any = jax.tree.structure(network.shapes)
    if jax.tree.structure(a) != structure:
        hint = "; several are stacked: jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *members)"
        raise InputError(f"{name}: got another structure, expected a member of the network{hint * (name == 'members')}")
    if network not in _SYMMETRIES:
        if data is None:
            if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(network.example)):
                raise InputError("data: got None, expected inputs, since they are not real numbers")
            data = jax.tree.map(lambda leaf: np.ones((2, *leaf.shape[1:]), leaf.dtype), network.example)
        data = jax.tree.map(lambda leaf: leaf[:2], data)
        member = jax.tree.map(lambda leaf, like: leaf[0] if jnp.ndim(leaf) > like.ndim else leaf, a, network.shapes)
        _SYMMETRIES[network] = network.symmetry(network.member(member), data)
    return _SYMMETRIES[network]


def aligned_paths(symmetry: Symmetry) -> set[str]:
    """Return the paths of parameters that hold channels; for a network of those that are trained."""
    paths = {axis.path for space in symmetry.spaces.values() if space.verified for axis in space.axes}
    if isinstance(jax.tree.unflatten(symmetry.treedef, list(symmetry.shapes)), Member):
        paths = {path for path in paths if not path.startswith("state/")}
    if not paths:
        raise InputError("network: got one without symmetries of its parameters, expected one with channels to align")
    return paths


def parameters(name: str, tree: Any, symmetry: Symmetry, paths: set[str]) -> tuple[dict[str, np.ndarray], bool]:
    """Return the parameters at the given paths, (networks, *shape) in float64, and whether networks are stacked."""
    leaves, treedef = jax.tree.flatten(tree)
    if treedef != symmetry.treedef:
        raise InputError(f"{name}: got another structure, expected that of the network's parameters")
    extra = {jnp.ndim(leaf) - len(shape) for leaf, shape in zip(leaves, symmetry.shapes.values(), strict=True)}
    result = {}
    for leaf, (path, shape) in zip(leaves, symmetry.shapes.items(), strict=True):
        if extra not in ({0}, {1}) or jnp.shape(leaf)[jnp.ndim(leaf) - len(shape) :] != shape:
            expected = f"{shape}, or one more leading axis for stacked networks"
            raise InputError(f"{name}: got shape {jnp.shape(leaf)} at {path}, expected {expected}")
        if path in paths:
            values = np.asarray(leaf, np.float64)
            if not np.isfinite(values).all():
                raise InputError(f"{name}: got NaN or infinite entries at {path}, expected finite parameters")
            result[path] = values if extra == {1} else values[None]
    return result, extra == {1}


def checked_data(network: Any, method: str, data: Any) -> Any:
    """Return the data of a method as a pytree of arrays: inputs, or (inputs, targets)."""
    if data is None:
        if method in ("activations", "both", "straight_through"):
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
