"""Bartlett's test: the formula in float64, the error rate on null data, and planted numbers of shared directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from symjax import bartlett_test, cca
from symjax.errors import InputError


def shared_directions(key, samples, shared, x_noise, y_noise):
    """Return x and y that share `shared` directions, exactly up to a little noise."""
    keys = jax.random.split(key, 4)
    common, x, y, noise = (
        jax.random.normal(k, (samples, d)) for k, d in zip(keys, (shared, x_noise, y_noise, shared), strict=True)
    )
    return jnp.concatenate([common, x], axis=1), jnp.concatenate([common + 0.5 * noise, y], axis=1)


@pytest.mark.parametrize("lawley", [False, True])
def test_values_are_those_of_the_formula(lawley):
    n, p, q = 60, 5, 7
    x, y = shared_directions(jax.random.key(0), n, 2, p - 2, q - 2)
    result = cca(x, y)
    test = bartlett_test(result, n, lawley=lawley)
    sides = (np.asarray(side, np.float64) for side in (x, y))
    bases = [np.linalg.qr(side - side.mean(axis=0))[0] for side in sides]
    rho = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    for k in range(p):
        factor = n - 1 - (p + q + 1) / 2 + lawley * (1 / rho[:k] ** 2 - 1).sum()
        statistic = -factor * np.log(1 - rho[k:] ** 2).sum()
        expected = stats.chi2.sf(statistic, (p - k) * (q - k))
        np.testing.assert_allclose(test.statistics[k], statistic, rtol=1e-4)
        np.testing.assert_allclose(test.p_values[k], expected, rtol=1e-3, atol=1e-12)
    assert test.degrees.tolist() == [(p - k) * (q - k) for k in range(p)]


@jax.jit
def count(keys, shared):
    """Return the number of significant correlations where `shared` of the first two directions are shared."""

    def of_one(key):
        x, y = shared_directions(key, 100, 2, 2, 1)
        independent = jax.random.normal(jax.random.fold_in(key, 1), y.shape)
        return bartlett_test(cca(x, jnp.where(jnp.arange(3) < shared, y, independent)), 100).num_significant

    return jax.vmap(of_one)(keys)


@pytest.mark.parametrize("shared", [0, 2])
def test_the_number_of_shared_directions_is_exceeded_at_the_level_of_the_test(shared):
    counts = np.asarray(count(jax.random.split(jax.random.key(1), 1000), shared))
    low, high = stats.binom.interval(0.999, 1000, 0.05)
    assert (counts >= shared).all()
    assert low <= (counts > shared).sum() <= high


def test_identical_representations_have_all_correlations():
    x = jax.random.normal(jax.random.key(0), (50, 4))
    test = bartlett_test(cca(x, x @ jnp.tri(4)), 50)
    assert int(test.num_significant) == 4 and (np.asarray(test.p_values) < 1e-12).all()


def test_past_the_rank_there_is_no_hypothesis():
    x = jax.random.normal(jax.random.key(0), (50, 4))
    test = bartlett_test(cca(x, x.at[:, 2:].set(0)), 50)
    assert int(test.num_significant) == 2 and np.isnan(test.p_values[2:]).all()
    assert test.degrees[:2].tolist() == [8, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 9}, "samples: got 9, expected more than 9"),
        ({"level": 0}, "level: got 0, expected a number in"),
        ({"result": 3}, "result: got int, expected the result of cca"),
    ],
)
def test_wrong_arguments(changes, message):
    x = jax.random.normal(jax.random.key(0), (50, 4))
    with pytest.raises(InputError, match=message):
        bartlett_test(**{"result": cca(x, x), "samples": 50, **changes})


def test_a_correlation_of_zero_or_one_gives_no_nan():
    result = cca(jax.random.normal(jax.random.key(0), (8, 2)), jax.random.normal(jax.random.key(1), (8, 2)))
    result = result._replace(correlations=jnp.array([1.0, 0.0]))
    for lawley in (False, True):
        test = bartlett_test(result, 8, lawley=lawley)
        assert test.p_values.tolist() == [0, 1] and int(test.num_significant) == 1
