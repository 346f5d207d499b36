"""Linear predictivity and GULP against scikit-learn and float64 NumPy."""

import jax
import numpy as np
import pytest
from derivatives import check_derivative
from sklearn.linear_model import LinearRegression, Ridge

from symjax import InputError, cca_similarity, gulp, linear_predictivity
from symjax.similarity import FewExamplesWarning, pairwise


def pair(n=40, p=4, q=6, seed=0):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 3))
    return [(latent @ rng.normal(size=(3, d)) + rng.normal(size=(n, d))) * rng.uniform(0.2, 3, d) + 1 for d in (p, q)]


def by_scikit_learn(x, y, fold_of, ridge):
    squares = np.zeros(2)
    total = np.sum((x - x.mean(0)) ** 2)
    for fold in np.unique(fold_of):
        test = fold_of == fold
        model = Ridge(alpha=ridge * total) if ridge else LinearRegression()
        predicted = model.fit(x[~test], y[~test]).predict(x[test])
        squares += [np.sum((y[test] - predicted) ** 2), np.sum((y[test] - y[~test].mean(0)) ** 2)]
    return 1 - squares[0] / squares[1]


@pytest.mark.parametrize("ridge", [0, 1e-3, 0.3])
@pytest.mark.few(1)
def test_predictivity_is_that_of_scikit_learn(ridge):
    x, y = pair()
    labels = np.random.default_rng(1).permutation(np.repeat([2, 3, 9, 11], 10))
    for folds, fold_of in ((5, np.arange(40) % 5), (labels, labels)):
        expected = by_scikit_learn(x, y, fold_of, ridge)
        np.testing.assert_allclose(linear_predictivity(x, y, ridge=ridge, folds=folds), expected, rtol=1e-5, atol=1e-6)
    back = by_scikit_learn(y, x, labels, ridge)
    both = linear_predictivity(x, y, ridge=ridge, folds=labels, symmetric=True)
    np.testing.assert_allclose(both, (expected + back) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_more_features_than_examples():
    x, y = pair(20, 50, 3)
    fold_of = np.arange(20) % 5
    np.testing.assert_allclose(linear_predictivity(x, y, ridge=0.1), by_scikit_learn(x, y, fold_of, 0.1), rtol=1e-5)
    with pytest.warns(FewExamplesWarning, match="least squares fits"):
        value = linear_predictivity(x, y)
    # The solution of least norm, of columns of one norm.
    x = (x - x.mean(0)) / np.linalg.norm(x - x.mean(0), axis=0)
    np.testing.assert_allclose(value, by_scikit_learn(x, y, fold_of, 0), rtol=1e-3)


def test_independent_data_have_the_stated_bias():
    rng = np.random.default_rng(0)
    n, p, k = 200, 80, 5
    values = [linear_predictivity(rng.normal(size=(n, p)), rng.normal(size=(n, 200)), folds=k) for _ in range(4)]
    trained_on = n * (k - 1) / k
    np.testing.assert_allclose(np.mean(values), -p / (trained_on - p), rtol=0.1)


def test_dependent_columns_do_not_matter():
    x, y = pair()
    twice = np.hstack([x, 2 * x, np.ones((40, 1))])
    np.testing.assert_allclose(linear_predictivity(twice, y), linear_predictivity(x, y), atol=1e-3)
    invertible = np.random.default_rng(0).normal(size=(4, 4))
    np.testing.assert_allclose(linear_predictivity(x @ invertible, y), linear_predictivity(x, y), atol=2e-5)


def test_pixels_of_an_example_are_in_one_fold():
    rng = np.random.default_rng(0)
    x, y = (np.repeat(rng.normal(size=(12, 1, 1, 2)), 6, 1).reshape(12, 3, 2, 2) for _ in range(2))
    expected = by_scikit_learn(x.reshape(-1, 2), y.reshape(-1, 2), np.repeat(np.arange(12) % 3, 6), 0.1)
    np.testing.assert_allclose(linear_predictivity(x, y, ridge=0.1, folds=3, layout="nhwc"), expected, rtol=1e-5)


def test_arguments_are_checked():
    x, y = pair()
    for ridge in (-1, np.nan, np.inf, "0", None):
        with pytest.raises(InputError, match="^ridge: got"):
            linear_predictivity(x, y, ridge=ridge)
    for ridge in (-1, 0, np.nan, None):
        with pytest.raises(InputError, match="^ridge: got"):
            gulp(x, y, ridge=ridge)
    with pytest.raises(InputError, match="^folds: got 5, expected an integer from 2 to 4"):
        linear_predictivity(x[:4], y[:4])


def gulp_by_definition(x, y, ridge):
    smoothers = []
    for side in (np.float64(x), np.float64(y)):
        side = side - side.mean(0)
        side = side / np.linalg.norm(side)
        smoothers.append(side @ np.linalg.solve(side.T @ side + ridge * np.eye(side.shape[1]), side.T))
    return np.linalg.norm(smoothers[0] - smoothers[1])


def test_gulp_is_its_definition():
    x, y = pair()
    near = np.float32(x), np.float32(x + 1e-3 * y[:, :4])
    for ridge, rtol, a, b in ((0.1, 1e-5, *pair(20, 50, 30)), (0.1, 1e-3, *near), (10, 1e-5, x, y)):
        np.testing.assert_allclose(gulp(a, b, ridge=ridge), gulp_by_definition(a, b, ridge), rtol=rtol)
    for ridge in (1e-3, 0.1):
        result = pairwise({"a": np.stack([x]), "b": np.stack([y])}, "gulp", ridge=ridge)
        expected = gulp_by_definition(x, y, ridge)
        np.testing.assert_allclose(result.select(layer_a="a", layer_b="b"), [[expected]], rtol=1e-5)


def test_gulp_without_ridge_is_cca():
    x, y = pair()
    similarity = float(cca_similarity(x, y, summary="mean_square"))
    np.testing.assert_allclose(gulp(x, y, ridge=1e-7), (4 + 6 - 2 * 4 * similarity) ** 0.5, rtol=1e-4)


@pytest.mark.slow
def test_derivatives():
    with jax.enable_x64(True):
        x, y = pair(12, 3, 2)
        check_derivative(gulp, x, y)
        for ridge in (0, 0.1):
            check_derivative(lambda x, y, r=ridge: linear_predictivity(x, y, ridge=r), x, y)
