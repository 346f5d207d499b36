"""Closed-form stitches, compared with brute force and NumPy in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax.stitching import feature_moments, least_squares, matched


def features(d, n=200, seed=0):
    """Features after a ReLU, with some equal channels."""
    rng = np.random.RandomState(seed)
    common = rng.randn(n, 1)
    return np.maximum(rng.randn(n, d) + 0.5 * common + 0.3, 0).astype(np.float32)


def brute_force(x, y):
    """The best permutation and positive scaling of channels with unit norm, by brute force in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    d = x.shape[1]
    norms = [np.linalg.norm(z, axis=0) for z in (x, y)]
    products = (y / norms[1]).T @ (x / norms[0])
    best = max(itertools.permutations(range(d)), key=lambda p: products[range(d), p].sum())
    matrix = np.zeros((d, d))
    matrix[range(d), best] = norms[1] / norms[0][list(best)]
    return matrix


@pytest.mark.parametrize("d", range(1, 7))
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.few(6)
def test_matched_is_the_best_of_all_permutations(d, seed):
    x, y = features(d, seed=seed), features(d, seed=seed + 100)
    np.testing.assert_allclose(matched(feature_moments(x, y)), brute_force(x, y), rtol=1e-5)


@pytest.mark.parametrize("d", [2, 8, 32])
@pytest.mark.parametrize("seed", range(3))
def test_matched_recovers_a_planted_symmetry(d, seed):
    rng = np.random.RandomState(seed)
    x = features(d, seed=seed)
    permutation, scaling = rng.permutation(d), np.exp(rng.uniform(-3, 3, d)).astype(np.float32)
    result = np.asarray(matched(feature_moments(x, x[:, permutation] * scaling)))
    expected = scaling[:, None] * np.eye(d, dtype=np.float32)[permutation]
    np.testing.assert_array_equal(result > 0, expected > 0)
    np.testing.assert_allclose(result, expected, rtol=2e-6)


def test_matched_minimizes_over_scalings_of_unit_norm_channels():
    """This differs from the nearest map in the raw norm: channels of large and small norm have equal weight."""
    rng = np.random.RandomState(0)
    x = features(5)
    y = x[:, [1, 2, 3, 4, 0]] + 0.1 * rng.rand(200, 5).astype(np.float32)
    loud = y * np.float32([1e3, 1, 1e-3, 1, 10])
    plain, scaled = (np.asarray(matched(feature_moments(x, z))) for z in (y, loud))
    np.testing.assert_allclose(scaled, plain * [[1e3], [1], [1e-3], [1], [10]], rtol=1e-5)


def test_zero_channels():
    x = features(5)
    y = x[:, [2, 0, 4, 1, 3]] * np.float32([2, 3, 4, 5, 6])
    expected = np.zeros((5, 5))
    expected[range(5), [2, 0, 4, 1, 3]] = [2, 3, 4, 5, 6]
    dead_y = y.copy()
    dead_y[:, 1] = 0  # wanted dead: its row is zero, the others are what they were
    expected_y = expected.copy()
    expected_y[1] = 0
    np.testing.assert_allclose(matched(feature_moments(x, dead_y)), expected_y, rtol=1e-5)
    dead_x = x.copy()
    dead_x[:, 4] = 0  # dead in x: no scaling could help, 1 stands for it
    expected_x = expected.copy()
    expected_x[2, 4] = 1
    np.testing.assert_allclose(matched(feature_moments(dead_x, y)), expected_x, rtol=1e-5)
    for everything in (matched(feature_moments(0 * x, 0 * y)), matched(feature_moments(0 * x, y))):
        np.testing.assert_array_equal(np.sort(everything, axis=1), np.sort(np.eye(5), axis=1))
    assert not np.any(matched(feature_moments(x, 0 * y)))
    for moments in (feature_moments(dead_x, dead_y), feature_moments(0 * x, y)):
        assert np.isfinite(least_squares(moments)).all()
    result = np.asarray(least_squares(feature_moments(dead_x, dead_y)))
    assert not result[:, 4].any() and not result[1].any()


@pytest.mark.parametrize("d", [1, 4, 16])
def test_least_squares_against_numpy(d):
    x = features(d, n=500, seed=1)
    y = features(d, n=500, seed=2) + x @ np.random.RandomState(3).randn(d, d).astype(np.float32)
    moments = feature_moments(x, y)
    expected = np.linalg.lstsq(x.astype(np.float64), y.astype(np.float64), rcond=None)[0].T
    np.testing.assert_allclose(least_squares(moments, ridge=0), expected, rtol=2e-4, atol=2e-4)
    # The ridge of `least_squares` as rows added to the data.
    for ridge in (1e-5, 0.1):
        power = (x.astype(np.float64) ** 2).mean()
        rows = np.vstack([x, np.sqrt(ridge * power * len(x)) * np.eye(d)])
        expected = np.linalg.lstsq(rows, np.vstack([y, np.zeros((d, d))]), rcond=None)[0].T
        np.testing.assert_allclose(least_squares(moments, ridge=ridge), expected, rtol=2e-4, atol=2e-4)


def test_moments_of_batches_average_to_those_of_all():
    x, y = features(4, n=96).reshape(24, 2, 2, 4), features(4, n=96, seed=9).reshape(24, 2, 2, 4)
    whole = feature_moments(x, y)
    parts = [feature_moments(x[i : i + 8], y[i : i + 8]) for i in range(0, 24, 8)]
    averaged = jax.tree.map(lambda *leaves: sum(leaves) / 3, *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, averaged)
    flat_x, flat_y = (z.reshape(-1, 4).astype(np.float64) for z in (x, y))
    np.testing.assert_allclose(whole.xx, flat_x.T @ flat_x / 96, rtol=1e-5)
    np.testing.assert_allclose(whole.yx, flat_y.T @ flat_x / 96, rtol=1e-5)
    np.testing.assert_allclose(whole.yy, (flat_y**2).mean(0), rtol=1e-5)


def test_closed_forms_under_jit_and_vmap():
    pairs = [(features(4, seed=s), features(4, seed=s + 10)) for s in range(3)]
    x, y = (jnp.stack(z) for z in zip(*pairs, strict=True))
    both = jax.jit(jax.vmap(lambda x, y: (matched(feature_moments(x, y)), least_squares(feature_moments(x, y)))))(x, y)
    for i, pair in enumerate(pairs):
        moments = feature_moments(*pair)
        np.testing.assert_allclose(both[0][i], matched(moments), rtol=1e-5)
        np.testing.assert_allclose(both[1][i], least_squares(moments), rtol=1e-3, atol=1e-4)
