"""Calibrated values against their definition in float64; error rates under the null hypothesis; power."""

import math
from functools import partial

import jax
import numpy as np
import pytest
from kernels import each
from scipy import stats

from symjax import InputError, calibrate, cka, permutation_test
from symjax.similarity import MEASURES, FewExamplesWarning, Measure, permuted
from symjax.similarity.permuted import draw_permutations, permuted_values

KEY = jax.random.key(0)


def related(n=14, widths=(3, 4), share=0.7, seed=0, size=()):
    """Two representations with a common part."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, *size, 3))
    return tuple(np.float32(share * latent @ rng.normal(size=(3, d)) + rng.normal(size=(n, *size, d))) for d in widths)


def calibrated(value, null, best, alpha, sign=1):
    """The definition, in float64."""
    value, null, best = sign * value, sign * np.float64(null), sign * best
    every = np.sort([value, *null])
    threshold = every[math.ceil((1 - alpha) * len(every) - 1e-9) - 1]
    p = (1 + (null >= value).sum()) / len(every)
    return min(max((value - threshold) / (best - threshold), 0), 1), p, sign * threshold


@pytest.mark.parametrize(
    ("n", "count", "cycles", "fixed"),
    [(5, 20, (1, 5), 0), (40, 25, (1, 40), 0), (47, 9, (3, 15), 2), (60, 11, (5, 12), 0)],
)
def test_permutations_are_permutations(n, count, cycles, fixed):
    permutations = draw_permutations(KEY, n, count)
    assert permutations.cycles.shape == cycles and permutations.fixed.shape == (fixed,)
    orders = np.asarray(permutations.orders())
    assert orders.shape == (1 + count, n)
    np.testing.assert_array_equal(orders[0], np.arange(n))
    np.testing.assert_array_equal(np.sort(orders, 1), np.broadcast_to(np.arange(n), orders.shape))
    assert len(np.unique(orders, axis=0)) > 0.7 * len(orders)


def test_all_shifts_are_a_group():
    orders = np.asarray(draw_permutations(KEY, 60, 11).orders())  # all shifts of cycles of 12 examples
    elements = set(map(tuple, orders.tolist()))
    assert {tuple(a[b].tolist()) for a in orders for b in orders} == elements and len(elements) == 12


def test_every_example_meets_every_other_equally_often():
    orders = jax.vmap(lambda key: draw_permutations(key, 5, 9).orders()[1:])(jax.random.split(KEY, 2000))
    counts = np.stack([(np.asarray(orders) == value).sum((0, 1)) for value in range(5)])
    off_diagonal = counts[~np.eye(5, dtype=bool)]
    assert np.ptp(off_diagonal) < 6 * np.sqrt(off_diagonal.mean())


@each
@pytest.mark.parametrize("size", [(), (2, 2)], ids=["matrices", "maps"])
@pytest.mark.few(2)
def test_values_are_those_of_permuted_representations(measure, size):
    """What is prepared once gives the values of the measure's own function."""
    x, y = related(n=14, size=size)
    permutations = draw_permutations(KEY, 14, 17)  # of two assignments
    values = permuted_values(measure, [jax.numpy.asarray(x)], [jax.numpy.asarray(y)], permutations)[:, 0, 0]
    fn = jax.jit(lambda y: measure.fn(x, y))
    expected = [float(fn(y[order])) for order in np.asarray(permutations.orders())]
    np.testing.assert_allclose(values, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("size", [(), (2, 2)], ids=["matrices", "maps"])
@pytest.mark.parametrize(
    "name",
    ["cca", "pwcca", "procrustes_distance", "shape_distance", "permutation_procrustes", "cka", "cka_rbf", "gulp"],
)
@pytest.mark.few(3)
def test_values_of_shifts_of_several_cycles(name, size, monkeypatch):
    """Examples are in three cycles of 15, and two are fixed."""
    x, y = related(n=47, size=size)
    measure, permutations = MEASURES[name], draw_permutations(KEY, 47, 9)
    values = permuted_values(measure, [jax.numpy.asarray(x)], [jax.numpy.asarray(y)], permutations)[:, 0, 0]
    fn = jax.jit(lambda y: measure.fn(x, y))
    np.testing.assert_allclose(values, [float(fn(y[order])) for order in np.asarray(permutations.orders())], atol=1e-5)
    for most in (130, 1):  # the products of all permutations, but not the matrix of the transform; neither
        monkeypatch.setattr(permuted, "MAX_PRODUCTS", most)
        permuted._of_products.clear_cache()
        in_turn = permuted_values(measure, [jax.numpy.asarray(x)], [jax.numpy.asarray(y)], permutations)[:, 0, 0]
        np.testing.assert_allclose(values, in_turn, atol=1e-5)
    permuted._of_products.clear_cache()


@pytest.mark.slow
def test_values_of_shifts_have_the_distribution_of_all_permutations():
    """Means and 95 % quantiles of 199 values, for shifts and for independent permutations."""
    x, y = map(jax.numpy.asarray, related(n=400, widths=(8, 10)))
    measure, keys = MEASURES["procrustes"], jax.random.split(KEY, 60)
    shifts = [permuted_values(measure, [x], [y], draw_permutations(key, 400, 199))[1:, 0, 0] for key in keys]
    orders = jax.vmap(lambda key: jax.random.permutation(key, 400))(jax.random.split(jax.random.key(1), 60 * 199))
    independent = jax.lax.map(lambda order: measure.fn(x, y[order]), orders).reshape(60, 199)
    for statistic in (np.mean, partial(np.quantile, q=0.95)):
        first, second = (statistic(np.float64(values), axis=1) for values in (shifts, independent))
        assert stats.ttest_ind(first, second).pvalue > 0.01
        assert 0.7 < first.std() / second.std() < 1.4  # as precise


@pytest.mark.parametrize("name", ["lcs_knn", "edit_knn", "rank_similarity", "mutual_knn", "information_imbalance"])
@pytest.mark.few(1)
def test_values_of_permuted_representations_with_ties(name):
    """Lists of neighbors have examples at equal distances in the order of the permuted examples."""
    measure = MEASURES[name]
    rng = np.random.default_rng(0)
    x, y = (np.float32(rng.integers(0, 2, (14, width))) for width in (4, 3))
    permutations = draw_permutations(KEY, 14, 3)
    values = permuted_values(measure, [jax.numpy.asarray(x)], [jax.numpy.asarray(y)], permutations)[:, 0, 0]
    expected = [float(measure.fn(x, y[order])) for order in np.asarray(permutations.orders())]
    np.testing.assert_allclose(values, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("options", [{"form": "features"}, {"form": "features", "estimator": "gretton"}])
def test_features_of_many_examples(options):
    x, y = map(jax.numpy.asarray, related())
    measure = Measure(
        *("own", partial(cka, **options), "", (-1.0, 1.0), "similarity", True, frozenset()),
        split=partial(MEASURES["cka"].split, **options),
    )
    permutations = draw_permutations(KEY, 14, 5)
    values = permuted_values(measure, [x], [y], permutations)[:, 0, 0]
    expected = [float(cka(x, y[order], **options)) for order in np.asarray(permutations.orders())]
    np.testing.assert_allclose(values, expected, atol=2e-6)


@pytest.mark.slow
def test_maps_whose_sizes_do_not_divide_each_other():
    rng = np.random.default_rng(0)
    x, y = (np.float32(rng.uniform(size=(8, size, size, 3))) for size in (2, 3))
    measure = MEASURES["procrustes"]
    permutations = draw_permutations(KEY, 8, 3)
    values = permuted_values(measure, [jax.numpy.asarray(x)], [jax.numpy.asarray(y)], permutations)[:, 0, 0]
    expected = [float(measure.fn(x, y[order])) for order in np.asarray(permutations.orders())]
    np.testing.assert_allclose(values, expected, atol=2e-6)


@pytest.mark.parametrize("name", ["cka_gretton", "procrustes", "cka_distance"])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.few(3)
def test_definition(name, alpha):
    measure = MEASURES[name]
    result = calibrate(name, *related(), KEY, 39, alpha=alpha)
    best, sign = (0.0, -1) if measure.kind == "distance" else (1.0, 1)
    expected = calibrated(float(result.value), result.values, best, alpha, sign)
    np.testing.assert_allclose((result.calibrated, result.p_value, result.threshold), expected, rtol=1e-5, atol=1e-6)
    test = permutation_test(name, *related(), KEY, 39)
    np.testing.assert_array_equal(test.values, result.values)
    assert test.p_value == result.p_value
    np.testing.assert_allclose(result.value, test.estimate, rtol=1e-5)


@pytest.mark.parametrize("name", ["cka", "cca", "procrustes_distance"])
@pytest.mark.few(1)
def test_layers_share_their_permutations(name):
    x, y = related(n=30, widths=(3, 4))
    xs, ys = {"a": x, "b": np.maximum(x, 0)}, {"a": y, "b": y[:, :3] ** 2, "c": y**3}
    result = calibrate(name, xs, ys, KEY, 19)
    measure, sign = MEASURES[name], -1 if MEASURES[name].kind == "distance" else 1
    orders = np.asarray(draw_permutations(KEY, 30, 19).orders())
    values = np.array([[[float(measure.fn(a, b[o])) for b in ys.values()] for a in xs.values()] for o in orders])
    np.testing.assert_allclose(result.pairs.values, values[1:], atol=2e-5)
    for part, summary in (
        (result.best, sign * (sign * values).max((1, 2))),
        (result.mean, values.mean((1, 2))),
        (jax.tree.map(lambda leaf: leaf[..., 1, 2], result.pairs), values[:, 1, 2]),
    ):
        score, p, threshold = calibrated(summary[0], summary[1:], 0.0 if sign < 0 else 1.0, 0.05, sign)
        np.testing.assert_allclose(part.calibrated, score, atol=1e-4)
        np.testing.assert_allclose((part.value, part.threshold), (summary[0], threshold), atol=2e-5)
        np.testing.assert_allclose(part.p_value, p, rtol=1e-6)
    alone = calibrate(name, xs["b"], ys["c"], KEY, 19)
    np.testing.assert_allclose(alone.values, result.pairs.values[:, 1, 2], atol=2e-5)
    assert (result.layers_x, result.layers_y) == (("a", "b"), ("a", "b", "c"))


def test_layers_of_equal_names():
    x, y = related()
    result = calibrate("cka", {"a": x, "b": y}, {"b": x, "c": y, "a": y}, KEY, 9, layers="same")
    np.testing.assert_array_equal(np.isnan(result.pairs.value), [[True, True, False], [False, True, True]])
    np.testing.assert_allclose(result.mean.value, np.nanmean(result.pairs.value), rtol=1e-6)
    np.testing.assert_allclose(result.best.value, np.nanmax(result.pairs.value), rtol=1e-6)


def rejections(measure, x, y, count, alpha=0.05, **options):
    """The share of data sets (sets, n, d) with p at most alpha, and with a positive calibrated value."""
    keys = jax.random.split(jax.random.key(1), len(x))
    calibration = jax.jit(lambda x, y, key: calibrate(measure, x, y, key, count, alpha=alpha, **options))
    results = [calibration(*case) for case in zip(x, y, keys, strict=True)]
    return np.mean([r.p_value <= alpha for r in results]), np.mean([r.calibrated > 0 for r in results])


def normals(sets, n, widths, share=0.0):
    rng = np.random.default_rng(7)
    latent = rng.normal(size=(sets, n, 2))
    return tuple(np.float32(rng.normal(size=(sets, n, d)) + share * latent @ rng.normal(size=(2, d))) for d in widths)


def within_binomial(rate, alpha, sets):
    low, high = stats.binom.ppf([0.005, 0.995], sets, alpha) / sets
    return low <= rate <= high


@pytest.mark.parametrize("sets", [200, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "n"),
    [("cka_gretton", 30), ("cka", 8), ("cca", 30), ("cca", 60), ("procrustes_distance", 8), ("procrustes", 47)],
)
@pytest.mark.few(2)
def test_type_one_error(name, n, sets):
    """Chance exceeds .05 in 5 % of data sets.

    At n = 8 there are several assignments, at n = 30 one cycle, at 60 three cycles, and at 47 two cycles and one fixed
    example.
    """
    rate, positive = rejections(name, *normals(sets, n, (4, 3)), 19)
    assert within_binomial(rate, 0.05, sets)
    assert positive <= rate


@pytest.mark.parametrize("sets", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_type_one_error_of_the_best_of_many_layers(sets):
    """Where pairs are tested one by one, one of nine exceeds .05 in far more than 5 % of data sets."""
    x, y = normals(sets, 24, (9, 9))
    layers = [[{str(k): z[..., k : k + 3] for k in (0, 3, 6)} for z in side] for side in (x, y)]

    @jax.jit
    def p_values(x, y, key):
        result = calibrate("cka", x, y, key, 19)
        return result.best.p_value, result.mean.p_value, result.pairs.p_value.min()

    p = np.array([p_values(*case) for case in zip(*layers, jax.random.split(KEY, sets), strict=True)])
    best, mean, smallest = (p <= 0.05).mean(0)
    assert within_binomial(best, 0.05, sets) and within_binomial(mean, 0.05, sets) and smallest > 0.15


@pytest.mark.slow
def test_power():
    for name in ("cka", "cca", "procrustes"):
        assert rejections(name, *normals(50, 60, (4, 3), share=1.5), 19)[0] > 0.9


@pytest.mark.slow
def test_calibration_removes_the_bias_of_few_examples():
    """With more neurons than examples biased CKA is near 1 for unrelated data; its calibrated value is 0."""
    x, y = (z[0] for z in normals(1, 16, (200, 200)))
    result = calibrate("cka_gretton", x, y, KEY)
    assert result.value > 0.9 and result.calibrated < 0.1
    assert calibrate("cka_gretton", x, x, KEY).calibrated == 1
    with pytest.warns(FewExamplesWarning):
        always_one = calibrate("cca", x, y, KEY, 19)
    assert (always_one.calibrated, always_one.p_value) == (0, 1)


def test_what_has_no_best_value():
    def fn(x, y):
        return (x[:, 0] * y[:, 0]).sum()

    x, y = related()
    result = calibrate(fn, x, y, KEY, 19)
    assert np.isnan(result.calibrated) and 0 < result.p_value <= 1
    best = 2 * float(abs(result.values).max())
    expected = calibrated(float(result.value), result.values, best, 0.05)[0]
    np.testing.assert_allclose(calibrate(fn, x, y, KEY, 19, best=best).calibrated, expected, rtol=1e-4)
    constant = calibrate("cka", x, np.ones_like(y), KEY, 9)
    assert np.isnan(constant.p_value) and np.isnan(constant.calibrated)


def test_printed_short():
    x, y = related()
    assert str(calibrate("cka", x, x, KEY, 19)) == "Calibration(1, calibrated 1, p = 0.05)"
    layers = repr(calibrate("cka", {"a": x}, {"a": x, "b": y}, KEY, 3))
    assert "best=Calibration(1, " in layers and "\n" not in layers


def test_mistakes():
    x, y = related()
    for arguments, message in (
        (("ckk", x, y, KEY), "^measure: "),
        (("cka", {"a": x}, y, KEY), "^y: got ndarray, expected a mapping"),
        (("cka", {"a": x}, {"b": y[:-1]}, KEY), r"^y\['b'\]: got 13 examples"),
        (("cka", {}, {"b": y}, KEY), "^x: got an empty mapping"),
        (("cka", x[:3], y[:3], KEY), "^x: got 3 examples"),
        (("cca", {"a": x}, {"b": y, "c": np.ones((14, 2, 2, 3))}, KEY), r"^x\['a'\] and y\['c'\]: y: got shape"),
        (("cka", x, y, 0), "^key: "),
        (("cka", x, y, KEY, 0), "^num_permutations: "),
    ):
        with pytest.raises(InputError, match=message):
            calibrate(*arguments)
    for options, message in (
        ({"alpha": 1}, "^alpha: "),
        ({"layers": "some"}, "^layers: "),
        ({"best": "1"}, "^best: "),
        ({"layout": "chwn"}, "^layout: "),
    ):
        with pytest.raises(InputError, match=message):
            calibrate("cka", x, y, KEY, **options)
    with pytest.raises(InputError, match="^layers: got 'same'"):
        calibrate("cka", {"a": x}, {"b": y}, KEY, layers="same")
