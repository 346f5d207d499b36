"""The forward pass of stitched networks: identity stitches, residual blocks, low rank."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stitch_helpers import trained
from sweep_helpers import SGD, make_plan, same

from symjax import models
from symjax.data import normalize
from symjax.network import Member
from symjax.stitching import (
    Stitch,
    Sweep,
    apply_stitch,
    evaluate,
    evaluate_stitch,
    fit,
    load_stitch,
    stitched_output,
)
from symjax.stitching.results import StitchResults

# --- the forward pass ---


def check_identity_stitch(network, member, images):
    whole = np.asarray(jax.jit(lambda m: network.apply(m, images))(member))

    @jax.jit
    def stitched(member):
        fronts = network.fronts(member, images, range(len(network.points)))
        return [
            stitched_output(network, member, x, Stitch(jnp.eye(p.channels), jnp.zeros(p.channels)), i, "inference")[0]
            for i, (x, p) in enumerate(zip(fronts, network.points, strict=True))
        ]

    for point, logits in zip(network.points, stitched(member), strict=True):
        np.testing.assert_allclose(logits, whole, rtol=0, atol=1e-6 * np.abs(whole).max(), err_msg=point.name)
    assert np.ptp(whole, axis=0).min() > 0.01


def test_an_identity_stitch_of_a_model_with_itself_is_the_model():
    dataset, zoo = trained()
    check_identity_stitch(zoo.network, zoo.member(0), normalize(dataset.test.images[:8], dataset.mean, dataset.std))


@pytest.fixture(scope="module")
def residual():
    """A ResNet of one block a stage, 2 channels wide, and random numbers for it (its own take long to compile)."""
    network = models.create("resnet20", blocks=(1, 1, 1), width=2, image_size=8, channels=1, classes=4)
    network = network.with_form("matmul")
    rng = np.random.RandomState(0)
    draw = lambda leaf: jnp.asarray(rng.uniform(0.2, 1, leaf.shape), leaf.dtype)  # noqa: E731
    params, stats = network.shapes
    params = jax.tree.map(lambda leaf: draw(leaf) * (1 if leaf.ndim == 1 else 2) - (leaf.ndim > 1), params)
    return network, Member(params, jax.tree.map(draw, stats))


@pytest.mark.slow
def test_inside_a_residual_block_the_branch_alone_is_stitched(residual):
    network, member = residual
    images = jax.random.normal(jax.random.key(2), (4, 8, 8, 1))
    assert [p.name for p in network.points if p.starred] == ["block1.1*", "block2.1*", "block3.1*"]
    check_identity_stitch(network, member, images)
    carried = jax.jit(lambda member: network.front(member, images, network.index("block2.1*")))(member)
    matrix, bias = np.arange(16.0).reshape(4, 4), np.arange(4.0)
    stitch = Stitch(jnp.asarray(matrix, jnp.float32), jnp.asarray(bias, jnp.float32))
    features, skip = carried
    stitched = np.einsum("ij,nhwj->nhwi", matrix, features) + bias
    np.testing.assert_allclose(apply_stitch(stitch, features), stitched, rtol=1e-5)

    @jax.jit
    def outputs(member, stitched):
        logits, _ = stitched_output(network, member, carried, stitch, network.index("block2.1*"), "inference")
        return logits, network.tail(member, (stitched, skip), "block2.1*")

    logits, by_hand = outputs(member, jnp.asarray(stitched, jnp.float32))
    np.testing.assert_allclose(logits, by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_points_inside_residual_blocks_are_swept(residual):
    network, member = residual
    dataset, _ = trained()
    points = tuple(network.index(name) for name in ("block1.1*", "block2.1"))
    plan = make_plan("identity,birkhoff,full", dataclasses.replace(SGD, epochs=1), points, network=network)
    other = Member(jax.tree.map(lambda leaf: leaf[::-1], member.params), member.state)
    members = {0: member, 1: other}
    before = jax.tree.map(np.array, members)
    (result,) = Sweep(plan, dataset, devices=jax.devices()[:1]).run(members.get, [(0, 1)])
    assert same(members, before)
    assert [(row["layer"], row["starred"]) for row in result.rows[::3]] == [("block1.1*", True), ("block2.1", False)]
    where = dataset.test, dataset.mean, dataset.std
    for row in result.rows:
        saved = result.stitches[row["layer"], row["family"]]
        assert evaluate_stitch(network, member, other, *saved, row["layer_index"], *where) == row["stitched_accuracy"]


# --- low rank ---


def factored(d, r, bias):
    rng = np.random.RandomState(r)
    left, right = rng.randn(d, r).astype(np.float32), rng.randn(r, d).astype(np.float32)
    offset = rng.randn(d).astype(np.float32) if bias else None
    return Stitch(left @ right, offset, (left, right))


SOME = [("mcnn", "mixed", "train", True), ("mcnn", "native", "inference", False), ("mcnn_k", "mixed", "train", False)]
ALL = [
    (model, method, mode, bias)
    for model, method in (("mcnn", "native"), ("mcnn", "matmul"), ("mcnn", "mixed"), ("mcnn_k", "mixed"))
    for mode in ("inference", "train")
    for bias in (False, True)
]


@pytest.mark.parametrize(
    ("model", "method", "mode", "bias"),
    [pytest.param(*case, marks=() if case in SOME else pytest.mark.slow) for case in ALL],
)
@pytest.mark.few(1)
def test_factors_equal_their_product(model, method, mode, bias):
    """At relu1 a convolution follows directly, at relu2 a pooling; logits and gradients are equal."""
    network = models.create(model, width=16, channels=3, classes=5).with_form(method)
    member = jax.jit(network.init)(jax.random.key(0))
    member = member._replace(state=jax.tree.map(lambda leaf: leaf + 0.1, member.state))
    weights = jax.random.normal(jax.random.key(1), (6, 5))
    images = jax.random.normal(jax.random.key(2), (6, 16, 16, 3))
    for point in (0, 1):
        front = jax.jit(lambda member, point=point: network.front(member, images, point))
        carried, stitch = front(member), factored(16 * (point + 1), 2, bias)

        def value(stitch, point=point, carried=carried):
            logits, _ = stitched_output(network, member, carried, stitch, point, mode)
            return jnp.sum(logits * weights), logits

        run = jax.jit(jax.value_and_grad(value, has_aux=True))
        ((_, logits), result), ((_, dense), expected) = run(stitch), run(stitch._replace(factors=None))
        np.testing.assert_allclose(logits, dense, atol=2e-5 * np.abs(dense).max())
        left, right = stitch.factors
        for gradient, product in zip(
            result.factors, (expected.matrix @ right.T, left.T @ expected.matrix), strict=True
        ):
            np.testing.assert_allclose(gradient, product, atol=2e-4 * np.abs(product).max())
        assert not result.matrix.any()
        if bias:
            np.testing.assert_allclose(result.bias, expected.bias, atol=2e-4 * np.abs(expected.bias).max())
        x = carried[0]
        plain = np.einsum("ij,nhwj->nhwi", stitch.matrix, x) + (stitch.bias if bias else 0)
        np.testing.assert_allclose(apply_stitch(stitch, x), plain, atol=1e-5 * np.abs(plain).max())


@pytest.mark.parametrize(
    ("point", "bias"),
    [
        (0, True),
        pytest.param(0, False, marks=pytest.mark.slow),
        pytest.param(1, True, marks=pytest.mark.slow),
        (1, False),
    ],
)
@pytest.mark.slow
def test_factors_in_bfloat16(point, bias):
    network = models.create("mcnn", width=16, channels=3, classes=5, dtype=jnp.bfloat16).with_form("mixed")
    member = jax.jit(network.init)(jax.random.key(0))
    images = jax.random.normal(jax.random.key(2), (6, 16, 16, 3))
    carried = jax.jit(lambda member: network.front(member, images, point))(member)
    stitch = factored(16 * (point + 1), 2, bias)
    run = jax.jit(lambda stitch: stitched_output(network, member, carried, stitch, point, "train")[0])
    result, expected = run(stitch), run(stitch._replace(factors=None))
    assert result.dtype == jnp.float32 and apply_stitch(stitch, carried[0]).dtype == jnp.bfloat16
    np.testing.assert_allclose(result, expected, atol=4e-2 * np.abs(expected).max())


def test_factors_inside_a_residual_block(residual):
    """The value at the point is a pair (branch, skip); the factors act on the branch alone."""
    network, member = residual
    point = network.index("block2.1*")
    images, stitch = jax.random.normal(jax.random.key(2), (4, 8, 8, 1)), factored(4, 1, True)

    @jax.jit
    def outputs(stitch):
        carried = network.front(member, images, point)
        return stitched_output(network, member, carried, stitch, point, "inference")[0]

    result, expected = (outputs(one) for one in (stitch, stitch._replace(factors=None)))
    np.testing.assert_allclose(result, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("bias", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.slow
def test_low_rank_stitches_are_those_of_the_matrix(bias, monkeypatch, tmp_path):
    """Trained and evaluated by factors as by their product; factors are saved, each with its own rank."""
    dataset, zoo = trained()
    members = {seed: zoo.member(seed) for seed in (0, 1)}
    plan = make_plan("rank1,full,rank2", dataclasses.replace(SGD, bias=bias))
    run = lambda: next(Sweep(plan, dataset, devices=jax.devices()[:1]).run(members.get, [(0, 1)]))  # noqa: E731
    result = run()
    monkeypatch.setattr(fit, "low_rank", lambda factors: None)
    expected = run()
    assert [row["family"] for row in result.rows] == ["rank1", "full", "rank2"] * 2
    StitchResults(tmp_path).add(result, {0: 90.0, 1: 90.0})
    for key, (stitch, stats) in result.stitches.items():
        saved = load_stitch(tmp_path, (0, 1), *key, like=zoo.member(1).state)
        assert same(saved, (stitch, stats)) and jax.tree.structure(saved[0]) == jax.tree.structure(stitch)
        other, other_stats = expected.stitches[key]
        rank = {("relu1", "rank1"): 1, ("relu2", "rank1"): 1, ("relu2", "rank2"): 2}.get(key)
        assert other.factors is None and (stitch.factors is None) == (rank is None)
        if rank:
            assert [a.shape for a in stitch.factors] == [(len(stitch.bias), rank), (rank, len(stitch.bias))]
            np.testing.assert_allclose(stitch.matrix, stitch.factors[0] @ stitch.factors[1], atol=1e-6)
        assert stitch.bias.any() == bias
        close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
        close(stitch.matrix, other.matrix)
        jax.tree.map(close, stats, other_stats)
    for row, other in zip(result.rows, expected.rows, strict=True):
        assert abs(row["stitched_accuracy"] - other["stitched_accuracy"]) <= 100 / len(dataset.test)


def test_over_batches_equals_single_batches():
    of_batch = lambda member, batch, scale: {"sum": scale * member * batch["x"].sum(), "x": batch["x"]}  # noqa: E731
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    run = jax.jit(lambda count: evaluate.over_batches(of_batch, (jnp.float32(2),), ({"x": x}, count, jnp.float32(3))))
    for count in (1, 3, 4):
        result = run(count)
        np.testing.assert_allclose(result["sum"], 6 * x.sum(1) * (np.arange(4) < count))
        np.testing.assert_allclose(result["x"], x * (np.arange(4) < count)[:, None])
