"""Orthogonal and permutation Procrustes against float64 NumPy, brute force, planted and published values."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from derivatives import check_derivative
from golden import CASES, activations
from scipy.optimize import linear_sum_assignment
from scipy.stats import ortho_group

from symjax.errors import InputError
from symjax.similarity import (
    pairwise,
    permutation_procrustes,
    permutation_procrustes_distance,
    procrustes,
    procrustes_distance,
)
from symjax.similarity.procrustes import _rotate

N = 30


def data(p, q, seed=0, n=N):
    """Two linear functions of common data, not centered."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 3))
    return [np.float32(common @ rng.normal(size=(3, d)) + rng.normal(size=(n, d)) + 0.3) for d in (p, q)]


def normalized(x, center=False):
    x = np.float64(x)
    x = x - x.mean(0) if center else x
    return x / np.linalg.norm(x)


def orthogonal_by_definition(x, y, center=False):
    products = normalized(x, center).T @ normalized(y, center)
    return np.sqrt(2 - 2 * np.linalg.norm(products, "nuc"))


def permutation_by_definition(x, y, center=False):
    x, y = normalized(x, center), normalized(y, center)
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(z, [(0, 0), (0, width - z.shape[1])]) for z in (x, y))
    if width <= 6:
        return min(np.linalg.norm(x[:, p] - y) for p in map(list, itertools.permutations(range(width))))
    rows, columns = linear_sum_assignment(-(y.T @ x))
    return np.linalg.norm(x[:, columns] - y[:, rows])


ORACLES = {procrustes_distance: orthogonal_by_definition, permutation_procrustes_distance: permutation_by_definition}
SIMILARITIES = {procrustes_distance: procrustes, permutation_procrustes_distance: permutation_procrustes}

each = pytest.mark.parametrize("distance", ORACLES)


# Values


@each
@pytest.mark.parametrize("shape", [(5, 5), (3, 6), (6, 3), (40, 9), (35, 50)])  # past 30 there are fewer examples
@pytest.mark.few(3)
def test_agrees_with_its_definition(distance, shape):
    for seed in range(2):
        x, y = data(*shape, seed)
        expected = ORACLES[distance](x, y)
        got, alignment = distance(x, y, full_output=True)
        np.testing.assert_allclose(got, expected, atol=2e-6)
        np.testing.assert_allclose(SIMILARITIES[distance](x, y), 1 - expected / 2, atol=2e-6)
        assert alignment.matrix.shape == shape[::-1]
        centered = distance(x, y, center=True)
        np.testing.assert_allclose(centered, ORACLES[distance](x, y, center=True), atol=2e-6)


@pytest.mark.parametrize(("p", "q"), [(8, 8), (5, 8)])
@pytest.mark.few(1)
def test_far_from_the_origin_and_nearly_collinear(p, q):
    """Small directions next to a large one, in whose rounding they are lost in x'y in single precision."""
    rng = np.random.default_rng(0)
    for offset, spread in ((0, 1e-3), (1e3, 1), (1e3, 0.1), (1e4, 0.1)):
        line = rng.normal(size=(200, 1)) @ rng.normal(size=(1, 8)) + offset
        x, y = (np.float32(line + spread * rng.normal(size=line.shape)) for _ in range(2))
        x = x @ np.float32(ortho_group.rvs(8, random_state=1))[:, :p]
        a, b = normalized(x), normalized(y)
        left, _, right = np.linalg.svd(a.T @ b, full_matrices=False)
        expected = np.linalg.norm(b - a @ left @ right)
        got, rotation = procrustes_distance(x, y, full_output=True)
        np.testing.assert_allclose(got, expected, rtol=1e-3)
        np.testing.assert_allclose(
            rotation.rotation.T @ rotation.rotation @ rotation.rotation.T, rotation.rotation.T, atol=1e-5
        )
        pairs = pairwise({"x": x[None], "y": y[None]}, "procrustes_distance").select(layer_a="x", layer_b="y")
        np.testing.assert_allclose(pairs, [[expected]], rtol=1e-3)


@pytest.mark.slow
def test_one_program_does_for_widths_that_are_near():
    before = _rotate._cache_size()
    for p in (18, 21, 22, 23):
        x, y = data(p, 41 - p, n=40)
        np.testing.assert_allclose(procrustes_distance(x, y), orthogonal_by_definition(x, y), atol=2e-6)
        assert procrustes_distance(x, y, full_output=True)[1].rotation.shape == (41 - p, p)
    assert _rotate._cache_size() <= before + 5  # one for all four distances, and one for each alignment

    layers = {str(p): data(p, 1, seed=p, n=40)[0][None] for p in (18, 21, 26)}
    result = pairwise(layers, "procrustes_distance")
    for (a, x), (b, y) in itertools.combinations(layers.items(), 2):
        expected = [[orthogonal_by_definition(x[0], y[0])]]
        np.testing.assert_allclose(result.select(layer_a=a, layer_b=b), expected, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_published_figures(case):
    np.testing.assert_allclose(procrustes(*case.features()), case.orthogonal_procrustes, atol=1e-5)


def test_is_the_least_over_rotations():
    x, y = (normalized(z) for z in data(4, 4))
    got, alignment = procrustes_distance(np.float32(x), np.float32(y), full_output=True)
    rotation = np.float64(alignment.rotation)
    np.testing.assert_allclose(np.linalg.norm(x @ rotation.T - y), got, atol=1e-6)
    for seed in range(200):
        near = np.linalg.qr(rotation + 0.1 * np.random.default_rng(seed).normal(size=(4, 4)))[0]
        for other in (ortho_group.rvs(4, random_state=seed), near):
            assert np.linalg.norm(x @ other.T - y) > got - 1e-6


# Planted answers: alignments are stitches


def scale(x):
    return np.linalg.norm(np.float64(x))


def test_a_planted_rotation_is_found():
    (x, _), turn = data(6, 6), ortho_group.rvs(6, random_state=1)
    y = np.float32(3.7 * (x @ turn.T))
    similarity, alignment = procrustes(x, y, full_output=True)
    assert similarity > 1 - 1e-6
    np.testing.assert_allclose(alignment.rotation, turn, atol=1e-5)
    np.testing.assert_allclose(alignment.scaling, 3.7, rtol=1e-6)
    np.testing.assert_allclose(x @ alignment.matrix.T, y, atol=1e-5 * scale(y))
    shifted = np.float32(y + np.arange(6))
    assert procrustes(x, shifted) < 0.99
    similarity, alignment = procrustes(x, shifted, center=True, full_output=True)
    assert similarity > 1 - 1e-6
    np.testing.assert_allclose(x @ alignment.matrix.T + alignment.bias, shifted, atol=1e-5 * scale(y))


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (4, 50), (50, 40)])
def test_a_planted_isometry_between_widths_is_found(shape):
    narrow, wide = sorted(shape)
    (z, _), frame = data(narrow, 1), ortho_group.rvs(wide, random_state=2)[:narrow]
    z = z if narrow < N else np.float32(normalized(z) * 5)
    x, y = (z, np.float32(z @ frame)) if shape[0] == narrow else (np.float32(z @ frame), z)
    distance, alignment = procrustes_distance(x, y, full_output=True)
    assert distance < 1e-5
    np.testing.assert_allclose(x @ alignment.matrix.T, y, atol=1e-5 * scale(y))
    rotation = np.float64(alignment.rotation)
    small = rotation @ rotation.T if shape[0] >= shape[1] else rotation.T @ rotation
    if narrow < N:
        np.testing.assert_allclose(small, np.eye(narrow), atol=1e-5)


@pytest.mark.parametrize("d", [1, 8, 40])
def test_a_planted_permutation_is_found(d):
    (x, _), order = data(d, 1), np.random.default_rng(3).permutation(d)
    similarity, alignment = permutation_procrustes(x, 2 * x[:, order], full_output=True)
    assert similarity > 1 - 1e-6
    np.testing.assert_array_equal(alignment.permutation, order)
    np.testing.assert_allclose(alignment.scaling, 2, rtol=1e-6)
    np.testing.assert_allclose(x @ alignment.matrix.T, 2 * x[:, order], rtol=1e-5)


def test_channels_without_a_partner():
    x, _ = data(5, 1)
    few = x[:, [4, 0, 2]]
    (_, down), (_, up) = (permutation_procrustes(*pair, full_output=True) for pair in ((x, few), (few, x)))
    np.testing.assert_array_equal(down.permutation, [4, 0, 2])
    np.testing.assert_array_equal(up.permutation, [1, -1, 2, -1, 0])
    np.testing.assert_array_equal(up.scaling == 0, [False, True, False, True, False])
    assert not np.asarray(up.matrix)[[1, 3]].any()
    np.testing.assert_allclose(few @ up.selection.T, x * [1, 0, 1, 0, 1], rtol=1e-6)


# Maps


@each
@pytest.mark.slow
def test_pixels_are_samples_and_the_smaller_map_is_enlarged(distance):
    x, y = activations(1, (7, 4, 6, 3)), activations(2, (7, 4, 6, 4))
    flat = [z.reshape(-1, z.shape[-1]) for z in (x, y)]
    np.testing.assert_allclose(distance(x, y), ORACLES[distance](*flat), atol=2e-6)
    small = y[:, :3, :2]  # nearest neighbor: rows 0 0 1 2, columns 0 0 0 1 1 1
    large = small[:, [0, 0, 1, 2]][:, :, [0, 0, 0, 1, 1, 1]]
    for pair in ((x, small), (small, x)):
        np.testing.assert_allclose(distance(*pair), distance(x, large), atol=1e-6)
    crossed = distance(x[:, :2], y[:, :, :3])  # each is smaller along one axis
    by_hand = distance(x[:, [0, 0, 1, 1]], y[:, :, [0, 0, 1, 1, 2, 2]])
    repeated = distance(np.repeat(x[:, :2], 2, 1), np.repeat(y[:, :, :3], 2, 2))
    np.testing.assert_allclose([crossed, by_hand], repeated, atol=1e-6)
    flattened = [z.reshape(7, -1) for z in (x, small)]
    np.testing.assert_allclose(distance(x, small, samples="flatten"), ORACLES[distance](*flattened), atol=2e-6)
    pooled = [z.mean((1, 2)) for z in (x, small)]
    np.testing.assert_allclose(distance(x, small, samples="pool"), ORACLES[distance](*pooled), atol=2e-6)


# Properties


@each
def test_is_a_metric(distance):
    widths = (4, 4, 4) if distance is permutation_procrustes_distance else (4, 2, 6)
    spaces = [data(p, 1, seed)[0] for seed, p in enumerate(2 * widths)]
    table = np.array([[distance(a, b) for b in spaces] for a in spaces])
    np.testing.assert_allclose(np.diag(table), 0, atol=1e-5)
    np.testing.assert_allclose(table, table.T, atol=1e-6)
    assert (table[:, :, None] <= table[:, None, :] + table.T[None, :, :] + 1e-6).all()
    assert (table[~np.eye(6, dtype=bool)] > 0.1).all()


@each
def test_identical_and_opposite_input(distance):
    for seed in range(5):
        x, _ = data(8, 1, seed)
        assert 0 <= distance(x, x) < 2e-6  # and not the root of a rounding error
        assert np.isfinite(jax.grad(distance)(x, x + 0)).all()
    opposite = 0 if distance is procrustes_distance else 2
    np.testing.assert_allclose(distance(np.ones((4, 3)), -np.ones((4, 3))), opposite, atol=1e-6)


def test_range_of_the_similarity():
    """Orthogonal representations have the smallest similarity."""
    x = np.eye(4)
    np.testing.assert_allclose(procrustes(x[:, :2], x[:, 2:]), 1 - 0.5**0.5, rtol=1e-6)


@each
def test_of_any_size(distance):
    x, y = data(5, 4)
    expected = distance(x, y)
    for size in (1e-30, 1e30):
        np.testing.assert_allclose(distance(x * np.float32(size), y / np.float32(size)), expected, rtol=1e-6)


@each
@pytest.mark.parametrize("shape", [(5, 3), slow((3, 35))])
@pytest.mark.few(1)
def test_transformations(distance, shape):
    x, y = data(*shape)
    number, alignment = distance(x, y, full_output=True)
    compiled, aligned = jax.jit(lambda x, y: distance(x, y, full_output=True))(x, y)
    np.testing.assert_allclose(compiled, number, rtol=1e-5)
    np.testing.assert_allclose(aligned.matrix, alignment.matrix, atol=1e-5)
    batch = jnp.stack([x, x**2, 2 * x])
    mapped = jax.vmap(lambda x: distance(x, y))(batch)
    np.testing.assert_allclose(mapped, [distance(z, y) for z in batch], rtol=1e-5)
    with jax.enable_x64(True):
        center = shape == (5, 3)
        got = distance(np.float64(x), np.float64(y), center=center)
        np.testing.assert_allclose(got, ORACLES[distance](x, y, center), rtol=1e-12)
        check_derivative(lambda x, y: distance(x, y, center=center), x, y)


# Degenerate and mistaken input


@each
def test_nothing_to_compare(distance):
    x, y = data(4, 3)
    for pair in ((0 * x, y), (x, 0 * y), (0 * x, 0 * y)):
        assert np.isnan(distance(*pair)) and np.isnan(SIMILARITIES[distance](*pair))
    assert np.isnan(distance(np.full_like(x, 0.1), y, center=True))


@each
def test_rank_loss(distance):
    x, y = data(5, 5)
    x[:, 2] = 0  # dead
    x[:, 4] = x[:, 1]  # duplicate
    np.testing.assert_allclose(distance(x, y), ORACLES[distance](x, y), atol=2e-6)
    assert distance(x, x) < 2e-6
    assert np.isfinite(jax.grad(distance)(x, y)).all()
    # Dead on both sides: singular values, and assignments, that are not unique.
    np.testing.assert_allclose(distance(x, x[:, ::-1]), 0, atol=2e-6)


def test_zero_channels_change_nothing_for_rotations():
    x, y = data(3, 4)
    padded = np.concatenate([x, np.zeros_like(y)], 1)
    np.testing.assert_allclose(procrustes(padded, y), procrustes(x, y), rtol=1e-6)


@each
def test_nan_is_reported(distance):
    x, y = data(3, 3)
    x[1, 2] = np.nan
    with pytest.raises(InputError, match="x: .*NaN"):
        distance(x, y)
    assert np.isnan(jax.jit(distance)(x, y)) and np.isnan(jax.jit(distance)(y, x))


@pytest.mark.parametrize("function", [*SIMILARITIES, *SIMILARITIES.values()])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.ones((N + 1, 2))}, "y: got 31 examples"),
        ({"x": np.ones(N)}, "x: got shape"),
        ({"x": np.ones((N, 2, 2, 3))}, "y: got shape .*map size"),
        ({"x": np.ones((N, 3), complex)}, "x: got complex"),
        ({"samples": "patches"}, "samples: got 'patches'"),
    ],
)
def test_mistakes(function, change, message):
    x, y = data(3, 3)
    with pytest.raises(InputError, match=message):
        function(**({"x": x, "y": y} | change))
