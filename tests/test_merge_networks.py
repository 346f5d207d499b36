"""Merging of many networks: planted elements, the objective, cycle consistency, and wrong input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_match import CASES, drawn, element_in, stack

from symjax import InputError, Network
from symjax.alignment import cycle_error, match, merge
from symjax.groups import discover

CHAIN = CASES["chain"]


def planted(case, group, count=4, noise=0.0):
    """Return a symmetry, a network, and images of it under random elements, with noise."""
    fn, shapes, x = CASES[case]
    symmetry, base, rng = discover(fn, drawn(shapes), x), drawn(shapes, 1), np.random.default_rng(0)
    images = [symmetry.act(base, element_in(symmetry, group, jax.random.key(i))) for i in range(count)]
    images = [jax.tree.map(lambda leaf: leaf + noise * rng.normal(size=leaf.shape), image) for image in images]
    return symmetry, base, stack(images)


@pytest.mark.parametrize(
    ("case", "group", "method"),
    [
        ("chain", "permutation", "universe"),
        ("chain", "scaled_permutation", "many"),
        ("residual", "scaled_permutation", "universe"),
        ("residual", "permutation", "many"),
        ("heads", "permutation", "universe"),
    ],
)
def test_images_of_one_network_merge_to_it(case, group, method):
    with jax.enable_x64(True):
        symmetry, base, members = planted(case, group)
        before = jax.tree.map(np.copy, members)
        merged, info = merge(symmetry, members, method=method, group=group)
        fn, x = CASES[case][0], CASES[case][2]
        np.testing.assert_allclose(fn(merged, x), fn(base, x), atol=1e-9 * np.abs(fn(base, x)).max())
    assert info.converged and info.cycle_error == 0
    assert abs(info.objective[-1]) < 1e-6 * info.objective[0]
    jax.tree.map(np.testing.assert_array_equal, members, before)


@pytest.mark.parametrize("method", ["universe", "many"])
def test_the_objective_is_the_sum_of_squared_distances(method):
    with jax.enable_x64(True):
        symmetry, _, members = planted("chain", "permutation", noise=0.3)
        _, info = merge(symmetry, members, method=method)
        moved = [
            symmetry.act(jax.tree.map(lambda leaf, p=p: leaf[p], members), {n: m[p] for n, m in info.elements.items()})
            for p in range(4)
        ]
    distances = [
        sum(((moved[p][name] - moved[q][name]) ** 2).sum() for name in moved[0]) for p in range(4) for q in range(p)
    ]
    assert info.objective[-1] == pytest.approx(sum(distances), rel=1e-9)
    start = [
        sum(((members[name][p] - members[name][q]) ** 2).sum() for name in members) for p in range(4) for q in range(p)
    ]
    assert info.objective[0] == pytest.approx(sum(start), rel=1e-5) and info.objective[-1] < info.objective[0]


def test_pairwise_matchings_of_unrelated_networks_are_not_consistent():
    with jax.enable_x64(True):
        fn, shapes, x = CHAIN
        symmetry = discover(fn, drawn(shapes), x)
        members, maps = [drawn(shapes, seed) for seed in range(3)], {}
        for i in range(3):
            for j in range(i):
                maps[i, j], _ = match(symmetry, members[i], members[j])
                maps[j, i] = symmetry.inverse(maps[i, j])
        assert 0 < cycle_error(symmetry, maps) <= 1
        _, info = merge(symmetry, stack(members))
        assert info.cycle_error == 0
        with pytest.raises(InputError, match="maps: got none of"):
            cycle_error(symmetry, {(0, 1): maps[0, 1]})
        with pytest.raises(InputError, match="maps: got .* expected a mapping of pairs"):
            cycle_error(symmetry, {pair: {} for pair in maps})


def test_half_precision_networks_have_a_mean():
    fn, shapes, x = CHAIN
    symmetry, members = discover(fn, drawn(shapes), x), [drawn(shapes, seed) for seed in range(3)]
    expected = merge(symmetry, stack(members))[0]
    for dtype, tolerance in ((jnp.bfloat16, 1e-2), (jnp.float16, 2e-3)):
        rounded = [jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), member) for member in members]  # noqa: B023
        merged = merge(symmetry, stack(rounded))[0]
        for name, leaf in merged.items():
            assert leaf.dtype == dtype
            np.testing.assert_allclose(np.float64(leaf), expected[name], atol=tolerance)


@pytest.mark.slow
def test_networks_whose_symmetries_are_heads():
    """Heads on the inputs, without any stream: Frank-Wolfe has nothing to align."""

    def heads(p, x):
        q, k, v = (jnp.einsum("tc,chd->htd", x, p[name]) for name in "qkv")
        return jnp.einsum("hts,hsd,hdo->to", jax.nn.softmax(q @ k.swapaxes(1, 2)), v, p["o"])

    shapes = {"q": (4, 3, 2), "k": (4, 3, 2), "v": (4, 3, 2), "o": (3, 2, 4)}
    symmetry, base = discover(heads, drawn(shapes), CHAIN[2]), drawn(shapes, 1)
    images = [symmetry.act(base, element_in(symmetry, "permutation", jax.random.key(i))) for i in range(3)]
    merged, info = merge(symmetry, stack(images))
    assert info.converged and info.objective[-1] < 1e-6 * info.objective[0]
    np.testing.assert_allclose(heads(merged, CHAIN[2]), heads(base, CHAIN[2]), rtol=1e-4, atol=1e-5)


def test_wrong_arguments():
    fn, shapes, x = CHAIN
    symmetry, one = discover(fn, drawn(shapes), x), drawn(shapes)
    for words, members, options in [
        ("members: got one", one, {}),
        ("members: got 1", stack([one]), {}),
        ("members: got NaN", stack([one, jax.tree.map(lambda leaf: leaf * np.nan, one)]), {}),
        ("method: got 'sum'", stack([one, one]), {"method": "sum"}),
        ("group: got 'largest'", stack([one, one]), {"group": "largest"}),
    ]:
        with pytest.raises(InputError, match=words):
            merge(symmetry, members, **options)
    network = Network.from_function(fn, one, example=x)
    with pytest.raises(InputError, match="^members: .* several are stacked"):
        merge(network, [network.member(one)] * 2)
