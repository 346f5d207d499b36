"""Recurrent language models: values against NumPy, stitch points, dropout, and training on next tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_models import drawn

from symjax import models, zoo
from symjax.data import Dataset, Split
from symjax.errors import InputError
from symjax.flops import count_flops, lower_on_cpu, segment_flops
from symjax.models import build
from symjax.training import Recipe, accuracy_scores, log_likelihood_scores

TOKENS = np.random.default_rng(0).integers(0, 7, (3, 6))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_layer(kind, p, x):
    """Return the outputs of a layer, step by step in float64, from the formulas of its cell."""
    kernels = {name: np.float64(p[name]["kernel"][...]) for name in ("dense_i", "dense_h")}
    bias = np.float64(p["dense_i" if kind != "lstm" else "dense_h"]["bias"][...])
    width = kernels["dense_h"].shape[0]
    h = c = np.zeros((len(x), width))
    outputs = []
    for t in range(x.shape[1]):
        of_input, of_state = x[:, t] @ kernels["dense_i"] + bias, h @ kernels["dense_h"]
        if kind == "rnn":
            h = np.tanh(of_input + of_state)
        elif kind == "gru":
            (r, z, n), (state_r, state_z, state_n) = (np.split(y, 3, axis=1) for y in (of_input, of_state))
            r, z = sigmoid(r + state_r), sigmoid(z + state_z)
            h = (1 - z) * np.tanh(n + r * state_n) + z * h
        else:
            i, f, g, o = np.split(of_input + of_state, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_values_equal_the_formulas_in_numpy(kind):
    module = drawn(kind, width=5, embedding=4, classes=7)
    module.eval()
    x = np.float64(module.embedding.embedding[...])[TOKENS]
    layers = []
    for layer in module.layers:
        state = nnx.to_pure_dict(nnx.state(layer.cell, nnx.Param))
        x = numpy_layer(kind, state, x)
        layers.append(x)
    logits = x @ np.float64(module.decoder.kernel[...]) + np.float64(module.decoder.bias[...])
    network = models.create(kind, width=5, embedding=4, classes=7, example=jax.ShapeDtypeStruct((2, 6), jnp.int32))
    member = network.member(module)
    whole = network.apply(member, TOKENS)
    np.testing.assert_allclose(whole, logits, atol=2e-5)
    outside = np.array([[0, 1, -1, 2, 3, 4], [0, 1, 2, 3, 4, 7]])
    np.testing.assert_array_equal(
        np.isnan(network.apply(member, outside)).all(-1), np.maximum.accumulate((outside < 0) | (outside > 6), axis=1)
    )
    features = network.features(member, TOKENS)
    assert [point.name for point in network.points] == ["layer1", "layer2"] == list(features)
    for name, expected in zip(features, layers, strict=True):
        np.testing.assert_allclose(features[name], expected, atol=2e-5)
        np.testing.assert_array_equal(network.tail(member, network.front(member, TOKENS, name), name), whole)


@pytest.mark.slow
def test_dropout_masks_are_equal_at_all_positions_and_drop_whole_tokens():
    rngs = {"params": 0, "dropout": 1}
    options = {"layers": 1, "width": 40, "classes": 30, "rngs": nnx.Rngs(**rngs)}
    module = build("rnn", input_dropout=0.5, embedding_dropout=0.25, **options)
    dropped = np.asarray(module.locked_dropout[0](jnp.ones((2, 9, 40))))
    assert (dropped == dropped[:, :1]).all() and set(np.unique(dropped)) == {0.0, 2.0}
    assert not np.array_equal(dropped[0], dropped[1])
    table = np.asarray(module.embedding_dropout(jnp.ones((30, 40))))
    assert (table == table[:, :1]).all() and {*np.unique(table).tolist()} == {0.0, np.float32(1 / 0.75)}
    x = TOKENS[:, :3]
    module.eval()
    np.testing.assert_array_equal(module(x), module(x))
    module.train()
    assert not np.array_equal(module(x), module(x))
    weights = build("rnn", weight_dropout=0.5, **options)
    before = np.array(weights.layers[0].cell.dense_h.kernel[...])
    assert not np.array_equal(weights(x), weights(x))
    np.testing.assert_array_equal(weights.layers[0].cell.dense_h.kernel[...], before)  # masks apply to a copy
    # The first state does not depend on the recurrent weights, because the initial state is zero.
    np.testing.assert_array_equal(weights(x)[:, 0], weights(x)[:, 0])


def test_published_size_and_tied_weights():
    """AWD-LSTM on the Penn Treebank has 24 million parameters. Each gate has one bias here, and two in PyTorch."""
    module = nnx.eval_shape(lambda: build("awd_lstm", classes=10_000, rngs=nnx.Rngs(0)))
    widths = [(400, 1150), (1150, 1150), (1150, 400)]
    count = sum(4 * wide * (narrow + wide + 1) for narrow, wide in widths) + 10_000 * 400
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))]
    assert sum(sizes) == count and 24.1e6 < count < 24.3e6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 6}, "layers: got 6"),
        ({"dropout": 1.0}, "dropout: got 1.0, expected a rate"),
        ({"cell": "lstms"}, "cell: got 'lstms'"),
    ],
)
def test_options_out_of_range_raise(options, message):
    with pytest.raises(InputError, match=message):
        build("lstm", rngs=nnx.Rngs(0), **{"classes": 7, **options})
    with pytest.raises(InputError, match="classes: got none, expected the size of the vocabulary"):
        build("lstm", rngs=nnx.Rngs(0))


def test_inputs_other_than_tokens_raise():
    module = nnx.eval_shape(lambda: build("lstm", classes=7, width=2, rngs=nnx.Rngs(0)))
    for x in (np.zeros((2, 3)), np.zeros((2, 3, 1), int), None):
        with pytest.raises(InputError, match="x: got .*expected tokens"):
            module(x)


def test_scores_are_means_over_positions():
    outputs = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], [[0.2, 0.2, 0.6], [0.5, 0.4, 0.1]]]))
    targets = np.array([[0, 0], [2, 0]])
    np.testing.assert_allclose(accuracy_scores(outputs, targets), [0.5, 1.0])
    expected = [(np.log(0.5) + np.log(0.1)) / 2, (np.log(0.6) + np.log(0.5)) / 2]
    np.testing.assert_allclose(log_likelihood_scores(outputs, targets), expected, rtol=1e-6)


def test_a_zoo_learns_to_predict_the_next_token():
    """Each token is its predecessor plus 1 (mod 5), so that it can be predicted exactly."""
    tokens = (np.arange(7) + np.arange(60)[:, None]) % 5
    split = Split(tokens[:, :-1], tokens[:, 1:])
    dataset = Dataset("count", split, split, split, tuple("abcde"), None, None)
    recipe = Recipe(epochs=8, batch_size=10, learning_rate=0.05, weight_decay=0.0)
    config = zoo.ZooConfig("count", "rnn", width=8, model_options={"layers": 1}, recipe=recipe)
    trained = zoo.train(config, dataset, 2, progress=False)
    assert trained.metrics.loss.iloc[0] > trained.metrics.loss.iloc[-1]
    np.testing.assert_array_equal(zoo.test_accuracy(trained, dataset), 1)
    options = {"metric": log_likelihood_scores}
    scores = zoo.evaluate(trained.network, trained.members, dataset.test, None, None, **options)
    outputs = np.float64(trained.network.apply(trained.member(1), split.images))
    logs = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
    expected = np.take_along_axis(logs, np.int64(split.labels)[..., None], -1).mean()
    assert scores[1] == pytest.approx(expected, abs=1e-5)


def test_flops_of_unrolled_and_unused_loops():
    def loop(unroll):
        def fn(w, x):
            return jax.lax.scan(lambda h, _: (h @ w, None), x, None, 8, unroll=unroll)[0]

        return fn

    shapes = jax.ShapeDtypeStruct((4, 4), jnp.float32), jax.ShapeDtypeStruct((2, 4), jnp.float32)
    expected = 8 * 2 * 2 * 4 * 4
    for unroll in (1, 2, 3, 4, 8, True):
        assert count_flops(lower_on_cpu(loop(unroll), *shapes)) == pytest.approx(expected, rel=0.1), unroll

    def unused(w, x):
        loop(1)(w, x)
        return x @ w

    assert count_flops(lower_on_cpu(unused, *shapes)) == pytest.approx(expected / 8, rel=0.1)


def test_flops_include_all_time_steps():
    """A layer of a vanilla RNN has two matrix products per step, the decoder has one."""
    width, length, classes = 16, 50, 30
    example = jax.ShapeDtypeStruct((2, length), jnp.int32)
    network = models.create("rnn", layers=1, width=width, classes=classes, example=example)
    layer, decoder = segment_flops(network, (length,))
    products = 2 * length * width * width * 2
    assert products < layer < products + 10 * length * width
    assert 2 * length * width * classes <= decoder < 2 * length * width * classes + 10 * length * classes
