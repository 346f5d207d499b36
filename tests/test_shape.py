"""Shape metrics, aligned and held-out rotations, and stochastic shapes against float64 NumPy and SciPy."""

import jax
import numpy as np
import pytest
from derivatives import check_derivative
from scipy.linalg import orthogonal_procrustes, sqrtm
from scipy.optimize import minimize
from scipy.stats import ortho_group

from symjax import (
    InputError,
    aligned_cosine,
    cca,
    held_out_procrustes,
    procrustes_distance,
    shape_distance,
    stochastic_shape_distance,
)
from symjax.similarity import FewExamplesWarning, NumericalWarning, pairwise
from symjax.similarity.polar import polar


def pair(n=60, p=5, q=5, seed=0, scale=0.1):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 3))
    return [scale * (latent @ rng.normal(size=(3, d)) + rng.normal(size=(n, d))) + 1 for d in (p, q)]


def padded(*sides):
    width = max(side.shape[1] for side in sides)
    return [np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in sides]


def whitened(x, alpha):
    """As netrep: the whitening of centered data, up to a factor."""
    x = x - x.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x)
    kept = values > 1e-12 * values.max()
    factors = alpha + (1 - alpha) * np.where(kept, np.where(kept, values, 1) ** -0.5, 0)
    return x @ (vectors * factors) @ vectors.T


def shape_by_definition(x, y, alpha):
    x, y = padded(*(whitened(side, alpha) for side in (x, y)))
    rotated = x @ orthogonal_procrustes(x, y)[0]
    return np.arccos(np.sum(rotated * y) / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("alpha", [0, 0.5])
def test_directions_that_whitening_drops_are_reported(alpha):
    rng = np.random.default_rng(0)
    u, _, vt = np.linalg.svd(rng.normal(size=(60, 8)), full_matrices=False)
    x, y = np.float32(u * np.logspace(0, -6.2, 8) @ vt), np.float32(rng.normal(size=(60, 8)))
    with pytest.warns(
        NumericalWarning, match="^y: directions with singular values up to .*e-07 of the largest are drop"
    ):
        shape_distance(y, x, alpha=alpha)
    with pytest.warns(NumericalWarning, match="layer 'b' of model 0 .and 1 more representation.: directions") as caught:
        pairwise({"a": y[None], "b": x[None], "c": x[None]}, "shape_distance", alpha=alpha)
    assert len(caught) == 1
    shape_distance(y, x)
    shape_distance(np.concatenate([y, y], 1), y, alpha=alpha)  # rounding


@pytest.mark.parametrize("widths", [(5, 5), (3, 6)])
def test_shape_distance_is_that_of_netrep(widths):
    x, y = pair(60, *widths)
    for alpha in (0, 0.2, 0.7, 1):
        expected = shape_by_definition(x, y, alpha)
        np.testing.assert_allclose(shape_distance(x, y, alpha=alpha), expected, rtol=1e-5)
    result = pairwise({"a": np.stack([x]), "b": np.stack([y])}, "shape_distance", alpha=0.7)
    np.testing.assert_allclose(result.select(layer_a="a", layer_b="b")[0, 0], shape_by_definition(x, y, 0.7), rtol=1e-5)


def test_the_ends_of_alpha_are_procrustes_and_cca():
    x, y = pair()
    distance = float(procrustes_distance(x, y, center=True))
    np.testing.assert_allclose(shape_distance(x, y), 2 * np.arcsin(distance / 2), rtol=1e-6)
    distance = float(procrustes_distance(x, y))
    np.testing.assert_allclose(shape_distance(x, y, center=False), 2 * np.arcsin(distance / 2), rtol=1e-6)
    np.testing.assert_allclose(shape_distance(x, y, alpha=0), np.arccos(cca(x, y).correlations.mean()), rtol=1e-5)


def test_shape_distance_is_a_metric():
    """Small distances too, and between different widths."""
    x, y, z = *pair(40, 4, 6, 1), pair(40, 5, 5, 2)[0]
    for alpha in (0.1, 1):
        xy, yz, xz = (float(shape_distance(*sides, alpha=alpha)) for sides in ((x, y), (y, z), (x, z)))
        assert xz <= xy + yz and xy <= xz + yz
        turned = x @ ortho_group.rvs(4, random_state=0) - 3
        assert float(shape_distance(x, turned, alpha=alpha)) < 1e-5
    near, start = np.float32(x + 1e-3 * y[:, :4]), np.float32(x)
    expected = float(procrustes_distance(start, near, center=True))
    assert 1e-5 < expected < 1e-3
    np.testing.assert_allclose(shape_distance(start, near), expected, rtol=1e-4)


def test_few_examples_and_bad_alpha():
    x, y = pair(6)
    with pytest.warns(FewExamplesWarning):
        assert float(shape_distance(x, y, alpha=0)) < 1e-5
    for alpha in (-0.1, 1.5, np.nan, "1", None):
        with pytest.raises(InputError, match="^alpha: got"):
            shape_distance(x, y, alpha=alpha)
    with pytest.raises(InputError, match=r"^alpha: .*not traced"):
        jax.jit(lambda alpha: shape_distance(x, y, alpha=alpha))(0.5)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_derivative_of_the_orthogonal_factor(shape):
    with jax.enable_x64(True):
        x, weights = np.random.default_rng(0).normal(size=(2, *shape))
        check_derivative(lambda x, w: (polar(x)[0] ** 2 * w).sum(), x, weights)


@pytest.mark.slow
def test_derivatives_of_distances():
    with jax.enable_x64(True):
        x, y = pair(12, 3, 4)
        check_derivative(lambda x, y: shape_distance(x, y, alpha=0.3), x, y)
        check_derivative(aligned_cosine, x, y)
        check_derivative(held_out_procrustes, x, y)


def test_aligned_cosine_is_its_definition():
    for widths in ((5, 5), (3, 6)):
        x, y = pair(40, *widths)
        x[3] = 0  # left out
        a, b = padded(x, y)
        rotated = a @ orthogonal_procrustes(a, b)[0]
        kept = np.arange(40) != 3
        cosines = np.sum(rotated * b, 1)[kept] / np.linalg.norm(a, axis=1)[kept] / np.linalg.norm(b, axis=1)[kept]
        np.testing.assert_allclose(aligned_cosine(x, y), cosines.mean(), rtol=1e-5)


def test_held_out_rotation_is_its_definition():
    x, y = padded(*pair(41, 4, 6))
    labels = np.random.default_rng(3).integers(5, 8, 41)
    for folds, fold_of in ((2, np.arange(41) % 2), (labels, labels)):
        sums = np.zeros(3)
        for fold in np.unique(fold_of):
            test = fold_of == fold
            a, b = (side - side[~test].mean(0) for side in (x, y))
            turned = a[test] @ orthogonal_procrustes(a[~test], b[~test])[0]
            sums += [np.sum(turned * b[test]), np.sum(a[test] ** 2), np.sum(b[test] ** 2)]
        expected = sums[0] / np.sqrt(sums[1] * sums[2])
        np.testing.assert_allclose(held_out_procrustes(x[:, :4], y, folds=folds), expected, rtol=1e-5)


def test_independent_data_do_not_agree_where_held_out():
    rng = np.random.default_rng(0)
    values = [float(held_out_procrustes(*rng.normal(size=(2, 40, 60)))) for _ in range(20)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20**0.5 + 0.02


def test_folds_are_checked():
    x, y = pair(12)
    wrong = (1, 13, 2.0, "2", None, np.zeros(12, int), np.arange(11), np.arange(12.0), np.full((12, 1), 1))
    for folds in wrong:
        with pytest.raises(InputError, match="^folds: got"):
            held_out_procrustes(x, y, folds=folds)


def test_far_outliers_are_reported():
    x, y = (np.float32(side - 1) for side in pair())
    for side in (x, y):
        side[0] *= 2000
    with pytest.warns(NumericalWarning, match="rotation"):
        aligned_cosine(x, y)


def test_small_examples_in_a_direction_of_their_own_are_reported():
    x, _ = (np.float32(side) for side in pair())
    x[:, 1] = 0
    x[0] = 0
    x[0, 1] = 1e-4
    with pytest.warns(NumericalWarning, match=f"rotation of directions with {1 / len(x):.1%} of the data"):
        np.testing.assert_allclose(aligned_cosine(x, x), 1 - 1 / len(x), atol=1e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(aligned_cosine(np.float64(x), np.float64(x)), 1, atol=1e-6)


def stochastic(n=8, r=30, d=3, seed=0):
    rng = np.random.default_rng(seed)
    means, spreads = rng.normal(size=(n, 1, d)), rng.normal(size=(n, d, d))
    return means + np.einsum("nrk,nkd->nrd", rng.normal(size=(n, r, d)), spreads)


def moments(x):
    return x.mean(1), np.stack([np.atleast_2d(np.cov(responses.T)) for responses in x])


def gaussian_squares(x, y, rotation):
    """The mean squared 2-Wasserstein distance of Gaussians."""
    (m, c), (k, d) = x, y
    total = np.mean(np.sum((m @ rotation - k) ** 2, 1))
    for a, b in zip(c, d, strict=True):
        root = np.real(sqrtm(b))
        inner = root @ rotation.T @ a @ rotation @ root
        total += (np.trace(a) + np.trace(b) - 2 * np.sum(np.sqrt(np.maximum(np.linalg.eigvalsh(inner), 0)))) / len(c)
    return total


def rotation_of(angles):
    skew = np.zeros((3, 3))
    skew[np.triu_indices(3, 1)] = angles
    return np.linalg.solve(np.eye(3) + skew - skew.T, np.eye(3) - skew + skew.T)  # Cayley


@pytest.mark.slow
def test_stochastic_shape_distance_is_a_minimum_over_rotations():
    x, y = stochastic(), stochastic(seed=1, r=20)
    y = 0.5 * y + 0.8 * x[:, :20] @ ortho_group.rvs(3, random_state=2)
    of_x, of_y = moments(x), moments(y)
    best = np.inf
    for flip in (1, -1):
        for start in np.random.default_rng(0).normal(size=(3, 3)):
            objective = lambda a, f=flip: gaussian_squares(of_x, of_y, rotation_of(a) * [1, 1, f])  # noqa: E731
            best = min(best, minimize(objective, start, options={"gtol": 1e-8}).fun)
    value = float(stochastic_shape_distance(x[:, :, None], y[:, :, None]))
    np.testing.assert_allclose(value, best**0.5, rtol=2e-5)
    of_moments = stochastic_shape_distance(of_x[0], of_y[0], covariances=(of_x[1], of_y[1]))
    np.testing.assert_allclose(of_moments, value, rtol=1e-5)
    same = stochastic_shape_distance(of_x[0], of_x[0], covariances=(of_x[1], of_y[1]))
    assert float(same) > 0.1 and float(stochastic_shape_distance(*of_x[:1] * 2, covariances=of_x[1:] * 2)) == 0


def test_weights_of_means_and_covariances():
    x, y = moments(stochastic()), moments(stochastic(seed=1))
    only_means = stochastic_shape_distance(x[0], y[0], covariances=(x[1], y[1]), alpha=2)
    np.testing.assert_allclose(only_means, 2**0.5 * stochastic_shape_distance(x[0], y[0]), rtol=1e-5)
    only_covariances = stochastic_shape_distance(x[0], y[0], covariances=(x[1], y[1]), alpha=0)
    without_means = stochastic_shape_distance(0 * x[0] + 1e-9, 0 * y[0] + 1e-9, covariances=(x[1], y[1]))
    np.testing.assert_allclose(only_covariances, 2**0.5 * without_means, rtol=0.05)  # of other local minima
    with pytest.raises(InputError, match="^alpha: got"):
        stochastic_shape_distance(x[0], y[0], alpha=3)


def test_covariances_are_checked():
    means, covariances = moments(stochastic())
    wrong = (covariances[:, :2], -covariances, covariances + np.tri(3, k=-1), covariances * np.nan, covariances[0])
    for bad in wrong:
        with pytest.raises(InputError, match="^covariances: got"):
            stochastic_shape_distance(means, means, covariances=(covariances, bad))
    for bad in (3, [covariances], covariances[:1], [covariances] * 3):
        with pytest.raises(InputError, match="^covariances: got"):
            stochastic_shape_distance(means, means, covariances=bad)


@pytest.mark.slow
def test_stochastic_shape_distance_of_a_rotated_copy_and_without_repetition():
    x = stochastic()
    turned = x @ ortho_group.rvs(3, random_state=0)
    assert float(stochastic_shape_distance(x[:, :, None], turned[:, ::-1, None])) < 1e-5 * np.linalg.norm(x)
    a, b = pair(20, 3, 5)
    left, right = padded(a, b)
    expected = np.linalg.norm(left @ orthogonal_procrustes(left, right)[0] - right) / 20**0.5
    np.testing.assert_allclose(stochastic_shape_distance(a, b), expected, rtol=1e-5)
    with jax.enable_x64(True):
        y = stochastic(seed=3)
        check_derivative(stochastic_shape_distance, x[:, :, None], (0.3 * y + turned)[:, :, None])
