"""Soft matching against a linear program in float64, repeated neurons, planted permutations and the metric's laws."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from derivatives import check_derivative
from golden import activations
from scipy.optimize import linear_sum_assignment, linprog

from symjax.errors import InputError
from symjax.similarity import soft_matching, soft_matching_distance
from symjax.similarity.transport import transport_plan

N = 20


def data(p, q, seed=0, n=N):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 3))
    return [np.float32(np.maximum(common @ rng.normal(size=(3, d)) + rng.normal(size=(n, d)), 0)) for d in (p, q)]


def standardized(x):
    x = np.float64(x)
    x = x - x.mean(0)
    return x / np.linalg.norm(x, axis=0)


def distance_by_definition(x, y):
    """Repeats neurons to the least common multiple of the widths, where the best soft permutation is a permutation."""
    x, y = np.float64(x), np.float64(y)
    width = math.lcm(x.shape[1], y.shape[1])
    x, y = (np.repeat(z, width // z.shape[1], 1) for z in (x, y))
    costs = np.array([[np.sum((a - b) ** 2) for b in y.T] for a in x.T])
    rows, columns = linear_sum_assignment(costs)
    return np.sqrt(costs[rows, columns].mean())


WIDTHS = [(1, 1), (6, 6), (3, 6), (6, 2), (4, 6), (5, 7), (7, 1)]


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.few(3)
def test_agrees_with_its_definition(widths):
    for seed in range(3):
        x, y = data(*widths, seed)
        expected = distance_by_definition(x, y)
        np.testing.assert_allclose(soft_matching_distance(x, y), expected, rtol=2e-6)
        similarity = 1 - distance_by_definition(standardized(x), standardized(y)) ** 2 / 2
        np.testing.assert_allclose(soft_matching(x, y), similarity, atol=2e-6)
        standard = soft_matching_distance(x, y, standardize=True)
        np.testing.assert_allclose(standard, np.sqrt(2 - 2 * similarity), rtol=1e-5)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.few(4)
def test_the_plan_is_one(widths):
    x, y = data(*widths)
    p, q = widths
    distance, transport = soft_matching_distance(x, y, full_output=True)
    plan = np.float64(transport.plan)
    assert plan.shape == widths and plan.min() >= 0 and (plan > 0).sum() <= p + q - 1
    np.testing.assert_allclose(plan.sum(1), 1 / p, rtol=1e-6)
    np.testing.assert_allclose(plan.sum(0), 1 / q, rtol=1e-6)
    costs = ((x[:, :, None] - y[:, None, :]) ** 2).sum(0)
    np.testing.assert_allclose(np.sqrt((plan * costs).sum()), distance, rtol=1e-5)
    assert transport.matrix.shape == (q, p)
    np.testing.assert_allclose(transport.matrix.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(transport.matrix, plan.T * q, rtol=1e-6)


def test_wide_and_coprime():
    x, y = data(60, 47)
    costs = ((np.float64(x)[:, :, None] - y[:, None, :]) ** 2).sum(0)
    marginals = [[np.kron(np.eye(60), np.ones(47)), 1 / 60], [np.kron(np.ones(60), np.eye(47)), 1 / 47]]
    solved = linprog(
        costs.ravel(),
        A_eq=np.vstack([a for a, _ in marginals]),
        b_eq=np.concatenate([np.full(len(a), b) for a, b in marginals]),
        method="highs-ipm",
    )
    np.testing.assert_allclose(soft_matching_distance(x, y), np.sqrt(solved.fun), rtol=2e-6)


def test_the_mean_correlation_of_matched_neurons():
    x, y = data(5, 5)
    similarity, transport = soft_matching(x, y, full_output=True)
    matched = x @ np.asarray(transport.matrix).T
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(matched.T, y.T, strict=True)]
    np.testing.assert_allclose(similarity, np.mean(correlations), atol=1e-6)


@pytest.mark.parametrize("d", [1, 7, 50])
def test_a_planted_permutation_is_found(d):
    """The distance is exactly zero, and not the square root of a rounding error."""
    (x, _), order = data(d, 1), np.random.default_rng(3).permutation(d)
    distance, transport = soft_matching_distance(x, x[:, order], full_output=True)
    assert distance == 0
    np.testing.assert_array_equal(transport.matrix, np.eye(d)[order])
    scaling = np.exp(np.linspace(-3, 3, d, dtype=np.float32))
    similarity, transport = soft_matching(x, x[:, order] * scaling + 5, full_output=True)
    assert similarity > 1 - 1e-6
    np.testing.assert_array_equal(transport.weights, np.eye(d)[order])


def test_repetition_of_all_neurons_changes_nothing():
    x, y = data(4, 6)
    three = np.repeat(x, 3, 1)[:, ::-1]
    assert soft_matching_distance(x, three) == 0
    np.testing.assert_allclose(soft_matching_distance(three, y), soft_matching_distance(x, y), rtol=1e-5)
    five, two = np.repeat(x, 5, 1), np.repeat(x, 2, 1)  # neither width divides the other
    assert soft_matching_distance(five, two) == 0


def test_is_a_metric():
    """The triangle inequality holds across widths too."""
    spaces = [data(p, 1, seed)[0] for seed, p in enumerate((4, 6, 4, 6))]
    table = np.array([[soft_matching_distance(a, b) for b in spaces] for a in spaces])
    np.testing.assert_allclose(np.diag(table), 0, atol=1e-6)
    np.testing.assert_allclose(table, table.T, rtol=1e-6)
    assert (table[:, :, None] <= table[:, None, :] + table.T[None, :, :] + 1e-5).all()
    assert (table[~np.eye(4, dtype=bool)] > 0.1).all()


def test_maps():
    x, y = activations(1, (6, 4, 4, 3)), activations(2, (6, 4, 4, 4))
    expected = distance_by_definition(*(z.reshape(-1, z.shape[-1]) for z in (x, y)))
    np.testing.assert_allclose(soft_matching_distance(x, y), expected, rtol=2e-6)
    large = np.repeat(np.repeat(y[:, :2, :2], 2, 1), 2, 2)
    for function in (soft_matching, soft_matching_distance):
        np.testing.assert_allclose(function(x, y[:, :2, :2]), function(x, large), rtol=1e-6)
    pooled = distance_by_definition(x.mean((1, 2)), y.mean((1, 2)))
    np.testing.assert_allclose(soft_matching_distance(x, y, samples="pool"), pooled, rtol=1e-5)


@pytest.mark.parametrize("widths", [(4, 4), slow((4, 6))])
@pytest.mark.parametrize("function", [slow(soft_matching), soft_matching_distance])
def test_transformations(function, widths):
    x, y = data(*widths)
    number, transport = function(x, y, full_output=True)
    compiled, transported = jax.jit(lambda x, y: function(x, y, full_output=True))(x, y)
    np.testing.assert_allclose(compiled, number, rtol=1e-6)
    np.testing.assert_array_equal(transported.plan, transport.plan)
    batch = jnp.stack([x, x**2, 2 * x])
    mapped = jax.jit(jax.vmap(lambda x: function(x, y)))(batch)
    np.testing.assert_allclose(mapped, [function(z, y) for z in batch], rtol=1e-5)
    with jax.enable_x64(True):
        check_derivative(function, x, y)


@pytest.mark.slow
def test_constant_neurons():
    """Constant neurons are left out of the correlation and count as points for the distance."""
    x, y = data(4, 5)
    padded = np.concatenate([np.full_like(x[:, :2], 0.1), x], 1)
    np.testing.assert_allclose(soft_matching(padded, y), soft_matching(x, y), atol=1e-6)
    plan = np.asarray(soft_matching(padded, y, full_output=True)[1].plan)
    assert not plan[:2].any()
    np.testing.assert_allclose(soft_matching_distance(padded, y), distance_by_definition(padded, y), rtol=2e-6)
    assert np.isnan(soft_matching(0 * x, y)) and np.isnan(soft_matching(x, np.full_like(y, 0.1)))
    np.testing.assert_allclose(soft_matching_distance(0 * x, 0 * y), 0)
    gradients = [jax.grad(function)(padded, y) for function in (soft_matching, soft_matching_distance)]
    assert np.isfinite(gradients).all() and not gradients[0][:, :2].any()
    assert np.isfinite(jax.grad(soft_matching_distance)(x, x + 0)).all()


def test_plan_of_what_is_not_finite():
    marks = np.ones(3, bool)
    gain = np.eye(3, dtype=np.float32)
    np.testing.assert_allclose(transport_plan(gain, marks, marks), np.eye(3) / 3)
    np.testing.assert_allclose(transport_plan(0 * gain, marks, marks).sum(0), np.ones(3) / 3)
    assert np.isnan(transport_plan(gain * np.float32(np.nan), marks, marks)).all()
    assert np.isnan(transport_plan(gain, ~marks, marks)).all()


def test_nan_is_reported():
    x, y = data(3, 4)
    x[1, 2] = np.nan
    for function in (soft_matching, soft_matching_distance):
        with pytest.raises(InputError, match="x: .*NaN"):
            function(x, y)
        assert np.isnan(jax.jit(function)(x, y)) and np.isnan(jax.jit(function)(y, x))


@pytest.mark.parametrize("function", [soft_matching, soft_matching_distance])
@pytest.mark.few(1)
def test_mistakes(function):
    x, y = data(3, 4)
    for arguments, message in [
        ((x, y[:-1]), "y: got 19 examples"),
        ((x[:, 0], y), "x: got shape"),
        ((np.ones((N, 2, 2, 3)), y), "y: got shape .*map size"),
    ]:
        with pytest.raises(InputError, match=message):
            function(*arguments)
    with pytest.raises(InputError, match="samples: got 'patches'"):
        function(x, y, samples="patches")
