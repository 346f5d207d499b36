"""Streams: moments give the one-shot functions on the whole data, and states merge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stream_cases import EXACT, each
from stream_helpers import X_WIDTH, N, data, fed, maps_of

from symjax import similarity
from symjax.errors import InputError
from symjax.similarity import FewExamplesWarning
from symjax.similarity.streams.stream import add_counts, as_float, count_of, require_samples


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def upto_signs(tree):
    return jax.tree.map(lambda leaf: np.abs(np.asarray(leaf, np.float64)), tree)


def assert_same(got, expected, atol=5e-6):
    """Assert equal results, up to the signs of pairs of directions."""
    got, expected = upto_signs(got), upto_signs(expected)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


# Streams of moments are the one-shot functions
@each
@pytest.mark.few(4)
def test_equals_the_one_shot_function(name):
    make, function, options = EXACT[name]
    x, y = data()
    stream = make(**options)
    got = stream.finalize(fed(stream, x, y, [20, 20, 20]))
    expected = function(x, y, **options)
    assert_same(got, expected, atol=2e-5)
    assert all(leaf.dtype == other.dtype for leaf, other in zip(*map(jax.tree.leaves, (got, expected)), strict=True))
    again = stream.finalize(fed(stream, x, y, [1] * 20 + [20, 20]))  # fewer samples than neurons, to begin
    assert_same(again, expected, atol=2e-5)


@each
@pytest.mark.few(5)
def test_maps(name):
    make, function, options = EXACT[name]
    for samples, n in (("positions", 30), ("pool", 60)):
        x, y = maps_of(n)
        stream = make(samples=samples, **options)
        expected = function(x, y, samples=samples, **options)
        assert_same(stream.finalize(fed(stream, x, y, [n // 3] * 3)), expected, atol=2e-5)


def test_flattened_maps():
    x, y = maps_of(30)
    stream = similarity.procrustes_stream(samples="flatten")
    got = stream.finalize(fed(stream, x, y, [10] * 3))
    np.testing.assert_allclose(got, similarity.procrustes(x, y, samples="flatten"), atol=2e-6)


def test_smaller_maps_are_enlarged():
    x, y = maps_of(30)
    stream = similarity.procrustes_stream()
    got = stream.finalize(fed(stream, x, y[:, :, :1], [10] * 3))
    np.testing.assert_allclose(got, similarity.procrustes(x, y[:, :, :1]), atol=2e-6)
    with pytest.raises(InputError, match="map size"):
        similarity.cca_stream().init(x, y[:, :, :1])


@pytest.mark.parametrize("name", ["pls", "procrustes_centered"])
@pytest.mark.few(1)
def test_double_precision(name):
    make, function, options = EXACT[name]
    with jax.enable_x64(True):
        x, y = (np.float64(z) for z in data())
        stream = make(**options)
        got = stream.finalize(fed(stream, x, y, [20] * 3))
        got, expected = upto_signs(got), upto_signs(function(x, y, **options))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@each
@pytest.mark.few(5)
def test_merging_in_any_order(name):
    make, function, options = EXACT[name]
    x, y = data()
    stream = make(**options)
    parts = [stream.update(stream.init(x, y), x[i : i + 20], y[i : i + 20]) for i in (0, 20, 40)]
    expected = function(x, y, **options)
    a, b, c = parts
    for merged in (
        stream.merge(stream.merge(a, b), c),
        stream.merge(c, stream.merge(b, a)),
        stream.merge(stream.init(x, y), stream.merge(stream.merge(a, stream.init(x, y)), stream.merge(b, c))),
        stream.update(stream.merge(a, c), x[20:40], y[20:40]),
    ):
        assert_same(stream.finalize(merged), expected, atol=2e-5)


def test_one_state_serves_several_measures():
    x, y = data()
    state = fed(similarity.cca_stream(), x, y, [20] * 3)
    assert len({make(**options).kind for make, _, options in map(EXACT.get, ("cca", "pwcca", "svcca", "pls"))}) == 1
    np.testing.assert_allclose(similarity.pwcca_stream().finalize(state), similarity.pwcca(x, y), atol=2e-6)
    np.testing.assert_allclose(similarity.svcca_stream().finalize(state), similarity.svcca(x, y), atol=2e-6)


# Accuracy
def by_qr(x, y):
    (x, y) = (np.float64(z) - np.float64(z).mean(0) for z in (x, y))
    return np.linalg.svd(np.linalg.qr(x)[0].T @ np.linalg.qr(y)[0], compute_uv=False)


@pytest.mark.parametrize(("offset", "first"), [(0.0, 1.0), (300.0, 1.0), (0.0, 100.0)])
def test_ill_conditioned_data_in_single_precision(offset, first):
    """Singular values down to 1e-4, where a Gram matrix in float32 has lost them; a large mean; an outlier to begin."""
    rng = np.random.default_rng(3)
    x, y = data(2000, offset=0)
    mix = np.linalg.qr(rng.normal(size=(X_WIDTH, X_WIDTH)))[0]
    x = np.float32((x * np.logspace(0, -4, X_WIDTH)) @ mix + offset)
    x[0], y[0] = x[0] * first, y[0] * first
    stream = similarity.cca_stream()
    got = stream.finalize(fed(stream, x, y, [20] * 100)).correlations
    direct = similarity.cca(x, y).correlations
    expected = by_qr(x, y)
    assert np.abs(got - expected).max() < max(4 * np.abs(direct - expected).max(), 2e-5)


def test_many_updates_do_not_add_up_their_rounding():
    x, y = data()
    y[:, 3] = y[:, 0] + y[:, 1]  # rounding would make a fourth direction of it
    stream = similarity.cca_stream()

    @jax.jit
    def repeated(state):
        return jax.lax.fori_loop(0, 3000, lambda _, state: stream.update(state, x, y), state)

    state = repeated(stream.init(x, y))
    result = stream.finalize(state)
    assert (result.x_rank, result.y_rank) == (5, 3)
    np.testing.assert_allclose(result.correlations[:3], by_qr(x, y[:, :3]), atol=1e-5)
    np.testing.assert_array_equal(state.num_updates, [3000 % 32, 3000 // 32 % 32, 3000 // 32**2])


def test_constant_and_dead_neurons():
    x, y = data()
    x[:, 1], x[:, 3], y[:, 2] = 0.1, 0, -1e3
    stream = similarity.cca_stream()
    state = fed(stream, x, y, [20] * 3)
    assert not np.asarray(state.factors)[:, :, [1, 3, X_WIDTH + 2]].any()
    result = stream.finalize(stream.merge(state, state))
    assert (result.x_rank, result.y_rank) == (3, 3)
    assert (result.x_mean[1], result.y_mean[2]) == (np.float32(0.1), -1e3)
    for name in ("cca", "wreath"):
        make, function, options = EXACT[name]
        stream = make(**options)
        assert_same(stream.finalize(fed(stream, x, y, [20] * 3)), function(x, y, **options), atol=2e-5)


def test_few_examples():
    x, y = data(8)
    stream = similarity.cca_stream()
    state = fed(stream, x, y, [1] * 8)
    with pytest.warns(FewExamplesWarning, match="8 samples of 5 and 4") as warned:
        got = stream.finalize(state)
    assert warned[0].filename == __file__
    np.testing.assert_allclose(got.correlations, by_qr(x, y), atol=1e-5)
    x, y = x[:4], y[:4]
    state = fed(stream, x, y, [1] * 4)
    with pytest.warns(FewExamplesWarning):
        result = stream.finalize(state)
    assert (result.x_rank, result.y_rank) == (3, 3)
    with pytest.warns(FewExamplesWarning):
        similarity.svcca_stream(1.0).finalize(state)
    stream = similarity.procrustes_stream(center=True)
    got = stream.finalize(fed(stream, x, y, [1] * 4))
    np.testing.assert_allclose(got, similarity.procrustes(x, y, center=True), atol=2e-6)


def test_counts_past_32_bits():
    many, total = 2**31 - 1, 0
    count = count_of(0)
    for _ in range(5):
        count, total = add_counts(count, count_of(many)), total + many
    assert require_samples(count, 1, "samples") == total
    assert as_float(count, jnp.float32) == np.float32(total)


# Masks
@each
@pytest.mark.few(1)
def test_padding_is_masked(name):
    make, function, options = EXACT[name]
    x, y = data()
    stream = make(**options)
    padded = [np.concatenate([np.full((12, z.shape[1]), np.nan, np.float32), z]) for z in (x, y)]
    mask = np.arange(N + 12) >= 12
    state = stream.update(stream.init(x, y), *padded, mask)
    state = stream.update(state, *padded, np.zeros_like(mask))
    assert_same(stream.finalize(state), function(x, y, **options), atol=2e-5)


def test_masked_maps_and_nothing_counted():
    x, y = maps_of(36)
    stream = similarity.cca_stream()
    state = stream.update(stream.init(x, y), x, y, np.zeros(36, bool))
    with pytest.raises(InputError, match="state: got 0 samples"):
        stream.finalize(state)
    state = stream.update(state, x, y, np.arange(36) < 30)
    assert_same(stream.finalize(state), similarity.cca(x[:30], y[:30]), atol=2e-5)


# Transformations
@pytest.mark.parametrize("name", ["procrustes_centered", "wreath"])
@pytest.mark.few(1)
def test_scan_and_vmap(name):
    make, function, options = EXACT[name]
    x, y = (np.stack([a, b]) for a, b in zip(data(seed=1), data(seed=2), strict=True))
    stream = make(**options)

    @jax.jit
    @jax.vmap
    def scanned(x, y):
        batches = (x.reshape(3, 20, -1), y.reshape(3, 20, -1))
        state, _ = jax.lax.scan(lambda state, batch: (stream.update(state, *batch), None), stream.init(x, y), batches)
        return stream.finalize(state)

    both = scanned(x, y)
    for i in range(2):
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], both), function(x[i], y[i], **options), atol=2e-5)


@pytest.mark.slow
def test_derivatives_go_through_updates():
    x, y = data()

    def streamed(x):
        stream = similarity.procrustes_stream(center=True)
        state = fed(stream, x, y, [20] * 3)
        return stream.finalize(stream.merge(state, stream.init(x, y)))

    got = jax.jit(jax.grad(streamed))(x)
    expected = jax.jit(jax.grad(lambda x: similarity.procrustes(x, y, center=True)))(x)
    np.testing.assert_allclose(got, expected, atol=1e-6)
