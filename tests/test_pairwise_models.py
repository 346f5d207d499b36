"""All pairs of models of any layers and widths."""

import re
import warnings
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from scipy.optimize import linear_sum_assignment

from symjax import InputError, pairwise
from symjax.activations import Activations
from symjax.similarity import MEASURES, FewExamplesWarning, pair_blocks
from symjax.similarity.channels import one_width_is_cheaper
from symjax.similarity.pairwise_side import PairwiseSide

RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(size=(40, 4))


def layer(*shape):
    """Return a layer of 40 examples that is related to the others."""
    mixed = SIGNAL @ RNG.normal(size=(4, *shape)).reshape(4, -1) + 0.6 * RNG.normal(size=(40, int(np.prod(shape))))
    return mixed.reshape(40, *shape).astype(np.float32)


MODELS = {
    "narrow": {"relu1": layer(3), "relu2": layer(5)},
    "wide": {"relu1": layer(7), "relu2": layer(18), "relu3": layer(4)},
    "other": {"relu2": layer(18)},
}
NAMES = list(MEASURES)
QUICK = ("cka", "cca", "procrustes_distance")


@pytest.mark.parametrize("measure", [name if name in QUICK else slow(name) for name in NAMES])
@pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")
@pytest.mark.filterwarnings("ignore:rounding determines the rotation")  # of 18 neurons to 20 examples of a fold
@pytest.mark.few(1)
def test_values_are_those_of_one_pair_at_a_time(measure):
    result = pairwise(MODELS, measure)
    assert result.layers_a == ("relu1", "relu2", "relu3") and result.models_b == tuple(MODELS)
    present = np.array([[layer in layers for layers in MODELS.values()] for layer in result.layers_a])
    computed = present[:, :, None, None] & present
    np.testing.assert_array_equal(result.computed, computed)
    np.testing.assert_array_equal(np.isnan(result.values), ~computed)
    for (a, x), (b, y) in ((("narrow", "relu1"), ("wide", "relu2")), (("wide", "relu2"), ("other", "relu2"))):
        value = result.select(model_a=a, layer_a=x, model_b=b, layer_b=y)
        np.testing.assert_allclose(value, MEASURES[measure].fn(MODELS[a][x], MODELS[b][y]), atol=1e-5)
    matrix = result.values.transpose(1, 0, 3, 2).reshape(9, 9)
    if MEASURES[measure].symmetric:
        np.testing.assert_array_equal(matrix, matrix.T)
    if MEASURES[measure].kind == "distance" and MEASURES[measure].ends_at_equal:
        assert (np.diag(matrix)[present.T.ravel()] == 0).all()


@pytest.mark.parametrize("measure", [name if name == "cca" else slow(name) for name in NAMES])
@pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")
@pytest.mark.slow
def test_zero_channels_change_no_value_where_that_is_claimed(measure):
    if not MEASURES[measure].zero_channels:
        pytest.skip("not claimed")
    x, y = layer(3), layer(5)
    value = MEASURES[measure].fn(np.pad(x, [(0, 0), (0, 4)]), y)
    np.testing.assert_allclose(value, MEASURES[measure].fn(x, y), atol=1e-5)


@pytest.mark.parametrize("measure", ["pls", "permutation_procrustes_distance"])
@pytest.mark.few(1)
def test_programs_are_compiled_for_buckets_and_not_for_pairs(measure):
    events = []

    def compiled(models):
        events.clear()
        pairwise(models, measure)
        return sum("backend_compile" in event for event in events)

    jax.monitoring.register_event_duration_secs_listener(listen := lambda event, *_, **__: events.append(event))
    try:
        first = compiled({width: {"relu1": layer(width)} for width in (3, 4)})
        assert compiled({width: {"relu1": layer(width)} for width in (5, 9, 11, 16)}) <= first
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("measure", ["permutation_procrustes_distance", "soft_matching_distance"])
def test_padding_is_no_channel(measure):
    """Channels are matched although their products are negative, and dead ones of the data count."""
    x = np.abs(layer(5))
    sides = {"x": x, "opposite": -x, "dead": np.where(np.arange(5) < 3, -x, 0)}
    if measure != "soft_matching_distance":
        sides = {name: side / np.linalg.norm(side) for name, side in {**sides, "narrow": x[:, :3]}.items()}
    result = pairwise({name: {"relu1": side} for name, side in sides.items()}, measure)
    padded = [np.pad(side, [(0, 0), (0, 5 - side.shape[1])]) for side in sides.values()]
    for (i, a), (j, b) in product(enumerate(padded), repeat=2):
        costs = ((a[:, :, None] - b[:, None]) ** 2).sum(0)
        total = costs[linear_sum_assignment(costs)].sum()
        expected = np.sqrt(total / 5 if measure == "soft_matching_distance" else total)
        np.testing.assert_allclose(result.values[0, i, 0, j], expected, rtol=1e-4)


def test_several_measures_and_own_functions():
    def inner(x, y, power=1):
        return jnp.vdot(x[:, :3], y[:, :3]) ** power

    results = pairwise(MODELS, ["cka", inner], layers="same", power=2, samples="pool")
    assert list(results) == ["cka", "inner"]
    x, y = MODELS["narrow"]["relu2"], MODELS["other"]["relu2"]
    value = results["inner"].select(layer_a="relu2", model_a="narrow", layer_b="relu2", model_b="other")
    np.testing.assert_allclose(value, np.vdot(x[:, :3], y[:, :3]) ** 2, rtol=1e-4)
    np.testing.assert_allclose(results["cka"].values, pairwise(MODELS, "cka", layers="same").values, atol=1e-6)
    assert results["cka"].computed.sum() == 2 * 2 + 3 * 3 + 1
    with pytest.raises(InputError, match="^power: got an unknown option of cka, procrustes, expected one of"):
        pairwise(MODELS, ["cka", "procrustes"], power=2)
    for wrong, names in (("cka, cka", ["cka", "cka"]), ("none", [])):
        with pytest.raises(InputError, match=f"^measure: got {wrong}, expected one or more of different names"):
            pairwise(MODELS, names)


def test_pairs_of_models_that_lack_layers():
    result = pairwise(MODELS, "cka", pairs=[("narrow", "other")], layers="same")
    assert result.computed.sum() == 2 and np.isnan(result.values).sum() == result.values.size - 2
    assert len(result.to_frame()) == 2
    against = pairwise(MODELS, "cka", against={"x": {"relu9": layer(6)}})
    assert against.values.shape == (3, 3, 1, 1) and against.computed.sum() == 6


def test_means_between_models():
    result = pairwise(MODELS, "procrustes_distance")
    means = result.between_models()
    values = [result.select(layer_a=x, layer_b=x, model_a="narrow", model_b="wide") for x in ("relu1", "relu2")]
    np.testing.assert_allclose(means.loc["narrow", "wide"], np.mean(values), rtol=1e-6)
    np.testing.assert_array_equal(means.loc["wide", "other"], result.values[1, 1, 1, 2])
    np.testing.assert_array_equal(means, means.T)
    assert (np.diag(means) == 0).all() and means.loc["other", "narrow"] > 0
    apart = pairwise(MODELS, "procrustes_distance", against={"x": {"relu3": layer(6)}}).between_models()
    assert apart["x"].isna().tolist() == [True, False, True]


def test_tokens_maps_and_files_that_are_read_once(tmp_path):
    tokens, maps = layer(3, 4), layer(2, 3, 4)
    reads = []
    lazy = Activations({"attention": lambda: reads.append(1) or tokens, "conv": maps})
    result = pairwise({"a": lazy, "b": {"conv": maps, "attention": tokens[:, ::-1]}}, "cka", layers="same")
    assert len(reads) == 1
    as_maps = MEASURES["cka"].fn(tokens[:, None], tokens[:, None, ::-1])
    np.testing.assert_allclose(
        result.select(layer_a="attention", model_a="a", layer_b="attention", model_b="b"), as_maps, atol=1e-6
    )
    channels_first = {name: {"conv": maps.transpose(0, 3, 1, 2)} for name in "ab"}
    np.testing.assert_allclose(pairwise(channels_first, "cka", layout="nchw").values, 1, atol=1e-5)


def test_a_progress_bar_counts_pairs(capsys):
    pairwise(MODELS, ["cka", lambda x, y: x.sum() * y.sum()])
    assert capsys.readouterr().err == ""
    pairwise(MODELS, ["cka", lambda x, y: x.sum() * y.sum()], progress=True)
    first, *_, last = capsys.readouterr().err.splitlines()  # of a log: lines, without carriage returns
    assert first.startswith("pairwise:   0% 0/57 [") and last.startswith("pairwise: 100% 57/57 [")


def test_options_that_change_what_holds_for_a_measure():
    """Padding and subtracted offsets must not change values where an option makes them matter."""
    models = {name: {"x": MODELS[name]["relu2"]} for name in ("narrow", "wide")}
    for measure, options in (
        ("mutual_knn", {"metric": "correlation"}),
        ("rsa_euclidean", {"metric": "correlation"}),
        ("rsm_norm_difference", {"metric": "correlation"}),
    ):
        expected = MEASURES[measure].fn(models["narrow"]["x"], models["wide"]["x"], **options)
        result = pairwise(models, measure, **options).values[0, 0, 0, 1]
        np.testing.assert_allclose(result, expected, atol=1e-5, rtol=1e-5, err_msg=measure)
    far = {name: {"x": np.float64(layers["x"]) + 1e8} for name, layers in models.items()}
    for measure, options in (
        ("mutual_knn", {"metric": "cosine"}),
        ("rsa_euclidean", {"metric": "cosine"}),
        ("shape_distance", {"center": False}),
    ):
        with pytest.raises(InputError, match="^representations: .* got numbers about 1.0e[+]08"):
            pairwise(far, measure, **options)
    pairwise(far, "mutual_knn")


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_the_dtype_is_that_of_all_models(order):
    with jax.enable_x64(True):
        arrays = {"a": layer(3), "b": np.float64(layer(3)) + 1e6 + 0.1 * RNG.normal(size=(40, 3))}
        result = pairwise({name: {"x": arrays[name]} for name in order}, "cka")
        assert result.values.dtype == np.float64
        value = result.select(layer_a="x", model_a="a", layer_b="x", model_b="b")
        np.testing.assert_allclose(value, MEASURES["cka"].fn(arrays["a"], arrays["b"]), atol=1e-12)


def test_blocks_do_not_change_values(monkeypatch):
    values = pairwise(MODELS, "cka").values
    monkeypatch.setattr(pair_blocks, "CHUNK_BYTES", 1)
    np.testing.assert_allclose(pairwise(MODELS, "cka", memory=1).values, values, atol=2e-6)


@pytest.mark.slow
def test_few_examples_name_layers():
    models = {"a": {"x": layer(30)}, "b": {"x": layer(3), "y": layer(31)}}
    with pytest.warns(FewExamplesWarning, match="^cca: few examples for layers 'x' and 'x', 'x' and 'y', 'y' and 'y'"):
        pairwise(models, "cca")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairwise({"b": {"x": layer(3)}}, "cca")


def test_mistakes():
    bad = layer(3)
    bad[3, 1] = np.nan
    many = {str(i): {str(i): layer(1)} for i in range(130)}
    for wrong, models, options in [
        ("^representations: got mappings and arrays, expected all of one kind", {"a": {"x": bad}, "b": bad}, {}),
        ("^representations['a']: got no layer", {"a": {}}, {}),
        ("^models: got xy, expected None, since the keys are the models", MODELS, {"models": "xy"}),
        (
            "^representations['b']['y']: got 39 examples, expected as many as in layer 'x' of model 'a', 40",
            {"a": {"x": layer(3)}, "b": {"y": layer(3)[1:]}},
            {},
        ),
        ("^representations['a']['x']: got shape (40,), expected (n, d), (n, t, c)", {"a": {"x": bad[:, 0]}}, {}),
        ("^representations: got NaN or infinite .*(layer 'x' of model 'a')", {"a": {"x": bad}}, {}),
        ("^representations: got 130 names of layers in 130 models, expected fewer", many, {}),
        ("^layers 'x' (x) and 'x' (y) by cca: y: got shape", {"a": {"x": layer(2, 2, 3)}, "b": {"x": layer(3)}}, {}),
        ("^progress: got 1, expected True or False", MODELS, {"progress": 1}),
    ]:
        pattern = re.escape(wrong).replace(r"\^", "^").replace(r"\.\*", ".*")
        with pytest.raises(InputError, match=pattern):
            pairwise(models, "cca", **options)


def test_few_networks_share_one_width():
    """A program for each pair of widths would take longer to compile than wide matrices to decompose."""
    rng = np.random.default_rng(0)
    networks = {str(width): {"layer": rng.normal(size=(30, width))} for width in (5, 20, 40, 70)}
    side = PairwiseSide("representations", networks, "models", None, None)

    def stacks(models, padded=True):
        return [len(stack) for stack in side.select([0], models, np.float32, padded)[0].arrays]

    assert stacks(range(4)) == [4] and stacks([0, 3]) == [2] and stacks(range(4), padded=False) == [1] * 4
    assert one_width_is_cheaper([64, 128] * 5, 500)
    assert not one_width_is_cheaper([64, 128] * 50, 500)  # 5,050 pairs
    assert not one_width_is_cheaper([64, 512] * 5, 5000)
    assert not one_width_is_cheaper([60, 64], 5000)  # of one common width anyway
