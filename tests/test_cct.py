"""Compact convolutional transformers: sizes, values against NumPy, dropout and stochastic depth, wrong options."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf
from test_models import abstract, close, drawn, images, named, number_of_parameters, numpy_convolution, run, values_of

from symjax.errors import InputError
from symjax.models import MODELS, build
from symjax.models.cct import sine_positions

SMALL = {"width": 8, "image_size": 8}

# --- sizes and points ---


@pytest.mark.parametrize(
    ("name", "side", "classes", "count"),
    [
        # The published counts: 0.28, 0.48, 3.33, 3.76, 3.85 and 22.36 million.
        ("cct2_3x2", 32, 10, 283_723),
        ("cct4_3x2", 32, 10, 482_123),
        ("cct6_3x2", 32, 10, 3_326_923),
        ("cct7_3x1", 32, 10, 3_760_139),
        ("cct7_3x2", 32, 10, 3_853_259),
        ("cct14_7x2", 224, 1000, 22_367_273),
    ],
)
@pytest.mark.few(3)
def test_published_sizes(name, side, classes, count):
    assert number_of_parameters(name, image_size=side, classes=classes) == count
    assert counted(**MODELS[name].defaults | {"image_size": side, "classes": classes}) == count


def counted(width, layers, mlp_ratio, kernel, conv_layers, image_size, classes, **_):
    """Return the number of parameters by the description in the paper."""
    hidden = mlp_ratio * width
    widths = [3, *[64] * (conv_layers - 1), width]
    tokenizer = sum(kernel**2 * a * b for a, b in itertools.pairwise(widths))
    tokens = (image_size // (2 * max(1, kernel // 2 - 1)) ** conv_layers) ** 2
    block = 2 * 2 * width + 3 * width**2 + (width + 1) * width + (width + 1) * hidden + (hidden + 1) * width
    return tokenizer + tokens * width + layers * block + 2 * width + (width + 1) + (width + 1) * classes


def test_presets():
    names = {name for name in MODELS if "cct" in name}
    assert names >= {"cct2_3x2", "cct4_3x2", "cct6_3x1", "cct6_3x2", "cct7_3x1", "cct7_3x2", "cct7_7x2", "cct14_7x2"}
    for short, name in [("cct2", "cct2_3x2"), ("cct6", "cct6_3x1"), ("cct7", "cct7_3x1"), ("cct14", "cct14_7x2")]:
        assert MODELS[short].defaults == MODELS[name].defaults


@pytest.mark.parametrize(("name", "layers", "side"), [("cct2", 2, 4), ("cct6_3x1", 6, 8)])
def test_points(name, layers, side):
    """Return stitch points: tokens are maps, channels last."""
    values = named(name, width=8, image_size=16)
    assert list(values) == [f"block{i + 1}" for i in range(layers)]
    assert {value.shape for value in values.values()} == {(2, side, side, 8)}


def test_positions_are_options():
    counts = [
        number_of_parameters("cct2", positional_embedding=kind, **SMALL) for kind in ("learnable", "sine", "none")
    ]
    assert counts[0] - counts[1] == 2 * 2 * 8 and counts[1] == counts[2]
    positions = sine_positions(2, 3, 4).reshape(6, 4)
    for p in range(6):
        np.testing.assert_allclose(positions[p], [np.sin(p), np.cos(p), np.sin(p / 100), np.cos(p / 100)], atol=1e-12)


# --- values ---


def softmax(a, axis):
    a = np.exp(a - a.max(axis=axis, keepdims=True))
    return a / a.sum(axis=axis, keepdims=True)


def norm(p, x):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def numpy_attention(p, x):
    """Compute attention head by head."""
    heads, size = p["query"]["kernel"].shape[1:]
    total = p["out"]["bias"]
    for head in range(heads):
        query, key, value = (x @ p[name]["kernel"][:, head] for name in ("query", "key", "value"))
        weights = softmax(np.einsum("nqc,nkc->nqk", query, key) / np.sqrt(size), -1)
        total = total + weights @ value @ p["out"]["kernel"][head]
    return total


def numpy_block(p, x, kind, factors=(1, 1)):
    """Compute an encoder block on tokens (n, tokens, channels) by definition, with factors for its two branches."""
    after = x + factors[0] * numpy_attention(p["attention"], norm(p["norm1"], x))
    normed = norm(p["norm2"], after)
    hidden = normed @ p["expand"]["kernel"] + p["expand"]["bias"]
    mlp = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2))) @ p["contract"]["kernel"] + p["contract"]["bias"]
    return (normed if kind == "published" else after) + factors[1] * mlp


def numpy_overlapping_pool(x):
    """Compute the max pool over 3 x 3 windows around every second pixel."""
    rows, columns = range(0, x.shape[1], 2), range(0, x.shape[2], 2)
    windows = [[x[:, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].max(axis=(1, 2)) for j in columns] for i in rows]
    return np.stack([np.stack(row, axis=1) for row in windows], axis=1)


def numpy_cct(p, x, kind, positions, stride=1):
    for i in sorted(p["convs"]):
        x = numpy_overlapping_pool(np.maximum(numpy_convolution(x, p["convs"][i]["kernel"], stride), 0))
    x = (x + positions).reshape(len(x), -1, x.shape[-1])
    for i in sorted(p["blocks"]):
        x = numpy_block(p["blocks"][i], x, kind)
    x = norm(p["norm"], x)
    weights = softmax(x @ p["score"]["kernel"] + p["score"]["bias"], 1)
    return (weights * x).sum(axis=1) @ p["dense"]["kernel"] + p["dense"]["bias"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block": "prenorm", "positional_embedding": "sine"},
        {"conv_layers": 1, "kernel": 7, "positional_embedding": "none", "heads": 4, "mlp_ratio": 2, "image_size": 14},
    ],
)
def test_evaluation_is_the_definition(options):
    with jax.enable_x64(True):
        options = {**SMALL, **options}
        module = drawn("cct2", dtype=jnp.float64, **options)
        module.eval()
        x = images(size=options["image_size"]).astype(np.float64)
        logits, p = run(module, x), values_of(module)
        kind = options.get("positional_embedding")
        positions = p["positions"] if kind is None else sine_positions(2, 2, 8) if kind == "sine" else 0
        expected = numpy_cct(p, x, options.get("block", "published"), positions, 2 if "kernel" in options else 1)
    close(logits, expected, 1e-11)


@pytest.mark.slow
def test_bfloat16():
    assert {value.dtype for value in named("cct2", 8, dtype=jnp.bfloat16, **SMALL).values()} == {jnp.dtype("bfloat16")}
    single, half = drawn("cct2", **SMALL), drawn("cct2", dtype=jnp.bfloat16, **SMALL)
    single.eval(), half.eval()
    logits = run(half, images(size=8))
    assert logits.dtype == jnp.float32
    close(logits, run(single, images(size=8)), 0.05)


# --- training ---


@pytest.mark.slow
def test_nothing_is_dropped_in_evaluation_or_at_rate_0():
    still = {"attention_dropout": 0.0, "stochastic_depth": 0.0}
    dropping, plain = drawn("cct2", dropout=0.5, **SMALL), drawn("cct2", **SMALL, **still)
    assert nnx.state(dropping, nnx.RngState) and not nnx.state(plain, nnx.RngState)
    x = images(size=8)
    dropping.eval()
    expected = run(plain, x)
    np.testing.assert_array_equal(run(dropping, x), expected)
    np.testing.assert_array_equal(run(dropping, x), expected)
    dropping.train()
    first, second = run(dropping, x), run(dropping, x)
    assert np.all(first != second) and np.all(first != expected)


def test_stochastic_depth():
    """The first block drops nothing; the last block drops its branches independently per example at the rate."""
    module = drawn("cct2", attention_dropout=0.0, stochastic_depth=0.25, **SMALL)
    assert [block.skip.rate for block in module.blocks] == [0.0, 0.25]
    block = module.blocks[1]
    x = jnp.repeat(jax.random.normal(jax.random.key(0), (1, 4, 8)), 512, axis=0)
    p, stream = values_of(block), np.asarray(x[:1], np.float64)
    factors = itertools.product((0, 1 / 0.75), repeat=2)
    cases = np.stack([numpy_block(p, stream, "published", pair) for pair in factors])
    distances = np.abs(np.asarray(run(block, x)) - cases).max(axis=(2, 3))
    assert distances.min(axis=0).max() < 1e-4
    frequencies = np.bincount(distances.argmin(axis=0), minlength=4) / 512
    np.testing.assert_allclose(frequencies, [1 / 16, 3 / 16, 3 / 16, 9 / 16], atol=0.07)


def test_attention_weights_are_dropped():
    """With values of one and a summing output, outputs are the sums of the weights that are not dropped."""
    attention = drawn("cct2", attention_dropout=0.5, **SMALL).blocks[0].attention
    attention.value.kernel[...] = jnp.zeros_like(attention.value.kernel[...]).at[0].set(1.0)
    attention.out.kernel[...] = jnp.full_like(attention.out.kernel[...], 1 / 8)
    attention.out.bias[...] = jnp.zeros(8)
    x = jax.random.normal(jax.random.key(0), (256, 4, 8)).at[..., 0].set(1.0)
    sums = run(attention, x)
    assert abs(sums.mean() - 1) < 0.05 and sums.std() > 0.1
    attention.eval()
    np.testing.assert_allclose(run(attention, x), 1, rtol=1e-5)


@pytest.mark.slow
def test_gradients_are_finite():
    module = drawn("cct2", **SMALL)

    @nnx.jit
    def gradients(module):
        return nnx.grad(lambda module: jax.nn.log_softmax(module(images(size=8)))[:, 0].mean())(module)

    leaves = jax.tree.leaves(gradients(module))
    assert len(leaves) == len(jax.tree.leaves(nnx.state(module, nnx.Param)))
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_init_draws_the_published_variances():
    module = build("cct2", width=64, image_size=8, layers=1, rngs=nnx.Rngs(0))
    block, deviation = module.blocks[0], 0.02
    for kernel in (block.attention.query.kernel, block.attention.out.kernel, block.expand.kernel):
        assert abs(np.std(kernel[...]) / deviation - 1) < 0.06 and np.abs(kernel[...]).max() < 2.3 * deviation
    assert abs(np.std(module.convs[1].kernel[...]) / np.sqrt(2 / (9 * 32)) - 1) < 0.06
    assert abs(np.std(module.positions[...]) / 0.2 - 1) < 0.15


# --- wrong options ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 7}, "width: got 7, expected a multiple of the 2"),
        ({"image_size": 0}, "image_size: got 0"),
        ({"kernel": 4}, "kernel: got 4, expected an odd number"),
        ({"layers": 0}, "layers: got 0"),
        ({"stochastic_depth": 1.5}, "stochastic_depth: got 1.5, expected a number from 0 to 1"),
        ({"dropout": "much"}, "dropout: got 'much'"),
        ({"mlp_ratio": 0}, "mlp_ratio: got 0"),
        ({"positional_embedding": "cosine"}, "learnable, sine, none"),
        ({"block": "postnorm"}, "block: got 'postnorm' .did you mean prenorm.., expected one of published, prenorm"),
        ({"depth": 3}, "option of cct2: got 'depth' .*, expected one of width, layers"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(InputError, match=words):
        build("cct2", rngs=nnx.Rngs(0), **options)


def test_images_of_another_size():
    graph, state = abstract("cct2", **SMALL)
    with pytest.raises(InputError, match="got 4 x 4 tokens, expected 2 x 2: see image_size"):
        jax.eval_shape(lambda state: nnx.merge(graph, state)(jnp.asarray(images())), state)
