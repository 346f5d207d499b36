"""CCA Merge: planted maps, against an oracle of canonical variates, and wrong input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_match import drawn, element_in, stack

from symjax import InputError, Network, stitch_point
from symjax.alignment import merge

SHAPES = {"w": (5, 4), "b": (4,), "v": (4, 4), "c": (4,), "h": (4, 5), "out": (5, 3)}
X = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)


def network_of(activation):
    """The first two layers have stitch points, the third has none."""

    def fn(p, x):
        x = stitch_point(activation(x @ p["w"] + p["b"]), "one")
        x = stitch_point(activation(x @ p["v"] + p["c"]), "two")
        return jnp.tanh(x @ p["h"]) @ p["out"]

    return Network.from_function(fn, drawn(SHAPES), example=X[:1])


def close(first, second, tolerance):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


def test_images_under_permutations_and_scales_merge_to_the_first_network():
    network = network_of(jax.nn.relu)
    base = network.member(jax.tree.map(np.float32, drawn(SHAPES)))
    symmetry = network.symmetry(base, X[:2])
    images = [
        base,
        *(symmetry.act(base, element_in(symmetry, "scaled_permutation", jax.random.key(i))) for i in (1, 2)),
    ]
    images = [symmetry.act(image, {"params": np.eye(5)[::-1]}) for image in images]
    merged, info = merge(network, stack(images), method="cca", data=X, ridge=1e-9)
    close(merged, images[0], 2e-3)
    assert info.converged and info.cycle_error == 0 and info.objective[1] < 1e-4 * info.objective[0]
    moved = info.action.act(images[1], {name: matrices[1] for name, matrices in info.elements.items()})
    close(moved, images[0], 4e-3)


def test_linear_networks_are_mapped_by_any_matrix():
    """Without a nonlinearity the maps keep the function; reading and writing axes need T and its inverse."""
    network = network_of(lambda x: x)
    base, rng = drawn(SHAPES), np.random.default_rng(3)
    one, two = (np.eye(n) + 0.3 * rng.normal(size=(n, n)) for n in (4, 4))
    image = {
        **base,
        "w": base["w"] @ one.T,
        "b": one @ base["b"],
        "c": two @ base["c"],
        "h": np.linalg.inv(two).T @ base["h"],
    }
    image["v"] = np.linalg.inv(one).T @ base["v"] @ two.T
    members = stack([network.member(jax.tree.map(np.float32, params)) for params in (base, image)])
    merged, info = merge(network, members, method="cca", data=X, ridge=1e-9)
    np.testing.assert_allclose(info.elements["one"][1] @ one, np.eye(4), atol=1e-2)
    close(merged.params, base, 1e-2)


def test_maps_are_those_of_canonical_variates():
    network = network_of(jax.nn.relu)
    members = [network.member(jax.tree.map(np.float32, drawn(SHAPES, seed))) for seed in (0, 1)]
    merged, info = merge(network, stack(members), method="cca", data=X, ridge=0.01)
    x, y = (np.float64(network.features(member, X)["one"]) for member in members)
    x, y = x - x.mean(0), y - y.mean(0)
    xx, yy = (z.T @ z + 0.01 * np.trace(z.T @ z) / 4 * np.eye(4) for z in (x, y))
    # P and Q of the generalized eigenvalue problem: P' S_xx P = 1 = Q' S_yy Q and P' S_xy Q diagonal.
    values, p = np.linalg.eig(np.linalg.solve(xx, x.T @ y) @ np.linalg.solve(yy, y.T @ x))
    p = np.real(p) / np.sqrt(np.einsum("ij,ik,kj->j", np.real(p), xx, np.real(p)))
    q = np.linalg.solve(yy, y.T @ x @ p) / np.sqrt(np.real(values))
    np.testing.assert_allclose(info.elements["one"][1], np.linalg.solve(p.T, q.T), rtol=1e-3, atol=1e-3)
    second = info.action.act(members[1], {name: matrices[1] for name, matrices in info.elements.items()})
    np.testing.assert_allclose(merged.params["v"], (members[0].params["v"] + second.params["v"]) / 2, atol=1e-5)


def test_wrong_arguments():
    network = network_of(jax.nn.relu)
    members = stack([network.member(jax.tree.map(np.float32, drawn(SHAPES)))] * 2)
    symmetry = network.symmetry(jax.tree.map(lambda leaf: leaf[0], members), X[:2])
    for words, arguments, options in [
        ("data: got None, expected inputs for method 'cca'", (network, members), {}),
        ("ridge: got 0", (network, members), {"data": X, "ridge": 0}),
        (
            "group: got 'scaled_permutation' .*, expected one of permutation",
            (network, members),
            {"group": "scaled_permutation"},
        ),
        ("network: got a Symmetry, expected a Network", (symmetry, members), {"data": X}),
    ]:
        with pytest.raises(InputError, match=words):
            merge(*arguments, method="cca", **options)
