"""Partial matching of networks of unequal widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_models import draw

from symjax import InputError, Network, models
from symjax.alignment import embed, match
from symjax.ops import parallel

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def mlp(p, x, norm=lambda x: x):
    x = jax.nn.relu(norm(x @ p["w"] + p["b"]))
    return jax.nn.sigmoid(jnp.concatenate([x, x**2], 1) @ p["v"]) @ p["out"] + p["c"]


def perceptron(first, second, seed=0, fn=mlp):
    shapes = {"w": (4, first), "b": (first,), "v": (2 * first, second), "out": (second, 3), "c": (3,)}
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    network = Network.from_function(fn, params, example=X[:1])
    return network, network.member(params)


def test_planted_channels_are_matched_and_the_others_meet_zeros():
    (narrow, b), (wide, other) = perceptron(3, 5), perceptron(5, 8, seed=1)
    placed = embed(narrow, b, wide, other)
    np.testing.assert_allclose(narrow.apply(b, X), wide.apply(placed, X), rtol=1e-5)
    symmetry = wide.symmetry(other, X[:2])
    planted = symmetry.sample(jax.random.key(0))
    planted = {name: (jnp.abs(matrix) > 0).astype(float) for name, matrix in planted.items()}
    exact = symmetry.act(placed, planted)
    # The wide network has the channels of the narrow one, and others: random where the planted ones are 0.
    a = jax.tree.map(lambda x, y: jnp.where(x == 0, 0.3 * y, x), exact, other)
    element, info = match(wide, a, placed)
    aligned = symmetry.act(placed, element)
    for one, two in zip(jax.tree.leaves(aligned), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    assert info.converged
    distance = sum(
        float(((x - y) ** 2).sum()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(aligned), strict=True)
    )
    assert info.objective[-1] == pytest.approx(distance, rel=1e-5)


def test_stacked_networks_with_batch_norm():
    options = {"multiples": (1,), "norm": True, "image_size": 2, "channels": 1, "classes": 3}
    narrow, wide = (models.create("mlp", width=width, **options) for width in (3, 4))
    b = jax.tree.map(lambda *leaves: np.stack(leaves), draw(narrow.shapes), narrow.init(jax.random.key(1)))
    placed, x = embed(narrow, b, wide, draw(wide.shapes)), np.random.default_rng(1).normal(size=(5, 2, 2, 1))
    for i in range(2):
        outputs = [network.apply(parallel.take(m, i), np.float32(x)) for network, m in ((narrow, b), (wide, placed))]
        np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


def test_networks_that_cannot_be_embedded():
    narrow, b = perceptron(3, 5)
    layer_norm = lambda p, x: mlp(p, x, lambda x: (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True))  # noqa: E731
    less, more = (perceptron(*sizes, fn=layer_norm) for sizes in ((3, 5), (5, 5)))
    other = Network.from_function(lambda p, x: x @ p["w"], {"w": X[:4]}, example=X[:1])
    for words, arguments in [
        ("wide: got 4 channels of params/2, expected 5 or more", (narrow, b, *perceptron(3, 4))),
        ("wide: got a network of other parameters", (narrow, b, other, other.member({"w": X[:4]}))),
        ("members: got another structure", (narrow, {}, narrow, b)),
        ("wide: got 3, expected a Network", (narrow, b, 3, b)),
        ("narrow: got a network whose outputs change by", (*less, *more)),
    ]:
        with pytest.raises(InputError, match=words):
            embed(*arguments)
