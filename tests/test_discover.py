"""Symmetries that are found from the jaxpr alone, against the known ones of planted networks and of every model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_models import drawn

from symjax.groups import GROUPS, INTERTWINERS, Symmetry, discover
from symjax.models import MODELS, Member, create

KEY = jax.random.key(3)
QUICK = ("mcnn", "mcnn_sigmoid", "scnn", "resnet20", "resnet18", "cct2", "cct2_sine")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS if name != "resnet1202"]


# --- against the hand-written wiring, as long as there is one ---


def positions_of(space, wiring, shapes):
    """(path, axis, position) triples of a space that is written by hand."""
    numbers = range(space.first, space.first + space.size)
    return {
        (path, axis.axis % len(shapes[path]), position)
        for path, axes in wiring.axes.items()
        if path in shapes
        for axis in axes
        for position in np.flatnonzero(np.isin(axis.channels, numbers)).tolist()
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_space_that_is_wired_by_hand_is_found(name):
    """The same positions on the same axes, in the same order, in at least the same group; and the function stays."""
    width = 12 if name.startswith("cct") else 4
    network = create(name, width=width, image_size=8 if name.startswith("cct") else 16, classes=3)
    member = drawn(network)
    x = jnp.ones((1, 8, 8, 3) if name.startswith("cct") else (1, 16, 16, 3))
    symmetry = discover(lambda member, x: network.logits(Member(*member), x)[0], tuple(member), x)
    assert all(space.verified for space in symmetry.spaces.values())
    discovered = {}
    for space in symmetry.spaces.values():
        places = {
            (tuple(int(p) if p.isdecimal() else p for p in axis.path.split("/")[1:]), axis.axis, position)
            for axis in space.axes
            for position in axis.where.ravel().tolist()
        }
        discovered.setdefault(frozenset(places), space)
    leaves = [leaf for kind in member for leaf in jax.tree.leaves_with_path(kind)]
    shapes = {tuple(getattr(p, "idx", getattr(p, "key", None)) for p in path): leaf.shape for path, leaf in leaves}
    old = Symmetry(network)
    with jax.enable_x64(True):
        for wired in network.wiring.spaces.values():
            if wired.size == 1 and old.row(wired.name).group.name == "permutation":
                continue
            space = discovered[frozenset(positions_of(wired, network.wiring, shapes))]
            assert space.size == wired.size
            matrix = np.asarray(old.row(wired.name).group.sample(KEY, wired.size))
            assert GROUPS[space.group].contains(matrix)
            wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), member)
            moved = old.act(wide, {wired.name: matrix}), Member(*symmetry.act(tuple(wide), {space.name: matrix}))
            if wired.kind != "permutation":  # there a norm's affine parameters may carry a scale, too
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), *moved)
