"""Members: the variables of one network, as plain pytrees."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from symjax.spelling import one_line

PyTree = Any


class Member(NamedTuple):
    """The variables of one trained or fresh network.

    Attributes:
      params: what an optimizer trains.
      state: what else the network holds, such as batch statistics.
    """

    params: PyTree
    state: PyTree

    def __repr__(self):
        return one_line(self)


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """Return the leaves of a pytree by their paths, as `jax.tree_util.keystr` writes these."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def select(tree: PyTree, keep: Callable[[str], bool]) -> PyTree:
    """Return the pytree with None in place of the leaves whose paths are not to be kept."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf if keep(jax.tree_util.keystr(path)) else None, tree)


def update(tree: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    """Return the pytree with the leaves at the given paths replaced."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaves.get(jax.tree_util.keystr(path), leaf), tree)


def merge(tree: PyTree, part: PyTree) -> PyTree:
    """Return the pytree with the leaves of `part`, of `select`, in place of its own; None stands for no leaf."""
    return jax.tree.map(lambda new, old: old if new is None else new, part, tree, is_leaf=lambda leaf: leaf is None)
