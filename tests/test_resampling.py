"""Error bars cover, p values are uniform, planted relations are found; means over pairs against a loop in NumPy."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from symjax.errors import InputError
from symjax.similarity import (
    MEASURES,
    ErrorBars,
    PairMean,
    PermutationTest,
    cka,
    error_bars,
    mean_over_pairs,
    permutation_procrustes,
    permutation_test,
    pls_similarity,
)

N = 24
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def data(related=2.0, n=N, sets=None, seed=0):
    """x and y, or so many of each: a common part of variance r^2 and an own one of 1. CKA is r^4 / (1 + r^2)^2."""
    rng = np.random.default_rng(seed)
    shape = (n, 3) if sets is None else (sets, n, 3)
    common = related * rng.normal(size=shape)
    return tuple(np.float32(common + rng.normal(size=shape)) for _ in range(2))


def covariance(x, y):
    """Linear in the examples: the standard error of a mean is known."""
    return (x[:, 0] * y[:, 0]).mean()


# Error bars


def test_standard_error_of_a_mean():
    for n in (24, 25):
        x, y = data(n=n)
        bars = error_bars(covariance, x, y, KEY, 2000)
        products = np.float64(x[:, 0]) * y[:, 0]
        np.testing.assert_allclose(bars.estimate, products.mean(), rtol=1e-5)
        # Exact but for the number of resamples: 2000 make 1.6 %.
        np.testing.assert_allclose(bars.standard_error, products.std(ddof=1) / np.sqrt(n), rtol=0.06)
        assert abs(bars.bias) < 0.1 * bars.standard_error
        assert bars.values.shape == (2000,)
        assert all(part.dtype == jnp.float32 for part in bars)


def test_parts_follow_from_the_values():
    x, y = data(n=25)
    bars = error_bars(pls_similarity, x, y, KEY, 50, level=0.8)
    values, weight = np.float64(bars.values), 12 / 13
    ends = bars.estimate + np.sqrt(weight) * (np.quantile(values, [0.1, 0.9]) - values.mean())
    np.testing.assert_allclose((bars.low, bars.high), ends, rtol=1e-5)
    np.testing.assert_allclose(bars.standard_error, np.sqrt(weight) * values.std(ddof=1), rtol=1e-4)
    np.testing.assert_allclose(bars.bias, weight * (values.mean() - bars.estimate), atol=1e-6)


@pytest.mark.parametrize("related", [0.0, 2.0])
@pytest.mark.slow
def test_coverage(related):
    """The intervals cover the planted values 0 and 0.64."""
    x, y = data(related, n=50, sets=300)
    keys = jax.random.split(KEY, 300)
    bars = jax.jit(jax.vmap(lambda x, y, key: error_bars(cka, x, y, key, 100, 0.9)))(x, y, keys)
    planted = related**4 / (1 + related**2) ** 2
    covered = np.mean((bars.low <= planted) & (planted <= bars.high))
    assert 0.84 < covered < 0.96 if related else 0.97 < covered
    if related:
        np.testing.assert_allclose(bars.standard_error.mean(), bars.estimate.std(), rtol=0.2)


def test_bias_of_a_biased_measure_is_reported():
    x, y = data(0.0, sets=300)
    keys = jax.random.split(KEY, 300)
    gretton = partial(cka, estimator="gretton")
    bars = jax.jit(jax.vmap(lambda x, y, key: error_bars(gretton, x, y, key, 50)))(x, y, keys)
    np.testing.assert_allclose(bars.bias.mean(), bars.estimate.mean(), rtol=0.3)  # the limit is 0


def drawn(count, size):
    """What the bootstrap draws: (count, size) indices."""
    return np.array([jax.random.randint(key, (size,), 0, size) for key in jax.random.split(KEY, count)])


def test_bootstrap_over_examples():
    """Against NumPy, with the same draws."""
    x, y = data(n=25)
    bars = error_bars(covariance, x, y, KEY, 400, level=0.8, method="bootstrap")
    products = np.float64(x[:, 0]) * y[:, 0]
    values = products[drawn(400, 25)].mean(1)
    np.testing.assert_allclose(bars.values, values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bars.standard_error, values.std(ddof=1), rtol=1e-4)
    np.testing.assert_allclose((bars.low, bars.high), np.quantile(values, [0.1, 0.9]), rtol=1e-4)
    np.testing.assert_allclose(bars.bias, values.mean() - products.mean(), atol=1e-5)
    np.testing.assert_allclose(bars.standard_error, products.std() / np.sqrt(25), rtol=0.15)  # known for a mean
    blocked = error_bars(covariance, x, y, KEY, 400, level=0.8, method="bootstrap", batch_size=7)
    np.testing.assert_allclose(blocked.values, bars.values, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_coverage_of_the_bootstrap():
    """The interval of a mean has its coverage; that of CKA never covers 0, because repeated examples agree."""
    independent = tuple(np.float32(np.random.default_rng(d).normal(size=(100, 100, d))) for d in (10, 8))
    for fn, (x, y), planted, (least, most) in (
        (covariance, data(n=50, sets=300), 4.0, (0.82, 0.93)),
        (cka, independent, 0.0, (0.0, 0.02)),
    ):

        def bars(x, y, key, fn=fn):
            return error_bars(fn, x, y, key, 100, 0.9, method="bootstrap")

        bars = jax.jit(jax.vmap(bars))(x, y, jax.random.split(KEY, len(x)))
        assert least <= np.mean((bars.low <= planted) & (planted <= bars.high)) <= most


@pytest.mark.slow
def test_keys_blocks_and_names():
    x, y = data()
    first, again = (error_bars("pls", x, y, KEY, 20) for _ in range(2))
    np.testing.assert_array_equal(first.values, again.values)
    other = error_bars("pls", x, y, jax.random.key(1), 20)
    assert not np.isin(other.values, first.values).all()
    blocked = error_bars(pls_similarity, x, y, KEY, 20, batch_size=7)
    np.testing.assert_allclose(blocked.values, first.values, rtol=1e-5)
    np.testing.assert_array_equal(error_bars(MEASURES["pls"], x, y, KEY, 20).values, first.values)
    np.testing.assert_allclose(first.estimate, pls_similarity(x, y), rtol=1e-6)
    distance = MEASURES["procrustes_distance"]
    by_name, by_measure = (permutation_test(fn, x, y, KEY, 20) for fn in (distance.name, distance))
    assert by_name.p_value == by_measure.p_value < 0.1  # the smaller the distance the more extreme


def test_it_is_compiled_once():
    traces = []

    def counted(x, y):
        traces.append(x.shape)
        return covariance(x, y)

    for seed in range(3):
        error_bars(counted, *data(seed=seed), jax.random.key(seed), 10)
    assert traces.count((N // 2, 3)) == 1


def test_measures_that_call_the_host():
    x, y = (z.reshape(N // 2, 1, 2, 3) for z in data())
    bars = error_bars("permutation_procrustes", x, y, KEY, 10)
    chosen = jax.random.permutation(jax.random.split(KEY, 10)[3], N // 2)[: N // 4]
    np.testing.assert_allclose(bars.values[3], permutation_procrustes(x[chosen], y[chosen]), rtol=1e-5)
    test = permutation_test("permutation_procrustes", x, y, KEY, 10)
    assert np.isfinite(test.values).all() and len(np.unique(test.values)) > 5


def test_results_are_printed_short():
    numbers, values = np.float32([0.64, 0.03, 0.5812345, 0.7, -0.01]), np.zeros(200, np.float32)
    assert repr(ErrorBars(*numbers, values)) == "ErrorBars(0.64 [0.5812, 0.7])"
    assert str(PermutationTest(*numbers[:2], values)) == "PermutationTest(0.64, p = 0.03)"
    assert repr(PairMean(*map(jnp.asarray, numbers[:4]))) == "PairMean(0.64 [0.5812, 0.7])"
    several = PairMean(*[np.zeros(5)] * 4)
    assert repr(several) == "PairMean(estimate: (5,), standard_error: (5,), low: (5,), high: (5,))"
    traced = []
    jax.eval_shape(lambda *parts: traced.append(repr(ErrorBars(*parts))), *numbers, values)
    assert traced[0].startswith("ErrorBars(estimate: (), ") and traced[0].endswith("values: (200,))")


# Permutation tests


def test_p_values_are_uniform_without_a_relation():
    x, y = data(0.0, sets=400)
    keys = jax.random.split(KEY, 400)
    p = jax.jit(jax.vmap(lambda x, y, key: permutation_test(covariance, x, y, key, 39).p_value))(x, y, keys)
    np.testing.assert_allclose(np.unique(np.round(p * 40)), np.arange(1, 41))  # multiples of 1 / 40, and no zero
    assert stats.kstest(p, "uniform").statistic < 0.025 + 1.63 / np.sqrt(400)  # steps, and level 0.01


def test_a_planted_relation_is_found():
    x, y = data()
    test = permutation_test("cka", x, y, KEY, 99)
    assert test.p_value == np.float32(0.01) and test.values.max() < test.estimate
    distance = permutation_test("cka_distance", x, y, KEY, 99)
    np.testing.assert_allclose(distance.p_value, 0.01)
    wrong = permutation_test("cka_distance", x, y, KEY, 99, alternative="greater")
    np.testing.assert_allclose(wrong.p_value, 1)


def test_hits_are_counted():
    x, y = data(0.5)
    test = permutation_test(covariance, x, y, KEY, 50)
    for alternative, extreme in (("greater", test.values >= test.estimate), ("less", test.values <= test.estimate)):
        again = permutation_test(covariance, x, y, KEY, 50, alternative=alternative)
        np.testing.assert_allclose(again.p_value, (1 + np.sum(extreme)) / 51, rtol=1e-6)


def test_what_permutations_do_not_change_is_no_evidence():
    """A statistic that permutations change by rounding alone is no evidence."""
    x, y = data()

    def both(x, y):
        return (x**2).sum() + (y**2).sum()

    np.testing.assert_allclose(permutation_test(both, x, y, KEY, 50).p_value, 1)


@pytest.mark.slow
def test_double_precision():
    with jax.enable_x64(True):
        x, y = (np.float64(z) for z in data())
        assert {part.dtype for part in error_bars(covariance, x, y, KEY, 10)} == {jnp.dtype("float64")}
        assert {part.dtype for part in permutation_test(covariance, x, y, KEY, 10)} == {jnp.dtype("float64")}


# Means over pairs


def by_leaving_out(values, pairs):
    models = sorted(set(pairs.ravel().tolist()))
    means = np.array([np.mean([v for v, p in zip(values, pairs, strict=True) if m not in p], 0) for m in models])
    return np.sqrt((len(models) - 1) * means.var(0))


def test_means_over_pairs():
    rng = np.random.default_rng(0)
    pairs = np.array(list(itertools.combinations([3, 5, 6, 11], 2)))
    values = np.float32(rng.normal(size=(6, 2, 3)))
    result = mean_over_pairs(values, pairs, 0.9)
    np.testing.assert_allclose(result.estimate, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(result.standard_error, by_leaving_out(values, pairs), rtol=1e-5)
    reach = stats.t.ppf(0.95, 3) * result.standard_error
    np.testing.assert_allclose((result.low, result.high), (result.estimate - reach, result.estimate + reach), rtol=1e-5)
    one = mean_over_pairs(values[:, 0, 0], pairs)
    assert one.estimate.shape == () and one.low.dtype == jnp.float32
    ring = np.array([(0, 1), (1, 2), (2, 3), (3, 0)])
    np.testing.assert_allclose(
        mean_over_pairs(values[:4, 0, 0], ring).standard_error, by_leaving_out(values[:4, 0, 0], ring), rtol=1e-5
    )


def test_models_that_differ_are_covered():
    """v_ij = a_i + a_j, each of many sets on an axis of its own: exact, where independent pairs would miss a third."""
    a = np.random.default_rng(0).normal(size=(5, 4000))
    pairs = np.array(list(itertools.combinations(range(5), 2)))
    values = a[pairs].sum(1)
    result = mean_over_pairs(np.float32(values), pairs)
    np.testing.assert_allclose(np.mean((result.low <= 0) & (result.high >= 0)), 0.95, atol=0.012)
    np.testing.assert_allclose(result.standard_error, 2 * a.std(0, ddof=1) / np.sqrt(5), rtol=1e-3)


def by_drawing(values, pairs, draws):
    """Means over the pairs of different models among those drawn, which may be drawn more than once."""
    result = dict(zip(map(tuple, pairs.tolist()), np.float64(values), strict=True))
    result |= {(j, i): value for (i, j), value in result.items()}
    means = []
    for models in draws:
        chosen = [result[pair] for pair in itertools.combinations(models.tolist(), 2) if pair in result]
        if chosen:
            means.append(np.mean(chosen, 0))
    return np.array(means)


def test_bootstrap_over_models():
    rng = np.random.default_rng(0)
    models = np.array([3, 5, 6, 11])
    every = np.array(list(itertools.combinations(models, 2)))
    draws = models[drawn(300, 4)]
    assert any(len(set(draw)) == 1 for draw in draws.tolist())  # no pair at all
    for pairs in (every, every[:3]):  # the latter all of model 3, which cannot be left out
        values = np.float32(rng.normal(size=(len(pairs), 2, 3)))
        result = mean_over_pairs(values, pairs, 0.9, method="bootstrap", key=KEY, num_resamples=300)
        means = by_drawing(values, pairs, draws)
        np.testing.assert_allclose(result.estimate, values.mean(0), rtol=1e-5)
        np.testing.assert_allclose(result.standard_error, means.std(0, ddof=1), rtol=1e-4)
        ends = np.quantile(means, [0.05, 0.95], axis=0)
        np.testing.assert_allclose((result.low, result.high), ends, rtol=1e-4, atol=1e-5)
    one = mean_over_pairs(values[:, 0, 0], pairs, method="bootstrap", key=KEY)
    assert one.estimate.shape == one.low.shape == () and one.low.dtype == jnp.float32


@pytest.mark.slow
def test_coverage_of_the_bootstrap_over_models():
    """v_ij = a_i + a_j: of 20 models about as it should be, of 4 too narrow, as the docstring says."""
    rng = np.random.default_rng(0)
    for count, (least, most) in ((20, (0.9, 0.96)), (4, (0.7, 0.8))):
        a = rng.normal(size=(count, 1000))
        pairs = np.array(list(itertools.combinations(range(count), 2)))
        result = mean_over_pairs(np.float32(a[pairs].sum(1)), pairs, method="bootstrap", key=KEY)
        assert least < np.mean((result.low <= 0) & (result.high >= 0)) < most


# Mistakes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones((N + 1, 2))}, "y: got 24 examples"),
        ({"x": np.ones((3, 2)), "y": np.ones((3, 2))}, "x: .*at least 4"),
        ({"x": np.full((N, 2), np.nan)}, "x: .*NaN"),
        ({"fn": "ccka"}, "fn: got 'ccka' .did you mean cka.., expected one of"),
        ({"fn": lambda x, y: x.mean(0)}, "fn: got .*0-d"),
        ({"num_resamples": 1}, "num_resamples: got 1"),
        ({"num_resamples": 2.0}, "num_resamples: got 2.0"),
        ({"level": 1}, "level: got 1"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"method": "jackknife"}, "method: got 'jackknife'"),
        ({"key": 0}, r"key: got 0, expected a key of JAX, such as jax.random.key\(0\)"),
        ({"key": None}, "key: got None, expected a key"),
        ({"key": np.random.default_rng(0)}, r"key: got Generator\(PCG64\).*, expected a key"),
        ({"key": jax.random.split(KEY)}, r"key: got 'key<fry>\[2\]', expected a key"),
        ({"key": jnp.zeros(2)}, r"key: got 'float32\[2\]', expected a key"),
        (
            {"fn": "cka", "x": np.eye(5), "y": np.eye(5)},
            r"^x, y: got 5 examples, expected more, since fn rejects halves of 2",
        ),
    ],
)
def test_mistakes_in_error_bars(change, message):
    x, y = data()
    with pytest.raises(InputError, match=message):
        error_bars(**({"fn": covariance, "x": x, "y": y, "key": KEY} | change))


def test_mistakes_in_permutation_tests():
    x, y = data()
    with pytest.raises(InputError, match="alternative: got 'two-sided'"):
        permutation_test("cka", x, y, KEY, alternative="two-sided")
    with pytest.raises(InputError, match="fn: got 3, expected one of .*, a Measure or a function"):
        permutation_test(3, x, y, KEY)
    with pytest.raises(InputError, match="key: got 0, expected a key of JAX"):
        permutation_test("cka", x, y, 0)
    with pytest.raises(InputError, match="num_permutations: got 0"):
        permutation_test(covariance, x, y, KEY, 0)
    assert np.isnan(permutation_test(lambda x, y: x[0, 0] * jnp.nan, x, y, KEY, 3).p_value)


@pytest.mark.parametrize(
    ("values", "pairs", "message"),
    [
        (np.ones(3), [(0, 1), (1, 2)], "values: got shape"),
        (np.ones(2), [(0, 1), (1, 1)], "pairs: got a model with itself"),
        (np.ones(2), [(0, 1), (1, 0)], "pairs: got 2 models"),
        (np.ones(2), [(0, 1), (1, 2)], "pairs: got model 1 in all"),
        (np.ones(3), np.ones((3, 2)), "pairs: got float64"),
        (np.full(3, np.nan), [(0, 1), (1, 2), (0, 2)], "values: got NaN"),
    ],
)
def test_mistakes_in_pairs(values, pairs, message):
    with pytest.raises(InputError, match=message):
        mean_over_pairs(values, pairs)


def test_mistakes_in_bootstraps_over_models():
    values, pairs = np.ones(3), [(0, 1), (1, 2), (0, 2)]
    for options, message in (
        ({"method": "bootstrap"}, "key: got None, expected a key of JAX"),
        ({"method": "halves"}, "method: got 'halves'"),
        ({"method": "bootstrap", "key": KEY, "num_resamples": 1}, "num_resamples: got 1"),
    ):
        with pytest.raises(InputError, match=message):
            mean_over_pairs(values, pairs, **options)
