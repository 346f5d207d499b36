"""The action of intertwiner groups on the weights of a network: another network, the same function.

An element of a network's symmetry is a dict from the names of its spaces (see `symjax.models.wiring`) to matrices, each
of the group of the activation that the space passes through. Spaces that the dict leaves out stay as they are.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from symjax.errors import InputError
from symjax.groups.matrix_groups import GROUPS, monomial_part, reciprocal
from symjax.groups.table import INTERTWINERS, Intertwiner
from symjax.models import Member, Network
from symjax.models.wiring import Space

Element = Mapping[str, jax.Array]


class Symmetry:
    """The symmetry of a network's weights.

    The action of A on a plain layer is (W_l, b_l) -> (A W_l, A b_l), W_{l+1} -> W_{l+1} phi(A)^-1 (Godfrey et al.
    2022, section 3). A batch norm in between takes the scale of A into its affine parameters and the permutation into
    its statistics, which is exact whatever its epsilon. A residual stream is one space, acted on alike in all its
    blocks; where a shortcut pads with zeros the stream before it stays a space of its own inside of the wider one.

    All methods are pure functions of pytrees and work under `jit` and `vmap`.

    Attributes:
      network: whose weights are acted on.
      spaces: name to `Space`, in the order of the chain.

    Raises:
      InputError: a segment of the network does not say which channels its parameters carry, or gives them a kind that
        is not known or cannot be acted on: one whose activation needs an offset behind it.
    """

    def __init__(self, network: Network):
        self.network = network
        self._wiring = network.wiring
        self.spaces: dict[str, Space] = self._wiring.spaces
        for space in self.spaces.values():
            _check_kind(network, space)
        self._firsts = np.array([space.first for space in self.spaces.values()])

    def row(self, name: str) -> Intertwiner:
        """The group and phi of a space."""
        kind = self._space(name).kind
        return INTERTWINERS[kind] if kind in INTERTWINERS else Intertwiner(kind, _plain, GROUPS[kind], _plain)

    def spaces_at(self, point: str | int) -> tuple[str, ...]:
        """The spaces whose channels a stitch at this point sees: inside a residual block those of the branch."""
        seen = self._branch(point)
        return () if seen is None else tuple(name for name, _ in self._on(seen))

    def sample(self, key: jax.Array, names: Iterable[str] | None = None) -> dict[str, jax.Array]:
        """A random element, of all spaces or of those named; a space's own matrix depends on the key and its place."""
        names = list(self.spaces) if names is None else list(names)
        places = {name: place for place, name in enumerate(self.spaces)}
        return {
            name: self.row(name).group.sample(jax.random.fold_in(key, places[name]), self.spaces[name].size)
            for name in names
            if self._space(name)
        }

    def compose(self, first: Element, then: Element) -> dict[str, jax.Array]:
        """The element that acts as `first` and then as `then`."""
        both = {**first, **then}
        return {
            name: self.row(name).group.compose(first[name], then[name])
            if name in first and name in then
            else both[name]
            for name in both
        }

    def inverse(self, element: Element) -> dict[str, jax.Array]:
        """The element that undoes it."""
        return {name: self.row(name).group.inverse(matrix) for name, matrix in element.items()}

    def contains(self, element: Element, *, tolerance: float = 1e-6) -> bool:
        """Whether every matrix is of its space's size and in its group (see `MatrixGroup.contains`)."""
        self._check(element)
        return all(self.row(name).group.contains(matrix, tolerance=tolerance) for name, matrix in element.items())

    def act(self, member: Member, element: Element) -> Member:
        """The member with its weights acted on; its function is the same, up to rounding.

        Raises:
          InputError: an unknown space, or a matrix of the wrong shape. That matrices are of their groups is not asked
            (see `contains`).
        """
        self._check(element)

        made: dict[tuple, jax.Array | None] = {}  # tied axes share a matrix

        def moved(path, leaf):
            for axis in self._wiring.axes.get(tuple(getattr(p, "idx", getattr(p, "key", None)) for p in path), ()):
                kind = (axis.role, axis.channels.tobytes())
                if kind not in made:
                    made[kind] = self._matrix(axis.channels, element, ROLES[axis.role])
                if made[kind] is not None:
                    leaf = _along(leaf, axis.axis, made[kind])
            return leaf

        return Member(*(jax.tree_util.tree_map_with_path(moved, kind) for kind in member))

    def at(self, point: str | int, element: Element) -> jax.Array:
        """What the element does to the features at a stitch point: phi(A) as a matrix (d, d), on the branch."""
        seen = self._branch(point)
        matrix = None if seen is None else self._matrix(seen, element, _image)
        size = self.network.points[self.network.index(point)].channels
        return jnp.eye(size, dtype=jnp.result_type(float)) if matrix is None else matrix

    def _branch(self, point):
        joint = self._wiring.joints[self.network.index(point)]
        return joint[0] if isinstance(joint, tuple) else joint

    def _space(self, name: str) -> Space:
        if name not in self.spaces:
            known = ", ".join(self.spaces) or "none"
            raise InputError(f"element: {name!r} is not a space of {self.network.name}; known: {known}")
        return self.spaces[name]

    def _check(self, element: Element) -> None:
        for name, matrix in element.items():
            size = self._space(name).size
            if jnp.shape(matrix) != (size, size):
                raise InputError(f"element: {name} has shape {jnp.shape(matrix)}, wanted {(size, size)}")

    def _on(self, channels: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """The spaces on an axis, each with where its channels stand, in their order: all of them are there."""
        order = np.argsort(channels)
        whose = np.searchsorted(self._firsts, channels[order], side="right") - 1
        names = list(self.spaces)
        return [(names[space], order[whose == space]) for space in np.unique(whose)]

    def _matrix(self, channels: np.ndarray, element: Element, of) -> jax.Array | None:
        """What acts on the channels of an axis: `of(row, A)` in the block of each space; None for the identity."""
        blocks = [(where, name) for name, where in self._on(channels) if name in element]
        if not blocks:
            return None
        full = jnp.eye(len(channels), dtype=jnp.result_type(float))
        for where, name in blocks:
            full = full.at[np.ix_(where, where)].set(of(self.row(name), jnp.asarray(element[name])))
        return full


def _check_kind(network: Network, space: Space) -> None:
    allowed = [name for name, row in INTERTWINERS.items() if row.offset is None]
    if space.kind not in (*allowed, *GROUPS):
        why = "needs an offset, which is not acted with" if space.kind in INTERTWINERS else "is unknown"
        known = ", ".join((*allowed, *GROUPS))
        raise InputError(f"network: the kind {space.kind!r} of {network.name}'s {space.name} {why}; known: {known}")


def _along(leaf: jax.Array, axis: int, matrix: jax.Array) -> jax.Array:
    """The leaf times the matrix along one axis."""
    moved = jnp.tensordot(leaf, matrix.astype(leaf.dtype), ((axis,), (1,)), precision="highest")
    return jnp.moveaxis(moved, -1, axis)


ROLES = {
    # What multiplies a parameter along its axis; for "in", W phi(A)^-1, that is phi(A)^-T.
    "out": lambda row, matrix: matrix,
    "in": lambda row, matrix: _inverse_of_image(row, matrix).T,
    "order": lambda row, matrix: (monomial_part(matrix) != 0).astype(matrix.dtype),
}


def _image(row: Intertwiner, matrix: jax.Array) -> jax.Array:
    return row.phi(monomial_part(matrix) if row.group.monomial else matrix)


def _inverse_of_image(row: Intertwiner, matrix: jax.Array) -> jax.Array:
    image = _image(row, matrix)
    return reciprocal(image).T if row.group.monomial else jnp.linalg.inv(image)


def _plain(matrix):
    return matrix
