"""All pairs at once against one pair at a time, for every measure of the table; blocks, devices, labels, errors."""

import dataclasses
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from kernels import names
from scipy.spatial.distance import squareform

import symjax
from symjax.errors import InputError
from symjax.similarity import MEASURES, FewExamplesWarning, pair_blocks, pairwise
from symjax.similarity.pair_product import downsample, upsample

EXAMPLES, MODELS = 30, 3
SAME = 2e-6  # rounding of float32, for values near 1


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


# One of each kind runs always; the others differ from it in their two parts, which are tested for all.
KINDS = {"cca", "svcca", "pwcca", "cka_distance", "procrustes", "wreath_procrustes_distance", "soft_matching"}
every = [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in MEASURES]


# One that somebody else may have, not in two parts.
OWN = dataclasses.replace(MEASURES["cka"], name="own", split=None)


def zoo(models=MODELS, examples=EXAMPLES, seed=0, sizes=((2, 2, 5),), noise=0.6):
    """Related positive maps, of each of the sizes one layer."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(examples, 4))

    def layer(h, w, c):
        mixed = signal @ rng.normal(size=(4, h * w * c)) + noise * rng.normal(size=(models, examples, h * w * c))
        return np.float32(np.maximum(mixed + 0.3, 0).reshape(models, examples, h, w, c))

    return {f"layer{k}": layer(*size) for k, size in enumerate(sizes)}


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


def agree(measure, found, expected, error=SAME):
    """Up to rounding, which is of the size of a distance where no norm bounds it."""
    bounded = np.isfinite(MEASURES[measure].range[1])
    np.testing.assert_allclose(found, expected, atol=error, rtol=0 if bounded else error)


@pytest.mark.parametrize("measure", every)
@pytest.mark.few(2)
def test_values_are_those_of_one_pair_at_a_time(measure):
    a = zoo()
    found = pairwise(a, measure)
    assert found.values.dtype == np.float32 and found.computed.all()
    agree(measure, found.values, loop(measure, a, a))
    low, high = MEASURES[measure].range
    assert low <= found.values.min() and found.values.max() <= high


def test_two_parts_of_measures_of_their_own_kind():
    for measure in ("fourier_cca", "soft_matching"):
        test_two_parts_are_the_whole(measure)


@pytest.mark.parametrize("measure", names)
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
        pytest.param("fourier_cca", ((4, 4, 3), (3, 5, 2)), marks=pytest.mark.slow),  # common frequencies
        # Each divides the other along one axis; along both; neither does.
        pytest.param("procrustes", ((4, 2, 3), (2, 4, 4), (3, 2, 3)), marks=pytest.mark.slow),
    ],
)
def test_layers_may_differ_in_shape(measure, sizes):
    a = zoo(2, sizes=sizes)
    agree(measure, pairwise(a, measure).values, loop(measure, a, a), 5e-6)


@pytest.mark.slow
def test_an_enlarged_map_is_the_same_map():
    small = zoo(1, sizes=((2, 3, 3),))["layer0"]
    found = pairwise({"small": small, "large": small.repeat(2, 2).repeat(3, 3)}, "procrustes_distance", layout="nhwc")
    assert found.values.max() < 1e-6  # and not the root of rounding
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
    found = pairwise({"x": np.float32(steps)}, measure).select(layer_a="x", layer_b="x")
    assert 1e-5 < expected[0, 1] < 1e-3
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("measure", ["cca_distance", "cka_distance", "procrustes_distance"])
@pytest.mark.few(1)
def test_distances_make_a_distance_matrix(measure):
    values = pairwise(zoo(sizes=((1, 1, 5),)), measure).select(layer_a="layer0", layer_b="layer0")
    assert (np.diag(values) == 0).all() and (values == values.T).all()
    assert (squareform(values) > 0).all()  # which checks both
    dead = {"layer0": np.zeros((1, EXAMPLES, 5), np.float32)}
    assert np.isnan(pairwise(dead, measure).values).all()


@pytest.mark.parametrize("measure", ["pwcca", "cka_distance"])
@pytest.mark.few(1)
@pytest.mark.slow
def test_double_precision(measure):
    a = {"layer0": np.float64(zoo(2)["layer0"]).mean((2, 3))}
    with jax.enable_x64(True):
        found = pairwise(a, measure)
        expected = loop(measure, a, a)
    assert found.values.dtype == np.float64
    np.testing.assert_allclose(found.values, expected, atol=2e-8 if measure == "cka_distance" else 1e-12)


@pytest.mark.slow
def test_badly_conditioned_and_dependent_neurons():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, EXAMPLES, 4))
    bad = np.concatenate([x, x[..., :1] + 1e-2 * rng.normal(size=(2, EXAMPLES, 1)), x[..., :1], 0 * x[..., :1]], -1)
    a = {"good": np.float32(x), "bad": np.float32(bad)}
    found = pairwise(a, "cca").values

    def basis(matrix):
        u, s, _ = np.linalg.svd(matrix - matrix.mean(0), full_matrices=False)
        return u[:, s > 1e-9 * s[0]]

    bases = [basis(model) for layer in (x, bad) for model in layer]
    expected = [[np.linalg.svd(p.T @ q, compute_uv=False).mean() for q in bases] for p in bases]
    np.testing.assert_allclose(found.reshape(4, 4), expected, atol=3e-5)  # rounding over the smallest singular value


@pytest.mark.parametrize("measure", ["cka_lange", "cka_distance"])
@pytest.mark.few(1)
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
    assert kept((4000, 40)) == (1, 4000**2)
    assert kept((50, 16, 16, 9), maps="pixels") == (9, 50 * 16 * 16)


@pytest.mark.parametrize(
    ("measure", "options"),
    [
        ("svcca", {"maps": "pool", "variance": jnp.asarray(0.7)}),
        pytest.param("procrustes", {"center": True, "maps": "flatten"}, marks=pytest.mark.slow),
        ("cka", {"estimator": "gretton", "kernel": "rbf", "bandwidth": np.float32(0.5)}),
    ],
)
@pytest.mark.few(1)
def test_options_reach_the_measure(measure, options):
    a = zoo(2, sizes=((2, 2, 5),))
    found = pairwise(a, measure, **options).values
    np.testing.assert_allclose(found, loop(measure, a, a, **options), atol=5e-6)
    assert np.abs(found - pairwise(a, measure).values).max() > 1e-2


@pytest.mark.parametrize(
    "measure",
    ["cka", "cka_distance", "cca", "procrustes", "wreath_procrustes_distance", "soft_matching", "fourier_cca"],
)
@pytest.mark.few(2)
def test_constant_and_dead_are_nan_but_computed(measure):
    a = zoo()
    a["layer0"][1] = 0
    a["layer0"][2, ..., 0] = 0
    found = pairwise(a, measure)
    assert found.computed.all()
    values = found.select(layer_a="layer0", layer_b="layer0")
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


def test_only_models_of_wanted_pairs_are_prepared(monkeypatch):
    a, b, prepared = zoo(6), zoo(4, seed=1), []
    prepare = pair_blocks._prepare_layer

    def watched(split, array, *others):
        prepared.append(np.asarray(array))
        return prepare(split, array, *others)

    monkeypatch.setattr(pair_blocks, "_prepare_layer", watched)
    for options, wanted in (
        ({"pairs": [(4, 1)]}, [a["layer0"][[1, 4]]]),
        ({"against": b, "pairs": [(5, 0), (5, 3)]}, [a["layer0"][[5]], b["layer0"][[0, 3]]]),
        ({"pairs": []}, []),
    ):
        prepared.clear()
        found = pairwise(a, "cka", **options)
        assert len(prepared) == len(wanted) and all(map(np.array_equal, prepared, wanted))
        assert found.values.shape == (1, 6, 1, 4 if "against" in options else 6)
        for i, j in options["pairs"]:
            expected = MEASURES["cka"].fn(a["layer0"][i], options.get("against", a)["layer0"][j])
            np.testing.assert_allclose(found.select(model_a=i, model_b=j)[0, 0], expected, atol=SAME)


@pytest.mark.parametrize("measure", [slow("cka"), "pwcca", OWN], ids=lambda m: getattr(m, "name", m))
def test_two_sets(measure):
    a, b = zoo(2, sizes=((2, 2, 5), (2, 2, 5))), {"end": zoo(1, seed=5)["layer0"]}
    found = pairwise(a, measure, against=b, against_models=["last"])
    assert found.values.shape == (2, 2, 1, 1)
    np.testing.assert_allclose(found.values, loop(measure, a, b), atol=SAME)


def test_a_table_of_two_sets():
    a, b = zoo(2, sizes=((2, 2, 5), (2, 2, 5))), {"end": zoo(1, seed=5)["layer0"]}
    frame = pairwise(a, "cka", against=b, against_models=["last"], pairs=[(1, "last")]).to_frame()
    assert frame[["model_a", "layer_a", "model_b", "layer_b", "measure"]].values.tolist() == [
        [1, "layer0", "last", "end", "cka"],
        [1, "layer1", "last", "end", "cka"],
    ]


def test_same_layers_only():
    a = zoo(2, sizes=((2, 2, 3), (2, 2, 3)))
    found = pairwise(a, "cka", layers="same")
    np.testing.assert_array_equal(found.computed, np.eye(2, dtype=bool)[:, None, :, None] & np.ones((2, 2, 2, 2), bool))
    for layer, array in a.items():
        expected = loop("cka", {layer: array}, {layer: array})[0, :, 0]
        np.testing.assert_allclose(found.select(layer_a=layer, layer_b=layer), expected, atol=SAME)
    other = {"layer1": a["layer1"][:1], "more": a["layer0"][:1]}
    assert pairwise(a, "cka", layers="same", against=other).computed[:, 0, :, 0].tolist() == [
        [False] * 2,
        [True, False],
    ]


@pytest.mark.parametrize(
    "measure",
    ["cka_distance", "pwcca"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("wreath_procrustes", "fourier_cca", "soft_matching")],
)
@pytest.mark.few(1)
def test_memory_and_devices_do_not_change_values(measure):
    a = zoo(5)
    assert len(jax.devices()) == 2
    values = pairwise(a, measure).values
    one_device = pairwise(a, measure, devices=jax.devices()[1:]).values
    np.testing.assert_allclose(one_device, values, atol=2e-7)
    share = 4 * 3 * (EXAMPLES**2 * 4 if measure == "cka_distance" else a["layer0"][0].nbytes)
    for memory in (1, share):  # blocks of 1, and of 3 and 2; other tiles, so sums in another order
        np.testing.assert_allclose(pairwise(a, measure, memory=memory).values, values, atol=3e-6)


def test_blocks_count_all_that_is_made_of_a_representation():
    """Of PWCCA on few examples the way back to neurons is larger than the basis."""
    wide = np.random.default_rng(0).normal(size=(6, EXAMPLES, 50 * EXAMPLES)).astype(np.float32)
    split, devices = MEASURES["pwcca"].split((wide.shape[1:],)), tuple(jax.local_devices()[:1])
    memory = 4 * 2 * wide[0].nbytes
    blocks, _ = pair_blocks.prepare(split, pair_blocks.Representations((wide,), wide.dtype), memory, devices)
    of_a_block = [sum(leaf.nbytes for leaf in jax.tree.leaves(block.prepared)) for block in blocks]
    assert len(blocks) > 1 and max(of_a_block) <= memory / 4


def test_what_was_asked_before_changes_no_check():
    a = zoo(2)
    pairwise(a, "procrustes", center=True)
    with pytest.raises(InputError, match="center: got 1"):
        pairwise(a, "procrustes", center=1)
    with pytest.raises(InputError, match="devices: got none"):
        pairwise(a, "procrustes", devices=[])


def test_only_few_examples_are_told_as_such():
    def warns(x, y):
        warnings.warn("something else", UserWarning, stacklevel=1)
        return jnp.vdot(x, y)

    own = dataclasses.replace(MEASURES["cka"], fn=warns, split=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pairwise(zoo(2), own, layers="same")
    assert not any(issubclass(one.category, FewExamplesWarning) for one in caught)


def test_kinds_of_arrays():
    a = zoo(2)
    found = pairwise({key: jnp.asarray(value) for key, value in a.items()}, "cka").values
    np.testing.assert_allclose(found, pairwise(a, "cka").values, atol=SAME)
    halves = {"half": jnp.asarray(a["layer0"], jnp.bfloat16), "whole": np.int64(3 * a["layer0"])}
    found = pairwise(halves, MEASURES["cka"])
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, loop("cka", halves, halves), atol=SAME)


def test_tiles_cover_what_is_wanted_and_little_more():
    rng = np.random.default_rng(0)
    for _ in range(200):
        wanted = rng.random(rng.integers(1, 40, 2)) < rng.choice([0.02, 0.5, 1])
        if rng.random() < 0.3:
            wanted = np.triu(np.ones((len(wanted), len(wanted)), bool))
        if not wanted.any():
            continue
        edges = pair_blocks._edges(wanted, 32)
        starts = pair_blocks._tiles(wanted, edges)
        covered = np.zeros_like(wanted)
        for i, j in starts:
            assert i >= 0 and j >= 0
            covered[i : i + edges[0], j : j + edges[1]] = True
        assert covered[wanted].all()
        assert len(starts) * edges[0] * edges[1] <= pair_blocks.MAX_WASTE * wanted.sum()


def test_labels():
    a = zoo(2, sizes=((2, 2, 3), (2, 2, 4)))
    found = symjax.pairwise(a, "pwcca", models=("m", "n"))
    assert isinstance(found, symjax.Pairwise) and found.layers_a == found.layers_b == ("layer0", "layer1")
    assert found.select(model_a="n", layer_b="layer1").shape == (2, 2)
    assert found.select(layer_a="layer1", model_a="m", layer_b="layer0", model_b="n") == found.values[1, 0, 0, 1]
    frame = found.to_frame()
    assert list(frame.columns) == ["model_a", "layer_a", "model_b", "layer_b", "measure", "value", "same_model"]
    assert len(frame) == 16 and (frame.same_model == (frame.model_a == frame.model_b)).all()
    assert not symjax.pairwise(a, "pwcca", against=a).to_frame().same_model.any()  # equal labels of two sets
    row = frame[
        (frame.model_a == "n") & (frame.layer_a == "layer0") & (frame.model_b == "m") & (frame.layer_b == "layer1")
    ]
    assert row.value.item() == found.values[0, 1, 1, 0]
    with pytest.raises(InputError, match="^layer_a: got 'layer7', expected one of 'layer0', 'layer1'"):
        found.select(layer_a="layer7")


def test_a_function_is_a_measure():
    def differs(first, second, power=1):
        return (first - 2 * second).mean() ** power

    a = {"layer": zoo(2, sizes=((1, 1, 3),))["layer0"]}
    found = symjax.pairwise(a, differs, power=2)
    x, y = np.float64(a["layer"])
    expected = [[(s - 2 * t).mean() ** 2 for t in (x, y)] for s in (x, y)]
    np.testing.assert_allclose(found.values[0, :, 0], expected, rtol=1e-4)
    assert found.measure == "differs"


@pytest.mark.parametrize(
    ("measure", "where"),
    [
        ("cca", "'layer0' and 'layer1', 'layer1' and 'layer1': 30 samples of 3 and 27"),
        slow("svcca", "'layer1' and 'layer1': 30 samples of "),
    ],
)
def test_few_examples_are_told_once(measure, where):
    a = zoo(2, sizes=((1, 1, 3), (1, 1, 27)))
    with pytest.warns(FewExamplesWarning, match=f"^{measure}: few examples for layers {where}") as told:
        pairwise(a, measure)
    assert len(told) == 1 and told[0].filename == __file__
    pairwise({"layer0": a["layer0"]}, measure)


def test_mistakes_are_told():
    a = zoo(2, sizes=((2, 2, 3), (1, 2, 3)))
    x = a["layer0"]
    bad = x.copy()
    bad[1, 3, 0, 0, 0] = np.nan
    for wrong, arguments, options in [
        ("^representations: got list", ([x], "cka"), {}),
        ("^representations: got dict", ({}, "cka"), {}),
        (r"^representations\['x'\]: got shape \(2, 30\)", ({"x": x[:, :, 0, 0, 0]}, "cka"), {}),
        (r"^representations\['x'\]: got complex", ({"x": x + 1j}, "cka"), {}),
        (
            r"^representations\['y'\]: got 1 models, expected as many as in layer 'x', 2",
            ({"x": x, "y": x[:1]}, "cka"),
            {},
        ),
        (r"^representations\['y'\]: got 29 examples", ({"x": x, "y": x[:, 1:]}, "cka"), {}),
        ("^representations: got NaN .*layer 'y' of model 1", ({"x": x, "y": bad}, "cka"), {}),
        ("^against: got NaN .*layer 'y' of model 'n'", (a, "cka"), {"against": {"y": bad}, "against_models": "mn"}),
        ("^against: got 29 examples", (a, "cka"), {"against": {"x": x[:, 1:]}}),
        ("^measure: got 'ckaa', expected one of cca, ", (a, "ckaa"), {}),
        ("measure: got a value of tuple, expected a 0-d array", (a, lambda x, y: (x, y)), {}),
        ("measure: got a value of \\(30,\\), expected a 0-d array", (a, lambda x, y: x[:, 0, 0, 0]), {}),
        ("^models: got .* expected 2 different labels", (a, "cka"), {"models": "aa"}),
        ("^against_models: got", (a, "cka"), {"against": a, "against_models": "abc"}),
        ("^pairs: got 'some'", (a, "cka"), {"pairs": "some"}),
        ("^pairs: got 2, expected one of 0, 1", (a, "cka"), {"pairs": [(0, 2)]}),
        ("^pairs: got 3, expected a sequence", (a, "cka"), {"pairs": [3]}),
        ("^layers: got 'some', expected", (a, "cka"), {"layers": "some"}),
        (
            "^layers: got 'same', expected one of 'layer0', 'layer1' in against",
            (a, "cka"),
            {"layers": "same", "against": {"z": x}},
        ),
        ("^memory: got 0", (a, "cka"), {"memory": 0}),
        (
            "^bandwith: got an unknown option of cka, expected one of estimator, kernel",
            (a, "cka"),
            {"bandwith": 1},
        ),
        ("^full_output: got an unknown option", (a, "procrustes"), {"full_output": True}),
        ("estimator: got 'a', expected", (a, "cka"), {"estimator": "a"}),
        (r"variance: got \[0.5\]", (a, "svcca"), {"variance": [0.5], "maps": "pool"}),
        ("^layers 'layer0' .* and 'layer1' .*maps='flatten' and maps='pool'.*; layers='same'", (a, "cca"), {}),
        ("expected at least 4 for the estimator", ({"x": x[:, :3]}, "cka"), {}),
    ]:
        with pytest.raises(InputError, match=wrong):
            pairwise(*arguments, **options)
    with pytest.raises(InputError, match=r"^representations\['x'\]: got a traced array"):
        jax.jit(lambda x: pairwise({"x": x}, "cka").values)(x)


def equations(jaxpr):
    """All equations of a program, those of the programs inside of it too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("measure", names)
@pytest.mark.few(2)
def test_matrices_are_decomposed_one_by_one_on_a_cpu(measure):
    """Two devices that decompose a batch each can wait for ever for jaxlib's threads."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(4, EXAMPLES, 3, 4, 2)).astype(np.float32)
    split = MEASURES[measure].split((maps.shape[1:],))
    devices = tuple(jax.local_devices()[:1])
    ((block,), _) = pair_blocks.prepare(split, pair_blocks.Representations((maps,), maps.dtype), 2**31, devices)
    one = jax.tree.map(lambda leaf: leaf[0], block.prepared)
    size = split.product.size(one, one)
    part = block.prepared._replace(data=split.product.downsample(jnp.asarray(block.prepared.data), size))
    programs = [
        jax.make_jaxpr(split.prepare)(maps[0]),
        jax.make_jaxpr(partial(pair_blocks._tile, split, (2, 2)))(np.zeros(2, np.int32), (part, part)),
    ]
    if split.exact is not None:
        programs.append(jax.make_jaxpr(split.compare_exactly)(one, one))
    names = ("svd", "qr", "eigh", "cholesky", "householder_product")
    found = [e for program in programs for e in equations(program.jaxpr) if e.primitive.name in names]
    assert all(equation.invars[0].aval.ndim == 2 for equation in found)
    assert found or measure not in ("cca", "svcca", "pwcca", "pls", "fourier_cca", "procrustes_distance")
