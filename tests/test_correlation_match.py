"""Hard, soft and partial matches of neurons, and CKA of the same neurons, against SciPy and NumPy in float64."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog

from symjax import (
    InputError,
    dependent_columns_cka,
    hard_correlation_match,
    partial_soft_matching,
    soft_correlation_match,
    soft_matching,
)


def pair(p, q, n=30, seed=0):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 3))
    x, y = (latent @ rng.normal(size=(3, d)) + rng.normal(size=(n, d)) for d in (p, q))
    return x, y, np.corrcoef(x.T, y.T)[:p, p:]


@pytest.mark.parametrize("widths", [(5, 5), (4, 7), (6, 3)])
@pytest.mark.few(2)
def test_matches_are_their_definitions(widths):
    x, y, correlations = pair(*widths)
    best = correlations[linear_sum_assignment(correlations, maximize=True)].mean()
    np.testing.assert_allclose(hard_correlation_match(x, y), best, rtol=1e-5)
    one_way, back = (correlations.max(axis).mean() for axis in (1, 0))
    np.testing.assert_allclose(soft_correlation_match(x, y), one_way, rtol=1e-5)
    np.testing.assert_allclose(soft_correlation_match(x, y, symmetric=True), (one_way + back) / 2, rtol=1e-5)
    constant = np.hstack([x, np.ones((len(x), 2))])  # which do not count
    np.testing.assert_allclose(hard_correlation_match(constant, y), best, rtol=1e-5)
    np.testing.assert_allclose(soft_correlation_match(constant, y), one_way, rtol=1e-5)
    np.testing.assert_allclose(soft_correlation_match(y, constant), back, rtol=1e-5)


@pytest.mark.parametrize("widths", [(5, 5), (4, 7)])
def test_partial_matching_is_its_definition(widths):
    x, y, correlations = pair(*widths)
    p, q = widths
    rows, columns = np.kron(np.eye(p), np.ones(q)), np.kron(np.ones(p), np.eye(q))
    bounds = np.concatenate([np.full(p, 1 / p), np.full(q, 1 / q)])
    values = []
    for mass in (0.15, 0.5, 0.9, 1):
        solved = linprog(
            -correlations.ravel(),
            A_ub=np.vstack([rows, columns]),
            b_ub=bounds,
            A_eq=np.ones((1, p * q)),
            b_eq=[mass],
            method="highs-ipm",
        )
        values.append(float(partial_soft_matching(x, y, mass=mass)))
        np.testing.assert_allclose(values[-1], -solved.fun / mass, rtol=1e-5)
    assert values == sorted(values, reverse=True)
    np.testing.assert_allclose(values[-1], soft_matching(x, y), rtol=1e-6)


def test_neurons_without_a_counterpart_are_left_out():
    x, _, _ = pair(6, 1)
    noise = np.random.default_rng(5).normal(size=(30, 6))
    y = np.hstack([x[:, [4, 0, 2]], noise[:, :3]])
    assert float(partial_soft_matching(x, y, mass=0.5)) > 1 - 1e-6
    assert float(partial_soft_matching(x, y, mass=0.6)) < 0.98
    for mass in (0, 1.1, -1, np.nan, "1"):
        with pytest.raises(InputError, match="^mass: got"):
            partial_soft_matching(x, y, mass=mass)


def song(k, l):  # noqa: E741
    n = len(k)
    k, l = (z * (1 - np.eye(n)) for z in (k, l))  # noqa: E741
    return np.sum(k * l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * k.sum(0) @ l.sum(0) / (n - 2)


def without_equal_columns(x, y):
    total = 0
    for a in range(x.shape[1]):
        for b in range(y.shape[1]):
            total += (a != b) * song(np.outer(x[:, a], x[:, a]), np.outer(y[:, b], y[:, b]))
    return total


def test_dependent_columns_cka_is_its_definition():
    x, y, _ = pair(6, 6)
    expected = without_equal_columns(x, y)
    expected /= np.sqrt(without_equal_columns(x, x) * without_equal_columns(y, y))
    np.testing.assert_allclose(dependent_columns_cka(x, y), expected, rtol=1e-5)
    noise = np.random.default_rng(0).normal(size=(100, 2))
    assert np.isnan(dependent_columns_cka(noise @ np.diag([1, 1e-6]), noise))
    with pytest.raises(InputError, match="^y: got shape .*same neurons"):
        dependent_columns_cka(x, y[:, :4])
    with pytest.raises(InputError, match="^x: got 1 neuron"):
        dependent_columns_cka(x[:, :1], y[:, :1])
