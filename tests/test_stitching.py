"""Fitting and evaluating stitches: planted solutions, loops in float64, and invariance to the execution."""

import dataclasses
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from stitch_helpers import SEEDS, acted, trained

from symjax import models
from symjax.data import Split, epoch_indices, normalize
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.ops.parallel import Execution
from symjax.pairs import all_pairs, draw_pairs
from symjax.stitching import (
    FitConfig,
    Pair,
    Plan,
    Stitch,
    Sweep,
    apply_stitch,
    evaluate,
    evaluate_stitch,
    fit,
    load_stitch,
    parse_families,
    stitched_output,
)
from symjax.stitching.results import StitchResults
from symjax.stitching.shard import SweepShard, _choose
from symjax.training.evaluation import Batches
from symjax.training.loop import TrainData

MAP = Execution("map", "matmul")
FAMILIES = "identity,matched,full,orthogonal,lasso:0.01,birkhoff,birkhoff_published,softsort,rank2"
PLAIN = {"batch_size": 12, "flip": False, "translate": 0}
CONFIG = FitConfig(epochs=10, learning_rates=(0.003, 0.03), eval_batch_size=32, **PLAIN)
SGD = FitConfig(epochs=2, optimizer="sgd", learning_rates=(1e-3,), eval_batch_size=32, **PLAIN)


def make_plan(families=FAMILIES, config=CONFIG, points=(0, 1), execution=MAP, network=None):
    return Plan(network or trained()[1].network, points, parse_families(families), config, execution)


def start(plan, pair, key, data, images):
    return fit.initialize(plan, pair, key, fit.pair_moments(plan, pair, images, data.mean, data.std))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def by_key(result):
    return {(row["layer"], row["family"]): row for row in result.rows}


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
    """Its permutation at both layers, no penalty, and at relu1, which others follow, about the scaling too."""
    problem = planted()
    config = FitConfig(epochs=24, learning_rates=(0.03,), start="random", eval_batch_size=32, **PLAIN)
    sweep = Sweep(make_plan("birkhoff", config), problem.dataset, devices=jax.devices()[:1])
    (result,) = sweep.run(problem.members.get, [(0, 1)])
    for (layer, family), row in by_key(result).items():
        matrix, expected = result.stitches[layer, family][0].matrix, problem.matrices[layer]
        np.testing.assert_array_equal(matrix > 0, expected > 0)
        assert row["stitched_accuracy"] >= problem.clean
        if layer == "relu1":
            np.testing.assert_allclose(matrix, expected, rtol=0.3)


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


SOME = [("mcnn", "mixed", "batch", True), ("mcnn", "native", "inference", False), ("mcnn_k", "mixed", "batch", False)]
ALL = [
    (model, method, mode, bias)
    for model, method in (("mcnn", "native"), ("mcnn", "matmul"), ("mcnn", "mixed"), ("mcnn_k", "mixed"))
    for mode in ("inference", "batch")
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
@pytest.mark.few(1)
def test_factors_in_bfloat16(point, bias):
    network = models.create("mcnn", width=16, channels=3, classes=5, dtype=jnp.bfloat16).with_form("mixed")
    member = jax.jit(network.init)(jax.random.key(0))
    images = jax.random.normal(jax.random.key(2), (6, 16, 16, 3))
    carried = jax.jit(lambda member: network.front(member, images, point))(member)
    stitch = factored(16 * (point + 1), 2, bias)
    run = jax.jit(lambda stitch: stitched_output(network, member, carried, stitch, point, "batch")[0])
    result, expected = run(stitch), run(stitch._replace(factors=None))
    assert result.dtype == jnp.float32 and apply_stitch(stitch, carried[0]).dtype == jnp.bfloat16
    np.testing.assert_allclose(result, expected, atol=4e-2 * np.abs(expected).max())


def test_factors_inside_a_residual_block(residual):
    """The values that cross are a pair; only the branch has factors."""
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


# --- the sweep: two pairs on two devices ---


@pytest.fixture(scope="module", params=["identity,matched,full,birkhoff,rank2", slow(FAMILIES)], ids=["some", "all"])
def sweep(request):
    return Sweep(make_plan(request.param), trained()[0])


@pytest.fixture(scope="module")
def swept(sweep):
    """Members, copies from before the sweep, and results."""
    _, zoo = trained()
    members = {seed: zoo.member(seed) for seed in SEEDS}
    before = jax.tree.map(np.array, members)
    return members, before, list(sweep.run(members.get, [(0, 1), (1, 0), (2, 1)], seed=4))


def test_members_come_out_bitwise_unchanged(swept):
    members, before, results = swept
    assert same(members, before) and len(results) == 3


def test_every_pair_layer_and_family_has_a_row_and_curves(swept, sweep):
    _, _, results = swept
    labels = [family.label for family in sweep.plan.families]
    for result in results:
        keys = [(row["layer"], row["family"]) for row in result.rows]
        assert keys == [(layer, label) for layer in ("relu1", "relu2") for label in labels]
        assert set(result.stitches) == set(keys)
        trained_labels = [label for label in labels if label not in ("identity", "matched")]
        curves = [(c["layer"], c["family"], c["learning_rate"], c["epoch"]) for c in result.curves]
        rates = sweep.plan.config.learning_rates
        layers, epochs = ("relu1", "relu2"), range(1, 11)
        expected = [(k, f, r, e) for k in layers for f in trained_labels for r in rates for e in epochs]
        assert sorted(curves) == sorted(expected)
        for row in result.rows:
            assert row["learning_rate"] in ((None,) if row["family"] in ("identity", "matched") else rates)
            size = np.shape(result.stitches[row["layer"], row["family"]][0].matrix)
            assert size == ((4, 4) if row["layer"] == "relu1" else (8, 8))
    assert [result.pair for result in results] == [(0, 1), (1, 0), (2, 1)]


def test_a_full_stitch_costs_less_than_none(swept):
    _, _, results = swept
    for layer in ("relu1", "relu2"):
        result = {f: np.mean([by_key(r)[layer, f]["stitched_accuracy"] for r in results]) for f in ("full", "identity")}
        assert result["full"] > result["identity"] + 15


def test_stitches_satisfy_the_constraints_of_their_families(swept):
    _, _, results = swept
    for result in results:
        for (_, family), (stitch, _) in result.stitches.items():
            matrix = np.asarray(stitch.matrix, np.float64)
            if family in ("matched", "birkhoff", "birkhoff_published", "softsort"):
                assert (matrix >= 0).all()
                assert ((matrix > 0).sum(0) <= 1).all() and ((matrix > 0).sum(1) <= 1).all(), family
            elif family == "orthogonal":
                np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-5)
            elif family == "rank2":
                assert np.linalg.svd(matrix, compute_uv=False)[2] < 1e-5
            elif family == "identity":
                np.testing.assert_array_equal(matrix, np.eye(len(matrix)))
            assert not stitch.bias.any()


def test_a_pair_is_independent_of_the_others(swept, sweep):
    members, _, results = swept
    (alone,) = sweep.run(members.get, [(2, 1)], seed=4)
    assert alone.rows == results[2].rows and alone.curves == results[2].curves
    assert same(alone.stitches, results[2].stitches)
    backwards = list(sweep.run(members.get, [(2, 1), (0, 1)], seed=4))
    assert backwards[1].rows == results[0].rows and same(backwards[1].stitches, results[0].stitches)


def test_the_seed_moves_random_starts_and_orders(swept, sweep):
    members, _, results = swept
    (other,) = sweep.run(members.get, [(0, 1)], seed=5)
    for family, differs in (("full", True), ("rank2", True), ("matched", False)):
        matrices = [r.stitches["relu2", family][0].matrix for r in (other, results[0])]
        assert (not np.array_equal(*matrices)) == differs, family


def test_validation_selects_and_a_saved_stitch_has_its_accuracy(swept, sweep):
    members, _, results = swept
    dataset, zoo = trained()
    for result in results[:1]:
        for row in result.rows:
            stitch, stats = result.stitches[row["layer"], row["family"]]
            a, b = (members[seed] for seed in result.pair)
            for split, column in ((dataset.test, "stitched_accuracy"), (dataset.validation, "val_accuracy")):
                where = (row["layer_index"], split, dataset.mean, dataset.std)
                assert evaluate_stitch(zoo.network, a, b, stitch, stats, *where) == row[column]


def test_batch_norm_statistics_are_re_estimated(swept, sweep):
    """The first batch norm after the stitch, compared with NumPy in float64 over the whole re-estimation set."""
    members, _, results = swept
    dataset, zoo = trained()
    used = len(dataset.train) // CONFIG.eval_batch_size * CONFIG.eval_batch_size
    assert CONFIG.eval_batch_size < used < len(dataset.train)
    images = normalize(dataset.train.images[:used], dataset.mean, dataset.std)
    result = results[0]
    a, b = (members[seed] for seed in result.pair)
    x = np.asarray(jax.jit(lambda m: zoo.network.front(m, images, 0)[0])(a), np.float64)
    for family in ("full", "birkhoff", "identity"):
        stitch, stats = result.stitches["relu1", family]
        y = np.einsum("ij,nhwj->nhwi", np.asarray(stitch.matrix, np.float64), x)
        y = np.maximum.reduce([y[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])
        padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
        kernel = np.asarray(b.params["convs"][1]["kernel"], np.float64)
        out = sum(
            np.einsum("nhwc,cd->nhwd", padded[:, i : i + 4, j : j + 4], kernel[i, j])
            for i in range(3)
            for j in range(3)
        )
        np.testing.assert_allclose(stats["norms"][1]["mean"], out.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["norms"][1]["var"], out.var((0, 1, 2)), rtol=1e-4)
        assert np.abs(stats["norms"][1]["mean"] - b.state["norms"][1]["mean"]).max() > 1e-3


def test_accuracy_counts_examples(sweep):
    """The last batch is half padding, which is always classified correctly."""
    dataset, zoo = trained()
    plan = make_plan("identity", points=(1,))
    pair = Pair(zoo.member(0), zoo.member(0))
    stitches = [[Stitch(jnp.eye(8)[None], jnp.zeros((1, 8)))]]
    stats = [[jax.tree.map(lambda leaf: leaf[None], pair.b.state)]]
    images = jnp.asarray(dataset.test.images[:6])
    logits = jax.jit(zoo.network.apply)(pair.a, normalize(images, dataset.mean, dataset.std))
    labels = np.array(np.argmax(logits, -1), np.int32)
    labels[1] = (labels[1] + 1) % 4
    count = jax.jit(lambda batch: evaluate.batch_scores(plan, pair, stitches, stats, batch, dataset.mean, dataset.std))
    for mask, right in (([1, 1, 1, 1, 1, 1], 5), ([1, 1, 1, 0, 0, 0], 2), ([1, 0, 0, 0, 0, 0], 1)):
        (result,) = count(Batches(images, jnp.asarray(labels), jnp.asarray(mask, jnp.float32)))
        assert result.score.tolist() == [right]
        losses = -jax.nn.log_softmax(logits)[np.arange(6), labels] * np.array(mask)
        np.testing.assert_allclose(result.loss, [losses.sum()], rtol=1e-5)
    broken = [[Stitch(stitches[0][0].matrix.at[0, 0, 0].set(jnp.nan))]]
    batch = Batches(images, jnp.asarray(labels), jnp.ones(6, jnp.float32))
    scores = jax.jit(lambda batch: evaluate.batch_scores(plan, pair, broken, stats, batch, dataset.mean, dataset.std))
    (result,) = scores(batch)
    assert np.isnan(result.score).all()  # and not what the first class gets


def test_a_stitch_with_nan_is_not_chosen():
    plan = make_plan("full,birkhoff", dataclasses.replace(CONFIG, learning_rates=(1e-2, 1e-1)))
    assert _choose(plan, np.array([np.nan, 12.5, 50.0, 50.0])) == [1, 2]
    assert _choose(plan, np.array([np.nan, np.nan, 0.0, np.nan])) == [0, 2]


def test_only_selected_stitches_are_evaluated_on_the_test_split(swept, sweep, monkeypatch):
    members, _, results = swept
    calls = []
    accuracy = SweepShard._accuracy

    def spy(self, pairs, stitches, stats, batches, on_evaluation):
        actual = accuracy(self, pairs, stitches, stats, batches, on_evaluation)
        calls.append((batches, sum(stitch.matrix.shape[1] for stitch in stitches[0]), actual))
        return actual

    monkeypatch.setattr(SweepShard, "_accuracy", spy)
    (result,) = sweep.run(members.get, [(0, 1)], seed=4)
    dataset, candidates = trained()[0], sweep.plan.candidates
    assert [(c[0].mask.sum(), c[1]) for c in calls] == [
        (len(dataset.validation), len(candidates)),
        (len(dataset.test), len(sweep.plan.families)),
    ]
    for p, layer in enumerate(("relu1", "relu2")):
        for family in sweep.plan.families:
            scores = {c.learning_rate: calls[0][2][0, p, i] for i, c in enumerate(candidates) if c.family == family}
            row = by_key(result)[layer, family.label]
            assert row["val_accuracy"] == max(scores.values()) == scores[row["learning_rate"]]


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
            logits = network.tail(b, (features,), 0, mode="batch")
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
    seen = {alone: [], together: []}
    alone, together = (
        next(iter(sweep.run(trained()[1].member, [(0, 1)], on_epoch=epochs.append))) for sweep, epochs in seen.items()
    )
    first, second = seen.values()
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


@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
def test_family_progress_is_one_half_at_the_halfway_epoch(epochs):
    config = FitConfig(epochs=epochs)
    seen = [float(fit.family_progress(config, jnp.int32(e), jnp.float32(s))) for e in range(epochs) for s in (0, 0.999)]
    second = [e >= config.halfway_epoch for e in range(epochs) for _ in range(2)]
    assert [value >= 0.5 for value in seen] == second
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] < 1


@pytest.mark.parametrize("bad", [{"schedule": "cosin"}, {"optimizer": "adamw"}, {"translate": -1}])
def test_fit_settings_are_checked(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        FitConfig(**bad)


# --- arguments ---


def test_pairs_are_drawn_by_a_seed():
    seeds = (3, 0, 8, 5)
    every = all_pairs(seeds)
    assert len(every) == 12 == len(set(every)) and all(a != b and {a, b} <= set(seeds) for a, b in every)
    assert draw_pairs(seeds, "all") == every
    drawn = draw_pairs(seeds, 12, 7)
    assert set(drawn) == set(every) and drawn != every
    for count in range(1, 12):
        assert draw_pairs(seeds, count, 7) == drawn[:count]
    assert len({tuple(draw_pairs(seeds, 6, seed)) for seed in range(5)}) == 5
    assert draw_pairs((1, 2), 1, 0) in ([(1, 2)], [(2, 1)])
    either = draw_pairs(seeds, "all", ordered=False)
    assert either == [(0, 3), (0, 5), (0, 8), (3, 5), (3, 8), (5, 8)]
    some = draw_pairs(seeds, "4", 7, ordered=False)
    assert some == draw_pairs(seeds[::-1], 6, 7, ordered=False)[:4] and set(some) < set(either)


@pytest.mark.parametrize(
    "arguments,expected",
    [
        (((1,), 1), "seeds: got 1 member"),
        (((1,), "all"), "seeds: got 1 member"),
        ((range(4000), 4), "seeds: got 4000, expected seeds that make at most 10000000 ordered pairs"),
        (((1, 2), 0), "pairs: got 0, expected 1 to 2 with 2 members, or all"),
        (((1, 2), 3), "pairs: got 3, expected 1 to 2"),
        (((1, 2), "some"), "pairs: got 'some', expected 1 to 2"),
        (((1, 2), 1, -1), "pair_seed: got -1"),
        (((1, 2), 1, 2**32), "pair_seed: got 4294967296"),
    ],
)
def test_pairs_that_cannot_be_drawn(arguments, expected):
    with pytest.raises(InputError, match=expected):
        draw_pairs(*arguments)


@pytest.mark.parametrize(
    "settings,expected",
    [
        ({"epochs": 0}, "epochs: got 0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"learning_rates": ()}, "learning_rates: "),
        ({"learning_rates": (0.1, 0.0)}, "learning_rates: "),
        ({"learning_rates": (float("nan"),)}, "learning_rates: "),
        ({"learning_rates": (float("inf"),)}, "learning_rates: "),
        ({"learning_rates": (0.1, 0.1)}, "learning_rates: .*once"),
        ({"start": "zero"}, "start: got 'zero', expected one of auto, identity"),
        ({"eval_batch_size": 0}, "eval_batch_size: got 0"),
    ],
)
def test_bad_configurations(settings, expected):
    with pytest.raises(InputError, match=expected):
        FitConfig(**settings)


def test_plans_that_do_not_fit_the_data():
    dataset, _ = trained()
    with pytest.raises(InputError, match="families: got rank5, expected a rank of at most 4, the channels of relu1"):
        Sweep(make_plan("full,rank5"), dataset)
    with pytest.raises(InputError, match="batch_size: got 73, expected at most .* training images, 72"):
        Sweep(make_plan("full", dataclasses.replace(CONFIG, batch_size=73)), dataset)
    with pytest.raises(InputError, match="validation: "):
        nothing = Split(dataset.validation.images[:0], dataset.validation.labels[:0])
        Sweep(make_plan("full"), dataclasses.replace(dataset, validation=nothing))
    for empty in ({"families": ()}, {"points": ()}):
        with pytest.raises(InputError, match="at least one of each"):
            Sweep(dataclasses.replace(make_plan("full"), **empty), dataset)
