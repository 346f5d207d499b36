"""All pairs at once against one pair at a time, for every measure of the table; models, layers, two sets."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from kernels import names
from pairwise_helpers import EXAMPLES, SAME, zoo
from scipy.spatial.distance import squareform

from symjax.similarity import MEASURES, FewExamplesWarning, pairwise
from symjax.similarity.pair_product import downsample, upsample


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


# One of each kind runs always; the others differ from it in their two parts, which are tested for all.
KINDS = {"cca", "svcca", "pwcca", "cka_distance", "procrustes", "wreath_procrustes_distance", "soft_matching"}
every = [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in MEASURES]

# One that somebody else may have, not in two parts.
OWN = dataclasses.replace(MEASURES["cka"], name="own", split=None)


def loop(measure, a, b, **options):
    """One pair at a time."""
    measure = MEASURES[measure] if isinstance(measure, str) else measure
    models = [len(next(iter(side.values()))) for side in (a, b)]
    values = np.full((len(a), models[0], len(b), models[1]), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewExamplesWarning)
        for k, i, m, j in np.ndindex(values.shape):
            if a is b and measure.symmetric and k > m:  # fewer programs to compile
                values[k, i, m, j] = values[m, j, k, i]
            else:
                values[k, i, m, j] = measure.fn(list(a.values())[k][i], list(b.values())[m][j], **options)
    return values


def agree(measure, actual, expected, error=SAME):
    """Up to rounding, which is of the size of a distance where no norm bounds it."""
    bounded = np.isfinite(MEASURES[measure].range[1])
    np.testing.assert_allclose(actual, expected, atol=error, rtol=0 if bounded else error)


@pytest.mark.parametrize("measure", every)
@pytest.mark.few(2)
def test_values_are_those_of_one_pair_at_a_time(measure):
    a = zoo()
    result = pairwise(a, measure)
    assert result.values.dtype == np.float32 and result.computed.all()
    agree(measure, result.values, loop(measure, a, a))
    low, high = MEASURES[measure].range
    assert low <= result.values.min() and result.values.max() <= high


@pytest.mark.slow
def test_two_parts_of_measures_of_their_own_kind():
    for measure in ("fourier_cca", "soft_matching"):
        test_two_parts_are_the_whole(measure)


@pytest.mark.parametrize("measure", [name for name in names if MEASURES[name.values[0]].split])
@pytest.mark.few(3)
def test_two_parts_are_the_whole(measure):
    x, y, _ = zoo(seed=1)["layer0"]
    split = MEASURES[measure].split((x.shape,))
    assert split is MEASURES[measure].split((x.shape,))  # or programs would be compiled at every call
    values = jax.jit(lambda x, y: split.compare(split.prepare(x), split.prepare(y)))(x, y)
    agree(measure, values, MEASURES[measure].fn(x, y))


@pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")
@pytest.mark.parametrize(
    ("measure", "sizes"),
    [
        pytest.param("pwcca", ((1, 1, 3), (1, 1, 34)), marks=pytest.mark.slow),  # more channels than samples
        pytest.param("procrustes", ((1, 1, 3), (1, 1, 34)), marks=pytest.mark.slow),
        pytest.param("wreath_procrustes_distance", ((2, 2, 3), (2, 2, 4)), marks=pytest.mark.slow),
        ("wreath_procrustes_distance", ((4, 2, 3), (3, 4, 3))),  # of map sizes neither divides the other
        pytest.param(
            "soft_matching_distance", ((4, 2, 3), (2, 4, 3)), marks=pytest.mark.slow
        ),  # not of unit norm, which grows with the map
        ("fourier_cca", ((4, 4, 3), (3, 5, 2))),  # common frequencies
        # Each divides the other along one axis; along both; neither does.
        pytest.param("procrustes", ((4, 2, 3), (2, 4, 5), (3, 2, 3)), marks=pytest.mark.slow),
    ],
)
def test_layers_may_differ_in_shape(measure, sizes):
    a = zoo(2, sizes=sizes)
    agree(measure, pairwise(a, measure).values, loop(measure, a, a), 5e-6)


@pytest.mark.slow
def test_an_enlarged_map_is_the_same_map():
    small = zoo(1, sizes=((2, 3, 3),))["layer0"]
    result = pairwise({"small": small, "large": small.repeat(2, 2).repeat(3, 3)}, "procrustes_distance", layout="nhwc")
    assert result.values.max() < 1e-6  # and not the root of rounding
    data = np.random.default_rng(0).normal(size=(3, 5, 2, 2))
    np.testing.assert_allclose(downsample(upsample(jnp.asarray(data), (4, 6)), (2, 2)), data, rtol=1e-6)


@pytest.mark.parametrize(
    "measure", ["cka_distance", "procrustes_distance", "permutation_procrustes_distance", "soft_matching_distance"]
)
@pytest.mark.few(1)
def test_small_distances_keep_their_digits(measure):
    rng = np.random.default_rng(3)
    start = np.maximum(rng.normal(size=(EXAMPLES, 40)), 0)
    steps = start + 1e-4 * np.arange(3)[:, None, None] * rng.normal(size=start.shape)
    with jax.enable_x64(True):
        expected = loop(measure, {"x": steps}, {"x": steps})[0, :, 0]
    distances = pairwise({"x": np.float32(steps)}, measure).select(layer_a="x", layer_b="x")
    assert 1e-5 < expected[0, 1] < 1e-3
    np.testing.assert_allclose(distances, expected, rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("measure", ["cca_distance", "cka_distance", "procrustes_distance"])
@pytest.mark.few(1)
def test_distances_make_a_distance_matrix(measure):
    values = pairwise(zoo(sizes=((1, 1, 5),)), measure).select(layer_a="layer0", layer_b="layer0")
    assert (np.diag(values) == 0).all() and (values == values.T).all()
    assert (squareform(values) > 0).all()  # which checks both
    dead = {"layer0": np.zeros((1, EXAMPLES, 5), np.float32)}
    assert np.isnan(pairwise(dead, measure).values).all()


@pytest.mark.parametrize("measure", ["pwcca", "cka_distance"])
@pytest.mark.slow
def test_double_precision(measure):
    a = {"layer0": np.float64(zoo(2)["layer0"]).mean((2, 3))}
    with jax.enable_x64(True):
        result = pairwise(a, measure)
        expected = loop(measure, a, a)
    assert result.values.dtype == np.float64
    np.testing.assert_allclose(result.values, expected, atol=2e-8 if measure == "cka_distance" else 1e-12)


@pytest.mark.slow
def test_badly_conditioned_and_dependent_neurons():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, EXAMPLES, 4))
    bad = np.concatenate([x, x[..., :1] + 1e-2 * rng.normal(size=(2, EXAMPLES, 1)), x[..., :1], 0 * x[..., :1]], -1)
    a = {"good": np.float32(x), "bad": np.float32(bad)}
    similarities = pairwise(a, "cca").values

    def basis(matrix):
        u, s, _ = np.linalg.svd(matrix - matrix.mean(0), full_matrices=False)
        return u[:, s > 1e-9 * s[0]]

    bases = [basis(model) for layer in (x, bad) for model in layer]
    expected = [[np.linalg.svd(p.T @ q, compute_uv=False).mean() for q in bases] for p in bases]
    np.testing.assert_allclose(
        similarities.reshape(4, 4), expected, atol=3e-5
    )  # rounding over the smallest singular value


@pytest.mark.parametrize("measure", ["cka_lange", "cka_distance"])
@pytest.mark.slow
def test_feature_form_is_the_gram_form(measure):
    a = {"x": zoo(3)["layer0"].mean((2, 3)), "y": zoo(3, seed=1)["layer0"][..., 0, :2].reshape(3, EXAMPLES, 4)}
    gram, features = (pairwise(a, measure, form=form).values for form in ("gram", "features"))
    np.testing.assert_allclose(features, gram, atol=1e-3 if measure == "cka_distance" else SAME)


def test_feature_form_is_taken_for_many_examples():
    def kept(*shapes, measure="cka", **options):
        split = MEASURES[measure].split(shapes, **options)
        return jax.eval_shape(split.prepare, jax.ShapeDtypeStruct(shapes[0], jnp.float32)).data.shape

    assert kept((5000, 40), (5000, 8, 8, 3)) == (40, 5000)
    assert kept((5000, 40), (5000, 32, 32, 3)) == kept((5000, 40), measure="cka_rbf") == (1, 5000**2)
    assert kept((4000, 40)) == (40, 4000) and kept((300, 40)) == (1, 300**2)
    assert (
        kept((4000, 40), measure="cka_distance") == (1, 4000**2) and kept((5000, 40), measure="cka_distance")[0] == 40
    )
    assert kept((50, 16, 16, 9), samples="positions") == (9, 50 * 16 * 16)


@pytest.mark.parametrize(
    ("measure", "options"),
    [
        ("svcca", {"samples": "pool", "variance": jnp.asarray(0.7)}),
        pytest.param("procrustes", {"center": True, "samples": "flatten"}, marks=pytest.mark.slow),
        ("cka", {"estimator": "gretton", "kernel": "rbf", "bandwidth": np.float32(0.5)}),
    ],
)
@pytest.mark.few(1)
def test_options_reach_the_measure(measure, options):
    a = zoo(2, sizes=((2, 2, 5),))
    similarities = pairwise(a, measure, **options).values
    np.testing.assert_allclose(similarities, loop(measure, a, a, **options), atol=5e-6)
    assert np.abs(similarities - pairwise(a, measure).values).max() > 1e-2


@pytest.mark.parametrize(
    "measure",
    ["cka", "cka_distance", "cca", "procrustes", "wreath_procrustes_distance", "soft_matching", "fourier_cca"],
)
@pytest.mark.few(2)
def test_constant_and_dead_are_nan_but_computed(measure):
    a = zoo()
    a["layer0"][1] = 0
    a["layer0"][2, ..., 0] = 0
    result = pairwise(a, measure)
    assert result.computed.all()
    values = result.select(layer_a="layer0", layer_b="layer0")
    assert np.isnan(values[1]).all() and np.isnan(values[:, 1]).all()
    np.testing.assert_allclose(values[::2, ::2], loop(measure, a, a)[0, ::2, 0, ::2], atol=SAME)


@pytest.mark.parametrize("measure", ["cka", slow("pwcca"), OWN], ids=lambda m: getattr(m, "name", m))
def test_pairs_of_models(measure):
    a = zoo(5)
    whole, some = (
        pairwise(a, measure, models="abcde"),
        pairwise(a, measure, models="abcde", pairs=[("a", "c"), ("d", "d")]),
    )
    expected = np.zeros((5, 5), bool)
    expected[[0, 2, 3], [2, 0, 3]] = True
    np.testing.assert_array_equal(some.computed[0, :, 0], expected)
    np.testing.assert_allclose(some.values[0, :, 0][expected], whole.values[0, :, 0][expected], atol=SAME)
    assert np.isnan(some.values[~some.computed]).all() and len(some.to_frame()) == 3
    assert not pairwise(a, measure, pairs=[]).computed.any()


@pytest.mark.parametrize("measure", [slow("cka"), "pwcca", OWN], ids=lambda m: getattr(m, "name", m))
def test_two_sets(measure):
    a, b = zoo(2, sizes=((2, 2, 5), (2, 2, 5))), {"end": zoo(1, seed=5)["layer0"]}
    result = pairwise(a, measure, against=b, against_models=["last"])
    assert result.values.shape == (2, 2, 1, 1)
    np.testing.assert_allclose(result.values, loop(measure, a, b), atol=SAME)


def test_a_table_of_two_sets():
    a, b = zoo(2, sizes=((2, 2, 5), (2, 2, 5))), {"end": zoo(1, seed=5)["layer0"]}
    frame = pairwise(a, "cka", against=b, against_models=["last"], pairs=[(1, "last")]).to_frame()
    assert frame[["model_a", "layer_a", "model_b", "layer_b", "measure"]].values.tolist() == [
        [1, "layer0", "last", "end", "cka"],
        [1, "layer1", "last", "end", "cka"],
    ]


def test_same_layers_only():
    a = zoo(2, sizes=((2, 2, 3), (2, 2, 3)))
    result = pairwise(a, "cka", layers="same")
    np.testing.assert_array_equal(
        result.computed, np.eye(2, dtype=bool)[:, None, :, None] & np.ones((2, 2, 2, 2), bool)
    )
    for layer, array in a.items():
        expected = loop("cka", {layer: array}, {layer: array})[0, :, 0]
        np.testing.assert_allclose(result.select(layer_a=layer, layer_b=layer), expected, atol=SAME)
    other = {"layer1": a["layer1"][:1], "more": a["layer0"][:1]}
    assert pairwise(a, "cka", layers="same", against=other).computed[:, 0, :, 0].tolist() == [
        [False] * 2,
        [True, False],
    ]


def test_kinds_of_arrays():
    a = zoo(2)
    similarities = pairwise({key: jnp.asarray(value) for key, value in a.items()}, "cka").values
    np.testing.assert_allclose(similarities, pairwise(a, "cka").values, atol=SAME)
    halves = {"half": jnp.asarray(a["layer0"], jnp.bfloat16), "whole": np.int64(3 * a["layer0"])}
    similarities = pairwise(halves, MEASURES["cka"])
    assert similarities.values.dtype == np.float32
    np.testing.assert_allclose(similarities.values, loop("cka", halves, halves), atol=SAME)
