"""`pairwise_batches`: all pairs of layers and models over batches."""

import numpy as np
import pytest

from symjax import InputError, cka, pairwise, pairwise_batches
from symjax.similarity import MEASURES, FewExamplesWarning
from symjax.similarity.streams.pairwise_batches import STREAMS

RNG = np.random.default_rng(0)
COMMON = RNG.standard_normal((48, 4))


def layer(width, noise=0.5):
    return np.float32(COMMON @ RNG.standard_normal((4, width)) + noise * RNG.standard_normal((48, width)))


MODELS = {"a": {"relu1": layer(3), "relu2": layer(3)}, "b": {"relu1": layer(3), "relu2": layer(3)}}


def in_batches(models=MODELS, size=24):
    for i in range(0, 48, size):
        yield {model: {name: x[i : i + size] for name, x in layers.items()} for model, layers in models.items()}


@pytest.mark.parametrize("measure", ["cka", "pwcca"])
def test_equals_pairwise_on_the_whole(measure):
    result = pairwise_batches(in_batches(), measure)
    stacked = {name: np.stack([MODELS[m][name] for m in "ab"]) for name in ("relu1", "relu2")}
    expected = pairwise(stacked, measure, models="ab")
    np.testing.assert_allclose(result.values, expected.values, atol=3e-5)
    assert result.computed.all()
    assert (result.layers_a, result.models_b) == (expected.layers_a, expected.models_b)


@pytest.mark.slow
def test_every_stream_gives_its_measure_for_one_batch():
    x, y = layer(4), layer(4)
    for measure in STREAMS:
        value = pairwise_batches([{"x": x, "y": y}], measure).select(layer_a="x", layer_b="y").item()
        np.testing.assert_allclose(value, MEASURES[measure].fn(x, y), atol=2e-5, err_msg=measure)


def test_models_with_other_layers():
    models = {"small": {"l0": layer(3)}, "large": {"l0": layer(5), "l1": layer(5)}}
    result = pairwise_batches(in_batches(models, 24), "cka")
    assert result.layers_a == ("l0", "l1") and result.models_a == ("small", "large")
    assert result.computed.sum() == 9 and np.isnan(result.values[~result.computed]).all()
    np.testing.assert_array_equal(result.values, result.values.transpose(2, 3, 0, 1))
    expected = cka(models["small"]["l0"], models["large"]["l1"])
    np.testing.assert_allclose(result.values[0, 0, 1, 1], expected, atol=2e-5)


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
        ([{"x": x}], "cka", {"rank": 3}, "options: got rank"),
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


def test_few_examples_are_told_once():
    with pytest.warns(FewExamplesWarning, match="cca: few examples") as issued:
        pairwise_batches([{"x": layer(9)[:8], "y": layer(9)[:8]}], "cca")
    assert len(issued) == 1
