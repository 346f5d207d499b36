"""The spaces of a symmetry as blocks of an alignment, with the part of each group that is searched."""

from collections.abc import Container
from dataclasses import dataclass
from itertools import chain

from symjax.groups import GROUPS, Axis, Symmetry

SEARCHES = {  # group: (compact part in "largest", scales or matrices that are balanced)
    "permutation": ("permutation", None),
    "signed_permutation": ("signed_permutation", None),
    "positive_monomial": ("permutation", "scales"),
    "monomial": ("signed_permutation", "scales"),
    "orthogonal": ("orthogonal", None),
    "general_linear": ("orthogonal", "matrices"),
}


@dataclass(frozen=True, eq=False)
class AlignedSpace:
    """A space of the symmetry.

    Attributes:
      name, size, axes: those of `symjax.groups.Space`.
      monomial: whether the space's group consists of monomial matrices.
      compact: "permutation", "signed_permutation" or "orthogonal": the matrices among which the best is searched.
      balanced: "scales", "matrices" or None: what brings the parameters to their least norm first.
    """

    name: str
    size: int
    axes: tuple[Axis, ...]
    monomial: bool
    compact: str
    balanced: str | None


@dataclass(frozen=True, eq=False)
class Block:
    """Spaces that are aligned in one step: one space, or a space that permutes parts together with its parts.

    Attributes:
      space: the space.
      families: spaces of the parts: one tuple per kind, with a space for each channel of `space`.
      paths: paths of the parameters that hold any of these channels.
    """

    space: AlignedSpace
    families: tuple[tuple[AlignedSpace, ...], ...]
    paths: frozenset[str]

    @property
    def spaces(self):
        return (*chain(*self.families), self.space)


def blocks_of(symmetry: Symmetry, group: str, paths: Container[str]) -> list[Block]:
    """Return the blocks of all verified spaces, for an alignment of the given parameters by elements of `group`."""
    spaces = {}
    for name, space in symmetry.spaces.items():
        if space.verified:
            compact, balanced = SEARCHES[space.group]
            if group != "largest":
                compact = "permutation"
                balanced = "scales" if balanced and group == "scaled_permutation" else None
            axes = tuple(axis for axis in space.axes if axis.path in paths)
            spaces[name] = AlignedSpace(name, space.size, axes, GROUPS[space.group].monomial, compact, balanced)
    families = {
        name: tuple(
            tuple(spaces[part] for part in family if part in spaces) for family in symmetry.spaces[name].families
        )
        for name in spaces
    }
    parts = {part.name for kinds in families.values() for family in kinds for part in family}
    blocks = []
    for name, space in spaces.items():
        if name not in parts:
            kinds = tuple(family for family in families[name] if len(family) == space.size)
            held = {axis.path for each in (space, *chain(*kinds)) for axis in each.axes}
            blocks.append(Block(space, kinds, frozenset(held)))
    return blocks
