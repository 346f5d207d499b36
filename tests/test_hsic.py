"""HSIC against float64 NumPy by the definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cka_helpers import ESTIMATORS, N, data, hsic_by_definition, linear

from symjax.errors import InputError
from symjax.similarity import hsic
from symjax.similarity.linalg import gram


# Gram matrices
@pytest.mark.parametrize("n", [3, 511, 512, 513])
@pytest.mark.few(2)
def test_products_of_rows_are_symmetric_and_differentiable(n):
    """Gram matrices of fewer and more rows than the limit for computing them by halves."""
    x = np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(n, n)).astype(np.float32)
    with jax.enable_x64(True):
        value, pulled = jax.vjp(gram, np.float64(x))
        np.testing.assert_allclose(value, np.float64(x) @ np.float64(x).T, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(
            pulled(np.float64(weights))[0], (weights + weights.T) @ np.float64(x), rtol=1e-5, atol=1e-5
        )
    np.testing.assert_array_equal(gram(x), gram(x).T)


# HSIC
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_hsic_agrees_with_its_definition(estimator):
    x, y = data()
    got = hsic(linear(x), linear(y), estimator)
    np.testing.assert_allclose(got, hsic_by_definition(linear(x), linear(y), estimator), rtol=1e-5)
    assert got.shape == () and got.dtype == jnp.float32


def test_hsic_song_is_the_mean_over_quadruples():
    """The unbiased U-statistic of Song et al. 2012, term by term."""
    x, y = data(n=6)
    k, l = linear(x), linear(y)  # noqa: E741
    terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in itertools.permutations(range(6), 4)]
    np.testing.assert_allclose(hsic(k, l), np.mean(terms), rtol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.few(2)
def test_hsic_ignores_what_is_added_to_rows_and_columns_alike(estimator):
    x, y = data()
    shift = np.random.default_rng(5).normal(size=N)
    expected = hsic(linear(x), linear(y), estimator)
    got = hsic(linear(x) + shift[:, None] + shift[None, :], linear(y), estimator)
    if estimator == "song":
        got_diagonal = hsic(linear(x) + np.diag(shift), linear(y), estimator)
        np.testing.assert_allclose(got_diagonal, expected, rtol=1e-5)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_hsic_rejects():
    k = np.eye(5)
    for arguments, message in [
        ((k[:4], k), "k: got shape"),
        ((k, np.eye(6)), "l: got shape"),
        ((np.eye(3), np.eye(3)), "3 examples.*at least 4"),
        ((k, k, "unbiased"), "estimator: got 'unbiased'"),
        ((k * np.nan, k), "k: .*NaN"),
        ((k * 1j, k), "k: got complex"),
        ((np.arange(25.0).reshape(5, 5), k), "k: got entries that differ by up to 1.6e"),
        ((k, np.triu(np.ones((5, 5)))), "l: got entries that differ"),
    ]:
        with pytest.raises(InputError, match=message):
            hsic(*arguments)
