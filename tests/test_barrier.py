"""Barriers on the line between networks, statistics of units, and networks of zero barrier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax import InputError, Network, models
from symjax.alignment import Barrier, barrier, interpolate, match, repair
from symjax.ops import parallel
from symjax.ops.memory import MemoryEstimate
from symjax.training.task import cross_entropy


def mlp(p, x):
    hidden = jax.nn.relu(x @ p["w"] + p["b"])
    return jax.nn.relu(hidden @ p["v"] + p["c"]) @ p["out"] + p["d"]


SHAPES = {"w": (5, 16), "b": (16,), "v": (16, 12), "c": (12,), "out": (12, 3), "d": (3,)}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(70, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 70)
DATA = {"x_train": X[:40], "y_train": Y[:40], "x_test": X[40:], "y_test": Y[40:]}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


NET = Network.from_function(mlp, draw(0), example=X[:1])


def member(seed):
    return NET.member(draw(seed))


def test_barrier_is_a_loop_of_evaluations():
    a, b, ts = member(1), member(2), np.linspace(0, 1, 5)
    line = barrier(NET, a, b, DATA, ts=5)
    for i, t in enumerate(ts):
        at = {name: (1 - t) * a.params[name] + t * b.params[name] for name in SHAPES}
        for part, x, y in (("train", X[:40], Y[:40]), ("test", X[40:], Y[40:])):
            logits = mlp(at, x)
            assert getattr(line, f"{part}_loss")[i] == pytest.approx(float(cross_entropy(logits, y)), rel=1e-5)
            accuracy = float((np.argmax(logits, -1) == y).mean())
            assert getattr(line, f"{part}_accuracy")[i] == pytest.approx(accuracy, abs=1e-6)
    excess = line.test_loss - (1 - ts) * line.test_loss[0] - ts * line.test_loss[-1]
    assert float(line.height()) == pytest.approx(excess.max()) and line.height("test_accuracy") >= 0


@pytest.mark.slow
def test_stacked_pairs_are_their_own_lines():
    one, other = parallel.stack([member(1), member(2)]), member(3)
    both = barrier(NET, one, other, DATA, ts=[0, 0.25, 1])
    assert both.test_loss.shape == (2, 3) and both.height().shape == (2,)
    second = barrier(NET, member(2), other, DATA, ts=[0, 0.25, 1])
    np.testing.assert_allclose(both.train_loss[1], second.train_loss, rtol=1e-5)


@pytest.mark.slow
def test_positions_in_groups_of_limited_memory(monkeypatch):
    a, b, groups = member(1), member(2), parallel.groups
    whole, calls = barrier(NET, a, b, DATA, ts=5), []
    monkeypatch.setattr(MemoryEstimate, "max_members", lambda self, limit: 2)
    monkeypatch.setattr(parallel, "groups", lambda *sizes: calls.append(sizes) or groups(*sizes))
    parts = barrier(NET, a, b, DATA, ts=5, max_device_memory=1e6)
    assert calls == [(5, 2 * jax.local_device_count())] or jax.local_device_count() > 2
    np.testing.assert_allclose(parts.test_loss, whole.test_loss, rtol=1e-6)


@pytest.mark.parametrize("group", ["permutation", "scaled_permutation"])
def test_a_network_and_its_image_have_no_barrier_after_matching(group):
    a = member(4)
    symmetry = NET.symmetry(a, X[:2])
    element = symmetry.sample(jax.random.key(1))
    if group == "permutation":
        element = {name: (jnp.abs(matrix) > 0).astype(float) for name, matrix in element.items()}
    b = symmetry.act(a, element)
    aligning, _ = match(NET, a, b, group=group)
    own = mlp(a.params, X).argmax(-1)  # so that the loss of the ends is low
    data = {**DATA, "y_train": own[:40], "y_test": own[40:]}
    before, after = (barrier(NET, a, end, data, ts=5) for end in (b, symmetry.act(b, aligning)))
    assert before.height() > 0.2 and abs(after.height()) < 1e-4
    np.testing.assert_allclose(after.test_loss, after.test_loss[0], rtol=1e-3)


def moments(values, p, x):
    """Mean and deviation of the units of both hidden layers before the activation, in float64."""
    p = {name: np.asarray(leaf, float) for name, leaf in p.items()}
    first = x @ p["w"] + p["b"]
    second = np.maximum(first, 0) @ p["v"] + p["c"]
    return [(z.mean(0), z.std(0)) for z in (first, second)]


def test_repair_gives_units_the_mean_statistics_of_the_ends():
    a, b = member(1), member(2)
    middle = interpolate(a, b, 0.5)
    repaired = repair(NET, middle, parallel.stack([a, b]), DATA)
    ends = [moments(NET, end.params, X[:40]) for end in (a, b)]
    before, after = (moments(NET, m.params, X[:40]) for m in (middle, repaired))
    for layer in range(2):
        for i in range(2):
            expected = (ends[0][layer][i] + ends[1][layer][i]) / 2
            np.testing.assert_allclose(after[layer][i], expected, rtol=1e-4, atol=1e-4)
            assert np.abs(before[layer][i] - expected).max() > 0.1 or (layer, i) == (0, 0)
    np.testing.assert_array_equal(repaired.params["out"], middle.params["out"])  # the last layer has no unit
    line = barrier(NET, a, b, DATA, ts=3, statistics="repair")
    loss = float(cross_entropy(mlp(repaired.params, X[40:]), Y[40:]))
    assert line.test_loss[1] == pytest.approx(loss, rel=1e-4)
    plain = barrier(NET, a, b, DATA, ts=3)
    np.testing.assert_allclose(line.test_loss[[0, 2]], plain.test_loss[[0, 2]], rtol=1e-4)


def test_weights_of_repair():
    a, b = member(1), member(2)
    ends = parallel.stack([a, b])
    np.testing.assert_allclose(repair(NET, a, ends, DATA, weights=[1, 0]).params["w"], a.params["w"], rtol=1e-4)
    dead = NET.member({**a.params, "w": np.zeros((5, 16), np.float32)})
    assert np.isfinite(np.concatenate([np.ravel(leaf) for leaf in repair(NET, dead, ends, DATA).params.values()])).all()
    for words, options in {
        "ends: got none": {"ends": None},
        r"weights: got \[1.0, 1.0\]": {"ends": ends, "weights": [1, 1]},
        "ends: got 2 members for each of 2 ends, expected 1 as in merged": {"ends": parallel.stack([ends, ends])},
    }.items():
        with pytest.raises(InputError, match=words):
            repair(NET, a, **{"data": DATA, **options})


def test_reset_is_the_statistics_of_the_merged_network():
    network = models.create("mlp", width=4, multiples=(1,), norm=True, image_size=2, channels=1, classes=3)
    rng = np.random.default_rng(0)

    def positive(leaf):
        is_real = jnp.issubdtype(leaf.dtype, jnp.floating)
        return rng.uniform(0.5, 2, leaf.shape).astype(leaf.dtype) if is_real else np.zeros(leaf.shape, leaf.dtype)

    a, b = (jax.tree.map(positive, network.shapes) for _ in range(2))
    x = rng.normal(size=(40, 2, 2, 1)).astype(np.float32)
    data = {"x_train": x[:30], "y_train": Y[:30], "x_test": x[30:], "y_test": Y[30:40], "normalize": False}
    middle = interpolate(a, b, 0.5)
    reset = repair(network, middle, data=data)
    kernel = next(leaf for leaf in jax.tree.leaves(middle.params) if leaf.shape == (4, 4))
    z = x[:30].reshape(30, 4) @ kernel
    stats = [np.asarray(leaf) for leaf in jax.tree.leaves(reset.state) if leaf.shape == (4,)]
    np.testing.assert_allclose(sorted(map(tuple, stats)), sorted([tuple(z.mean(0)), tuple(z.var(0))]), rtol=1e-4)
    lines = {name: barrier(network, a, b, data, ts=3, statistics=name) for name in ("reset", "repair", "interpolated")}
    np.testing.assert_array_equal(lines["reset"].test_loss, lines["repair"].test_loss)
    assert abs(lines["reset"].test_loss[1] - lines["interpolated"].test_loss[1]) > 1e-3
    loss = float(cross_entropy(network.apply(reset, x[30:]), Y[30:40]))
    assert lines["reset"].test_loss[1] == pytest.approx(loss, rel=1e-5)


def test_layers_of_built_in_models_are_those_with_a_bias():
    from symjax.network.affine import affine_layers

    for name, options, expected in [
        ("vgg11", {"width": 1}, 9),
        ("resnet20_ln", {"width": 2, "blocks": (1, 1)}, 6),
        ("mlp", {"width": 2}, 4),
    ]:
        network = models.create(name, image_size=16, **options)
        layers = affine_layers(network, network.shapes, network.example)
        assert len(layers) == expected and all("kernel" in one.kernel or "scale" in one.kernel for one in layers)
        assert all(one.kernel.rpartition("[")[0] == one.bias.rpartition("[")[0] for one in layers)


def test_wrong_arguments():
    a = member(1)
    nan = NET.member({**draw(1), "b": np.full(16, np.nan, np.float32)})
    for words, call in {
        "b: got NaN or infinite entries": lambda: barrier(NET, a, nan, DATA),
        "b: got another structure": lambda: barrier(NET, a, {"w": 1}, DATA),
        r"ts: got \[0.5, 1.0\]": lambda: barrier(NET, a, a, DATA, ts=[0.5, 1]),
        "ts: got 1": lambda: barrier(NET, a, a, DATA, ts=1),
        "statistics: got 'no'": lambda: barrier(NET, a, a, DATA, statistics="no"),
        "loss: got 'mse', expected a function": lambda: barrier(NET, a, a, DATA, loss="mse"),
        "max_device_memory: got 1 KB": lambda: barrier(NET, a, a, DATA, 3, max_device_memory=1e3),
        "max_device_memory: got -1": lambda: repair(NET, a, parallel.stack([a, a]), DATA, max_device_memory=-1),
        "ends: got leading axes of": lambda: repair(NET, a, a, DATA),
        r"weights: got \[2.0, -1.0\]": lambda: repair(NET, a, parallel.stack([a, a]), DATA, weights=[2, -1]),
        "data: got 3": lambda: barrier(NET, a, a, 3),
        "a, b: got 2 and 3": lambda: barrier(NET, parallel.stack([a] * 2), parallel.stack([a] * 3), DATA),
        "b: got a leaf of shape": lambda: interpolate({"w": np.ones(2)}, {"w": np.ones(3)}, 0.5),
        "b: got another structure than a": lambda: interpolate({"w": np.ones(2)}, {}, 0.5),
        "curve: got 'loss'": lambda: Barrier(*[np.zeros(3)] * 5).height("loss"),
    }.items():
        with pytest.raises(InputError, match=words):
            call()
