"""`pairwise_batches`: all pairs of layers and models over batches."""

import numpy as np
import pytest

from symjax import InputError, cka, cka_stream, pairwise, pairwise_batches
from symjax.similarity import MEASURES, FewExamplesWarning
from symjax.similarity.streams.pairwise_batches import MOMENTS, STREAMS

RNG = np.random.default_rng(0)
COMMON = RNG.standard_normal((48, 4))


def layer(width, noise=0.5):
    return np.float32(COMMON @ RNG.standard_normal((4, width)) + noise * RNG.standard_normal((48, width)))


MODELS = {"a": {"relu1": layer(3), "relu2": layer(3)}, "b": {"relu1": layer(3), "relu2": layer(3)}}


def in_batches(models=MODELS, size=24):
    for i in range(0, 48, size):
        yield {model: {name: x[i : i + size] for name, x in layers.items()} for model, layers in models.items()}


def test_equals_pairwise_on_the_whole():
    measures = ["cka", "pwcca", "procrustes_distance"]
    results = pairwise_batches(in_batches(), measures)
    stacked = {name: np.stack([MODELS[m][name] for m in "ab"]) for name in ("relu1", "relu2")}
    for measure, expected in pairwise(stacked, measures, models="ab").items():
        result = results[measure]
        np.testing.assert_allclose(result.values, expected.values, atol=3e-5, err_msg=measure)
        assert result.computed.all()
        assert (result.layers_a, result.models_b) == (expected.layers_a, expected.models_b)
    distances = results["procrustes_distance"].values.reshape(4, 4)
    assert not distances.diagonal().any() and (distances == distances.T).all()


@pytest.mark.slow
def test_every_measure_has_its_value_for_one_batch():
    x, y = layer(4) + np.float32([0, 1, 2, 3]), layer(5)
    x[:, 1], x[:, 3] = 2, 2 * x[:, 2]  # a constant and dependent ones
    results = pairwise_batches([{"x": x, "y": y}], [*MOMENTS, *STREAMS])
    for measure, result in results.items():
        value = result.select(layer_a="x", layer_b="y").item()
        np.testing.assert_allclose(value, MEASURES[measure].fn(x, y), atol=3e-5, err_msg=measure)


@pytest.mark.parametrize("options", [{"alpha": 0.5}, {"alpha": 0.5, "center": False}])
@pytest.mark.few(1)
def test_partial_whitening_depends_on_the_norm_of_all_examples(options):
    models = {"x": layer(3) + 1, "y": layer(4)}
    result = pairwise_batches(
        [{k: x[i : i + 24] for k, x in models.items()} for i in (0, 24)], "shape_distance", **options
    )
    np.testing.assert_allclose(result.values, pairwise({0: models}, "shape_distance", **options).values, atol=2e-5)


@pytest.mark.slow
def test_maps_of_several_sizes_and_minibatches():
    maps = {
        "first": np.float32(RNG.standard_normal((8, 4, 4, 2))),
        "last": np.float32(RNG.standard_normal((8, 2, 2, 3))),
    }
    batches = [{name: x[i : i + 4] for name, x in maps.items()} for i in (0, 4)]
    result = pairwise_batches(batches, "procrustes").values
    np.testing.assert_allclose(result, pairwise({"a": maps}, "procrustes").values, atol=1e-5)
    stream = cka_stream(form="minibatch")
    state = stream.init(*batches[0].values())
    for batch in batches:
        state = stream.update(state, *batch.values())
    result = pairwise_batches(batches, "cka", form="minibatch").select(layer_a="first", layer_b="last")
    np.testing.assert_allclose(result, stream.finalize(state), atol=1e-6)


@pytest.mark.slow
def test_fewer_examples_than_features_in_all():
    models = {name: layer(width)[:12] for name, width in (("x", 4), ("y", 4), ("z", 5))}
    result = pairwise_batches([{k: x[:5] for k, x in models.items()}, {k: x[5:] for k, x in models.items()}], "cca")
    np.testing.assert_allclose(result.values, pairwise({"a": models}, "cca").values, atol=3e-5)


@pytest.mark.slow
def test_models_with_other_layers():
    models = {"small": {"l0": layer(3)}, "large": {"l0": layer(5), "l1": layer(5)}}
    result = pairwise_batches(in_batches(models, 24), "cka")
    assert result.layers_a == ("l0", "l1") and result.models_a == ("small", "large")
    assert result.computed.sum() == 9 and np.isnan(result.values[~result.computed]).all()
    np.testing.assert_array_equal(result.values, result.values.transpose(2, 3, 0, 1))
    expected = cka(models["small"]["l0"], models["large"]["l1"])
    np.testing.assert_allclose(result.values[0, 0, 1, 1], expected, atol=2e-5)


@pytest.mark.slow
def test_tokens_and_options():
    tokens = np.float32(RNG.standard_normal((48, 3, 4)))
    batches = [{"layer": tokens[:24]}, {"layer": tokens[24:]}]
    result = pairwise_batches(batches, "cca", samples="pool").values
    np.testing.assert_allclose(result, pairwise({"layer": tokens[None]}, "cca", samples="pool").values, atol=2e-5)


def test_wrong_batches():
    x = layer(3)
    cases = [
        ([], "cka", {}, "batches: got none"),
        ([{"x": x}], "cka_distance", {}, "measure: got 'cka_distance'"),
        ([{"x": x}], ["cka", "cca", "cka"], {}, "measure: got cka, cca, cka"),
        ([{"x": x}], len, {}, "measure: got <built-in function len>, expected one of cca"),
        ([{"x": x, "m": {"x": x}}], "cka", {}, "batches: got mappings and arrays"),
        ([{"x": x}], "cka", {"rank": 3}, "rank: got an unknown option of cka"),
        ([{"x": x}], "cca", {"form": "minibatch"}, "form: got an unknown option of cca"),
        ([{"x": x}], "cka", {"form": "wide"}, "form: got 'wide'"),
        ([{"x": x}], "cca", {"mask": x}, "mask: got one"),
        ([{"x": x[:1]}], "cca", {}, "batches: got 1 examples, expected at least 2"),
        ([{"x": np.ones((1, 20000))}], "cca", {}, "batches: got 20000 features in 1 layers, expected at most 16384"),
        ([{"x": x}, {"y": x}], "cka", {}, "batches: got float32\\[3\\] of 'y' of 0, expected float32\\[3\\] of 'x'"),
        ([{"x": x}, {"x": x[:, :2]}], "cka", {}, "batches: got float32\\[2\\]"),
        ([{"x": x, "y": x[:4]}], "cka", {}, r"batches: got \[4, 48\] examples"),
        ([x], "cka", {}, "(?s)batches: got .* expected mappings"),
        ([{"x": np.full((8, 3), np.nan)}], "cka", {}, r"batches\['x'\]: got NaN"),
        ([{"x": x, "y": np.ones((48, 2, 2, 3))}], "cca", {}, r"layers 'x' of 0 \(x\) and 'y' of 0"),
    ]
    for batches, measure, options, message in cases:
        with pytest.raises(InputError, match=message):
            pairwise_batches(batches, measure, **options)


@pytest.mark.slow
def test_one_warning_of_few_examples():
    with pytest.warns(FewExamplesWarning, match="cca: few examples") as issued:
        pairwise_batches([{"x": layer(9)[:8], "y": layer(9)[:8]}], "cca")
    assert len(issued) == 1
