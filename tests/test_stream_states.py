"""Streams: saved states, mistaken batches, and values that do not exist."""

import warnings

import jax
import numpy as np
import pytest
from stream_cases import EXACT, each
from stream_helpers import N, data, fed, maps_of

from symjax import similarity
from symjax.errors import InputError
from symjax.similarity import load_stream, save_stream
from symjax.similarity.linalg import factor_of_parts

PLAIN = [similarity.cca_stream, similarity.procrustes_stream, similarity.cka_stream, similarity.wreath_cka_stream]


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.mark.parametrize("make", PLAIN)
def test_begins_with_shapes(make):
    x, y = maps_of(6)
    stream = make()
    shapes = [jax.ShapeDtypeStruct((1, *z.shape[1:]), z.dtype) for z in (x, y)]
    for a, b in zip(*map(jax.tree.leaves, (stream.init(*shapes), stream.init(x, y))), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


# Degenerate and mistaken input
@pytest.mark.parametrize("make", [*PLAIN, similarity.permutation_procrustes_stream])
@pytest.mark.few(1)
def test_nothing_and_nan_make_nan_where_they_cannot_be_seen(make):
    x, y = data()
    stream = make()
    with pytest.raises(InputError, match="state: got 0"):
        stream.finalize(stream.init(x, y))
    x[3, 1] = np.nan
    with_nan = jax.jit(stream.update)(stream.init(x, y), x, y)
    finalize = jax.jit(lambda state: jax.tree.leaves(stream.finalize(state))[0])
    assert np.isnan(finalize(stream.init(x, y))).all() and np.isnan(finalize(with_nan)).all()


@each
def test_streams_of_one_sample_or_nan(name):
    make, _, options = EXACT[name]
    x, y = data()
    stream = make(**options)
    state = stream.update(stream.init(x, y), x[:1], y[:1])
    with pytest.raises(InputError, match="state: got 1 samples, expected at least 2"):
        stream.finalize(state)
    x[3, 1] = np.nan
    with pytest.raises(InputError, match="x: .*NaN"):
        stream.update(state, x, y)


@pytest.mark.parametrize("make", PLAIN)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.ones((N + 1, 2))}, "y: got 61 examples"),
        ({"x": np.ones(N)}, "x: got shape"),
        ({"x": np.ones((N, 3), complex)}, "x: got complex"),
        ({"mask": np.ones(N)}, "mask: "),
    ],
)
def test_mistaken_batches(make, change, message):
    x, y = data()
    stream = make()
    with pytest.raises(InputError, match=message):
        stream.update(stream.init(x, y), **({"x": x, "y": y} | change))


def test_mistakes():
    x, y = data()
    stream = similarity.cca_stream()
    state = stream.init(x, y)
    with pytest.raises(InputError, match="x: got 4 neurons of float32, expected 5"):
        stream.update(state, y, x)
    with pytest.raises(InputError, match="b: got a state Moments of"):
        stream.merge(state, stream.init(y, x))
    with pytest.raises(InputError, match="b: got a state ExactState of"):
        stream.merge(state, similarity.cka_stream().init(x, y))
    with pytest.raises(InputError, match="at least 4"):
        stream_of_means = similarity.cka_stream(form="minibatch")
        stream_of_means.update(stream_of_means.init(x, y), x[:3], y[:3])
    for make, options, message in (
        (similarity.cca_stream, {"rcond": 1}, "rcond: "),
        (similarity.pwcca_stream, {"rcond": -1}, "rcond: "),
        (similarity.svcca_stream, {"variance": 0}, "variance: "),
        (similarity.pls_stream, {"samples": "patches"}, "samples: "),
        (similarity.cka_stream, {"estimator": "best"}, "estimator: "),
        (similarity.cka_stream, {"kernel": "rbf", "bandwidth": 0}, "bandwidth: "),
        (similarity.cka_stream, {"kernel": "cubic"}, "kernel: "),
        (similarity.wreath_cka_stream, {"reduce": "mean"}, "reduce: "),
    ):
        with pytest.raises(InputError, match=message):
            make(**options)
    with jax.enable_x64(True), pytest.raises(InputError, match="float64, expected"):
        stream.update(state, np.float64(x), np.float64(y))


# Files
@pytest.mark.parametrize("make", PLAIN)
@pytest.mark.few(2)
def test_a_saved_stream_resumes_bit_by_bit(make, tmp_path):
    x, y = data()
    stream = make()
    half = fed(stream, x[:40], y[:40], [20, 20])
    save_stream(tmp_path / "state.npz", stream, half)
    loaded = load_stream(tmp_path / "state.npz", make(), stream.init(x, y))
    assert jax.tree.structure(loaded) == jax.tree.structure(half)
    through, resumed = (stream.update(state, x[40:], y[40:]) for state in (half, loaded))
    for a, b in zip(jax.tree.leaves(through), jax.tree.leaves(resumed), strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def test_files_of_another_kind_are_refused(tmp_path):
    x, y = data()
    stream, path = similarity.cka_stream(), tmp_path / "state.npz"
    save_stream(path, stream, stream.init(x, y))
    other = similarity.cka_stream("gretton")
    with pytest.raises(InputError, match=r"got a state of cka of the whole \(song.*expected cka .* \(gretton"):
        load_stream(path, other, other.init(x, y))
    stream = similarity.cca_stream()
    save_stream(path, stream, stream.init(x, y))
    assert load_stream(path, similarity.pls_stream(), stream.init(x, y)).num_updates.shape == (3,)
    with pytest.raises(InputError, match=r"x\.shift float32\[5\].*expected a state Moments of .*float32\[4\]"):
        load_stream(path, stream, stream.init(y, x))
    np.savez(path, rows=x)
    with pytest.raises(InputError, match="got a state of no stream"):
        load_stream(path, stream, stream.init(x, y))
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match="not a complete npz file"):
        load_stream(path, stream, stream.init(x, y))
    with pytest.raises(InputError, match="cannot be read"):
        load_stream(tmp_path / "none.npz", stream, stream.init(x, y))


def test_no_warning_with_enough_examples():
    x, y = data()
    stream = similarity.cca_stream()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream.finalize(fed(stream, x, y, [20] * 3))


def test_tall_batches_are_factored_in_parts():
    x = np.float32(np.random.default_rng(0).standard_normal((4200, 3)) * [1, 10, 100])
    rows = factor_of_parts(x)
    assert rows.shape == (9, 3)
    np.testing.assert_allclose(rows.T @ rows, np.float64(x).T @ x, rtol=1e-4, atol=1e-2)
    assert factor_of_parts(x[:4000]).shape == (4000, 3)
