"""Minibatch CKA against its definition in NumPy and against CKA of the whole data."""

import itertools

import jax
import numpy as np
import pytest
from stream_helpers import data, fed, maps_of

from symjax import similarity
from symjax.errors import InputError


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def centering(n):
    return np.eye(n) - 1 / n


def hsic_by_definition(k, l, estimator):  # noqa: E741
    n = len(k)
    if estimator == "gretton":
        return np.trace(k @ centering(n) @ l @ centering(n)) / (n - 1) ** 2
    off = 1 - np.eye(n)
    k, l = k * off, l * off  # noqa: E741
    cross = 2 / (n - 2) * (k.sum(0) @ l.sum(0))
    return ((k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - cross) / (n * (n - 3))


def rbf(x):
    apart = ((x[:, None] - x[None]) ** 2).sum(-1)
    return np.exp(-apart / (2 * np.median(apart[np.triu_indices(len(x), 1)])))


def max_kernel(x):
    x = x.reshape(len(x), -1, x.shape[-1])
    x = x - x.mean((0, 1))
    x = x / np.sqrt((x**2).mean(0).sum(0))  # of mean square 1 per example
    return np.einsum("ipc,jpc->ijc", x, x).max(-1)


KERNELS = {
    "linear": (lambda x: x.reshape(len(x), -1) @ x.reshape(len(x), -1).T, similarity.cka_stream, {"form": "minibatch"}),
    "rbf": (lambda x: rbf(x.reshape(len(x), -1)), similarity.cka_stream, {"kernel": "rbf"}),
    "wreath": (max_kernel, similarity.wreath_cka_stream, {}),
}


def minibatch_by_definition(x, y, sizes, kernel, estimator):
    terms, ends = np.zeros(3), np.cumsum(sizes)
    for start, end in zip(ends - sizes, ends, strict=True):
        k, l = (kernel(np.float64(z[start:end])) for z in (x, y))  # noqa: E741
        terms += (end - start) * np.array([hsic_by_definition(*pair, estimator) for pair in ((k, l), (k, k), (l, l))])
    return terms[0] / np.sqrt(terms[1] * terms[2])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("estimator", ["song", "gretton"])
@pytest.mark.few(2)
def test_minibatch_cka_agrees_with_its_definition(name, estimator):
    kernel, make, options = KERNELS[name]
    x, y = maps_of(50)
    stream = make(estimator=estimator, **options)
    for sizes in ([20, 20, 10], [10, 20, 20]):
        got = stream.finalize(fed(stream, x, y, sizes))
        np.testing.assert_allclose(got, minibatch_by_definition(x, y, np.array(sizes), kernel, estimator), atol=1e-5)
    states = [stream.update(stream.init(x, y), x[i : i + 10], y[i : i + 10]) for i in (0, 10, 20, 30, 40)]
    expected = minibatch_by_definition(x, y, np.full(5, 10), kernel, estimator)
    for order in itertools.islice(itertools.permutations(states), 0, 120, 31):
        merged = stream.init(x, y)
        for state in order:
            merged = stream.merge(merged, state)
        np.testing.assert_allclose(stream.finalize(merged), expected, atol=1e-5)


@pytest.mark.parametrize("estimator", ["song", "gretton", "lange"])
@pytest.mark.few(1)
def test_one_batch_is_the_one_shot_cka(estimator):
    for x, y in (data(), maps_of(10)):  # in the form of features, and of Gram matrices
        stream = similarity.cka_stream(estimator, form="minibatch")
        got = stream.finalize(fed(stream, x, y, [len(x)]))
        np.testing.assert_allclose(got, similarity.cka(x, y, estimator), atol=2e-6)
    if estimator == "lange":
        stream = similarity.wreath_cka_stream("median", estimator)
        expected = similarity.wreath_cka(x, y, "median", estimator)
        np.testing.assert_allclose(stream.finalize(fed(stream, x, y, [10])), expected, atol=5e-6)


def test_minibatch_cka_is_near_that_of_the_whole():
    x, y = data(8000)
    stream = similarity.cka_stream(form="minibatch")
    parts = [fed(stream, x[i : i + 800], y[i : i + 800], [20] * 40) for i in range(0, 8000, 800)]
    whole = parts[0]
    for part in parts[1:]:
        whole = stream.merge(whole, part)
    error = np.std([stream.finalize(part) for part in parts], ddof=1) / np.sqrt(10)
    assert error < 0.02
    np.testing.assert_allclose(stream.finalize(whole), similarity.cka(x, y), atol=3 * error)


def test_minibatch_cka_of_any_size():
    """Fourth powers would overflow single precision, also where the first batch is the smallest."""
    x, y = data()
    x[:20] *= 1e-3
    stream = similarity.cka_stream(form="minibatch")
    expected = stream.finalize(fed(stream, x, y, [20] * 3))
    for size in (1e-20, 1e20):
        got = stream.finalize(fed(stream, x * np.float32(size), y / np.float32(size), [20] * 3))
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_minibatch_cka_of_constants():
    x, y = data()
    stream = similarity.cka_stream(form="minibatch")
    assert np.isnan(stream.finalize(fed(stream, np.zeros_like(x), y, [20] * 3)))
    x[:20] = 0.1  # in one batch alone
    assert np.isfinite(stream.finalize(fed(stream, x, y, [20] * 3)))


def test_batches_of_fifty_thousand():
    """n (n - 3) is over 2^31."""
    like = jax.ShapeDtypeStruct((50_000, 3), np.float32)
    for stream in (similarity.cka_stream(form="minibatch"), similarity.cka_stream(), similarity.wreath_cka_stream()):
        jax.eval_shape(stream.update, stream.init(like, like), like, like)


# The exact form


@pytest.mark.parametrize("estimator", ["song", "gretton", "lange"])
@pytest.mark.few(1)
def test_exact_form_is_the_whole_in_any_order(estimator):
    x, y = data()
    classes = np.repeat(np.arange(3), 20)[:, None]  # sorted, so that batches differ
    x, y = x + 3 * np.float32(classes == [0, 1, 2, 0, 1]), y - 2 * np.float32(classes) + 100
    expected = similarity.cka(x, y, estimator)
    stream = similarity.cka_stream(estimator)
    states = [fed(stream, x[i : i + 20], y[i : i + 20], [20]) for i in (0, 20, 40)]
    np.testing.assert_allclose(stream.finalize(fed(stream, x, y, [20] * 3)), expected, atol=5e-6)
    for first, second, third in itertools.permutations(states):
        merged = stream.merge(stream.merge(first, stream.merge(stream.init(x, y), second)), third)
        np.testing.assert_allclose(stream.finalize(merged), expected, atol=5e-6)
    minibatch = similarity.cka_stream(estimator, form="minibatch")
    assert abs(minibatch.finalize(fed(minibatch, x, y, [20] * 3)) - expected) > 0.05  # which depends on the order


def test_exact_form_of_any_size_masked_and_with_huge_examples():
    x, y = data()
    x[7] *= 1e5
    stream = similarity.cka_stream()
    expected = similarity.cka(x, y, form="gram")
    for size in (1e-20, 1, 1e20):
        got = stream.finalize(fed(stream, x * np.float32(size), y / np.float32(size), [20] * 3))
        np.testing.assert_allclose(got, expected, atol=1e-5)
    state = stream.init(x, y)
    for start in (0, 20, 40):
        mask = np.arange(40) % 2 == 1
        padded = [np.full((40, z.shape[1]), np.nan, np.float32) for z in (x, y)]
        for z, source in zip(padded, (x, y), strict=True):
            z[mask] = source[start : start + 20]
        state = stream.update(state, *padded, mask)
    np.testing.assert_allclose(stream.finalize(state), expected, atol=1e-5)
    assert np.isnan(stream.finalize(fed(stream, np.full_like(x, 0.1), y, [20] * 3)))


def test_mistakes_in_the_exact_form():
    with pytest.raises(InputError, match="^form: got 'exact', expected 'minibatch'"):
        similarity.cka_stream(kernel="rbf", form="exact")
    with pytest.raises(InputError, match="^form: got 'whole'"):
        similarity.cka_stream(form="whole")
    stream, (x, y) = similarity.cka_stream(), data()
    with pytest.raises(InputError, match="^x, y: got 16384 and 4 features, expected at most 16384"):
        stream.init(jax.ShapeDtypeStruct((60, 2**14), np.float32), y)
    with pytest.raises(InputError, match="^y: got 3 features of float32, expected 4"):
        stream.update(stream.init(x, y), x, y[:, :3])
    with pytest.raises(InputError, match="^state: got 3 examples, expected at least 4"):
        stream.finalize(fed(stream, x[:3], y[:3], [3]))
