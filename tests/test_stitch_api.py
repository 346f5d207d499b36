"""Stitching networks of any kind by `symjax.stitch`: own modules and functions, own data, loss and metric."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from stitch_api_helpers import (
    CNN,
    MLP,
    ONE,
    closeness,
    draw,
    linear,
    of_function,
    of_nnx,
    planted,
    residual,
    squared,
    vectors,
)

import symjax
from symjax import InputError, Network, stitch_point
from symjax.data.splitting import split_indices
from symjax.network import Member
from symjax.ops.parallel import default_execution
from symjax.stitching import (
    FitConfig,
    Plan,
    Sweep,
    apply_stitch,
    evaluate_stitch,
    parse_families,
)
from symjax.stitching.junction import resize


class Normed(nn.Module):
    """Linen, with batch norm and dropout that `train` switches together."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = stitch_point(nn.relu(nn.Conv(4, (3, 3), strides=2)(x)), "conv")
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(5, (1, 1))(x))
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x))
        return nn.Dense(3)(x.mean(axis=(1, 2)))


def tokens_model(weights, tokens, train=False, key=None):
    """A model of tokens whose training mode is random and needs a key."""
    x = stitch_point(jnp.tanh(weights["embedding"][tokens]), "embedded")
    if train:
        x = x * jax.random.bernoulli(key, 0.9, x.shape) / 0.9
    x = stitch_point(jnp.tanh(x @ weights["mix"]), "mixed")
    return x.mean(axis=1) @ weights["last"]


def maps(seed=0, n=40):
    x = np.random.RandomState(seed).randn(n, 8, 8, 1).astype(np.float32)
    return x, np.arange(n) % 3


@pytest.mark.parametrize("back", [False, slow(True)], ids=["4 to 6 channels", "6 to 4"])
def test_full_recovers_a_planted_map_between_widths(back):
    a, b, matrix = planted()
    nets = (b, a) if back else (a, b)
    x, _ = vectors()
    y = np.argmax(a[0].apply(a[1], x), axis=1)
    result = symjax.stitch(
        *nets, at="relu1", families="full,rank1,least_squares", train=(x, y), test=(x[:30], y[:30]), **ONE,
        learning_rates=(1e-6,),
    )  # fmt: skip
    table = result.table.set_index("family")
    assert table.loc[["full", "least_squares"], "penalty"].tolist() == [0, 0] and table.clean_accuracy.eq(100).all()
    assert table.loc["rank1", "penalty"] > 0 and table.loc["rank1", "rank"] == 1
    assert table.layer.eq("relu1").all() and table.layer_b.eq("relu1").all() and table["resize"].eq("none").all()
    features, targets = (np.asarray(net.features(member, x)["relu1"], np.float64) for net, member in nets)
    images = split_indices(60, 0.2, 0)[0][:40]  # whole batches of the training part
    gram = features[images].T @ features[images] / 40
    damping = 1e-5 * np.trace(gram) / len(gram) * np.eye(len(gram))  # of `least_squares`
    exact = np.linalg.solve(gram + damping, features[images].T @ targets[images] / 40).T
    for family in ("full", "least_squares"):
        stitch = result.stitches["relu1", family]
        assert stitch.matrix.shape == ((4, 6) if back else (6, 4)) and stitch.bias.shape == (4 if back else 6,)
        stitched = apply_stitch(stitch, jnp.asarray(features, jnp.float32))
        np.testing.assert_allclose(stitched, features @ exact.T, atol=1e-4)
        np.testing.assert_allclose(stitched, targets, atol=1e-3 * np.abs(targets).max())


def test_points_of_one_network_of_flax_nnx():
    """Layers of unequal width, and one layer twice; validation, table and evaluation agree; members stay."""
    (network, a), (_, b) = (of_nnx(lambda rngs: MLP(6, rngs), seed, (5,)) for seed in (0, 1))
    b = network.init(jax.random.key(1))
    before = jax.tree.map(np.array, (a, b))
    train, test = vectors(), vectors(1, 30)
    at = ["relu1", ("relu1", "relu2"), ("relu2", "relu1")]
    result = symjax.stitch(
        (network, a), (network, network.to_module(b)), at, families="lasso:0.01,rank2", train=train, test=test,
        **{**ONE, "learning_rates": (1e-3, 1e-1), "epochs": 2},
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, (a, b), before)
    rows = result.table
    assert rows.layer.tolist() == ["relu1"] * 4 + ["relu2"] * 2
    assert rows.layer_b.tolist() == ["relu1"] * 2 + ["relu2"] * 2 + ["relu1"] * 2
    keys = [("relu1", "rank2"), ("relu1", "relu2", "rank2"), ("relu2", "relu1", "lasso:0.01")]
    assert [result.stitches[key].matrix.shape for key in keys] == [(6, 6), (7, 6), (6, 7)]
    assert rows["rank"][rows.family == "rank2"].eq(2).all() and set(rows.learning_rate) <= {1e-3, 1e-1}
    for row in rows.itertuples():
        layers = dict.fromkeys((row.layer, row.layer_b))
        key, split = (*layers, row.family), symjax.data.Split(*test)
        again = evaluate_stitch(
            network, a, b, result.stitches[key], result.states[key], (row.layer, row.layer_b), split, None, None,
            batch_size=20,
        )  # fmt: skip
        assert again == row.stitched_accuracy == pytest.approx(row.clean_accuracy - row.penalty)
    curves = result.curves.groupby(["layer", "layer_b", "family", "learning_rate"], dropna=False).size()
    assert len(curves) == 3 * 2 * 2 and curves.eq(2).all()
    titles = [text.get_text() for text in result.plot().axes[0].get_xticklabels()]
    assert titles == ["relu1", "relu1 to relu2", "relu2 to relu1"]


@pytest.mark.slow
def test_one_point_of_one_network_is_the_commands_sweep():
    """The same numbers to the last bit, and no columns for a second point."""
    assert inspect.signature(symjax.stitch).parameters["families"].default == "full,rank1,birkhoff"
    network, a = of_nnx(lambda rngs: MLP(6, rngs), 0, (5,))
    b, (x, y), options = network.init(jax.random.key(1)), vectors(), {**ONE, "epochs": 2}
    result = symjax.stitch(
        (network, a), (network, b), at="relu2", families="full,rank1", train=(x, y), test=(x, y), **options
    )
    train, held_out = split_indices(60, 0.2, 0)
    parts = [symjax.data.Split(x[part], y[part]) for part in (train, held_out, slice(None))]
    dataset = symjax.data.Dataset("own", *parts, ("a", "b", "c"), None, None)
    config = FitConfig(**{name: options[name] for name in ("epochs", "batch_size", "eval_batch_size")})
    plan = Plan(network, (1,), parse_families("full,rank1"), config, default_execution())
    (swept,) = Sweep(plan, dataset, devices=ONE["devices"]).run({0: a, 1: b}.get, [(0, 1)])
    assert result.table.family.tolist() == ["full", "rank1"] and result.table.layer.eq("relu2").all()
    assert not {"layer_b", "resize"} & {*result.table, *result.curves}
    assert result.table.stitched_accuracy.tolist() == [row["stitched_accuracy"] for row in swept.rows]
    assert result.curves.to_dict("records") == swept.curves
    for key, pair in swept.stitches.items():
        jax.tree.map(np.testing.assert_array_equal, (result.stitches[key], result.states[key]), pair)


def stitched_by_hand(network_b, member, result, key, features, point):
    """Outputs of B's tail on features of A that a stitch of the result acts on, in NumPy."""
    stitch = result.stitches[key]
    features = np.asarray(features, np.float64) @ np.asarray(stitch.matrix).T + stitch.bias
    tail = Member(member.params, result.states[key])
    return np.asarray(network_b.tail(tail, (jnp.asarray(features, jnp.float32),), point))


@pytest.mark.parametrize("how", ["mean", slow("nearest")])
def test_maps_of_unequal_size(how):
    """From 8 x 8 to 4 x 4 pixels and back, by convolutional networks of 3 and 5 channels."""
    large, small = (
        of_nnx(lambda rngs: CNN(3, 1, rngs), 0, (8, 8, 1)),
        of_nnx(lambda rngs: CNN(5, 2, rngs), 1, (8, 8, 1)),
    )
    (a, member_a), (b, member_b) = (large, small) if how == "mean" else (small, large)
    x, y = maps(1, 20)
    result = symjax.stitch((a, member_a), (b, member_b), "relu1", families="full", train=maps(), test=(x, y), **ONE)
    assert result.table[["layer", "layer_b", "resize"]].values.tolist() == [["relu1", "relu1", how]]
    features = np.asarray(a.features(member_a, x)["relu1"])
    if how == "mean":
        features = features.reshape(20, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    else:
        features = features.repeat(2, axis=1).repeat(2, axis=2)
    outputs = stitched_by_hand(b, member_b, result, ("relu1", "full"), features, "relu1")
    assert result.table.stitched_accuracy[0] == pytest.approx(100 * np.mean(np.argmax(outputs, 1) == y))


@pytest.mark.parametrize(
    "size,target,how",
    [((6,), (3,), "mean"), ((6,), (4,), "nearest"), ((4, 2), (2, 2), "mean"), ((4, 2), (2, 4), "nearest")],
)
def test_features_are_resized_by_the_method(size, target, how):
    x = np.random.RandomState(0).randn(2, *size, 3).astype(np.float32)
    expected = x
    for axis, (n, m) in enumerate(zip(size, target, strict=True), 1):
        if how == "mean":
            parts = [expected.take(range(i * n // m, (i + 1) * n // m), axis).mean(axis) for i in range(m)]
        else:
            parts = [expected.take(i * n // m, axis) for i in range(m)]
        expected = np.stack(parts, axis)
    np.testing.assert_allclose(resize(jnp.asarray(x), target), expected, atol=1e-6)


def test_from_nnx_to_linen_with_batch_norm_and_dropout():
    """Statistics after the stitch are re-estimated; dropout in the tail needs a key while stitches train."""
    a, member_a = of_nnx(lambda rngs: CNN(3, 1, rngs), 0, (8, 8, 1))
    b = Network.from_linen(Normed(), example=np.zeros((1, 8, 8, 1), np.float32))
    member_b = b.init(jax.random.key(1))
    x, y = maps(1, 20)
    result = symjax.stitch(
        (a, member_a), (b, member_b), ("relu1", "conv"), families="full", train=maps(), test=(x, y), **ONE, bias=True
    )
    assert result.table.layer_b.tolist() == ["conv"] and result.table["resize"].tolist() == ["mean"]
    key = ("relu1", "conv", "full")
    features = np.asarray(a.features(member_a, x)["relu1"]).reshape(20, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    outputs = stitched_by_hand(b, member_b, result, key, features, "conv")
    assert result.table.stitched_accuracy[0] == pytest.approx(100 * np.mean(np.argmax(outputs, 1) == y))
    statistics = result.states[key]["batch_stats"]["BatchNorm_0"]
    assert np.abs(statistics["mean"]).min() > 1e-4 and np.isfinite(statistics["var"]).all()
    assert result.stitches[key].bias.any()


@pytest.mark.slow
def test_tokens_through_functions_on_two_devices():
    """Integer inputs, 4 tokens of 3 and 5 channels; devices share the stitches of the pair."""
    nets = [
        of_function(
            tokens_model, draw(d, embedding=(7, d), mix=(d, d + 1), last=(d + 1, 2)), np.zeros((1, 4), np.int32)
        )
        for d in (3, 5)
    ]
    tokens = np.random.RandomState(0).randint(0, 7, (60, 4))
    data = tokens[:40], tokens[:40, 0] % 2
    result = symjax.stitch(
        *nets, at=["embedded", "mixed"], families="full", train=data, test=(tokens[40:], tokens[40:, 0] % 2),
        **{**ONE, "devices": jax.devices()[:2]},
    )  # fmt: skip
    assert result.table.layer.tolist() == ["embedded", "mixed"]
    assert [result.stitches[layer, "full"].matrix.shape for layer in result.table.layer] == [(5, 3), (6, 4)]
    assert result.table.stitched_accuracy.between(0, 100).all()


def test_own_loss_and_metric():
    """Regression; A has other outputs, and so no score. Validation picks the higher score, although it is negative."""
    a = of_function(linear, draw(0, first=(5, 4), second=(4, 3)), np.zeros((1, 5), np.float32))
    b = of_function(linear, draw(1, first=(5, 4), second=(4, 1)), np.zeros((1, 5), np.float32))
    x, _ = vectors()
    y = np.asarray(b[0].apply(b[1], x))[:, 0]
    options = {**ONE, "epochs": 4, "learning_rates": (1e-9, 3e-2)}
    result = symjax.stitch(
        a, b, "relu1", families="identity,full", train=(x, y), test=(x, y), loss=squared, metric=closeness,
        start="random", **options,
    )  # fmt: skip
    table = result.table.set_index("family")
    assert np.isnan(table.clean_score_a).all() and np.abs(table.clean_score_b).max() < 1e-12
    assert (table.penalty == table.clean_score - table.stitched_score).all()
    outputs = stitched_by_hand(b[0], b[1], result, ("relu1", "full"), a[0].features(a[1], x)["relu1"], "relu1")
    np.testing.assert_allclose(table.stitched_score["full"], closeness(outputs, y).mean(), rtol=1e-5)
    assert table.learning_rate["full"] == 3e-2  # it learns, and does not take the first
    curve = result.curves[result.curves.learning_rate == 3e-2]
    assert curve.loss.iloc[-1] < curve.loss.iloc[0]
    np.testing.assert_allclose(curve.score, -curve.loss, rtol=1e-5)
    assert result.plot().axes[0].get_ylabel() == "stitching penalty (score)"


def shaken(weights, x, train=False, key=None):
    """A function whose outputs in training are one random number."""
    hidden = stitch_point(x @ weights["first"], "hidden")
    return 0 * hidden + jax.random.uniform(key) if train else hidden


def test_random_tails_use_one_key_per_step():
    net = of_function(shaken, draw(0, first=(5, 1)), np.zeros((1, 5), np.float32))
    x, y = vectors()
    losses = {"loss": lambda outputs, targets: outputs.mean(), "metric": lambda outputs, targets: outputs[:, 0]}
    options = {**ONE, "batch_size": 24, "epochs": 3}
    result = symjax.stitch(
        net, net, "hidden", families="full,lasso:0.1", train=(x, y), test=(x, y), **losses, **options
    )
    first, second = (rows.loss.to_numpy() for _, rows in result.curves.groupby("family"))
    np.testing.assert_array_equal(first, second)
    assert len(set(first)) == 3 and first.min() > 0 and first.max() < 1


def test_a_starred_point_takes_the_skip_of_the_front():
    weights = [draw(s, first=(5, 4), inner=(4, 6), back=(6, 4), last=(4, 3)) for s in (0, 1)]
    network, a = of_function(residual, weights[0], np.zeros((1, 5), np.float32))
    b = network.member(weights[1])
    assert [point.starred for point in network.points] == [False, True, False, True]
    train, (x, y) = vectors(), vectors(1, 30)
    result = symjax.stitch(
        (network, a), (network, b), ("inner*", "other*"), families="full", train=train, test=(x, y), **ONE
    )
    features, skip = network.front(a, x, "inner*")
    stitched = apply_stitch(result.stitches["inner*", "other*", "full"], features)
    outputs = network.tail(b, (stitched, skip), "other*")
    assert result.table.stitched_accuracy[0] == pytest.approx(100 * np.mean(np.argmax(outputs, 1) == y))
    with pytest.raises(InputError, match=r"points: got nothing across the split at stem .*not starred"):
        symjax.stitch((network, a), (network, b), ("stem", "inner*"), families="full", train=train, test=(x, y))
