"""G_ReLU-Procrustes and G_ReLU-CKA against float64 NumPy, brute force, planted symmetries and published figures."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from derivatives import check_derivative
from golden import CASES, activations

from symjax.errors import InputError
from symjax.similarity import cka, wreath_cka, wreath_cka_distance, wreath_procrustes, wreath_procrustes_distance

N = 10


def maps(seed, channels=5, size=3, n=N):
    """Features behind a ReLU, channels and examples with something in common."""
    rng = np.random.default_rng(seed)
    signal = np.random.default_rng(0).normal(size=(n, size, size, 1))
    return np.float32(np.maximum(rng.normal(size=(n, size, size, channels)) + signal, 0))


def symmetry(seed, channels):
    """A permutation and a positive scaling over several orders of magnitude."""
    rng = np.random.default_rng(seed)
    return rng.permutation(channels), np.float32(np.exp(rng.uniform(-4, 4, channels)))


def procrustes_by_definition(x, y):
    """d^2 = |X|^2 + |Y|^2 - 2 max <X, P Y> by trying all, channels at unit norm, the narrower filled up with zeros."""
    width = max(x.shape[-1], y.shape[-1])
    units = []
    for z in (x, y):
        z = np.float64(z).reshape(-1, z.shape[-1])
        z = z / np.where(z.any(0), np.linalg.norm(z, axis=0), 1)
        units.append(np.pad(z, [(0, 0), (0, width - z.shape[1])]))
    x, y = units
    best = max(np.sum(x * y[:, p]) for p in map(list, itertools.permutations(range(width))))
    return 1 - np.sqrt(((x**2).sum() + (y**2).sum() - 2 * best) / (4 * width))


def kernel_by_definition(x, reduce):
    """Example by example and channel by channel."""
    x = np.float64(x)
    x = x - x.mean((0, 1, 2))
    x = x / np.sqrt((x**2).sum((0, 1, 2)))
    k = np.zeros((len(x), len(x)))
    for i, j in itertools.product(range(len(x)), repeat=2):
        k[i, j] = getattr(np, reduce)([(x[i, :, :, c] * x[j, :, :, c]).sum() for c in range(x.shape[-1])])
    return k


def cka_by_definition(x, y, reduce="max"):
    def hsic(k, l):  # noqa: E741
        n, one, off = len(k), np.ones(len(k)), 1 - np.eye(len(k))
        k, l = k * off, l * off  # noqa: E741
        cross = 2 / (n - 2) * (one @ k @ l @ one)
        return (np.sum(k * l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - cross) / (n * (n - 3))

    k, l = kernel_by_definition(x, reduce), kernel_by_definition(y, reduce)  # noqa: E741
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


# Procrustes


@pytest.mark.parametrize("widths", [(1, 1), (5, 5), (3, 6), (6, 3)])
def test_procrustes_agrees_with_its_definition(widths):
    for seed in range(3):
        x, y = (maps(seed + 10 * i, width) for i, width in enumerate(widths))
        for z in (y, np.float32(np.random.default_rng(seed).normal(size=y.shape))):  # and not behind a ReLU
            expected = procrustes_by_definition(x, z)
            np.testing.assert_allclose(wreath_procrustes(x, z), expected, atol=2e-6)
            np.testing.assert_allclose(wreath_procrustes(z, x), expected, atol=2e-6)
            np.testing.assert_allclose(wreath_procrustes_distance(x, z), 2 * (1 - expected), atol=4e-6)


@pytest.mark.parametrize("case", CASES)
def test_published_figures(case):
    x, y = case.features()
    np.testing.assert_allclose(wreath_procrustes(x, y), case.wreath_procrustes, atol=1e-5)
    np.testing.assert_allclose(wreath_cka(x, y), case.wreath_cka_max, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 8, 64])
def test_a_planted_symmetry_is_found(channels):
    """The distance is exactly zero, and not the square root of a rounding error."""
    x = maps(1, channels)
    permutation, scaling = symmetry(2, channels)
    y = x[..., permutation] * scaling
    similarity, matching = wreath_procrustes(x, y, full_output=True)
    assert similarity > 1 - 1e-6
    np.testing.assert_array_equal(matching.permutation, permutation)
    np.testing.assert_allclose(matching.scaling, scaling, rtol=2e-6)
    np.testing.assert_allclose(x @ matching.matrix.T, y, rtol=5e-6)


def test_orders_of_magnitude():
    x, y = maps(1), maps(2)
    expected = wreath_procrustes(x, y), wreath_cka(x, y)
    loud = y * np.float32([1e-30, 1, 1e30, 1e-3, 1e10])
    np.testing.assert_allclose((wreath_procrustes(x, loud), wreath_cka(x, loud)), expected, atol=2e-6)


def test_least_value_for_nonnegative_features():
    """Channels that share no pixel: 1 - 1 / sqrt(2); opposite ones: 0."""
    x = np.eye(8, dtype=np.float32)
    np.testing.assert_allclose(wreath_procrustes(x[:, :4], x[:, 4:]), 1 - 0.5**0.5, rtol=1e-6)
    assert wreath_procrustes(x[:, :5], x[:, 5:]) > 1 - 0.5**0.5
    ones = np.ones((5, 3))
    np.testing.assert_allclose(wreath_procrustes(ones, -ones), 0, atol=1e-6)


def test_dead_channels_count_as_absent():
    """Dead channels do not count as agreement: the values are those of the networks without them."""
    x, y = maps(1), np.float32(np.random.default_rng(1).normal(size=(N, 3, 3, 4)))  # negative products too
    x_dead, y_dead = (np.concatenate([z, np.zeros_like(z[..., :3])], -1)[..., ::-1] for z in (x, y))
    expected = wreath_procrustes(x, y)
    for pair in ((x_dead, y), (x, y_dead), (x_dead, y_dead), (y_dead, x_dead)):
        np.testing.assert_allclose(wreath_procrustes(*pair), expected, atol=1e-6)
        assert np.isfinite(jax.grad(wreath_procrustes)(*pair)).all()
    assert expected < 0.5
    matching = wreath_procrustes(x, y_dead, full_output=True)[1]
    np.testing.assert_array_equal(np.asarray(matching.scaling) == 0, [True] * 3 + [False] * 4)
    for pair in ((0 * x, y), (x, 0 * y), (0 * x, 0 * y)):
        assert np.isnan(wreath_procrustes(*pair))


def test_duplicate_channels():
    x = maps(1)
    twice = np.concatenate([x, x], -1)
    assert wreath_procrustes(twice, twice[..., ::-1]) > 1 - 1e-6
    # c channels are matched exactly and c have no partner: d^2 = c, of 4 * 2 c.
    np.testing.assert_allclose(wreath_procrustes(x, twice), 1 - np.sqrt(1 / 8), atol=2e-6)


def test_smaller_maps_are_enlarged():
    x, y = activations(1, (N, 4, 4, 3)), activations(2, (N, 4, 4, 4))
    small = y[:, :2, :2]
    large = np.repeat(np.repeat(small, 2, 1), 2, 2)
    np.testing.assert_allclose(wreath_procrustes(x, small), procrustes_by_definition(x, large), atol=2e-6)
    np.testing.assert_allclose(wreath_procrustes(small, x), procrustes_by_definition(x, large), atol=2e-6)
    matrices = [z.reshape(-1, z.shape[-1]) for z in (x, y)]
    np.testing.assert_allclose(wreath_procrustes(*matrices), wreath_procrustes(x, y), atol=1e-6)


def test_procrustes_distance_is_a_metric():
    spaces = [maps(seed) for seed in range(3)]
    spaces += [np.float32(np.random.default_rng(seed).normal(size=(N, 3, 3, 5))) for seed in range(2)]
    check_metric(wreath_procrustes_distance, spaces, 1e-6)


def check_metric(distance, spaces, tol):
    table = np.array([[distance(a, b) for b in spaces] for a in spaces])
    np.testing.assert_allclose(np.diag(table), 0, atol=tol)
    np.testing.assert_allclose(table, table.T, atol=tol)
    assert (table[:, :, None] <= table[:, None, :] + table.T[None, :, :] + tol).all()
    assert (table[~np.eye(len(spaces), dtype=bool)] > 0.1).all()


# CKA


@pytest.mark.parametrize("reduce", ["max", "median"])
@pytest.mark.parametrize("channels", [(5, 4), (1, 6)])  # of an even number the median lies between two
@pytest.mark.few(2)
def test_cka_agrees_with_its_definition(reduce, channels):
    x, y = maps(1, channels[0], n=12), maps(2, channels[1], size=2, n=12)
    expected = cka_by_definition(x, y, reduce)
    np.testing.assert_allclose(wreath_cka(x, y, reduce), expected, atol=5e-6)
    np.testing.assert_allclose(wreath_cka_distance(x, y, reduce), np.arccos(expected), atol=1e-5)


@pytest.mark.parametrize("n", [128, 129, 300, 520])  # strips: one, two, three of which the last is short, four
@pytest.mark.few(2)
def test_cka_in_strips(n):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, n, 1, 2, 3)) ** 2
    products = []
    for z in (x, y):
        z = z - z.mean((0, 1, 2))
        z = z / np.sqrt((z**2).sum((0, 1, 2)))
        k = np.einsum("iabc,jabc->cij", z, z).max(0)
        k = k - np.diag(np.diag(k))
        rows = k.sum(0) / (n - 2)
        products.append((k - rows - rows[:, None] + rows.sum() / (n - 1)) * (1 - np.eye(n)))
    a, b = products
    expected = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(wreath_cka(np.float32(x), np.float32(y)), expected, atol=5e-6)


@pytest.mark.parametrize("reduce", ["max", "median"])
@pytest.mark.few(1)
def test_constant_channels_count_as_absent(reduce):
    x, y = maps(1), maps(2)
    expected = wreath_cka(x, y, reduce)
    constant = np.concatenate([np.full_like(x[..., :2], 0.1), x, np.zeros_like(x[..., :1])], -1)
    np.testing.assert_allclose(wreath_cka(constant, y, reduce), expected, atol=2e-6)
    assert np.isfinite(jax.grad(wreath_cka)(constant, y, reduce)).all()
    assert np.isnan(wreath_cka(0 * x, y, reduce)) and np.isnan(wreath_cka(x, np.full_like(y, 0.1), reduce))
    assert np.isnan(wreath_cka_distance(0 * x, y, reduce))


@pytest.mark.parametrize("reduce", ["max", "median"])
@pytest.mark.slow
def test_cka_of_what_is_the_same_up_to_a_symmetry(reduce):
    x = maps(1, 7)
    permutation, scaling = symmetry(3, 7)
    y = x[..., permutation] * scaling * np.float32([1, -1, 1, 1, -1, 1, 1]) + 2 * scaling
    assert abs(wreath_cka(x, y, reduce) - 1) < 2e-6
    assert wreath_cka_distance(x, x, reduce) < 1e-6 and wreath_cka_distance(x, y, reduce) < 1e-4
    assert np.isfinite(jax.grad(wreath_cka_distance)(x, x, reduce)).all()


def test_cka_distance_is_a_metric():
    check_metric(wreath_cka_distance, [maps(seed) for seed in range(5)], 1e-6)


def test_estimators():
    """For one channel the value is linear CKA."""
    x, y = maps(1, 1), maps(2, 1)
    for estimator in ("song", "gretton", "lange"):
        got = wreath_cka(x, y, estimator=estimator)
        centered = [z - z.mean() for z in (x, y)]
        np.testing.assert_allclose(got, cka(*centered, estimator), atol=2e-6)


def test_no_array_of_all_channels_times_all_pairs():
    jaxpr = str(jax.make_jaxpr(wreath_cka)(*np.zeros((2, 500, 2, 2, 64), np.float32)))
    assert "[64,500,500]" not in jaxpr and "[500,500,64]" not in jaxpr


# Both


FUNCTIONS = {
    "procrustes": wreath_procrustes_distance,
    "cka": wreath_cka,
    "cka_distance": wreath_cka_distance,
    "median": lambda x, y: wreath_cka(x, y, "median"),
}
each = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=list(FUNCTIONS))


@pytest.mark.parametrize("function", [wreath_procrustes_distance, wreath_cka, slow(wreath_cka_distance)])
@pytest.mark.few(1)
def test_transformations(function):
    x, y = maps(1), maps(2)
    number, batch = function(x, y), jnp.stack([x, x**2, x[..., ::-1] + y])
    np.testing.assert_allclose(jax.jit(function)(x, y), number, rtol=1e-5)
    mapped = jax.jit(jax.vmap(lambda x: function(x, y)))(batch)
    np.testing.assert_allclose(mapped, [function(z, y) for z in batch], rtol=1e-5)
    with jax.enable_x64(True):
        x, y = np.float64(x), np.float64(y)
        np.testing.assert_allclose(function(x, y), number, rtol=2e-5)
        gradients = check_derivative(function, x, y)
        change = np.random.default_rng(9).normal(size=x.shape)  # forwards as backwards
        _, forwards = jax.jvp(lambda x: function(x, y), (x,), (change,))
        np.testing.assert_allclose(forwards, (gradients[0] * change).sum(), rtol=1e-9)


@each
def test_nan_is_reported(function):
    x, y = maps(1), maps(2)
    x[1, 0, 2, 3] = np.nan
    with pytest.raises(InputError, match="x: .*NaN"):
        function(x, y)
    assert np.isnan(jax.jit(function)(x, y)) and np.isnan(jax.jit(function)(y, x))


def test_mistakes():
    x, y = maps(1), maps(2)
    for function in (wreath_procrustes, wreath_procrustes_distance, wreath_cka, wreath_cka_distance):
        with pytest.raises(InputError, match="y: got 9 examples"):
            function(x, y[:9])
        with pytest.raises(InputError, match="x: got shape"):
            function(x[0, 0, 0], y)
    for function in (wreath_cka, wreath_cka_distance):
        with pytest.raises(InputError, match="reduce: got 'mean'.*max, median"):
            function(x, y, "mean")
        with pytest.raises(InputError, match="estimator: got 'unbiased'"):
            function(x, y, estimator="unbiased")
        with pytest.raises(InputError, match="3 examples.*at least 4"):
            function(x[:3], y[:3])
    with pytest.raises(InputError, match="samples: got 'patches'"):
        wreath_procrustes(x, y, samples="patches")
