"""GPTs: sizes, values against NumPy, causality, stitch points, symmetry, dropout, training, wrong options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_cct import norm, softmax
from test_models import draw, drawn, number_of_parameters, run, values_of

from experiments.settings import ZooSettings
from symjax import models, zoo
from symjax.data import Dataset, Split
from symjax.errors import InputError
from symjax.models import build
from symjax.training import Recipe

TOKENS = np.random.default_rng(0).integers(0, 7, (3, 6))
EXAMPLE = jax.ShapeDtypeStruct((2, 6), jnp.int32)
SMALL = {"width": 8, "layers": 2, "classes": 7, "length": 9}


def create(**options):
    return models.create("gpt", **{**SMALL, "example": EXAMPLE, **options})


def counted(width, layers, mlp_ratio, length, classes, tied=True):
    hidden = mlp_ratio * width
    block = 2 * 2 * width + 4 * (width + 1) * width + (width + 1) * hidden + (hidden + 1) * width
    return (classes + length) * width + layers * block + 2 * width + (0 if tied else width * classes)


def test_published_sizes():
    """GPT-2 has 124 million parameters; `gpt` is the network of Theus et al. 2025."""
    small = {"width": 768, "layers": 12, "length": 1024, "classes": 50257}
    assert number_of_parameters("gpt", heads=12, **small) == counted(mlp_ratio=4, **small) == 124_439_808
    preset = {"width": 256, "layers": 6, "mlp_ratio": 4, "length": 256, "classes": 65}
    assert number_of_parameters("gpt", classes=65) == counted(**preset)
    assert number_of_parameters("gpt", tied=False, **SMALL) == counted(mlp_ratio=4, tied=False, **SMALL)


def numpy_attention(p, x):
    """Compute causal attention head by head, and token by token."""
    total = np.tile(p["out"]["bias"], (*x.shape[:2], 1))
    for head in range(p["query"]["kernel"].shape[1]):
        query, key, value = (x @ p[n]["kernel"][:, head] + p[n]["bias"][head] for n in ("query", "key", "value"))
        for t in range(x.shape[1]):
            scores = np.einsum("nc,nkc->nk", query[:, t], key[:, : t + 1]) / np.sqrt(query.shape[-1])
            attended = np.einsum("nk,nkc->nc", softmax(scores, -1), value[:, : t + 1])
            total[:, t] += attended @ p["out"]["kernel"][head]
    return total


def numpy_gpt(p, x, layers):
    x = p["embedding"]["embedding"][x] + p["positions"]["embedding"][: x.shape[1]]
    outputs = []
    for i in range(layers):
        q = p["blocks"][i]
        x = x + numpy_attention(q["attention"], norm(q["norm1"], x))
        h = norm(q["norm2"], x) @ q["expand"]["kernel"] + q["expand"]["bias"]
        h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + h @ q["contract"]["kernel"] + q["contract"]["bias"]
        outputs.append(x)
    table = p["decoder"]["kernel"] if "decoder" in p else p["embedding"]["embedding"].T
    return outputs, norm(p["norm"], x) @ table


@pytest.mark.parametrize("options", [{}, {"tied": False, "heads": 2, "mlp_ratio": 1.5, "dropout": 0.5}])
def test_evaluation_is_the_definition(options):
    """Front then tail is the whole bit by bit."""
    module = drawn("gpt", **SMALL, **options)
    outputs, logits = numpy_gpt(values_of(module), TOKENS, 2)
    network = create(**options)
    module.eval()
    member = network.member(module)
    whole, features = network.apply(member, TOKENS), network.features(member, TOKENS)
    assert [(point.name, point.shape) for point in network.points] == [("block1", (6, 8)), ("block2", (6, 8))]
    np.testing.assert_allclose(whole, logits, atol=2e-5 * np.abs(logits).max())
    for (name, value), expected in zip(features.items(), outputs, strict=True):
        np.testing.assert_allclose(value, expected, atol=2e-5 * np.abs(expected).max())
        np.testing.assert_array_equal(network.tail(member, network.front(member, TOKENS, name), name), whole)


def test_logits_depend_on_earlier_tokens_alone():
    network = create()
    member, later = draw(network.shapes), TOKENS.copy()
    later[:, 4:] = (later[:, 4:] + 1) % 7
    before, after = np.asarray(network.apply(member, TOKENS)), np.asarray(network.apply(member, later))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (np.abs(before[:, 4:] - after[:, 4:]).max(-1) > 1e-3).all()
    shorter = network.apply(member, TOKENS[:, :4])
    np.testing.assert_allclose(shorter, before[:, :4], atol=1e-5)


def test_tokens_outside_of_the_vocabulary_give_nan():
    network = create()
    outside = np.array([[0, 1, -1, 2, 3, 4], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 7]])
    nan = np.isnan(network.apply(draw(network.shapes), outside))
    assert nan[[0, 2]].all() and not nan[1].any()


def test_symmetry_of_initial_networks():
    """Heads, their channels, MLPs and the stream, although the effect of initial attention on the logits is small."""
    network = create(heads=2)
    symmetry = network.symmetry(network.init(jax.random.key(0)), TOKENS[:2])
    assert all(space.verified for space in symmetry.spaces.values())
    groups = sorted((space.size, space.group) for space in symmetry.spaces.values())
    per_block = [(2, "permutation"), (32, "permutation"), *[(4, "general_linear")] * 4]
    assert groups == sorted([(8, "permutation"), *per_block, *per_block])
    heads = symmetry.spaces["params/blocks/1/attention/query/heads"]
    assert [len(family) for family in heads.families] == [2, 2]
    assert not {"block1"} & {part for family in heads.families for part in family}
    assert symmetry.spaces_at("block2") == ("block1",)


@pytest.mark.slow
def test_dropout_acts_in_training():
    module = build("gpt", dropout=0.5, **SMALL, rngs=nnx.Rngs(params=0, dropout=1))
    assert not np.array_equal(run(module, TOKENS), run(module, TOKENS))
    module.eval()
    np.testing.assert_array_equal(run(module, TOKENS), run(module, TOKENS))


@pytest.mark.slow
def test_bfloat16():
    half, single = (drawn("gpt", **SMALL, dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32))
    logits, expected = run(half, TOKENS), run(single, TOKENS)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max())


def test_a_zoo_learns_to_predict_the_next_token():
    """A token is that of two places before, so that attention is needed."""
    tokens = np.random.default_rng(0).integers(0, 5, (400, 7))
    for t in range(2, 7):
        tokens[:, t] = tokens[:, t - 2]
    split = Split(tokens[:, :-1], tokens[:, 1:])
    dataset = Dataset("repeated", split, split, split, tuple("abcde"), None, None)
    recipe = Recipe(epochs=20, batch_size=20, learning_rate=1e-2, weight_decay=0.0)
    options = {"layers": 1, "heads": 2, "length": 6}
    config = zoo.ZooConfig("repeated", "gpt", width=16, model_options=options, recipe=recipe)
    trained = zoo.train(config, dataset, 2, progress=False)
    predicted = np.argmax(trained.network.apply(trained.member(0), split.images), -1)
    assert (predicted == split.labels)[:, 1:].mean() > 0.95


def test_defaults_of_the_command():
    recipe = ZooSettings(model="gpt", dataset="text").zoo_config().recipe
    assert (recipe.optimizer, recipe.schedule, recipe.learning_rate) == ("adamw", "cosine", 3e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 6}, "width: got 6, expected a multiple of the 4 attention heads"),
        ({"layers": 0}, "layers: got 0"),
        ({"length": 0}, "length: got 0"),
        ({"mlp_ratio": 0}, "mlp_ratio: got 0, expected a number from 1 / 8"),
        ({"dropout": 1.0}, "dropout: got 1.0, expected a rate"),
        ({"tied": "no"}, "tied: got 'no'"),
        ({"depth": 3}, "option of gpt: got 'depth'"),
        ({"classes": None}, "classes: got none, expected the size of the vocabulary"),
    ],
)
def test_wrong_options(options, message):
    options = {k: v for k, v in {**SMALL, **options}.items() if v is not None}
    with pytest.raises(InputError, match=message):
        build("gpt", rngs=nnx.Rngs(0), **options)


def test_wrong_inputs():
    module = nnx.eval_shape(lambda: build("gpt", rngs=nnx.Rngs(0), **SMALL))
    with pytest.raises(InputError, match="x: got 10 tokens, expected at most 9: see length"):
        module(np.zeros((2, 10), int))
    with pytest.raises(InputError, match="x: got float64.*expected tokens"):
        module(np.zeros((2, 3)))
