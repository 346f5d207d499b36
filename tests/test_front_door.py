"""Arrays of other libraries, masked ones, other byte orders: taken for what they are, or refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import symjax
from symjax import checks
from symjax.checks import real
from symjax.errors import InputError
from symjax.similarity import MEASURES, LayoutWarning

RNG = np.random.default_rng(0)
X = np.float32(RNG.standard_normal((30, 3)))
Y = np.float32(X + RNG.standard_normal((30, 3)))
MASKED = np.ma.masked_array(X, X == X[3])


class Tensor:
    """As PyTorch's: not for NumPy while it needs a gradient, nor in bfloat16; detached for `__dlpack__`."""

    def __init__(self, data, requires_grad=False):
        self.data, self.requires_grad = jnp.asarray(data), requires_grad

    def detach(self):
        return Tensor(self.data)

    def __array__(self, dtype=None, copy=None):
        if self.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        if self.data.dtype == jnp.bfloat16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return np.array(self.data, dtype)

    def __dlpack__(self, **options):
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient")
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.data.__dlpack_device__()


class Elsewhere(Tensor):
    """On a device that JAX cannot reach."""

    def detach(self):
        return self

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")

    def __dlpack__(self, **options):
        raise BufferError("no such device")


@pytest.mark.parametrize("name", MEASURES)
def test_masked_entries_are_refused_by_every_measure(name):
    with pytest.raises(InputError, match="^x: got masked entries"):
        MEASURES[name].fn(MASKED, Y)
    with pytest.raises(InputError, match="^y: got masked entries"):
        MEASURES[name].fn(X, MASKED)


def test_masked_entries_are_refused_elsewhere():
    stream = symjax.cca_stream()
    state = stream.init(X, Y)
    pairs = [(0, 1), (0, 2), (1, 2)]
    refused = {
        "matrix": [symjax.projection_birkhoff, symjax.sinkhorn, symjax.nearest_permutation],
        "scores": [lambda masked: symjax.softsort(masked[3], 1.0)],
        "x": [symjax.pca, symjax.diagnose, lambda masked: stream.update(state, masked, Y)],
        "y": [lambda masked: symjax.error_bars("cka", X, masked, jax.random.key(0))],
        "mask": [lambda masked: stream.update(state, X, Y, mask=masked[:, 0] > 0)],
        r"representations\['l'\]": [lambda masked: symjax.pairwise({"l": np.ma.stack([masked, masked])}, "cka")],
        "models": [lambda masked: symjax.pairwise({"l": X[None]}, "cka", models=masked[3, :1])],
        "values": [lambda masked: symjax.mean_over_pairs(masked[3], pairs)],
        "labels": [lambda masked: checks.array("labels", masked), lambda masked: checks.array("labels", [masked])],
    }
    for name, calls in refused.items():
        for call in calls:
            with pytest.raises(InputError, match=f"^{name}: got masked entries"):
                call(MASKED)
    assert float(symjax.cka(np.ma.masked_array(X), Y)) == float(symjax.cka(X, Y))  # of which nothing is masked


def test_arrays_of_other_libraries_are_taken():
    right = float(symjax.cka(X, Y))
    assert float(symjax.cka(Tensor(X, requires_grad=True), Y)) == right
    assert float(symjax.cka([Tensor(row, requires_grad=True) for row in X], list(Y))) == right
    half = jnp.asarray(X, jnp.bfloat16)
    assert float(symjax.cka(Tensor(half, requires_grad=True), Y)) == float(symjax.cka(half, Y))
    for x in (X.astype(">f4"), X.astype(">f8"), pd.DataFrame(X)):
        assert float(symjax.cka(x, Y)) == right
    np.testing.assert_array_equal(checks.array("x", np.arange(3, dtype=">i2")), np.arange(3))
    assert checks.array("x", np.arange(3, dtype=">i2")).dtype == np.int16
    np.testing.assert_array_equal(jax.jit(lambda a: real("x", [a, 1.0]))(2.0), [2.0, 1.0])
    with pytest.raises(InputError, match="^x: got a Elsewhere that JAX cannot read .no such device.*NumPy"):
        symjax.cka(Elsewhere(X), Y)
    with pytest.raises(InputError, match="^matrix: got a Elsewhere"):
        symjax.projection_birkhoff(Elsewhere(X[:3]))


def test_nullable_types_of_pandas():
    whole = pd.DataFrame({"a": pd.array([1, 2, 4], "Int64"), "b": [0.5, 1.0, 2.0], "c": [True, False, True]})
    checked = checks.array("x", whole)
    np.testing.assert_array_equal(checked, [[1, 0.5, 1], [2, 1, 0], [4, 2, 1]])
    assert checks.array("labels", whole["a"]).dtype == np.int64
    missing = pd.DataFrame({"a": pd.array([1, None, 4], "Int64"), "b": [0.5, 1.0, 2.0]})
    with pytest.raises(InputError, match="^x: got missing values"):
        symjax.pca(missing)
    with pytest.raises(InputError, match="^x: got NaN"):
        symjax.pca(missing[["a"]])
    with pytest.raises(InputError, match="^x: got "):
        checks.array("x", pd.DataFrame({"a": ["b", "c"], "d": [1, 2]}))


def test_tensors_of_pytorch():
    torch = pytest.importorskip("torch")
    right = float(symjax.cka(X, Y))
    assert float(symjax.cka(torch.from_numpy(X).requires_grad_(), Y)) == right
    half = torch.from_numpy(X).bfloat16()
    assert float(symjax.cka(half.requires_grad_(), Y)) == float(symjax.cka(jnp.asarray(X, jnp.bfloat16), Y))
    with pytest.raises(InputError, match="^x: got a Tensor"):
        symjax.cka(torch.empty(30, 3, device="meta"), Y)


def test_arrays_of_two_devices_come_together():
    one, other = jax.local_devices()[:2] if len(jax.local_devices()) > 1 else pytest.skip("needs two devices")
    x, y = jax.device_put(X, one), jax.device_put(Y, other)
    value = symjax.cka(x, y)
    assert float(value) == float(symjax.cka(X, Y)) and value.devices() == {one}


# What float32 has no digits for


OFFSET = X.astype(np.float64) + 1e8
WHOLE = np.int64(np.rint(100 * X))


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.few(4)
def test_an_offset_is_taken_off_before_the_cast_or_refused(name):
    fn, translated = MEASURES[name].fn, "translation" in MEASURES[name].invariances
    if not translated:
        for x in (OFFSET, WHOLE + 2**28):
            with pytest.raises(InputError, match="^x: got numbers about .* differ by .*float32.* offset"):
                fn(x, Y)
        return
    right = float(fn(X, Y))
    np.testing.assert_allclose(float(fn(OFFSET, Y)), right, rtol=1e-5)
    right = float(fn(np.float32(WHOLE), Y))
    for x in (WHOLE + 2**28, WHOLE + 2**62, np.uint64(WHOLE + 2**28), jnp.asarray(WHOLE + 2**28, jnp.int32)):
        np.testing.assert_allclose(float(fn(x, Y)), right, rtol=1e-5)


def test_offsets_elsewhere():
    right = float(symjax.cka(X, Y))
    both = symjax.pairwise({"layer": np.stack([OFFSET, Y])}, "cka", models=("a", "b")).values
    np.testing.assert_allclose(both[0, 0, 0, 1], right, rtol=1e-5)
    with pytest.raises(
        InputError, match="^representations: layer 'layer' of model 'a': got numbers about .* in channel 0"
    ):
        symjax.pairwise({"layer": np.stack([OFFSET, Y])}, "procrustes", models=("a", "b"))
    for call in (
        lambda: symjax.cca(OFFSET, Y),  # whose means no float32 could hold
        lambda: symjax.procrustes(OFFSET, Y),
        lambda: symjax.soft_matching(OFFSET, Y, full_output=True),
        lambda: symjax.diagnose(OFFSET),
    ):
        with pytest.raises(InputError, match="^x: got numbers about .* in channel 0"):
            call()
    np.testing.assert_allclose(
        symjax.procrustes(OFFSET, Y, center=True), symjax.procrustes(X, Y, center=True), rtol=1e-6
    )
    stream = symjax.cca_stream()
    with pytest.raises(InputError, match="^x: got numbers about .* in channel 0"):
        stream.update(stream.init(X, Y), OFFSET, Y, mask=np.arange(30) < 20)
    # What float32 holds, or what is constant up to rounding of float64, is taken as it is.
    held = np.float64(np.float32(X * 1e-3 + 1e3))
    held[:, 0] = 1 / 3 + np.spacing(1 / 3) * (np.arange(30) % 2)
    assert float(symjax.procrustes(held, Y)) == float(symjax.procrustes(np.float32(held), Y))


@pytest.mark.parametrize("name", [name for name in MEASURES if "translation" in MEASURES[name].invariances])
@pytest.mark.few(8)
def test_a_channel_that_is_constant_up_to_rounding_is_constant(name):
    number = np.float32(7.3)
    rounded = number + np.spacing(number) * (np.arange(30) % 3 == 0).astype(np.float32)
    exact, nearly = (np.column_stack([X[:, :2], channel]) for channel in (np.full_like(rounded, number), rounded))
    np.testing.assert_allclose(MEASURES[name].fn(nearly, Y), MEASURES[name].fn(exact, Y), rtol=2e-5)


# The order of axes


MAPS = np.float32(RNG.standard_normal((12, 4, 3, 5)))  # no one takes it for channels first
FIRST = np.moveaxis(MAPS, -1, 1)


def test_layout_of_maps():
    other = np.float32(RNG.standard_normal(MAPS.shape))
    for measure in MEASURES.values():
        with pytest.raises(InputError, match="^layout: got 'hwcn' .*, expected one of nhwc, nchw"):
            measure.fn(MAPS, other, layout="hwcn")
    for fn in (symjax.pls_similarity, symjax.procrustes, symjax.channel_normalized_cka, symjax.wreath_cka):
        assert float(fn(FIRST, np.moveaxis(other, -1, 1), layout="nchw")) == float(fn(MAPS, other, layout="nhwc"))


@pytest.mark.slow
def test_layout_elsewhere():
    both = ((MAPS, None), (FIRST, "nchw"))
    jax.tree.map(np.testing.assert_array_equal, *(symjax.pca(x, layout=layout) for x, layout in both))
    zoo = np.stack([MAPS, MAPS[::-1]])
    last = symjax.pairwise({"l": zoo}, "pls")
    first = symjax.pairwise({"l": np.moveaxis(zoo, -1, 2)}, "pls", layout="nchw")
    np.testing.assert_array_equal(first.values, last.values)
    for make in (symjax.pls_stream, symjax.procrustes_stream, symjax.cka_stream, symjax.wreath_cka_stream):
        states = []
        for x, layout in both:
            stream = make(layout=layout)
            states.append(stream.update(stream.init(x, x), x, x))
        jax.tree.map(np.testing.assert_array_equal, *states)
    tests = (symjax.permutation_test("pls", x, x, jax.random.key(0), 9, layout=layout) for x, layout in both)
    assert len({float(test.estimate) for test in tests}) == 1


DOUBTFUL = np.float32(RNG.standard_normal((12, 3, 5, 5)))
CALLS = {
    "pca": lambda **options: symjax.pca(DOUBTFUL, **options),
    "procrustes": lambda **options: symjax.procrustes(DOUBTFUL, DOUBTFUL, **options),
    "pairwise": lambda **options: symjax.pairwise({"l": np.stack([DOUBTFUL, DOUBTFUL])}, "cca", **options),
    "pls_stream": lambda **options: symjax.pls_stream(**options).init(DOUBTFUL, DOUBTFUL),
}


@pytest.mark.parametrize(("value", "shown"), [(None, "None"), ({"relu1": X}, ".'relu1'"), ([None, 1.0], "None")])
def test_what_is_no_array_is_shown(value, shown):
    with pytest.raises(InputError, match=f"^x: got {shown}.*, expected an array of real numbers"):
        symjax.cka(value, X)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.few(2)
def test_what_looks_like_channels_first_is_pointed_out(name):
    with pytest.warns(LayoutWarning, match=r"looks like 3 channels first.*layout='nchw'") as caught:
        CALLS[name]()
    assert {one.filename for one in caught} == {__file__}
    CALLS[name](layout="nhwc")
    CALLS[name](layout="nchw")
