"""Sweeps: all stitches of two pairs on two devices, and devices that share a pair."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from stitch_helpers import SEEDS, trained
from sweep_helpers import CONFIG, FAMILIES, by_key, make_plan, same

from symjax.data import normalize
from symjax.jaxprs import equations
from symjax.stitching import (
    Pair,
    Stitch,
    Sweep,
    evaluate,
    evaluate_stitch,
)
from symjax.stitching.shard import SweepShard, _choose
from symjax.training.evaluation import Batches


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


def test_statistics_of_all_families_are_stored_together():
    """An array is stored for each statistic of a point; one for each family too would double the compilation."""
    dataset, zoo = trained()
    pair, images = Pair(zoo.member(0), zoo.member(1)), dataset.train.images[None, :6]
    shared = ((images, dataset.train.labels[None, :6]), np.int32(1), dataset.mean, dataset.std)

    def stores(families):
        plan = make_plan(families)
        stitches = [[Stitch(jnp.eye(at.shape[0])[None])] * len(plan.families) for at in plan.junctions]
        statistics = partial(evaluate.over_batches, partial(evaluate.batch_statistics, plan), (pair, stitches))
        program = jax.make_jaxpr(statistics)(shared).jaxpr
        return sum(equation.primitive.name == "dynamic_update_slice" for equation in equations(program))

    assert stores("identity,matched,least_squares") == stores("identity") > 0


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
        calls.append((batches, sum(stitch.matrix.shape[1] for stitch in stitches[0]), actual[0]))
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
