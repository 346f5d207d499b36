"""SVCCA, PWCCA, PLS and PCA against NumPy in float64, and what they promise at the edges."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow

from symjax.errors import InputError
from symjax.similarity import (
    FewExamplesWarning,
    NumericalWarning,
    cca_similarity,
    pca,
    pls,
    pls_similarity,
    pwcca,
    svcca,
    svcca_distance,
)
from symjax.similarity.cca_checks import few_examples_message

SAMPLES, WIDTH = 80, 6


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def decaying(width=WIDTH, samples=SAMPLES, seed=0):
    """Two representations of related signals, whose principal variances fall by about a third each."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(samples, width))

    def side():
        scores = (signal + 0.5 * rng.normal(size=(samples, width))) * 0.6 ** np.arange(width)
        return np.float32(scores @ np.linalg.qr(rng.normal(size=(width, width)))[0] + rng.normal(size=width))

    return side(), side()


def oracle_kept(x, variance):
    """Scores of the fewest principal components that explain `variance`, by the covariance matrix, in float64."""
    x = np.float64(x) - np.float64(x).mean(0)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    values, vectors = values[::-1], vectors[:, ::-1]
    count = next(k for k in range(1, len(values) + 1) if values[:k].sum() >= variance * values.sum() * (1 - 1e-12))
    return x @ vectors[:, :count]


def oracle_svcca(x, y, variance=0.99):
    bases = [np.linalg.qr(oracle_kept(side, variance))[0] for side in (x, y)]
    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean()


@pytest.mark.parametrize("variance", [0.3, 0.8, 0.9, 0.99, 1.0])
@pytest.mark.few(3)
def test_svcca_agrees_with_its_definition(variance):
    x, y = decaying()
    similarity, result = svcca(x, y, variance, full_output=True)
    np.testing.assert_allclose(similarity, oracle_svcca(x, y, variance), atol=5e-6)
    assert result.x_rank == oracle_kept(x, variance).shape[1]
    assert result.y_rank == oracle_kept(y, variance).shape[1]
    np.testing.assert_allclose(svcca_distance(x, y, variance), 1 - similarity, atol=1e-7)
    count = min(int(result.x_rank), int(result.y_rank))
    variates = (x - result.x_mean) @ result.x_directions[:, :count]
    np.testing.assert_allclose(np.cov(variates.T).reshape(count, count), np.eye(count), atol=2e-5)
    loadings = (x - result.x_mean).T @ variates / (SAMPLES - 1)
    np.testing.assert_allclose(result.x_loadings[:, :count], loadings, atol=1e-5)


def test_threshold_is_on_variance_and_not_on_singular_values():
    # 49 directions of variance 1 and one of 10^4: singular values would need 48 of them for 99 %, variance one.
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.normal(size=(120, 51)))[0]
    x = np.float32((x - x.mean(0))[:, :50] * np.array([100.0] + [1.0] * 49))
    _, result = svcca(x, x, full_output=True)
    assert result.x_rank == 1
    # And 49 are due where all are alike, which one that divides twice by the sum would leave at 1.
    with pytest.warns(FewExamplesWarning):
        orthonormal = np.linalg.qr(np.hstack([np.ones((52, 1)), rng.normal(size=(52, 49))]))[0][:, 1:]
        assert svcca(np.float32(orthonormal), np.float32(orthonormal), full_output=True)[1].x_rank == 49


def test_svcca_of_everything_is_cca():
    x, y = decaying()
    np.testing.assert_allclose(svcca(x, y, 1.0), cca_similarity(x, y), atol=2e-6)


@pytest.mark.slow
def test_svcca_of_more_neurons_than_examples():
    rng = np.random.default_rng(1)
    low = rng.normal(size=(40, 3))
    x, y = (
        np.float32(
            (low + 0.3 * rng.normal(size=low.shape)) @ rng.normal(size=(3, 60)) + 1e-3 * rng.normal(size=(40, 60))
        )
        for _ in range(2)
    )
    similarity, result = svcca(x, y, full_output=True)
    assert (result.x_rank, result.y_rank) == (3, 3)
    np.testing.assert_allclose(similarity, oracle_svcca(x, y), atol=5e-6)
    variates = (x - result.x_mean) @ result.x_directions[:, :3]
    np.testing.assert_allclose(np.cov(variates.T), np.eye(3), atol=2e-5)
    with pytest.warns(FewExamplesWarning):
        assert svcca(x, y, 1.0) > 1 - 1e-5


def test_svcca_takes_dead_constant_and_identical_input():
    x, y = decaying()
    dead = np.hstack([x, np.full((SAMPLES, 2), 0.1, np.float32)])
    np.testing.assert_allclose(svcca(dead, y), svcca(x, y), atol=2e-6)
    assert np.isnan(svcca(np.full_like(x, 0.1), y))
    value, gradient = jax.value_and_grad(svcca)(x, x)
    assert abs(value - 1) < 1e-6 and np.abs(gradient).max() < 1e-5


@pytest.mark.parametrize("variance", [0.9, slow(0.99)])
@pytest.mark.slow
def test_svcca_gradient_agrees_with_finite_differences(variance):
    rng = np.random.default_rng(7)
    with jax.enable_x64(True):
        x, y = (np.float64(side) for side in decaying(seed=4))
        dx, dy = rng.normal(size=(2, *x.shape))
        x_gradient, y_gradient = jax.grad(svcca, (0, 1))(x, y, variance)
        slope = (x_gradient * dx).sum() + (y_gradient * dy).sum()
        step = 1e-5
        sides = [oracle_svcca(x + sign * step * dx, y + sign * step * dy, variance) for sign in (1, -1)]
        np.testing.assert_allclose(slope, (sides[0] - sides[1]) / (2 * step), rtol=1e-6)
        # The directions of neurons move too: by way of a fixed probe, whose variates are unique up to sign.
        probe = rng.normal(size=(4, WIDTH))

        def variates(x):
            result = svcca(x, y, variance, full_output=True)[1]
            return ((probe @ result.x_directions) ** 2).sum()

        slope = (jax.grad(variates)(x) * dx).sum()
        np.testing.assert_allclose(slope, (variates(x + step * dx) - variates(x - step * dx)) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("variance", [0, -1, 1.01, np.nan, [0.5]])
def test_bad_variance_is_reported(variance):
    with pytest.raises(InputError, match="^variance: "):
        svcca(*decaying(), variance)


def test_variance_may_be_traced():
    x, y = decaying()
    several = jax.jit(jax.vmap(lambda variance: svcca(x, y, variance)))(jnp.array([0.3, 0.9]))
    np.testing.assert_allclose(several, [oracle_svcca(x, y, 0.3), oracle_svcca(x, y, 0.9)], atol=5e-6)


@pytest.mark.parametrize("shape", [(SAMPLES, WIDTH), (WIDTH, 10)])
def test_pca(shape):
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) + 5)
    result = pca(x)
    count = min(shape)
    values, vectors = np.linalg.eigh(np.cov(np.float64(x).T))
    np.testing.assert_allclose(result.variances, values[::-1][:count], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(result.ratios, values[::-1][:count] / values.sum(), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(result.mean, x.mean(0), rtol=1e-6)
    assert result.components.shape == (shape[1], count)
    np.testing.assert_allclose(result.components.T @ result.components, np.eye(count), atol=2e-6)
    rank = min(shape[0] - 1, shape[1])
    agreement = np.abs(np.sum(np.asarray(result.components) * vectors[:, ::-1][:, :count], axis=0))[:rank]
    np.testing.assert_allclose(agreement, 1, atol=1e-4)


def test_pca_keeps_small_variances():
    # A variance of 1e-10 of the largest, which no covariance matrix in float32 holds.
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(np.hstack([np.ones((SAMPLES, 1)), rng.normal(size=(SAMPLES, 2))]))[0][:, 1:]
    x = np.float32(basis * [1, 1e-5])
    np.testing.assert_allclose(pca(x).variances * (SAMPLES - 1), [1, 1e-10], rtol=1e-3)
    assert np.isnan(pca(np.ones_like(x)).ratios).all() and (pca(np.ones_like(x)).variances == 0).all()


@pytest.mark.slow
def test_pca_gradients():
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        x, dx = rng.normal(size=(2, SAMPLES, WIDTH))
        weights = rng.normal(size=WIDTH)

        def of_both(x):
            result = pca(x)
            return (result.variances * weights).sum() + (result.components**2 @ weights * weights).sum()

        slope = (jax.grad(of_both)(x) * dx).sum()
        np.testing.assert_allclose(slope, (of_both(x + 1e-5 * dx) - of_both(x - 1e-5 * dx)) / 2e-5, rtol=1e-6)
    # Equal variances: of those alone the gradient exists.
    same = np.float32(np.linalg.qr(np.hstack([np.ones((SAMPLES, 1)), x]))[0][:, 1:])
    assert np.isfinite(jax.grad(lambda x: pca(x).variances.sum())(same)).all()


@pytest.mark.parametrize("widths", [(6, 6), (6, 4), (100, 4)])
@pytest.mark.few(1)
def test_pls(widths):
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(SAMPLES, 2))
    x, y = (
        np.float32(latent @ rng.normal(size=(2, width)) + rng.normal(size=(SAMPLES, width)) + 2) for width in widths
    )
    result = pls(x, y)
    cross = np.cov(np.float64(x).T, np.float64(y).T)[: widths[0], widths[0] :]
    u, covariances, vt = np.linalg.svd(cross, full_matrices=False)
    np.testing.assert_allclose(result.covariances, covariances, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.abs(result.x_directions), np.abs(u), atol=2e-4)
    np.testing.assert_allclose(np.abs(result.y_directions), np.abs(vt.T), atol=2e-4)
    scores = (x - result.x_mean) @ result.x_directions, (y - result.y_mean) @ result.y_directions
    between = scores[0].T @ scores[1] / (SAMPLES - 1)
    np.testing.assert_allclose(between, np.diag(covariances), atol=3e-5 * covariances[0])
    norms = [np.linalg.norm(np.float64(side) - np.float64(side).mean(0)) for side in (x, y)]
    expected = covariances.sum() * (SAMPLES - 1) / np.prod(norms)
    np.testing.assert_allclose(pls_similarity(x, y), expected, atol=2e-6)


def test_pls_at_the_edges():
    x, y = decaying()
    assert abs(pls_similarity(x, x) - 1) < 2e-6
    assert abs(pls_similarity(x, np.float32(-3 * x[:, ::-1])) - 1) < 2e-6
    assert np.isnan(pls_similarity(x, np.full_like(x, 0.1)))
    assert (pls(x, np.full_like(y, 0.1)).covariances == 0).all()
    with jax.enable_x64(True):
        x, y = np.float64(x), np.float64(y)
        dx, dy = np.random.default_rng(0).normal(size=(2, *x.shape))
        x_gradient, y_gradient = jax.grad(pls_similarity, (0, 1))(x, y)
        f = partial(pls_similarity)
        expected = (f(x + 1e-5 * dx, y + 1e-5 * dy) - f(x - 1e-5 * dx, y - 1e-5 * dy)) / 2e-5
        np.testing.assert_allclose((x_gradient * dx).sum() + (y_gradient * dy).sum(), expected, rtol=1e-6)


def test_pwcca_says_where_it_is_not_determined():
    x, y = np.float32(np.random.default_rng(0).normal(size=(2, SAMPLES, 8)))
    with pytest.warns(NumericalWarning, match="not determined"):
        pwcca(x, np.hstack([x[:, :3], y[:, :3]]))  # three correlations of 1
    pwcca(x, x[:, :6])  # all correlations are 1
    pwcca(x, np.hstack([x[:, :1], y[:, :5]]))  # one is
    for samples, undetermined in ((14, True), (16, False), (6, False)):  # 3, 1, or all correlations of 1
        assert ("pwcca is not determined" in few_examples_message(samples, 8, 8, "pwcca")) == undetermined
