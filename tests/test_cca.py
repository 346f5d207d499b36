"""CCA against the textbook formula in float64; properties of directions and derivatives; degenerate input."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from scipy.linalg import eigh

from symjax.errors import InputError
from symjax.similarity import (
    FewExamplesWarning,
    NumericalWarning,
    cca,
    cca_distance,
    cca_similarity,
    mean_correlation,
    mean_square_correlation,
    pairwise,
    pwcca,
    pwcca_distance,
    svcca,
)

SAMPLES, WIDTHS = 80, [(6, 6), (8, 5), (5, 8)]


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def related(x_width, y_width, samples=SAMPLES, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(samples, 3))

    def side(width):
        mixed = latent @ rng.normal(size=(3, width)) + rng.normal(size=(samples, width))
        return np.float32(np.maximum(mixed, -0.5) * rng.uniform(0.3, 3, size=width) + offset)

    return side(x_width), side(y_width)


def textbook(x, y):
    """Correlations and directions of x from the generalized eigenproblem of covariances, in float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    covariance = np.cov(x.T, y.T)
    split = x.shape[1]
    xx, xy, yy = covariance[:split, :split], covariance[:split, split:], covariance[split:, split:]
    squares, directions = eigh(xy @ np.linalg.solve(yy, xy.T), xx)
    count = min(x.shape[1], y.shape[1])
    return np.sqrt(np.maximum(squares[::-1][:count], 0)), directions[:, ::-1][:, :count]


def textbook_pwcca(x, y):
    """PWCCA by the definition of Morcos et al. 2018."""
    correlations, directions = textbook(x, y)
    centered = np.float64(x) - np.float64(x).mean(0)
    variates = centered @ directions
    weights = [sum(abs(variate @ neuron) for neuron in centered.T) for variate in variates.T]
    return np.dot(weights, correlations) / np.sum(weights)


def central_difference(f, x, y, dx, dy, step=1e-5):
    x, y = np.float64(x), np.float64(y)
    return (f(x + step * dx, y + step * dy) - f(x - step * dx, y - step * dy)) / (2 * step)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.few(1)
def test_correlations_agree_with_the_textbook(widths):
    x, y = related(*widths)
    result = cca(x, y)
    expected, directions = textbook(x, y)
    assert result.correlations.shape == (min(widths),)
    np.testing.assert_allclose(result.correlations, expected, atol=2e-6)
    # Signs are free; columns of `directions` have unit variance too.
    np.testing.assert_allclose(np.abs(result.x_directions), np.abs(directions), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(mean_correlation(result), expected.mean(), atol=2e-6)
    np.testing.assert_allclose(mean_square_correlation(result), (expected**2).mean(), atol=2e-6)
    np.testing.assert_allclose(pwcca(x, y), textbook_pwcca(x, y), atol=5e-6)
    np.testing.assert_allclose(cca_distance(x, y), 1 - expected.mean(), atol=2e-6)
    np.testing.assert_allclose(pwcca_distance(x, y), 1 - textbook_pwcca(x, y), atol=5e-6)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.few(1)
def test_directions_make_variates(widths):
    x, y = related(*widths)
    result = cca(x, y)
    x_variates = (x - result.x_mean) @ result.x_directions
    y_variates = (y - result.y_mean) @ result.y_directions
    count = min(widths)
    assert result.x_directions.shape == (widths[0], count) and result.y_directions.shape == (widths[1], count)
    np.testing.assert_allclose(x_variates.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(x_variates.T), np.eye(count), atol=1e-5)
    np.testing.assert_allclose(np.cov(y_variates.T), np.eye(count), atol=1e-5)
    np.testing.assert_allclose(
        np.cov(x_variates.T, y_variates.T)[:count, count:], np.diag(result.correlations), atol=1e-5
    )
    loadings = (x - result.x_mean).T @ x_variates / (SAMPLES - 1)
    np.testing.assert_allclose(result.x_loadings, loadings, atol=2e-5)
    assert (result.x_rank, result.y_rank) == widths


def conditioned(exponent, offset=0.0):
    """500 samples of 12 and 12 neurons with singular values down to 10^-exponent, three directions shared."""
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(500, 3))

    def side():
        base = np.hstack([shared, rng.normal(size=(500, 9))]) + 0.3 * rng.normal(size=(500, 12))
        mixing = np.linalg.qr(rng.normal(size=(12, 12)))[0]
        return np.float32((base[:, rng.permutation(12)] * np.logspace(0, -exponent, 12)) @ mixing + offset)

    return side(), side()


@pytest.mark.parametrize("exponent", [0, 1.5, 1.9, 2.1, 3, 4])  # either side of the switch of algorithms at about 2
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_float32_agrees_with_float64_on_ill_conditioned_data(exponent, offset):
    # The oracle sees the same rounded numbers; it works by QR, since textbook covariances lose too much themselves.
    x, y = conditioned(exponent, offset)
    bases = [np.linalg.qr(np.float64(side) - np.float64(side).mean(0))[0] for side in (x, y)]
    expected = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    result = cca(x, y, rcond=1e-6)
    np.testing.assert_allclose(result.correlations, expected, atol=1e-4)
    assert result.x_rank == 12
    unit = np.float64(x) - np.float64(x).mean(0)
    singular = np.linalg.svd(unit / np.linalg.norm(unit, axis=0), compute_uv=False)
    np.testing.assert_allclose(result.x_smallest, singular[-1] / singular[0], rtol=2e-2)


def test_float64_is_exact():
    with jax.enable_x64(True):
        x, y = (np.float64(side) for side in related(6, 6))
        result = cca(x, y)
        assert result.correlations.dtype == np.float64
        np.testing.assert_allclose(result.correlations, textbook(x, y)[0], atol=1e-13)
        np.testing.assert_allclose(pwcca(x, y), textbook_pwcca(x, y), atol=1e-13)


def test_a_linear_function_is_found():
    # y is a function of x: all 5 correlations are 1, also where 8 meets 5, either way round.
    x, _ = related(8, 5)
    y = np.float32(x @ np.random.default_rng(1).normal(size=(8, 5)) + 3)
    assert cca(x, y).correlations.min() > 1 - 1e-6
    for measure in (cca_similarity, pwcca):
        assert abs(measure(x, y) - 1) < 1e-6 and abs(measure(y, x) - 1) < 1e-6


def test_independent_gaussians_have_the_known_mean_square():
    # For independent Gaussians squared correlations are eigenvalues of a multivariate beta (Jacobi) matrix:
    # E mean rho^2 = max(d_x, d_y) / (n - 1).
    rng = np.random.default_rng(0)
    draws = np.float32(rng.normal(size=(200, 2, SAMPLES, 6)))
    squares = jax.vmap(partial(cca_similarity, summary="mean_square"))(draws[:, 0], draws[:, 1])
    assert abs(squares.mean() - 6 / (SAMPLES - 1)) < 4 * squares.std() / np.sqrt(200)


def test_identical_inputs_give_one_and_no_nan():
    x, _ = related(6, 6)
    result = cca(x, x)
    np.testing.assert_allclose(result.correlations, 1, atol=1e-6)
    assert (result.correlations <= 1).all()
    for measure in (cca_similarity, pwcca):
        value, gradient = jax.value_and_grad(measure)(x, x)
        assert abs(value - 1) < 1e-6
        assert np.abs(gradient).max() < 1e-5  # it is at its maximum


def test_dead_and_duplicate_neurons_change_nothing_but_ranks():
    x, y = related(6, 6)
    expected = np.asarray(cca(x, y).correlations)
    poor = np.stack([x[:, 0], np.zeros(SAMPLES), *x.T, np.full(SAMPLES, 0.1), x[:, 1] * 100 + 7], 1).astype(np.float32)
    for measure in (cca_similarity, partial(cca_similarity, summary="mean_square")):
        np.testing.assert_allclose(measure(poor, y), measure(x, y), atol=5e-6)
    result = cca(poor, y)
    assert result.x_rank == 6 and result.y_rank == 6
    np.testing.assert_allclose(result.correlations, expected, atol=5e-6)
    variates = (poor - result.x_mean) @ result.x_directions
    np.testing.assert_allclose(np.cov(variates.T), np.eye(6), atol=2e-5)
    assert (np.asarray(result.x_directions)[[1, 8]] == 0).all()  # dead ones take no part
    assert result.x_smallest > 1e-2
    # Dead neurons alone stay with the fast algorithm, and drop out too.
    np.testing.assert_allclose(cca(poor[:, 1:9], y).correlations, expected, atol=5e-6)
    # Two sides that share a dead neuron agree in nothing by it.
    assert abs(cca_similarity(poor[:, 1:9], np.hstack([y, 0 * y[:, :2]])) - expected.mean()) < 5e-6


def test_rank_loss_on_both_sides_masks_the_rest():
    x, y = related(6, 6)
    low_x, low_y = x.copy(), y.copy()
    low_x[:, 5], low_x[:, 4], low_y[:, 3] = x[:, 0] + x[:, 1], x[:, 2] - x[:, 3], 2 * y[:, 2]
    result = cca(low_x, low_y)
    assert (result.x_rank, result.y_rank) == (4, 5)
    np.testing.assert_allclose(result.correlations[:4], textbook(x[:, :4], y[:, [0, 1, 2, 4, 5]])[0], atol=5e-6)
    assert (result.correlations[4:] == 0).all()
    assert (result.x_directions[:, 4:] == 0).all() and (result.y_directions[:, 4:] == 0).all()
    np.testing.assert_allclose(mean_correlation(result), result.correlations[:4].mean(), atol=1e-6)
    gradient = jax.grad(lambda x: pwcca(x, low_y))(low_x)
    assert np.isfinite(gradient).all()


def test_rcond_drops_weak_directions():
    x, y = conditioned(3)
    result = cca(x, y, rcond=0.01)
    assert 3 < result.x_rank < 12 and result.x_smallest > 0.01
    # Also of data so well conditioned that nothing else is weak.
    x, y = conditioned(0.5)
    assert cca(x, y).x_smallest > 0.1
    assert cca(x, y, rcond=0.5).x_rank < 12 and cca(x, y, rcond=0.5).x_smallest > 0.5
    for bad in (-0.1, 1, np.nan):
        with pytest.raises(InputError, match="^rcond: "):
            cca(x, y, rcond=bad)


def test_constant_input_has_no_correlation():
    x, y = related(6, 6)
    for constant in (np.zeros_like(x), np.full_like(x, 0.1)):
        result = cca(constant, y)
        assert result.x_rank == 0 and (result.correlations == 0).all()
        assert np.isnan(cca_similarity(constant, y)) and np.isnan(pwcca(constant, y))


@pytest.mark.slow
def test_a_large_mean_does_not_matter():
    x, y = related(6, 6)
    far = np.float32(np.round(x * 64) / 64 + 512)  # exact in float32
    np.testing.assert_allclose(cca(far, y).correlations, cca(far - 512, y).correlations, atol=1e-6)
    np.testing.assert_allclose(pwcca(far, y), pwcca(far - 512, y), atol=1e-6)


def test_few_examples_are_reported():
    x, y = related(6, 6, samples=10)
    with pytest.warns(FewExamplesWarning, match="3 of 6 canonical correlations are 1 for any data"):
        result = cca(x, y)
    assert (result.correlations[:3] > 1 - 1e-5).all() and result.correlations[3] < 0.999
    for fn, advice in (
        (cca, "ranks are lower; use more than 12 samples, or svcca, which compares fewer directions$"),
        (pwcca, "ranks are lower, and pwcca is not determined; use more than 12 samples, or svcca, which"),
        (
            partial(svcca, variance=1),
            "^10 samples of 6 and 6 directions: .*; use more than 12 samples, or a smaller variance$",
        ),
    ):
        with pytest.warns(FewExamplesWarning, match=advice):
            fn(x, y)
    x, y = related(7, 4, samples=8)  # x spans all centered vectors
    with pytest.warns(FewExamplesWarning, match="4 of 4 canonical"):
        np.testing.assert_allclose(cca(x, y).correlations, 1, atol=1e-5)
    x, y = related(12, 12, samples=8)  # fewer than neurons
    with pytest.warns(FewExamplesWarning, match="7 of 7 canonical"):
        result = cca(x, y)
    assert result.correlations.shape == (12,) and result.x_directions.shape == (12, 12)
    assert result.x_rank == 7 and result.y_rank == 7
    np.testing.assert_allclose(result.correlations, [1] * 7 + [0] * 5, atol=1e-5)
    variates = (x - result.x_mean) @ result.x_directions
    np.testing.assert_allclose(np.cov(variates.T)[:7, :7], np.eye(7), atol=1e-4)
    np.testing.assert_allclose(result.x_loadings, (x - result.x_mean).T @ variates / 7, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cca(*related(6, 6, samples=13))


def test_maps():
    rng = np.random.default_rng(0)
    x, y = (np.float32(rng.normal(size=(20, 2, 3, 4))) for _ in range(2))
    np.testing.assert_array_equal(cca(x, y).correlations, cca(x.reshape(-1, 4), y.reshape(-1, 4)).correlations)
    pooled = cca(x, y, samples="pool").correlations
    np.testing.assert_allclose(pooled, cca(x.mean((1, 2)), y.mean((1, 2))).correlations, atol=1e-6)
    small = y[:, :1, :1]
    with pytest.warns(FewExamplesWarning):
        assert cca(x, small, samples="flatten").correlations.shape == (4,)
    with pytest.raises(InputError, match=r"^y: got shape \(20, 1, 1, 4\), expected the map size of x"):
        cca(x, small)
    with pytest.raises(InputError, match="^samples: got 'pixel', expected one of"):
        cca(x, y, samples="pixel")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones(4), np.ones((4, 2)), r"^x: got shape \(4,\)"),
        (np.ones((4, 2)), np.ones((4, 2, 2)), r"^y: got shape \(4, 2, 2\)"),
        (np.ones((4, 0)), np.ones((4, 2)), r"^x: got shape \(4, 0\), expected a nonempty"),
        (np.ones((1, 2)), np.ones((1, 2)), r"^x: got shape \(1, 2\), expected at least 2 examples"),
        (np.ones((4, 2)), np.ones((5, 2)), "^y: got 5 examples, expected as many as in x, 4"),
        (np.ones((4, 2)), 1j * np.ones((4, 2)), "^y: got complex"),
        (np.ones((4, 2)), np.full((4, 2), np.inf), "^y: got NaN or infinite entries"),
    ],
)
def test_mistakes_are_reported(x, y, message):
    with pytest.raises(InputError, match=message):
        cca(x, y)
    with pytest.raises(InputError, match=message):  # a constant is seen inside of jit too
        jax.jit(lambda: cca(x, y))()


@pytest.mark.slow
def test_dtypes():
    x, y = related(6, 6)
    whole = np.round(x * 8).astype(np.int32)
    np.testing.assert_array_equal(cca(whole, y).correlations, cca(whole.astype(np.float32), y).correlations)
    half = jnp.asarray(x, jnp.bfloat16)
    assert cca(half, y).correlations.dtype == np.float32
    np.testing.assert_array_equal(cca(half, y).correlations, cca(half.astype(jnp.float32), y).correlations)


def test_nan_propagates_where_it_cannot_be_seen():
    x, y = related(6, 6)
    bad = np.stack([x, x])
    bad[0, 3, 3] = np.nan
    both = jax.vmap(lambda x: cca(x, y))(bad)
    assert np.isnan(both.correlations[0]).all()
    np.testing.assert_allclose(both.correlations[1], cca(x, y).correlations, atol=2e-6)  # its neighbor is well


@pytest.mark.parametrize("widths", [slow(WIDTHS[0]), WIDTHS[1], slow(WIDTHS[2])])
def test_gradients_agree_with_finite_differences(widths):
    rng = np.random.default_rng(7)
    with jax.enable_x64(True):
        x, y = (np.float64(side) for side in related(*widths, seed=2))
        dx, dy = rng.normal(size=x.shape), rng.normal(size=y.shape)
        weights = rng.normal(size=(3, widths[0], min(widths)))

        def of_everything(x, y):
            result = cca(x, y)
            return (
                (result.x_directions**2 * weights[0]).sum()
                + (result.x_loadings**2 * weights[1]).sum()
                + (result.correlations * weights[2][0]).sum()
            )

        oracles = {
            cca_similarity: lambda x, y: textbook(x, y)[0].mean(),
            pwcca: textbook_pwcca,
            of_everything: jax.jit(of_everything),
        }
        for f, oracle in oracles.items():
            x_gradient, y_gradient = jax.jit(jax.grad(f, (0, 1)))(x, y)
            slope = (x_gradient * dx).sum() + (y_gradient * dy).sum()
            np.testing.assert_allclose(slope, central_difference(oracle, x, y, dx, dy), rtol=1e-6, atol=1e-9)


def test_gradient_at_lost_rank_is_that_of_the_living_neurons():
    x, y = related(6, 6)
    dead = np.hstack([x, np.ones((SAMPLES, 1), np.float32)])
    gradient = jax.grad(cca_similarity)(dead, y)
    np.testing.assert_allclose(gradient[:, :6], jax.grad(cca_similarity)(x, y), atol=1e-6)
    assert (gradient[:, 6] == 0).all()


def test_gradient_of_a_symmetric_function_where_correlations_coincide():
    # Three correlations are equal: x and y share 3 directions with equal noise, made exact by orthogonal columns.
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        basis = np.linalg.qr(np.hstack([np.ones((SAMPLES, 1)), rng.normal(size=(SAMPLES, 6))]))[0][:, 1:]
        x, y = basis[:, :3], basis[:, :3] + 0.5 * basis[:, 3:]
        dx, dy = rng.normal(size=(2, SAMPLES, 3))
        x_gradient, y_gradient = jax.grad(cca_similarity, (0, 1))(x, y)
        slope = (x_gradient * dx).sum() + (y_gradient * dy).sum()
        expected = central_difference(lambda x, y: textbook(x, y)[0].mean(), x, y, dx, dy)
        np.testing.assert_allclose(slope, expected, rtol=1e-6)


@pytest.mark.slow
def test_same_under_jit_and_vmap():
    x, y = related(6, 6)
    batch = jnp.stack([x, y]), jnp.stack([y, x])
    results = jax.jit(jax.vmap(cca))(*batch)
    for i in range(2):
        one = cca(batch[0][i], batch[1][i])
        np.testing.assert_allclose(results.correlations[i], one.correlations, atol=2e-6)
        np.testing.assert_allclose(np.abs(results.x_directions[i]), np.abs(one.x_directions), rtol=1e-3, atol=1e-4)


def test_directions_that_the_default_drops_are_reported():
    x, y = conditioned(6)
    singular = np.linalg.svd(np.float64(x) - np.float64(x).mean(0), compute_uv=False)
    assert singular[-1] < 2e-6 * singular[0]
    dropped = "[xy]: the default rcond of .* drops directions with singular values up to 1"
    with pytest.warns(NumericalWarning, match=dropped):
        result = cca(x, y)
    assert result.x_rank < 12 and 1e-6 < result.x_dropped < 3.4e-6 < result.x_smallest
    for measure in (cca_similarity, pwcca):
        with pytest.warns(NumericalWarning, match=dropped):
            measure(x, y)
    for name in ("cca", "pwcca"):
        with pytest.warns(NumericalWarning, match=f"^{name}: .* of model 0.*: the default rcond drops directions"):
            pairwise({"x": x[None], "y": y[None]}, name)
        pairwise({"x": x[None], "y": y[None]}, name, rcond=1e-3)
    explicit = cca(x, y, rcond=1e-3)  # not a word of what was asked for
    assert 1e-4 < explicit.x_dropped < 1e-3 < explicit.x_smallest
    # Nor of what has no such directions, up to rounding.
    low = np.float32(x[:, :4] @ np.random.default_rng(0).normal(size=(4, 12)))
    assert cca(low, low).x_rank == 4 and cca(low, low).x_dropped < 4e-7
    well = related(12, 12, 500)
    assert cca(*well).x_dropped == 0 and cca(*well).y_dropped == 0
