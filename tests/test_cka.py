"""CKA against float64 NumPy by the definitions, published figures, and the symmetries of the problem."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from cka_helpers import ESTIMATORS, N, P, data, hsic_by_definition, linear
from golden import CASES
from scipy.spatial.distance import pdist, squareform

from symjax.errors import InputError
from symjax.similarity import channel_normalized_cka, cka, cka_distance, cka_stream, pairwise


def rbf(x, bandwidth):
    squares = pdist(np.asarray(x, np.float64).reshape(len(x), -1), "sqeuclidean")
    return np.exp(-squareform(squares) / (2 * bandwidth**2 * np.median(squares)))


def ratio(k, l, estimator):  # noqa: E741
    powers = hsic_by_definition(k, k, estimator) * hsic_by_definition(l, l, estimator)
    return hsic_by_definition(k, l, estimator) / np.sqrt(powers)


# CKA: values
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("form", ["gram", "features"])
@pytest.mark.few(3)
def test_linear_cka_agrees_with_its_definition(estimator, form):
    for seed in range(3):
        x, y = data(seed)
        expected = ratio(linear(x), linear(y), estimator)
        np.testing.assert_allclose(cka(x, y, estimator, form=form), expected, atol=2e-6)
        np.testing.assert_allclose(cka_distance(x, y, estimator, form=form), np.arccos(expected), atol=5e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("n", "bandwidth"), [(N, 1.0), (N, 0.4), (23, 0.8)])  # an even and an odd number of pairs
@pytest.mark.few(2)
def test_rbf_cka_agrees_with_its_definition(estimator, n, bandwidth):
    x, y = data(n=n)
    expected = ratio(rbf(x, bandwidth), rbf(y, bandwidth), estimator)
    np.testing.assert_allclose(cka(x, y, estimator, "rbf", bandwidth=bandwidth), expected, atol=5e-6)


@pytest.mark.parametrize("form", ["gram", "features"])
def test_float64_to_full_precision(form):
    with jax.enable_x64(True):
        x, y = (np.float64(z) for z in data())
        for estimator in ESTIMATORS:
            got = cka(x, y, estimator, form=form)
            assert got.dtype == jnp.float64
            np.testing.assert_allclose(got, ratio(linear(x), linear(y), estimator), rtol=1e-11)
    half = cka(jnp.asarray(x, jnp.bfloat16), y)
    assert half.dtype == jnp.float32


def test_independent_data():
    """The biased estimators are near p / (n + p) and p / (n^2 + p) for independent data, "song" near 0."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50, 5000)).astype(np.float32)
    for estimator in ESTIMATORS:
        np.testing.assert_allclose(cka(x, y, estimator), ratio(linear(x), linear(y), estimator), atol=2e-6)
    deviation = np.sqrt(2) / 50  # of a correlation over n (n - 1) / 2 pairs
    assert abs(cka(x, y)) < 3 * deviation
    assert abs(cka(x, y, "gretton") - 5000 / 5050) < 0.005 and abs(cka(x, y, "lange") - 5000 / 7500) < 0.015
    assert abs(np.mean([cka(*rng.normal(size=(2, 50, 500)), "gretton") for _ in range(10)]) - 500 / 550) < 0.005
    assert abs(np.mean([cka(*rng.normal(size=(2, 50, 500)), "lange") for _ in range(10)]) - 500 / 3000) < 0.03
    values = [float(cka(*rng.normal(size=(2, 10, 100)).astype(np.float32))) for _ in range(100)]
    assert min(values) < 0 and abs(np.mean(values)) < 3 * np.std(values) / 10  # negative ones are not clipped


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["gram", "features"])
@pytest.mark.few(2)
def test_channel_normalized_cka_is_the_published_figure(case, form):
    got = channel_normalized_cka(*case.features(), form=form)
    np.testing.assert_allclose(got, case.channel_normalized_cka, atol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_channel_normalized_cka_agrees_with_its_definition(estimator):
    x, y = CASES[0].features()
    y = y[:, :5, :, :4]  # another size, another width
    kernels = []
    for z in (np.float64(x), np.float64(y)):
        z = z - z.mean((0, 1, 2))
        kernels.append(linear(z / np.sqrt((z**2).sum((0, 1, 2)))))
    np.testing.assert_allclose(channel_normalized_cka(x, y, estimator), ratio(*kernels, estimator), atol=2e-6)


def test_forms_are_chosen_by_cost():
    def largest(n, p):
        jaxpr = str(jax.make_jaxpr(cka)(np.zeros((n, p), np.float32), np.zeros((n, p), np.float32)))
        return f"{n},{n}]" in jaxpr, f"{p},{p}]" in jaxpr

    assert largest(2000, 40) == (False, True)
    assert largest(40, 2000) == (True, False)


# CKA: maps
@pytest.mark.slow
def test_maps_are_flattened_by_default_and_may_differ_in_size():
    x, y = CASES[0].features()
    np.testing.assert_allclose(cka(x, y), ratio(linear(x), linear(y), "song"), atol=2e-6)
    small = y[:, :3, :5]
    np.testing.assert_allclose(cka(x, small), ratio(linear(x), linear(small), "song"), atol=2e-6)
    pooled = [np.float64(z).mean((1, 2)) for z in (x, small)]
    np.testing.assert_allclose(cka(x, small, samples="pool"), ratio(*map(linear, pooled), "song"), atol=5e-6)
    pixels = [z.reshape(-1, 6) for z in (x, y)]
    np.testing.assert_allclose(cka(x, y, samples="positions"), ratio(*map(linear, pixels), "song"), atol=5e-6)
    np.testing.assert_allclose(cka(x, pooled[0]), ratio(linear(x), linear(pooled[0]), "song"), atol=2e-6)


# CKA: properties
@pytest.mark.parametrize("form", ["gram", "features"])
@pytest.mark.few(1)
def test_far_from_the_origin_and_of_any_size(form):
    x, y = data()
    expected = cka(x, y, form=form)
    shifted = x + np.float32([0, 1, 10, 100, 1000])
    exact = ratio(linear(np.float64(shifted) - shifted.mean(0, np.float64)), linear(y), "song")
    np.testing.assert_allclose(cka(shifted, y, form=form), exact, atol=1e-5)
    for scale in (1e-18, 1e18):
        np.testing.assert_allclose(cka(x * np.float32(scale), y / np.float32(scale), form=form), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("estimator", "kernel"), [("song", "linear"), slow("gretton", "linear"), slow("lange", "linear"), ("song", "rbf")]
)
@pytest.mark.few(1)
def test_distance_is_a_metric(estimator, kernel):
    spaces = [data(seed)[seed % 2] for seed in range(5)]
    table = np.array([[cka_distance(a, b, estimator, kernel, form="gram") for b in spaces] for a in spaces])
    np.testing.assert_allclose(np.diag(table), 0, atol=1e-6)
    np.testing.assert_allclose(table, table.T, atol=1e-6)
    assert (table[:, :, None] <= table[:, None, :] + table.T[None, :, :] + 1e-6).all()
    assert (table[~np.eye(5, dtype=bool)] > 0.1).all()


@pytest.mark.parametrize("form", ["gram", "features"])
@pytest.mark.few(1)
def test_identical_input(form):
    for seed in range(5):
        x, _ = data(seed)
        assert abs(cka(x, x, form=form) - 1) <= 1e-6
        assert cka(x, x, form=form) <= 1
        distance = cka_distance(x, x, form=form)
        assert 0 <= distance <= (1e-6 if form == "gram" else 1e-3)
        gradient = jax.grad(cka_distance)(x, x + 0, form=form)
        assert np.isfinite(gradient).all()


def test_opposite_kernels():
    """With the estimator "song" kernels can be negatively correlated, so that the angle exceeds pi / 2."""
    x = np.float32([[1, 0], [-1, 0], [0, 1], [0, -1]])
    y = np.float32([[1, 0], [0, 1], [-1, 0], [0, -1]])
    expected = ratio(linear(x), linear(y), "song")
    assert expected < -0.4
    np.testing.assert_allclose(cka(x, y), expected, rtol=1e-5)
    np.testing.assert_allclose(cka_distance(x, y), np.arccos(expected), rtol=1e-5)


# (n, p, q, how many examples are huge, how huge): also of several, each along a channel of its own.
HUGE = [(500, 16, 16, 1, 2e4), (40, 8, 5, 1, 1e6), (300, 6, 9, 3, 1e5), (300, 40, 40, 30, 1e4)]


def with_huge_examples(n, p, q, count, times):
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((n, 4))
    sides = [signal @ rng.standard_normal((4, d)) + 0.5 * rng.standard_normal((n, d)) + 1 for d in (p, q)]
    for z in sides:
        if count == 1:
            z[0] *= times
        for i in range(count) if count > 1 else ():
            z[7 * i, i % z.shape[1]] *= times
    return tuple(map(np.float32, sides))


@pytest.mark.parametrize("case", HUGE)
@pytest.mark.few(2)
def test_huge_examples(case):
    x, y = with_huge_examples(*case)
    np.testing.assert_allclose(cka(x, y, form="features"), ratio(linear(x), linear(y), "song"), atol=1e-5)


def test_huge_examples_in_every_form():
    x, y = with_huge_examples(*HUGE[1])
    expected = ratio(linear(x), linear(y), "song")
    np.testing.assert_allclose(cka(x, y, form="gram"), expected, atol=1e-5)
    np.testing.assert_allclose(cka(x, y, "lange", form="features"), ratio(linear(x), linear(y), "lange"), atol=1e-5)
    for form in ("gram", "features"):
        pairs = pairwise({"a": x[None], "b": y[None]}, "cka", form=form).select(layer_a="a", layer_b="b")
        np.testing.assert_allclose(pairs, [[expected]], atol=1e-5)
    stream = cka_stream(form="minibatch")
    np.testing.assert_allclose(stream.finalize(stream.update(stream.init(x, y), x, y)), expected, atol=1e-5)
    batch = jax.jit(jax.vmap(lambda x: cka(x, y, form="features")))(np.stack([x, x[::-1]]))
    np.testing.assert_allclose(batch, [ratio(linear(x[::s]), linear(y), "song") for s in (1, -1)], atol=1e-5)


@pytest.mark.parametrize("groups", [1, 20])  # in one example, or in two halves far from each other
@pytest.mark.few(1)
def test_rbf_with_far_examples(groups):
    rng = np.random.default_rng(0)
    common = rng.standard_normal((40, 3))
    x, y = (np.float32(common @ rng.standard_normal((3, 6)) + 0.5 * rng.standard_normal((40, 6))) for _ in range(2))
    for z in (x, y):
        z[:groups] += 1e5 if groups == 1 else 1e4
    for bandwidth in (1.0, 1e-3) if groups > 1 else (1.0,):  # of the narrow one the groups themselves count
        expected = ratio(rbf(x, bandwidth), rbf(y, bandwidth), "song")
        np.testing.assert_allclose(cka(x, y, kernel="rbf", bandwidth=bandwidth), expected, atol=1e-4)
    gradient = jax.grad(partial(cka, kernel="rbf", bandwidth=bandwidth))(x, y)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.slow
def test_derivatives_with_a_huge_example():
    x, y = with_huge_examples(40, 5, 3, 1, 1e5)
    with jax.enable_x64(True):
        x, y = np.float64(x), np.float64(y)
        gradients = [jax.grad(partial(cka, form=form))(x, y) for form in ("gram", "features")]
        np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("kernel", "step"), [("linear", 4), slow("linear", 1), slow("rbf", 1)])
def test_transformations(kernel, step):
    """Of the functions, estimators and forms each fourth is taken by default: all estimators are among them."""
    x, y = data()
    number, batch = cka(x, y, kernel=kernel), jnp.stack([x, 2 * x + 1, x**2])
    np.testing.assert_allclose(jax.jit(lambda x, y: cka(x, y, kernel=kernel))(x, y), number, rtol=1e-5)
    mapped = jax.vmap(lambda x: cka(x, y, kernel=kernel))(batch)
    np.testing.assert_allclose(mapped, [cka(x, y, kernel=kernel) for x in batch], rtol=1e-5)
    forms = ("gram",) if kernel == "rbf" else ("gram", "features")
    every = list(itertools.product(forms, (cka, cka_distance), ESTIMATORS))[::step]
    with jax.enable_x64(True):
        y = np.float64(y)
        values = jax.jit(lambda x: jnp.stack([f(x, y, estimator, kernel, form=form) for form, f, estimator in every]))
        check_derivative(values, np.float64(x))


def check_derivative(values, x, step=1e-6):
    direction = np.random.default_rng(9).normal(size=x.shape)
    weights = np.random.default_rng(8).normal(size=values(x).shape)
    gradient = (jax.jit(jax.grad(lambda x: (weights * values(x)).sum()))(x) * direction).sum()
    slope = (weights * (values(x + step * direction) - values(x - step * direction))).sum() / (2 * step)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-9)


# CKA: degenerate and mistaken input
def test_constant_input_has_no_similarity():
    x, y = data()
    constant = np.full_like(x, 0.1)
    for form in ("gram", "features"):
        assert np.isnan(cka(constant, y, form=form)) and np.isnan(cka(x, np.zeros_like(y), form=form))
        assert np.isnan(cka_distance(constant, y, form=form))
    assert np.isnan(cka(constant, y, kernel="rbf"))
    assert np.isnan(channel_normalized_cka(constant, y))


@pytest.mark.slow
def test_dead_and_duplicate_channels():
    x, y = data()
    expected = cka(x, y)
    padded = np.concatenate([x, np.full((N, 2), 0.1, np.float32)], 1)
    np.testing.assert_allclose(cka(padded, y), expected, rtol=1e-5)
    np.testing.assert_allclose(
        channel_normalized_cka(padded, y), channel_normalized_cka(x, y), rtol=1e-5
    )  # and not what is left of 0.1 less its mean, scaled up
    np.testing.assert_allclose(cka(np.concatenate([x, x], 1), y), expected, rtol=1e-5)
    assert np.isfinite(jax.grad(channel_normalized_cka)(padded, y)).all()


@pytest.mark.slow
def test_duplicate_examples():
    x, y = data()
    x[1] = x[0]
    got = cka(x, y, kernel="rbf")
    np.testing.assert_allclose(got, ratio(rbf(x, 1), rbf(y, 1), "song"), atol=5e-6)
    assert np.isfinite(jax.grad(lambda x: cka(x, y, kernel="rbf"))(x)).all()


def test_nan_is_reported():
    x, y = data(q=P)
    x[3, 2] = np.nan
    with pytest.raises(InputError, match="x: .*NaN"):
        cka(x, y)
    with pytest.raises(InputError, match="y: .*NaN"):
        channel_normalized_cka(y, x)
    for function in (cka, cka_distance, channel_normalized_cka, lambda x, y: cka(x, y, kernel="rbf")):
        assert np.isnan(jax.jit(function)(x, y)) and np.isnan(jax.jit(function)(y, x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros((N + 1, 2))}, "y: got 25 examples"),
        ({"x": np.zeros((3, 2)), "y": np.zeros((3, 2))}, "3 examples.*at least 4.*'song'"),
        ({"x": np.zeros(N)}, "x: got shape"),
        ({"estimator": "unbiased"}, "estimator: got 'unbiased'.*song"),
        ({"kernel": "cosine"}, "kernel: got 'cosine'.*linear, rbf"),
        ({"form": "dual"}, "form: got 'dual'"),
        ({"kernel": "rbf", "form": "features"}, "form: got 'features'"),
        ({"bandwidth": 0.0}, "bandwidth: got 0.0"),
        ({"bandwidth": np.ones(2)}, "bandwidth: .*positive scalar"),
        ({"samples": "patches"}, "samples: got 'patches'"),
    ],
)
def test_mistakes(change, message):
    x, y = data()
    for function in (cka, cka_distance):
        with pytest.raises(InputError, match=message):
            function(**({"x": x, "y": y} | change))


@pytest.mark.slow
def test_two_examples_are_enough_for_gretton():
    np.testing.assert_allclose(cka(np.eye(2), np.eye(2)[::-1], "gretton"), 1, rtol=1e-6)
