"""The action of discovered symmetries on parameters, which keeps the function."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax.errors import InputError
from symjax.groups.matrix_groups import GROUPS
from symjax.spelling import one_line

Element = Mapping[str, jax.Array | np.ndarray]


class Axis(NamedTuple):
    """The position of a space's channels in a parameter, and the action of a matrix there.

    Attributes:
      path: path of the parameter, with parts joined by "/".
      axis: the dimension along which the channels lie.
      index: (dimension, index) pairs of the slice with the channels, for example that of one attention head; () for
          all.
      positions: positions along the axis, (channels, positions of each channel).
      exponent: the power of the matrix that acts: 1 for A itself, -1 for the inverse transpose. For matrices with one
        entry in each row and column, any power of the entries; 0 for the permutation alone.
      reads: whether the function contracts the axis with data; other axes write, scale or shift the channels.
    """

    path: str
    axis: int
    index: tuple[tuple[int, int], ...]  # type: ignore[assignment]  # hides tuple.index
    positions: np.ndarray
    exponent: float
    reads: bool = False

    def __repr__(self):
        return one_line(self)


class Space(NamedTuple):
    """Channels on which a symmetry acts by one matrix.

    Attributes:
      name: its name in `Symmetry.spaces`.
      size: the number of channels.
      group: the name in `GROUPS` of the largest verified group.
      axes: the parameter axes that hold the channels.
      verified: whether the action on this space keeps the function. Unverified spaces are never acted on.
      families: for a space that permutes parts, such as attention heads, the spaces of the parts: one tuple per kind.
    """

    name: str
    size: int
    group: str
    axes: tuple[Axis, ...]
    verified: bool = True
    families: tuple[tuple[str, ...], ...] = ()

    def __repr__(self):
        return one_line(self)

    def apply_along(self, array, axis, positions, matrix, power):
        """Apply a power of the matrix to the given positions along an axis of the array."""
        acting = _power(matrix, power, GROUPS[self.group].monomial)
        return (
            array if acting is None else _apply_along(array, axis, _embed(None, array.shape[axis], positions, acting))
        )


class Symmetry:
    """The symmetries of a function's parameters; see `symjax.groups.discover`.

    An element is a dict from names of spaces to matrices; it leaves other spaces unchanged. Methods are pure and work
    under `jit` and `vmap`.

    Attributes:
      spaces: dict from name to `Space`; spaces that permute parts come after those of their parts.
      points: dict from the name of a named value to the size of its last axis.
      treedef, shapes: structure of the parameters, and dict from their paths to their shapes.
    """

    def __init__(
        self, spaces: dict[str, Space], treedef, shapes: dict[str, tuple], points: dict[str, int], locations: dict
    ):
        self.spaces, self.treedef, self.points, self.shapes, self._at = spaces, treedef, points, shapes, locations
        self._families = {name: space.families for name, space in spaces.items() if space.families}

    def __repr__(self) -> str:
        lines = []
        for space in self.spaces.values():
            group = space.group if space.verified else "not verified"
            axes = ", ".join(f"{a.path}[{a.axis}]{f'^{a.exponent}' if a.exponent != 1 else ''}" for a in space.axes)
            lines.append(f"{space.name}: {space.size} channels, {group}: {axes}")
        return "\n".join(lines) or "no symmetry"

    def sample(self, key: jax.Array, names: Iterable[str] | None = None) -> dict[str, jax.Array]:
        """Return a random element of all verified spaces, or of the named ones.

        Each matrix depends on the key and the space's position alone.
        """
        names = [name for name, space in self.spaces.items() if space.verified] if names is None else list(names)
        places = {name: place for place, name in enumerate(self.spaces)}
        self._check(dict.fromkeys(names))
        return {
            name: self._group(name).sample(jax.random.fold_in(key, places[name]), self.spaces[name].size)
            for name in names
        }

    def compose(self, first: Element, second: Element) -> dict[str, jax.Array]:
        """Return the element that acts as `first` and then as `second`.

        Where `first` permutes parts, the matrices of `second` for parts refer to the positions after this permutation.
        """
        for element in (first, second):
            self._check(element)
        second = self._permute_parts(second, first, back=False)
        merged = {**first, **second}
        return {
            name: self._group(name).compose(first[name], second[name])
            if name in first and name in second
            else merged[name]
            for name in merged
        }

    def inverse(self, element: Element) -> dict[str, jax.Array]:
        """Return the inverse of an element."""
        self._check(element)
        inverted = {name: self._group(name).inverse(matrix) for name, matrix in element.items()}
        return self._permute_parts(inverted, element, back=True)

    def contains(self, element: Element, *, tolerance: float = 1e-6) -> bool:
        """Return whether every matrix has its space's size and is in its group (see `MatrixGroup.contains`)."""
        self._check(element)
        return all(self._group(name).contains(matrix, tolerance=tolerance) for name, matrix in element.items())

    def act(self, params: Any, element: Element) -> Any:
        """Return the parameters after the action of an element; the function is the same up to rounding.

        Raises:
          InputError: parameters of another structure or other shapes than those given to `discover`; an unknown or
            unverified space; a matrix of the wrong shape. Membership in groups is not checked (see `contains`).
        """
        self._check(element)
        leaves, treedef = jax.tree.flatten(params)
        if treedef != self.treedef or [jnp.shape(leaf) for leaf in leaves] != list(self.shapes.values()):
            raise InputError("params: got another structure or other shapes, expected those given to discover")
        leaves = dict(zip(self.shapes, leaves, strict=True))
        for parts in (True, False):  # parts first, then the spaces that permute them
            spaces_by_axis = defaultdict(list)
            for name in self.spaces:
                if name in element and (name not in self._families) == parts:
                    for axis in self.spaces[name].axes:
                        spaces_by_axis[axis.path, axis.axis, axis.index].append((name, axis))
            powers: dict = {}
            for (path, d, index), acting in spaces_by_axis.items():
                slices = [slice(None)] * leaves[path].ndim
                for other, i in index:
                    slices[other] = slice(i, i + 1)
                full = None
                for name, axis in acting:
                    if (name, axis.exponent) not in powers:
                        powers[name, axis.exponent] = _power(element[name], axis.exponent, self._group(name).monomial)
                    if (block := powers[name, axis.exponent]) is not None:
                        full = _embed(full, leaves[path].shape[d], axis.positions, block)
                if full is not None:
                    old = leaves[path][tuple(slices)] if index else leaves[path]
                    new = _apply_along(old, d, full)
                    leaves[path] = _set(leaves[path], tuple(slices), new) if index else new
        return jax.tree.unflatten(treedef, leaves.values())

    def at(self, point: str, element: Element) -> jax.Array:
        """Return the action of an element on a named value: a matrix (d, d) on its last axis.

        Raises:
          InputError: unknown name, or the element changes the value by more than a matrix on its last axis.
        """
        self._check(element)
        places = self.places_at(point)
        full = jnp.eye(self.points[point], dtype=jnp.result_type(float))
        for name in self.spaces:  # parts first
            if name in element and name in places:
                positions, power = places[name]
                if power is None:
                    expected = f"one that {name} changes by a matrix on its last axis"
                    raise InputError(f"point: got {point!r}, expected {expected}")
                block = None if positions is None else _power(element[name], power, self._group(name).monomial)
                if block is not None:
                    full = jnp.matmul(_embed(None, len(full), positions, block), full, precision="highest")
        return full

    def spaces_at(self, point: str) -> tuple[str, ...]:
        """Return the names of spaces whose channels lie on the last axis of a named value."""
        return tuple(name for name, (positions, power) in self.places_at(point).items() if positions is not None)

    def places_at(self, point: str) -> dict:
        """Return {space: (positions, power)} for the spaces that change a named value.

        `positions` (channels, positions of each) are on the value's last axis; None if the channels are elsewhere.
        """
        if point not in self.points:
            raise InputError(
                f"point: got {point!r}, expected a named value of the function: {', '.join(self.points) or 'none'}"
            )
        return self._at.get(point, {})

    def _group(self, name):
        return GROUPS[self.spaces[name].group]

    def _check(self, element: Mapping[str, Any]) -> None:
        for name, matrix in element.items():
            if name not in self.spaces:
                raise InputError(f"element: got {name!r}, expected names of spaces: {', '.join(self.spaces) or 'none'}")
            size = self.spaces[name].size
            if not self.spaces[name].verified:
                raise InputError(f"element: got {name!r}, which changes the function, expected verified spaces")
            if matrix is not None and jnp.shape(matrix) != (size, size):
                raise InputError(f"element: got shape {jnp.shape(matrix)} for {name}, expected {(size, size)}")

    def _permute_parts(self, element: Element, permuting: Element, back: bool) -> dict:
        """Return `element` with matrices of parts permuted by the matrices in `permuting` (or by their inverses)."""
        element = dict(element)
        for name, families in self._families.items():
            for family in families if name in permuting else ():
                if any(part in element for part in family):
                    size = self.spaces[family[0]].size
                    parts = jnp.stack([jnp.asarray(element.get(part, jnp.eye(size))) for part in family])
                    places = jnp.argmax(jnp.abs(permuting[name]), axis=int(back))
                    element.update(zip(family, parts[places], strict=True))
        return element


# NumPy arrays stay NumPy arrays, so that nothing is compiled while many candidates are verified.


def _numpy(*arrays) -> bool:
    return all(isinstance(array, (np.ndarray, np.generic)) for array in arrays)


def _set(array, index, values):
    """Return the array with `values` at `index`."""
    if not _numpy(array, values):
        return jnp.asarray(array).at[index].set(values)
    array = array.astype(np.result_type(array, values))
    array[index] = values
    return array


def _embed(full, size, positions, block):
    """Return the matrix `full` (the identity for None) with `block` at the channels' positions."""
    full = np.eye(size, dtype=block.dtype) if full is None else full
    return _set(full, (positions[:, None, :], positions[None, :, :]), block[:, :, None])


def _apply_along(array, axis, matrix):
    """Return the array multiplied by the matrix along one axis."""
    axes = ((axis,), (1,))
    if _numpy(array, matrix):
        return np.moveaxis(np.tensordot(array, matrix.astype(array.dtype), axes), -1, axis)
    array = jnp.asarray(array)
    return jnp.moveaxis(jnp.tensordot(array, matrix.astype(array.dtype), axes, precision="highest"), -1, axis)


def _power(matrix, exponent, monomial):
    """Return the matrix that acts along an axis, or None for the identity.

    Powers of monomial matrices are entrywise.
    """
    xp = np if _numpy(matrix) else jnp
    if not monomial:
        return xp.linalg.inv(matrix).T if exponent < 0 else matrix if exponent else None
    largest = xp.abs(matrix).argmax(axis=-1, keepdims=True)
    entries = (np.arange(matrix.shape[-1]) == largest) & (matrix != 0)
    return xp.where(entries, xp.where(entries, matrix, 1) ** exponent, 0)
