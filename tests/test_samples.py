"""`samples`, `mask` and `layout`: how tokens and maps become the rows of a matrix."""

import inspect
from functools import partial

import jax
import ml_dtypes
import numpy as np
import pytest

import symjax
from symjax import InputError, pairwise, similarity
from symjax.similarity.inputs import SAMPLES, as_matrix, as_pair

RNG = np.random.default_rng(0)
TOKENS, OTHER = np.float32(RNG.standard_normal((9, 5, 3))), np.float32(RNG.standard_normal((9, 5, 4)))
MASK = RNG.random((9, 5)) < 0.7
MASK[:, 2] = True
REDUCING = ("positions", "pool", "first", "last")


def by_definition(x, samples, mask):
    """Return the matrix of samples in float64."""
    examples = [example[kept] for example, kept in zip(np.float64(x), mask, strict=True)]
    if samples == "positions":
        return np.concatenate(examples)
    reduced = {"pool": lambda e: e.mean(0), "first": lambda e: e[0], "last": lambda e: e[-1], "flatten": np.ravel}
    return np.stack([reduced[samples](example) for example in examples])


def soiled(x, mask):
    """Return a copy with NaN at masked positions."""
    return np.where(mask[..., None], x, np.nan)


@pytest.mark.parametrize("samples", SAMPLES)
def test_tokens_and_maps_become_matrices(samples):
    everything = np.ones_like(MASK)
    expected = by_definition(TOKENS, samples, everything)
    np.testing.assert_allclose(as_matrix(TOKENS, samples=samples), expected, atol=1e-6)
    volumes = np.float32(RNG.standard_normal((9, 2, 2, 2, 3)))
    expected = by_definition(volumes.reshape(9, 8, 3), samples, np.ones((9, 8), bool))
    np.testing.assert_allclose(as_matrix(volumes, samples=samples), expected, atol=1e-6)
    first = np.moveaxis(volumes, -1, 1)
    np.testing.assert_array_equal(as_matrix(first, samples=samples, layout="nchw"), as_matrix(volumes, samples=samples))


@pytest.mark.parametrize("samples", REDUCING)
def test_masked_positions_do_not_count(samples):
    expected = by_definition(TOKENS, samples, MASK)
    np.testing.assert_allclose(as_matrix(soiled(TOKENS, MASK), samples=samples, mask=MASK), expected, atol=1e-6)
    x, y = as_pair(soiled(TOKENS, MASK), OTHER, samples, MASK.astype(int))
    np.testing.assert_allclose(x, expected, atol=1e-6)
    np.testing.assert_allclose(y, by_definition(OTHER, samples, MASK), atol=1e-6)
    maps, mask = soiled(TOKENS, MASK)[:8].reshape(8, 5, 1, 3), MASK[:8, :, None]
    for array, layout in ((maps, "nhwc"), (np.moveaxis(maps, -1, 1), "nchw")):
        matrix = as_matrix(array, samples=samples, mask=mask, layout=layout)
        np.testing.assert_allclose(matrix, by_definition(TOKENS[:8], samples, MASK[:8]), atol=1e-6)


def test_large_offsets_survive_a_mask():
    offset = np.float64(TOKENS) + 1e9
    x = as_matrix(soiled(offset, MASK), samples="pool", mask=MASK, translation_invariant=True)
    difference = x - by_definition(TOKENS, "pool", MASK)
    np.testing.assert_allclose(difference - difference[:1], 0, atol=2e-6)


def measures_with_mask():
    return [name for name, m in similarity.MEASURES.items() if "mask" in inspect.signature(m.fn).parameters]


@pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")
@pytest.mark.parametrize("name", measures_with_mask())
@pytest.mark.few(6)
def test_every_measure_takes_masks(name):
    fn = similarity.MEASURES[name].fn
    x, y = soiled(TOKENS, MASK), soiled(OTHER, MASK)
    matrices = as_pair(x, y, "pool", MASK)
    options = {"k": 3} if "k" in inspect.signature(fn).parameters else {}
    value = float(fn(*matrices, **options))
    assert float(fn(x, y, samples="pool", mask=MASK, **options)) == value
    pairs = pairwise({"a": x[None], "b": y[None]}, name, samples="pool", mask=MASK, **options).values[0, 0, 1, 0]
    np.testing.assert_allclose(pairs, value, atol=5e-6)


def test_measures_of_samples_take_masks():
    lacking = ("fourier_cca", "wreath_cka", "stochastic_shape_distance", "channel_normalized_cka")  # of whole maps
    for name, measure in similarity.MEASURES.items():
        parameters = inspect.signature(measure.fn).parameters
        assert ("samples" in parameters) == ("mask" in parameters), name
        assert ("samples" in parameters) != name.startswith(lacking), name


def test_masked_positions_in_folds():
    """All positions of an example are in one fold, however many are kept."""
    folds = np.repeat(np.arange(9) % 2, MASK.sum(1))
    x, y = (by_definition(z, "positions", MASK) for z in (TOKENS, OTHER))
    for fn in (symjax.held_out_procrustes, partial(symjax.linear_predictivity, ridge=0.1)):
        value = fn(soiled(TOKENS, MASK), OTHER, folds=2, mask=MASK)
        np.testing.assert_allclose(value, fn(x, y, folds=folds), rtol=1e-5)
    models = {"a": {"x": soiled(TOKENS, MASK)}, "b": {"x": OTHER}}
    for folds in (2, np.arange(9) // 5):
        expected = symjax.held_out_procrustes(soiled(TOKENS, MASK), OTHER, folds=folds, mask=MASK)
        pairs = pairwise(models, "held_out_procrustes", folds=folds, mask=MASK).values
        np.testing.assert_allclose(pairs[0, 0, 0, 1], expected, atol=1e-6)
        own = symjax.compare(models["a"], models["b"], "held_out_procrustes", folds=folds, mask=MASK)
        np.testing.assert_allclose(own.table.value[0], expected, atol=1e-6)
    with pytest.raises(InputError, match="^folds: got samples of one fold"):
        symjax.held_out_procrustes(TOKENS, OTHER, mask=MASK & (np.arange(9) == 0)[:, None])


def test_masks_of_pairs_must_have_the_shape_of_the_maps():
    """A transposed mask has as many entries."""
    maps, mask = np.float32(RNG.standard_normal((9, 2, 3, 4))), RNG.random((9, 2, 3)) < 0.8
    mask[:, 0, 0] = True
    volumes, of_volumes = maps.reshape(9, 1, 2, 3, 4), mask[:, None]
    expected = symjax.cka(maps, maps[..., :2], mask=mask, samples="pool")
    for x, mask_of_x in ((maps, mask), (volumes, of_volumes)):
        models = {"a": {"x": x}, "b": {"x": x[..., :2]}}
        value = pairwise(models, "cka", mask=mask_of_x, samples="pool").values[0, 0, 0, 1]
        np.testing.assert_allclose(value, expected, atol=1e-6)
        for wrong in (mask.transpose(0, 2, 1), mask.reshape(9, 6)):
            with pytest.raises(InputError, match=r"mask: got shape \(9, .*expected \(9, 2, 3\)"):
                pairwise(models, "cka", mask=wrong, samples="pool")
            with pytest.raises(InputError, match=r"mask: got shape \(9, .*expected \(9, 2, 3\)"):
                symjax.compare(*models.values(), "cka", mask=wrong, samples="pool")


@pytest.mark.slow
def test_a_mask_does_not_matter_to_vectors():
    x, y = soiled(TOKENS, MASK), OTHER[:, 0]
    expected = symjax.cka(x, y, samples="pool", mask=MASK)
    values = [
        pairwise({"x": x[None]}, "cka", against={"x": y[None]}, samples="pool", mask=MASK).values[0, 0, 0, 0],
        pairwise({"a": {"x": x}, "b": {"x": y}}, "cka", samples="pool", mask=MASK).values[0, 0, 0, 1],
        symjax.compare(x, y, "cka", samples="pool", mask=MASK, num_permutations=2).table.value[0],
        symjax.calibrate("cka", x, y, jax.random.key(0), 2, samples="pool", mask=MASK).value,
    ]
    np.testing.assert_allclose(values, expected, atol=1e-6)


RESAMPLING = (symjax.error_bars, symjax.permutation_test, symjax.calibrate)


@pytest.mark.parametrize("samples", REDUCING[1:])
@pytest.mark.few(1)
def test_resampling_takes_masks(samples):
    x, y, key = soiled(TOKENS, MASK), soiled(OTHER, MASK), jax.random.key(0)
    matrices = as_pair(x, y, samples, MASK)
    for fn in RESAMPLING:
        result, expected = (
            fn("cka_gretton", *sides, key, 9, **options)
            for sides, options in (((x, y), {"samples": samples, "mask": MASK}), (matrices, {}))
        )
        np.testing.assert_array_equal(result.values, expected.values)
    layers = symjax.calibrate("cka", {"a": x, "b": TOKENS[:, 0]}, {"a": y}, key, 3, samples=samples, mask=MASK)
    np.testing.assert_allclose(layers.pairs.value[0, 0], symjax.cka(*matrices), atol=1e-6)


def test_resampling_refuses_what_does_not_fit():
    x = np.float64(TOKENS[:, 0]) + 1e9
    for fn in RESAMPLING:
        for message, arrays, options in (
            ("samples: got None with a mask", (TOKENS, OTHER), {"mask": MASK}),
            ("samples: got 'positions'", (TOKENS, OTHER), {"mask": MASK, "samples": "positions"}),
            (
                "samples: got 'flatten' with a mask, expected 'pool', 'first' or",
                (TOKENS, OTHER),
                {"mask": MASK, "samples": "flatten"},
            ),
            (r"mask: got one for vectors", (x, x), {"mask": MASK, "samples": "pool"}),
            ("y: ", (TOKENS, {"a": OTHER}), {}),
            ("y: got 8 examples", (TOKENS, OTHER[:8]), {"samples": "pool"}),
            ("x: got numbers about 1.0e[+]09", (x, x), {}),
        ):
            with pytest.raises(InputError, match=f"^{message}"):
                fn("procrustes", *arrays, jax.random.key(0), 3, **options)
        assert fn("cka_gretton", x, x, jax.random.key(0), 3)[0] > 0.99  # which a translation does not change


@pytest.mark.parametrize("samples", REDUCING)
@pytest.mark.few(1)
def test_streams_take_masks_of_positions(samples):
    x, y, mask = (
        np.tile(soiled(TOKENS, MASK), (4, 1, 1)),
        np.tile(soiled(OTHER, MASK), (4, 1, 1)),
        np.tile(MASK, (4, 1)),
    )
    y = y + np.float32(RNG.standard_normal(y.shape))
    mask[30:] = False  # padding
    expected = symjax.cca(x[:30], y[:30], samples=samples, mask=mask[:30]).correlations
    stream = symjax.cca_stream(samples=samples)
    for update in (stream.update, jax.jit(stream.update)):
        state = stream.init(x, y)
        for i in (0, 18):
            state = update(state, x[i : i + 18], y[i : i + 18], mask[i : i + 18])
        np.testing.assert_allclose(stream.finalize(state).correlations, expected, atol=2e-5)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precisions_are_computed_in_float32(dtype):
    x, y = TOKENS[:, 0].astype(dtype), OTHER[:, 0].astype(dtype)
    value = symjax.cka(x, y)
    assert value.dtype == np.float32
    assert value == symjax.cka(x.astype(np.float32), y.astype(np.float32))
    stream = symjax.cka_stream()
    assert {leaf.dtype.name for leaf in jax.tree.leaves(stream.init(x, y))} <= {"float32", "int32"}


def test_wrong_masks():
    cases = [
        ({"mask": MASK}, "samples: got 'flatten' with a mask, expected 'positions'"),
        ({"mask": MASK[:, :4], "samples": "pool"}, r"mask: got shape \(9, 4\), expected \(9, 5\)"),
        ({"mask": MASK * 2, "samples": "pool"}, "mask: got int64.*expected booleans, or integers 0 and 1"),
        ({"mask": MASK & (np.arange(9) != 4)[:, None], "samples": "last"}, "mask: got no position of example 4"),
        ({"mask": np.zeros_like(MASK), "samples": "positions"}, "mask: got 0 positions"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            symjax.cka(TOKENS, OTHER, **options)
    with pytest.raises(InputError, match=r"mask: got one for vectors \(n, d\)"):
        symjax.cka(TOKENS[:, 0], OTHER[:, 0], samples="pool", mask=MASK)
    with pytest.raises(InputError, match="mask: got a traced array"):
        jax.jit(lambda mask: symjax.cca_similarity(TOKENS, OTHER, mask=mask))(MASK)
    with pytest.raises(InputError, match="mask: got one for wreath_cka, which has no such option"):
        pairwise({"a": TOKENS[None]}, "wreath_cka", mask=MASK)
    with pytest.raises(InputError, match=r"^mask: got one for vectors \(models, n, d\)"):
        pairwise({"a": TOKENS[None, :, 0]}, "cka", samples="pool", mask=MASK)


def test_streams_refuse_offsets_that_each_batch_would_lose_in_its_own_way():
    x = RNG.standard_normal((20, 3)) + 1e9
    stream = symjax.cka_stream()
    with pytest.raises(InputError, match="x: got numbers about 1.0e[+]09"):
        stream.update(stream.init(x, x), x, x)
