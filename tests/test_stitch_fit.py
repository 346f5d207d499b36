"""Fitting stitches: planted solutions, loops in float64, and invariance to the execution."""

import dataclasses
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stitch_helpers import acted, trained
from sweep_helpers import CONFIG, MAP, PLAIN, SGD, by_key, make_plan, same

from symjax.data import epoch_indices, normalize
from symjax.network import Member, Network
from symjax.ops.parallel import Execution
from symjax.stitching import (
    FitConfig,
    Pair,
    Sweep,
    fit,
)
from symjax.training.loop import TrainData


def start(plan, pair, key, data, images):
    return fit.initialize(plan, pair, key, fit.pair_moments(plan, pair, images, data.mean, data.std))


def fit_data(dataset):
    arrays = (dataset.train.images, dataset.train.labels, dataset.mean, dataset.std)
    return TrainData(*map(jnp.asarray, arrays), None)


# --- a planted problem ---


class Planted:
    """Members 0 and 1 are one network before and after a permutation and scaling of its channels in both layers."""

    def __init__(self):
        self.dataset, zoo = trained()
        self.network = zoo.network
        member = zoo.member(2)
        # The statistics that a re-estimation over the training images must find again: their own.
        batches = CONFIG.eval_batch_size * (len(self.dataset.train) // CONFIG.eval_batch_size)
        images = normalize(self.dataset.train.images[:batches], self.dataset.mean, self.dataset.std)
        stats = jax.jit(lambda m: self.network.apply(m, images, mode="moments", with_state=True)[1])(member)
        first, rng = Member(member.params, stats), np.random.RandomState(0)
        second, self.matrices = first, {}
        for layer, point in enumerate(self.network.points):
            permutation = rng.permutation(point.channels)
            scaling = np.exp(rng.uniform(-1, 1, point.channels)).astype(np.float32)
            second = acted(second, layer, permutation, scaling)
            self.matrices[point.name] = scaling[:, None] * np.eye(point.channels)[permutation]
        self.members = {0: first, 1: second}
        logits = jax.jit(lambda m: self.network.apply(m, normalize(x, self.dataset.mean, self.dataset.std)))
        x = self.dataset.test.images
        self.logits = [np.asarray(logits(member)) for member in self.members.values()]
        right = np.argmax(self.logits[0], -1) == self.dataset.test.labels
        self.clean = 100 * right.sum() / len(right)


@lru_cache
def planted():
    return Planted()


def test_the_planted_members_are_one_function():
    problem = planted()
    np.testing.assert_allclose(*problem.logits, atol=1e-5)
    assert not same(problem.members[0].params, problem.members[1].params)
    assert 60 < problem.clean < 100  # neither chance nor saturated: 4 classes


def planted_sweep(families):
    problem = planted()
    sweep = Sweep(make_plan(families, SGD), problem.dataset, devices=jax.devices()[:1])
    (result,) = sweep.run(problem.members.get, [(0, 1)])
    return result


@pytest.fixture(scope="module")
def planted_result():
    return planted_sweep("identity,matched,least_squares")


@pytest.mark.parametrize("layer", ["relu1", "relu2"])
@pytest.mark.few(1)
def test_closed_forms_recover_a_planted_symmetry(planted_result, layer):
    problem, result = planted(), by_key(planted_result)
    stitch, _ = planted_result.stitches[layer, "matched"]
    np.testing.assert_array_equal(stitch.matrix > 0, problem.matrices[layer] > 0)
    np.testing.assert_allclose(stitch.matrix, problem.matrices[layer], rtol=1e-6)
    for family in ("matched", "least_squares"):
        assert result[layer, family]["stitched_accuracy"] == problem.clean
    assert result[layer, "identity"]["stitched_accuracy"] < problem.clean - 20


@pytest.mark.slow
def test_birkhoff_keeps_a_planted_symmetry_that_it_starts_from():
    problem, result = planted(), planted_sweep("birkhoff")
    for layer in ("relu1", "relu2"):
        stitch, _ = result.stitches[layer, "birkhoff"]
        np.testing.assert_array_equal(stitch.matrix > 0, problem.matrices[layer] > 0)
        np.testing.assert_allclose(stitch.matrix, problem.matrices[layer], rtol=2e-3)
        assert by_key(result)[layer, "birkhoff"]["stitched_accuracy"] == problem.clean


def train_only(plan, pair, dataset, key=0, epochs=None):
    """The rounded stitches of one pair, without an evaluation."""
    images = jnp.asarray(dataset.train.images[None, :64])
    data = fit_data(dataset)
    state = jax.jit(lambda pair, key: start(plan, pair, key, data, images))(
        pair, jax.random.key_data(jax.random.key(key))
    )
    epoch = jax.jit(lambda state: fit.fit_epoch(plan, state, data))
    for i in range(plan.config.epochs):
        if i == (plan.config.epochs + 1) // 2:
            state = fit.halfway(plan, state)
        state, _ = epoch(state)
    return state, fit.round_stitches(plan, state)


@pytest.mark.slow
def test_birkhoff_finds_a_planted_symmetry_from_a_random_start():
    """At relu1 the permutation is found without a penalty, the scaling approximately.

    At relu2 training from a random start ends in local minima, whatever the seed.
    """
    problem = planted()
    config = FitConfig(epochs=24, learning_rates=(0.03,), start="random", eval_batch_size=32, **PLAIN)
    plan = dataclasses.replace(make_plan("birkhoff", config), points=(0,))
    (result,) = Sweep(plan, problem.dataset, devices=jax.devices()[:1]).run(problem.members.get, [(0, 1)])
    stitch, _ = result.stitches["relu1", "birkhoff"]
    np.testing.assert_array_equal(stitch.matrix > 0, problem.matrices["relu1"] > 0)
    np.testing.assert_allclose(stitch.matrix, problem.matrices["relu1"], rtol=0.3)
    assert by_key(result)["relu1", "birkhoff"]["stitched_accuracy"] >= problem.clean


# --- frozen sides ---


def test_no_gradient_of_the_members_is_computed(monkeypatch):
    """The members' arrays pass through an identity that cannot be differentiated, wherever a network runs on them."""

    @jax.custom_vjp
    def frozen(x):
        return x

    def forward(x):
        raise AssertionError("a gradient of a frozen member")

    frozen.defvjp(forward, lambda _, g: (g,))
    run = Network._run

    def guarded(self, trace, inputs, outputs, values, member, key=None):
        return run(self, trace, inputs, outputs, values, jax.tree.map(frozen, member), key)

    dataset, zoo = trained()
    monkeypatch.setattr(Network, "_run", guarded)
    pair, data = Pair(zoo.member(0), zoo.member(1)), fit_data(dataset)
    plan = make_plan()
    key = jax.random.key_data(jax.random.key(0))
    images = jnp.asarray(dataset.train.images[None, :64])
    state = jax.eval_shape(lambda pair, data: start(plan, pair, key, data, images), pair, data)
    after, _ = jax.eval_shape(lambda state, data: fit.fit_epoch(plan, state, data), state, data)
    # The optimizer state has only shapes of stitches.
    channels = {4, 8}
    rates = len(plan.config.learning_rates)
    params = jax.tree.leaves(after.params)
    for leaf in params:
        assert leaf.shape[0] == rates and set(leaf.shape[1:]) <= channels | {2}
    for leaf in jax.tree.leaves(after.opt_state):
        assert leaf.shape in ((), (sum(leaf.size for leaf in params),))
    # The guard works: it refuses the gradient of a member.
    with pytest.raises(AssertionError, match="frozen member"):
        jax.eval_shape(jax.grad(lambda m: zoo.network.apply(m, jnp.zeros((2, 8, 8, 1))).sum()), pair.a)


# --- the fit against plain loops ---


@pytest.mark.parametrize("family,weight", [("full", 0), ("lasso_proximal:0.2", 0.2)])
def test_sgd_is_a_plain_loop(family, weight):
    """Two learning rates and two epochs, against jax.grad and NumPy's float64 one step after the other."""
    dataset, zoo = trained()
    config = dataclasses.replace(SGD, learning_rates=(0.1, 0.01), start="identity", bias=True)
    plan = make_plan(family, config, points=(0,))
    a, b = zoo.member(0), zoo.member(1)
    network, data = zoo.network, fit_data(dataset)
    images = jnp.asarray(dataset.train.images[None, :64])
    raw = jax.random.key_data(jax.random.key(3))
    state = jax.jit(lambda pair: start(plan, pair, raw, data, images))(Pair(a, b))
    epoch = jax.jit(lambda state: fit.fit_epoch(plan, state, data))

    @jax.jit
    def gradient(matrix, bias, x, labels):
        def loss(matrix, bias):
            features = jnp.einsum("ij,nhwj->nhwi", matrix, network.front(a, x, 0)[0]) + bias
            logits = network.tail(b, (features,), 0, mode="train")
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])

        return jax.value_and_grad(loss, (0, 1))(matrix, bias)

    x, y = normalize(dataset.train.images, dataset.mean, dataset.std), jnp.asarray(dataset.train.labels)
    path_here = {rate: [np.eye(4), np.zeros(4)] for rate in config.learning_rates}
    steps = len(dataset.train) // config.batch_size
    for e in range(config.epochs):
        state, metrics = epoch(state)
        order_key, _ = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 1), e))
        for r, (rate, stitch) in enumerate(path_here.items()):
            losses = []
            for t, batch in enumerate(epoch_indices(order_key, len(dataset.train), config.batch_size)):
                (value, gradients) = gradient(*(np.float32(part) for part in stitch), x[batch], y[batch])
                losses.append(value)
                decayed = rate * 0.5 * (1 + np.cos(np.pi * (e * steps + t) / (steps * config.epochs)))
                for part, g in zip(stitch, gradients, strict=True):
                    part -= decayed * np.asarray(g, np.float64)
                stitch[0][:] = np.sign(stitch[0]) * np.maximum(np.abs(stitch[0]) - decayed * weight, 0)
            np.testing.assert_allclose(metrics["loss"][0, r], np.mean(losses), rtol=1e-4)
            np.testing.assert_allclose(state.params[0][0]["family"]["matrix"][r], stitch[0], atol=2e-5)
            np.testing.assert_allclose(state.params[0][0]["bias"][r], stitch[1], atol=2e-5)
    assert np.abs(path_here[0.1][0] - np.eye(4)).max() > 0.01 and np.abs(path_here[0.1][1]).max() > 1e-4


@pytest.mark.slow
def test_learning_rates_train_as_each_alone():
    dataset, zoo = trained()
    pair = Pair(zoo.member(0), zoo.member(1))
    families = "full,birkhoff,rank2"

    def matrices(rates):
        plan = make_plan(families, dataclasses.replace(CONFIG, learning_rates=rates), points=(1,))
        return np.concatenate([stitch.matrix for stitch in train_only(plan, pair, dataset)[1][0]])

    together = matrices((0.003, 0.03))
    np.testing.assert_allclose(together[0::2], matrices((0.003,)), atol=1e-5)
    np.testing.assert_allclose(together[1::2], matrices((0.03,)), atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("execution", [Execution("vmap", "native"), Execution("map", "mixed")], ids=str)
def test_executions_give_equal_fits(execution):
    dataset, zoo = trained()
    pair = Pair(zoo.member(0), zoo.member(1))
    other = zoo.network.with_form(execution.conv)
    config = dataclasses.replace(SGD, learning_rates=(0.1, 0.01))
    result = [
        train_only(make_plan("full,rank2,birkhoff", config, execution=e, network=network), pair, dataset)[1]
        for e, network in ((MAP, zoo.network), (execution, other))
    ]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), *result)


@pytest.mark.slow
def test_a_point_is_independent_of_the_others():
    """Random starts and training are the same whatever other layers and families there are."""
    dataset, zoo = trained()
    pair = Pair(zoo.member(0), zoo.member(1))
    config = dataclasses.replace(SGD, learning_rates=(0.1,), start="random")
    (_, (_, both)), (_, (alone,)) = (
        train_only(make_plan(families, config, points=points), pair, dataset)
        for families, points in (("rank2,full", (0, 1)), ("full", (1,)))
    )
    np.testing.assert_allclose(both[1].matrix, alone[0].matrix, atol=1e-5)


@pytest.mark.parametrize(
    "families,points",
    [("full,birkhoff", (0, 1)), pytest.param("full,rank2,identity", (1,), marks=pytest.mark.slow)],
)
@pytest.mark.slow
def test_devices_that_share_a_pair_give_the_results_of_one(families, points):
    """One pair on two devices, in two shards: by points, or if there is only one point, by families."""
    dataset, _ = trained()
    plan = make_plan(families, dataclasses.replace(CONFIG, epochs=2), points=points)
    alone, together = (Sweep(plan, dataset, num_pairs=1, devices=jax.devices()[:n]) for n in (1, 2))
    assert [len(sweep.shards) for sweep in (alone, together)] == [1, 2]
    progress = {alone: [], together: []}
    alone, together = (
        next(iter(sweep.run(trained()[1].member, [(0, 1)], on_epoch=epochs.append)))
        for sweep, epochs in progress.items()
    )
    first, second = progress.values()
    assert len(first) == len(second) == 2
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert together.rows == alone.rows
    numbers = ("loss", "accuracy", "residual")
    for a, b in zip(together.curves, alone.curves, strict=True):
        assert {name: a[name] for name in a if name not in numbers} == {n: b[n] for n in b if n not in numbers}
        assert [a[name] for name in numbers] == pytest.approx([b[name] for name in numbers], rel=1e-4, abs=1e-5)
    for name, (stitch, stats) in alone.stitches.items():
        for actual, expected in zip(*map(jax.tree.leaves, (together.stitches[name], (stitch, stats))), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
