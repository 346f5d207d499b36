"""Members: the variables of one network, as plain pytrees."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from symjax.spelling import one_line

PyTree = Any


class Member(NamedTuple):
    """The variables of one trained or fresh network.

    Attributes:
      params: the variables that an optimizer trains.
      state: the other variables, such as batch statistics.

    Example:
      >>> import jax.numpy as jnp
      >>> from symjax.network import Member
      >>> member = Member(params={"w": jnp.ones((3, 2))}, state={})
      >>> member.params["w"].shape
      (3, 2)
    """

    params: PyTree
    state: PyTree

    __repr__ = one_line


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """Return {path: leaf} of a pytree, with paths as `jax.tree_util.keystr` writes them."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def select(tree: PyTree, keep: Callable[[str], bool]) -> PyTree:
    """Return the pytree with None in place of the leaves for whose paths `keep` is false."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf if keep(jax.tree_util.keystr(path)) else None, tree)


def update(tree: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    """Return the pytree with the leaves at the given paths replaced."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaves.get(jax.tree_util.keystr(path), leaf), tree)


def merge(tree: PyTree, part: PyTree) -> PyTree:
    """Return the pytree with leaves replaced by those of `part`, a result of `select`, where these are not None."""
    return jax.tree.map(lambda new, old: old if new is None else new, part, tree, is_leaf=lambda leaf: leaf is None)
