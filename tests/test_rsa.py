"""Measures of distance matrices and of single numbers against scipy, scikit-learn and NumPy in float64."""

import jax
import numpy as np
import pytest
from scipy.linalg import pinvh
from scipy.spatial.distance import pdist, squareform
from scipy.stats import pearsonr, spearmanr

import symjax
from symjax import InputError
from symjax.similarity import MEASURES, NumericalWarning, pairwise

N = 30
EPS = 1e-5


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(4)
    signal = rng.normal(size=(N, 4))
    return [np.float32(signal @ rng.normal(size=(4, d)) + rng.normal(size=(N, d))) for d in (12, 9)]


def cosine(a, b):
    return np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)


def whitened(a, b):
    """The cosine by the covariance of squared distances, of all pairs with all pairs (Diedrichsen et al. 2021)."""
    contrasts = np.array([np.eye(N)[i] - np.eye(N)[j] for i, j in zip(*np.triu_indices(N, 1), strict=True)])
    inverse = pinvh((contrasts @ contrasts.T) ** 2)
    return a @ inverse @ b / np.sqrt((a @ inverse @ a) * (b @ inverse @ b))


COMPARISONS = {
    "spearman": lambda a, b: spearmanr(a, b).statistic,
    "pearson": lambda a, b: pearsonr(a, b).statistic,
    "cosine": cosine,
    "cosine_cov": whitened,
}


@pytest.mark.parametrize("metric", ["correlation", "euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("comparison", COMPARISONS)
@pytest.mark.few(7)
def test_value_is_that_of_scipy(comparison, metric, pair):
    expected = COMPARISONS[comparison](*(pdist(np.float64(z), metric) for z in pair))
    assert symjax.rsa(*pair, comparison, metric=metric) == pytest.approx(expected, abs=EPS)


def test_ranks_in_float64(pair):
    with jax.enable_x64(True):
        value = float(symjax.rsa(*map(np.float64, pair)))
    assert value == pytest.approx(spearmanr(*(pdist(np.float64(z), "correlation") for z in pair))[0], rel=1e-12)


def test_whitened_cosine_of_squared_distances_is_cka(pair):
    value = symjax.rsa(*pair, "cosine_cov", metric="sqeuclidean")
    assert value == pytest.approx(float(symjax.cka(*pair, "gretton")), abs=EPS)


def test_distance_correlation_is_that_of_the_definition(pair):
    d, e = (squareform(pdist(np.float64(z))) for z in pair)
    centering = np.eye(N) - 1 / N
    expected = np.sqrt(cosine(centering @ d @ centering, centering @ e @ centering))
    assert symjax.distance_correlation(*pair) == pytest.approx(expected, abs=EPS)
    hsic = [float(symjax.hsic(a, b)) for a, b in ((d, e), (d, d), (e, e))]
    unbiased = symjax.distance_correlation(*pair, estimator="song")
    assert unbiased == pytest.approx(hsic[0] / np.sqrt(hsic[1] * hsic[2]), abs=EPS)


def test_bias_of_distance_correlation():
    x, y = np.random.default_rng(0).normal(size=(2, N, 2000))
    assert symjax.distance_correlation(x, y) > 0.95
    assert abs(symjax.distance_correlation(x, y, estimator="song")) < 0.1


def test_norm_of_the_difference(pair):
    for metric in ("euclidean", "cosine"):
        d, e = (squareform(pdist(np.float64(z), metric)) for z in pair)
        value = symjax.rsm_norm_difference(*pair, metric=metric)
        assert value == pytest.approx(np.linalg.norm(d - e), rel=EPS)
    close = np.float64(pair[0]) + 1e-4 * np.random.default_rng(0).normal(size=pair[0].shape)
    expected = np.linalg.norm(squareform(pdist(np.float64(pair[0])) - pdist(np.float64(np.float32(close)))))
    assert symjax.rsm_norm_difference(pair[0], np.float32(close)) == pytest.approx(expected, rel=1e-2)


def test_numbers_of_one_representation(pair):
    x, y = (np.float64(z) + 0.5 for z in pair)
    units = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y)]
    lengths = [np.linalg.norm(z.mean(0)) for z in (x, y)]
    uniformities = [np.log(np.exp(-3 * pdist(u, "sqeuclidean")).mean()) for u in units]
    cosines = [(u @ z.mean(0)).mean() / length for u, z, length in zip(units, (x, y), lengths, strict=True)]
    for value, numbers in (
        (symjax.magnitude_difference(x, y), lengths),
        (symjax.uniformity_difference(x, y, t=3), uniformities),
        (symjax.concentricity_difference(x, y), cosines),
    ):
        assert value == pytest.approx(abs(numbers[0] - numbers[1]), abs=EPS)


def test_centered_data_have_no_concentricity(pair):
    """The mean example of centered data is rounding, and its direction says nothing."""
    x, y = pair
    centered = x - x.mean(0)
    assert np.isnan(symjax.concentricity_difference(centered - centered.mean(0), y))
    assert np.isfinite(symjax.concentricity_difference(x, y))


def test_directions_that_float32_loses_are_reported(pair):
    with pytest.warns(NumericalWarning, match="^x: directions with singular values up to .* are dropped"):
        symjax.eigenspace_overlap(pair[0] + np.float32(1e5), pair[1])
    sides = ({"model": {"layer": z}} for z in (pair[0] + np.float32(1e5), pair[1]))
    with pytest.warns(NumericalWarning, match="^eigenspace_overlap: representations, layer 'layer' of model 'model'"):
        pairwise(next(sides), "eigenspace_overlap", against=next(sides))


def test_angles_that_float32_hardly_resolves_are_reported(pair):
    x, y = pair
    for far, name in ((np.float32(1e5) + x, "x"), (np.float32(1e5) + y, "y")):
        sides = (far, y) if name == "x" else (x, far)
        for fn, options in ((symjax.rsa, {"metric": "cosine"}), (symjax.second_order_cosine, {})):
            with pytest.warns(NumericalWarning, match=f"^{name}: the angles between examples, up to .*e-05, are close"):
                fn(*sides, **options)
    stack = {"x": x[None], "y": np.float32(1e5) + y[None]}
    for name, options in (("rsa", {"metric": "cosine"}), ("cknna", {"metric": "cosine"}), ("second_order_cosine", {})):
        with pytest.warns(NumericalWarning, match=f"^{name}: representations, layer 'y' of model 0: the angles"):
            pairwise(stack, name, **options)
    pairwise(stack, "rsa", metric="euclidean")
    symjax.rsa(np.float32(1e5) + x, y, metric="euclidean")
    symjax.rsa(np.float32(1e2) + x, y, metric="cosine")
    symjax.rsa(np.ones((N, 1), np.float32) * x[:1], y, metric="cosine")  # no angles


def test_eigenspace_overlap(pair):
    x, y = (np.concatenate([z, z[:, :2]], 1) for z in pair)  # of ranks 12 and 9
    bases = [np.linalg.svd(np.float64(z))[0][:, : z.shape[1]] for z in pair]
    expected = np.linalg.norm(bases[0].T @ bases[1]) ** 2 / 12
    assert symjax.eigenspace_overlap(x, y) == pytest.approx(expected, abs=EPS)
    values = pairwise({"x": x[None], "y": y[None]}, "eigenspace_overlap").values[:, 0, :, 0]
    np.testing.assert_allclose(values, [[1, expected], [expected, 1]], atol=EPS)
    assert symjax.eigenspace_overlap(*np.random.default_rng(0).normal(size=(2, 8, 9))) == pytest.approx(1, abs=EPS)


def test_ties_of_sparse_rows_are_ties():
    """Rows with few nonzero features have few different angles, which rounding would tell apart."""
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 2, (N, 4)) * np.exp(rng.normal(size=(N, 1))) for _ in range(2))
    units = [z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9) for z in (x, y)]
    clean = [np.round(1 - (u @ u.T)[np.triu_indices(N, 1)], 9) for u in units]
    assert symjax.rsa(x, y, metric="cosine") == pytest.approx(spearmanr(*clean).statistic, abs=EPS)


def test_wrong_arguments():
    x = np.random.default_rng(0).normal(size=(8, 3))
    for call, message in (
        (lambda: symjax.rsa(x[:2], x[:2]), "^x: got shape .2, 3., expected at least 3 examples"),
        (lambda: symjax.rsa(x, x, "kendall"), "^comparison: got 'kendall', expected one of spearman"),
        (lambda: symjax.rsa(x, x, metric="l1"), "^metric: got 'l1'"),
        (lambda: symjax.distance_correlation(x[:3], x[:3], estimator="song"), "^x: got 3 examples"),
        (lambda: symjax.uniformity_difference(x, x, t=0), "^t: got 0, expected a positive number"),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("distance_correlation", {}),
        ("rsm_norm_difference", {}),
        ("rsa", {"comparison": "pearson"}),
        ("uniformity_difference", {}),
        ("eigenspace_overlap", {}),
    ],
)
@pytest.mark.slow
def test_gradients_are_those_of_differences(name, options, pair):
    x, y = (np.float64(z[:14, :4]) for z in pair)
    direction = np.random.default_rng(0).normal(size=x.shape)
    fn = lambda x: getattr(symjax, name)(x, y, **options)  # noqa: E731
    with jax.enable_x64(True):
        slope = (jax.grad(fn)(x) * direction).sum()
        step = 1e-6 * direction
        assert slope == pytest.approx(float(fn(x + step) - fn(x - step)) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    "name", ["rsa", "distance_correlation", "rsm_norm_difference", "magnitude_difference", "uniformity_difference"]
)
@pytest.mark.few(1)
def test_all_pairs_at_once(name, pair):
    fn, values = MEASURES[name].fn, pairwise({"a": pair[0][None], "b": pair[1][None]}, name).values[:, 0, :, 0]
    np.testing.assert_allclose(values, [[fn(a, b) for b in pair] for a in pair], rtol=1e-6, atol=1e-6)
