"""Rotations: matrices, rotated tails, features in bounded memory, and the command."""

import dataclasses
import re
import zlib
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tiny_models  # noqa: F401
from campaign import slow
from stitch_helpers import flags, scratch, settings, write_npz

import experiments.rotate
from experiments.command import run_command
from experiments.rotation_claims import compare_with_published, penalty_gaps
from experiments.rotation_summary import conclusion, uses_batch_norm, uses_relu
from symjax import models, zoo
from symjax.errors import InputError
from symjax.network import Member
from symjax.network.member import leaves_by_path
from symjax.ops import files, parallel
from symjax.ops.memory import num_bytes
from symjax.plots import rotation_curves, rotations
from symjax.rotation import KINDS, CaseResult, Retraining, RotatedTail, RotationCase, RotationPlan, sample_rotation
from symjax.rotation.features import FrontFeatures, FrontProgram, count_blocks, group_fronts
from symjax.rotation.partition import group_units, split_units
from symjax.training import Recipe

CASES = [RotationCase(kind, repeat) for kind in ("none", "g_relu", "orthogonal") for repeat in (0, 1)]
STILL = 1e-30  # a learning rate at which nothing is learnt


@lru_cache
def trained(model="rotate_tiny"):
    write_npz(scratch() / "stripes.npz")
    chosen = settings(model=model)
    config, dataset = chosen.zoo_config(), chosen.load_dataset()
    folder = scratch() / model
    return dataset, zoo.train(config, dataset, (0, 1), folder, devices=jax.devices()[:1], progress=False)


def plan_of(trained_zoo, points=(0,), *, epochs=2, rate=0.01, **others):
    recipe = Recipe(epochs=epochs, batch_size=12, learning_rate=rate, flip=False, translate=0)
    return RotationPlan(trained_zoo.network, points, recipe, parallel.default_execution(), **others)


@lru_cache
def program(model="rotate_tiny", points=(0,), epochs=4, rate=0.02, start="continue"):
    """Cached, so that tests with equal arguments share compiled programs."""
    dataset, found = trained(model)
    return Retraining(plan_of(found, points, epochs=epochs, rate=rate, start=start), dataset)


def key(seed=0):
    return jax.random.key(seed)


# --- matrices ---


@pytest.fixture(scope="module")
def draws():
    keys = jax.random.split(jax.random.key(3), 4000)
    return {kind: np.asarray(jax.vmap(lambda k, kind=kind: sample_rotation(k, kind, 4))(keys)) for kind in KINDS}


def test_orthogonal_matrices_have_the_haar_measure(draws):
    found = draws["orthogonal"].astype(np.float64)
    np.testing.assert_allclose(found @ found.swapaxes(1, 2), np.broadcast_to(np.eye(4), found.shape), atol=2e-6)
    trace = np.trace(found, axis1=1, axis2=2)
    # Diaconis, Shahshahani 1994: on O(d), E tr = 0, E tr^2 = 1, E tr(A^2) = 1, E tr^4 = 3. Standard errors are a few
    # hundredths; QR without its signs has E tr = -2 here, and special orthogonal matrices have no negative determinant.
    for value, wanted, within in (
        (trace.mean(), 0, 0.06),
        ((trace**2).mean(), 1, 0.1),
        (np.trace(found @ found, axis1=1, axis2=2).mean(), 1, 0.1),
        ((trace**4).mean(), 3, 0.6),
        (np.linalg.det(found).mean(), 0, 0.06),
    ):
        assert abs(value - wanted) < within
    np.testing.assert_allclose((found**2).mean(0), 0.25, atol=0.02)


def test_g_relu_matrices_are_scaled_permutations(draws):
    found = draws["g_relu"]
    assert ((found > 0).sum(1) == 1).all() and ((found > 0).sum(2) == 1).all() and (found >= 0).all()
    np.testing.assert_allclose((found > 0).mean(0), 0.25, atol=0.03)  # every permutation alike
    logs = np.log(found[found > 0])  # exp(N(0, 1)) / exp(1/2)
    assert abs(logs.mean() + 0.5) < 0.03 and abs(logs.std() - 1) < 0.03
    assert abs(np.corrcoef(logs[::2], logs[1::2])[0, 1]) < 0.05
    x = np.random.default_rng(0).normal(size=(4000, 4, 1)).astype(np.float32)
    relu = lambda z: np.maximum(z, 0)  # noqa: E731
    np.testing.assert_array_equal(relu(found @ x), found @ relu(x))
    other = draws["orthogonal"]
    assert np.abs(relu(other @ x) - other @ relu(x)).max(axis=1).mean() > 0.3


def test_the_other_kinds_and_bad_ones(draws):
    np.testing.assert_array_equal(draws["none"], np.broadcast_to(np.eye(4), (4000, 4, 4)))
    assert set(np.unique(draws["permutation"])) == {0, 1}
    assert (draws["permutation"].sum(1) == 1).all() and (draws["permutation"].sum(2) == 1).all()
    for arguments, named in ((("rotation", 4), "kind: got 'rotation'"), (("none", 0), "channels: got 0")):
        with pytest.raises(InputError, match=named):
            sample_rotation(key(), *arguments)


# --- the tail ---


def absorbed(network, member: Member, point: int, matrix) -> Member:
    """Return the tail that maps A x as the given tail maps x: W' = W A^-1 in the layer after the point."""
    tail = jax.tree.map(np.array, network.tail_of(member, point))
    layer = tail.params["convs"][point + 1] if point + 1 < len(network.points) else tail.params["dense"]
    inverse = np.linalg.inv(matrix.astype(np.float64))
    layer["kernel"][...] = np.einsum("...io,ij->...jo", layer["kernel"].astype(np.float64), inverse)
    return tail


@pytest.mark.parametrize("point", [0, slow(1)])
@pytest.mark.parametrize(
    ("model", "kind", "undone"),
    [
        ("rotate_tiny", "g_relu", True),
        ("rotate_tiny", "orthogonal", False),
        slow("rotate_tiny_sigmoid", "permutation", True),
        slow("rotate_tiny_sigmoid", "g_relu", False),
    ],
)
def test_a_tail_can_undo_what_commutes_with_the_activation(model, kind, undone, point):
    dataset, found = trained(model)
    member, images = found.member(1), np.float32((dataset.test.images - dataset.mean) / dataset.std)
    matrix = np.asarray(sample_rotation(key(5), kind, found.network.points[point].channels))
    tail = absorbed(found.network, member, point, matrix)

    @jax.jit
    def run(member, tail):
        features = found.network.pre_activation(member, images, point)
        return RotatedTail(found.network, point, matrix).apply(tail, features), found.network.apply(member, images)

    logits, wanted = run(member, tail)
    error = np.abs(np.asarray(logits) - np.asarray(wanted)).max() / np.abs(np.asarray(wanted)).max()
    assert error < 1e-5 if undone else error > 0.01


def test_features_before_an_activation():
    network = models.create("rotate_tiny_norm", image_size=8)
    member, images = jax.jit(network.init)(key()), np.random.default_rng(0).normal(size=(5, 8, 8, 3))
    for point in (0, 1):
        before = jax.jit(lambda member, point=point: network.pre_activation(member, images, point))(member)
        assert (np.asarray(before) < 0).any()
        after = network.activation(point)(before)
        front = jax.jit(lambda member, point=point: network.front(member, images, point)[0])(member)
        np.testing.assert_allclose(after, front, rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="inside a residual block"):
        plan_of(SimpleNamespace(network=models.create("resnet20", width=4)), (1,))


# --- retraining ---


def accuracy_of(found, dataset, member, one, point) -> float:
    """Return the accuracy in percent of one batch, by the public functions of the network."""
    images = np.float32((dataset.test.images - dataset.mean) / dataset.std)
    rotated = np.asarray(found.network.pre_activation(member, images, point)) @ one.matrix.T
    travelling = (found.network.activation(point)(jnp.asarray(rotated)),)
    logits = found.network.tail(one.tail, travelling, point)
    return 100 * float(np.mean(np.argmax(np.asarray(logits), -1) == dataset.test.labels))


@pytest.mark.parametrize("model", ["rotate_tiny", slow("rotate_tiny_norm")])
def test_the_front_is_frozen_and_the_rest_learns(model):
    dataset, found = trained(model)
    member = found.member(0)
    before = jax.tree.map(np.copy, member)
    results = program(model).run(member, CASES, key=key())
    jax.tree.map(np.testing.assert_array_equal, member, before)
    for one, case in zip(results, CASES, strict=True):
        assert one.case == case
        assert set(leaves_by_path(one.tail)) == found.network.read_by_tail(0)
        assert one.accuracy == pytest.approx(accuracy_of(found, dataset, member, one, 0), abs=1e-9)
        moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one.tail, found.network.tail_of(member, 0))
        assert min(jax.tree.leaves(moved)) > 0
        assert [row["epoch"] for row in one.history] == [1, 2, 3, 4]
        assert one.val_accuracy == one.history[-1]["val_accuracy"]
        assert one.case.kind == "none" or one.history[-1]["loss"] < 0.8 * one.history[0]["loss"]
    assert not np.allclose(results[2].matrix, results[3].matrix)
    assert not np.allclose(results[4].matrix, results[5].matrix)


@pytest.mark.slow
def test_a_case_does_not_depend_on_what_it_trains_beside():
    dataset, found = trained()
    together = program().run(found.member(0), CASES, key=key())
    one_device = Retraining(program().plan, dataset, devices=jax.devices()[:1])
    (alone,) = one_device.run(found.member(0), CASES[4:5], key=key())
    np.testing.assert_array_equal(alone.matrix, together[4].matrix)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), alone.tail, together[4].tail)
    # Repeats see their images in orders of their own.
    first, second = (one.tail.params[0]["conv"]["kernel"] for one in together[:2])
    assert np.abs(first - second).max() > 1e-3
    other = program().run(found.member(0), CASES, key=key(1))
    assert not np.allclose(other[5].matrix, together[5].matrix)


def assert_same(ours, theirs):
    """Assert that results are equal bit by bit."""
    assert [(one.point, one.case) for one in ours] == [(one.point, one.case) for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.accuracy == other.accuracy and one.history == other.history
        jax.tree.map(np.testing.assert_array_equal, (one.matrix, one.tail), (other.matrix, other.tail))


@pytest.mark.parametrize("augment", [False, slow(True)])
@pytest.mark.slow
def test_layers_together_find_what_they_do_apart(augment):
    dataset, found = trained()
    whole = Retraining(plan_of(found, (0, 1), augment=augment), dataset, devices=jax.devices()[:1])
    assert [program.points for program in whole.programs] == [(0, 1)]
    told, saved = [], []
    together = whole.run(found.member(0), CASES, key=key(), on_epoch=told.append, on_results=saved.append)
    assert len(told) == 2 and len(saved) == 1
    assert_same(together, saved[0])
    apart = []
    for point in (0, 1):
        alone = Retraining(plan_of(found, (point,), augment=augment), dataset, devices=jax.devices()[:1])
        apart += alone.run(found.member(0), CASES, key=key())
    assert_same(together, apart)
    mean = np.mean([one.history[-1]["loss"] for one in together])
    assert told[-1]["loss"] == pytest.approx(mean, rel=1e-6)


def test_layers_of_one_width_get_matrices_of_their_own():
    matrices = []
    for point in (0, 1):
        network = SimpleNamespace(points=[SimpleNamespace(channels=4)] * 2)
        fake = SimpleNamespace(plan=SimpleNamespace(network=network))
        matrices.append([Retraining._matrix(fake, key(), point, case) for case in CASES])
    for case, first, second in zip(CASES, *matrices, strict=True):
        assert np.array_equal(first, second) == (case.kind == "none")


@pytest.mark.slow
def test_without_learning_nothing_but_the_matrix_costs():
    dataset, found = trained()
    baseline = 100 * zoo.test_accuracy(found, dataset)
    still = program(epochs=1, rate=STILL)
    results = still.run(found.member(1), CASES, key=key())
    penalties = {kind: [baseline[1] - r.accuracy for r in results if r.case.kind == kind] for kind in KINDS}
    np.testing.assert_allclose(penalties["none"], 0, atol=1e-4)
    assert np.mean(penalties["orthogonal"]) > 10
    fresh = program(epochs=1, rate=STILL, start="fresh").run(found.member(1), CASES, key=key())
    kernels = [one.tail.params[0]["conv"]["kernel"] for one in (*results[:2], *fresh[:2], fresh[4])]
    np.testing.assert_array_equal(kernels[0], found.member(1).params[1]["conv"]["kernel"])
    assert len({kernel.tobytes() for kernel in kernels}) == 3  # one for all that continue, one for each repeat


def test_bad_plans_are_refused():
    _, found = trained()
    for options, named in (
        ({"start": "again"}, "start: got 'again'"),
        ({"budget": 0}, "budget: got 0"),
        ({"points": ()}, "points: got none"),
        ({"points": (0, 0)}, "points: got 0, 0, expected one or more, each once"),
        ({"points": (0, 2)}, "points: got 2"),
    ):
        with pytest.raises(InputError, match=named):
            plan_of(found, **options)


# --- features ---


def features_of(found, dataset, blocks, augment=False):
    plan = dataclasses.replace(plan_of(found), recipe=Recipe(translate=1))
    (front,) = Retraining(plan, dataset).programs[0]._fronts
    calls = []
    run = front._run
    front._run = lambda *arguments: calls.append(1) or run(*arguments)
    member = found.member(0)
    return FrontFeatures(front, member, dataset, blocks, augment=augment, key=key()), calls


def test_features_that_fit_are_computed_once():
    dataset, found = trained()
    features, calls = features_of(found, dataset, 1)
    wanted = found.network.pre_activation(
        found.member(0), np.float32((dataset.train.images - dataset.mean) / dataset.std), 0
    )
    for epoch in range(3):
        (block,) = features.training(epoch)
        np.testing.assert_allclose(block.images, wanted, atol=1e-5)
        np.testing.assert_array_equal(block.labels, dataset.train.labels)
        assert sum(float(batch.mask.sum()) for batch in features.evaluation(dataset.validation)) == 18
    assert len(calls) == 2  # training and validation images


def test_augmentation_does_not_depend_on_the_number_of_devices():
    dataset, found = trained()
    recipe, execution = Recipe(flip=True, translate=2), parallel.default_execution()
    images = np.concatenate([dataset.train.images] * 2)  # more than a batch of one device
    seen = []
    for devices in (jax.local_devices()[:1], jax.local_devices()[:2]):
        front = FrontProgram(found.network, 0, recipe, execution, devices)
        batches = list(front.batches(found.member(0), images, dataset.mean, dataset.std, key()))
        seen.append(np.concatenate([np.asarray(batch) for batch in batches])[: len(images)])
    np.testing.assert_allclose(*seen, atol=1e-6)
    assert not np.allclose(seen[0][:64], seen[0][72 : 72 + 64])  # of the same images, moved otherwise


def test_features_that_do_not_fit_come_in_blocks():
    dataset, found = trained()
    features, calls = features_of(found, dataset, 3)
    whole, _ = features_of(found, dataset, 1)
    (everything,) = whole.training(0)
    rows = {row.tobytes(): i for i, row in enumerate(np.asarray(everything.images).round(4) + 0.0)}
    orders = []
    for epoch in range(2):
        blocks = list(features.training(epoch))
        assert [len(block.labels) for block in blocks] == [24, 24, 24]
        order = [rows[row.tobytes()] for block in blocks for row in np.asarray(block.images).round(4) + 0.0]
        assert sorted(order) == list(range(72))
        np.testing.assert_array_equal(np.concatenate([b.labels for b in blocks]), dataset.train.labels[order])
        orders.append(order)
    assert orders[0] != orders[1] and len(calls) == 6


def test_augmented_features_change_from_epoch_to_epoch():
    dataset, found = trained()
    features, _ = features_of(found, dataset, 1, augment=True)
    (first,), (second,), (again,) = (features.training(epoch) for epoch in (0, 1, 0))
    assert np.abs(np.sort(np.ravel(first.images)) - np.sort(np.ravel(second.images))).max() > 1e-3
    np.testing.assert_array_equal(first.images, again.images)
    assert sorted(np.asarray(first.labels)) == sorted(dataset.train.labels)


def test_blocks_fit_the_budget():
    dataset, found = trained()
    (front,) = program().programs[0]._fronts
    assert front.bytes_per_image(dataset) == 8 * 8 * 4 * 4
    for images, blocks in ((90, 1), (89, 2), (72, 2), (36, 2), (30, 3), (1, 6)):
        # 72 training images and 18 for validation; a block holds a batch of 12 at least
        assert count_blocks(front, dataset, 1024 * images, 12) == blocks, images


def test_layers_share_the_budget():
    """Points are grouped where the features of both fit; the number of blocks is independent of other points."""
    dataset, found = trained()
    fronts = Retraining(plan_of(found, (0, 1)), dataset).programs[0]._fronts
    both = 1024 + 512  # bytes of an image's features
    for budget, wanted, alone in (
        (90 * both, [([0, 1], 1)], [1, 1]),
        (90 * both - 1, [([0], 1), ([1], 1)], [1, 1]),
        (45 * 1024, [([0], 2), ([1], 1)], [2, 1]),
        (36 * 1024, [([0], 2), ([1], 2)], [2, 2]),  # the second's validation images do not fit beside the others
        (1, [([0], 6), ([1], 6)], [6, 6]),
    ):
        shares = group_fronts(fronts, dataset, budget, 12)
        assert [([front.point for front in theirs], blocks) for theirs, blocks in shares] == wanted, budget
        assert [count_blocks(front, dataset, budget, 12) for front in fronts] == alone


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.slow
def test_blocks_train_as_one_does(augment):
    dataset, found = trained()
    plan = plan_of(found, epochs=4, rate=0.02, budget=1024 * 24, augment=augment)
    blocks, told = Retraining(plan, dataset), []
    assert blocks.programs[0].blocks == 3
    (one,) = blocks.run(found.member(0), [RotationCase("orthogonal", 0)], key=key(), on_epoch=told.append)
    assert len(one.history) == len(told) == 4 and one.history[-1]["loss"] < one.history[0]["loss"]
    assert one.accuracy == pytest.approx(accuracy_of(found, dataset, found.member(0), one, 0), abs=1e-9)


# --- the command ---


@pytest.fixture
def quiet_folder(tmp_path, monkeypatch):
    write_npz(scratch() / "stripes.npz")
    monkeypatch.chdir(tmp_path)


def command(*others, out="run", model="rotate_tiny", kinds="none,g_relu,orthogonal"):
    trained(model)
    argv = flags(scratch())
    argv[argv.index("--model") + 1], argv[argv.index("--seeds") + 1] = model, "0,"
    argv[argv.index("--zoo") + 1] = str(scratch() / model)
    argv += ["--out", out, "--kinds", kinds, "--retrain-epochs", 1, "--retrain-learning-rate", 0.01]
    argv += ["--repeats", 2, *others]
    run_command(experiments.rotate.main, experiments.rotate.Settings, [str(word) for word in argv])
    return Path(out)


@pytest.fixture
def asked(monkeypatch):
    """Record calls of the retraining as (point, kind, repeat); results depend on these only."""
    found = []

    def counted(self, member, cases, *, key, on_epoch, on_results):
        found.extend((point, *case) for point in self.plan.points for case in cases)
        on_epoch({"loss": 1.0})
        for case in cases:  # as in groups of one
            of_case = []
            for point in self.plan.points:
                value = float(zlib.crc32(f"{point}{case}".encode()) % 100)
                row = {"epoch": 1, "loss": 1.0, "accuracy": 9.0, "val_accuracy": value}
                of_case.append(CaseResult(point, case, value, value, [row], np.eye(4), None))
            on_results(of_case)

    monkeypatch.setattr(Retraining, "run", counted)
    return found


def test_the_command(quiet_folder, capsys, monkeypatch):
    out = command("--layers", "2")
    rows = files.read_csv(out / "results.csv")
    dataset, found = trained()
    baseline = 100 * zoo.test_accuracy(found, dataset)[0]
    assert len(rows) == 6 and set(rows.layer) == {"conv2"} and not rows.duplicated(["kind", "repeat"]).any()
    np.testing.assert_allclose(rows.baseline, baseline, rtol=1e-6)
    np.testing.assert_allclose(rows.penalty, rows.baseline - rows.accuracy, rtol=1e-12)
    # Of the library's own, at the same key.
    plan = plan_of(found, (1,), epochs=1)
    plan = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, weight_decay=1e-4))
    member_key = jax.random.fold_in(key(0), 0)
    results = Retraining(plan, dataset).run(found.member(0), CASES, key=member_key)
    for one in results:
        row = rows[(rows.kind == one.case.kind) & (rows["repeat"] == one.case.repeat)].iloc[0]
        assert row.accuracy == one.accuracy and row.val_accuracy == one.val_accuracy
    printed = capsys.readouterr().out
    for kind, theirs in rows.groupby("kind").penalty:
        assert f"{theirs.mean():z.1f} ± {theirs.std():.1f}" in printed
        assert f"{kind} {theirs.mean():.1f}" in printed
    assert "95 % intervals over 2 matrices" in " ".join(printed.split()) and "batch norm" not in printed
    for name in ("penalties", "curves"):
        assert (out / f"{name}.png").exists() and (out / f"{name}.pdf").exists()
    before = (out / "results.csv").read_bytes()
    monkeypatch.setattr(Retraining, "run", lambda *_, **__: pytest.fail("retrained"))
    command("--layers", "2")
    assert (out / "results.csv").read_bytes() == before and capsys.readouterr().out == printed
    command("--layers", "2", "--dry-run")
    assert "All results exist" in capsys.readouterr().out


def test_more_extends_and_computes_nothing_twice(quiet_folder, asked):
    out = command("--layers", "2")
    rows = files.read_csv(out / "results.csv")
    assert len(rows) == len(asked) == 6
    asked.clear()
    command("--layers", "all", "--repeats", 3, kinds="orthogonal,permutation")
    wanted = {(0, kind, i) for kind in ("orthogonal", "permutation") for i in range(3)}
    wanted |= {(1, "permutation", i) for i in range(3)} | {(1, "orthogonal", 2)}
    assert set(asked) == wanted and len(asked) == len(wanted)
    more = files.read_csv(out / "results.csv")
    names = ["model", "layer", "seed", "kind", "repeat"]
    kept = rows.merge(more, on=names)
    assert len(kept) == 6 and (kept.accuracy_x == kept.accuracy_y).all()
    assert not more.duplicated(names).any() and len(more) == 16
    assert len(files.read_csv(out / "curves.csv")) == 16


def test_seeds_share_programs(quiet_folder, asked, monkeypatch, capsys):
    """Two members with two layers use one program for both layers; more matrices extend the results."""
    points = []
    begin = Retraining.__init__
    monkeypatch.setattr(
        Retraining, "__init__", lambda self, plan, *a, **o: points.append(plan.points) or begin(self, plan, *a, **o)
    )
    out = command("--seeds", "1,0", kinds="none,orthogonal")
    assert points == [(0, 1)] and len(asked) == 2 * 2 * 2 * 2
    assert "mean ± deviation over 2 matrices in each of 2 members" in capsys.readouterr().out
    rows = files.read_csv(out / "results.csv")
    names = ["model", "layer", "seed", "kind", "repeat"]
    assert len(rows) == 16 and not rows.duplicated(names).any() and set(rows.seed) == {0, 1}
    points.clear()
    asked.clear()
    command("--seeds", "0,1", kinds="none,orthogonal")
    assert not points and not asked and len(files.read_csv(out / "results.csv")) == 16
    command("--seeds", "0,1", kinds="none,permutation")
    assert points == [(0, 1)] and len(asked) == 8


def test_an_interrupted_run_goes_on(quiet_folder, asked, monkeypatch):
    """Saved groups and layers are not computed again."""
    write, written = files.write_csv, []

    def dies(path, frame):
        if len(written) == 5:  # one layer of the third group
            raise KeyboardInterrupt
        write(path, frame)
        if str(path).endswith(".0.results.csv"):
            written.append(frame.layer[0])

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(files, "write_csv", dies)
        command()
    assert end.value.code == 130 and written == ["conv1", "conv2"] * 2 + ["conv1"]
    everything = set(asked)
    asked.clear()
    command()
    assert sorted(asked) == sorted(everything - {(0, *case) for case in CASES[:3]} - {(1, *case) for case in CASES[:2]})
    assert len(files.read_csv(Path("run/results.csv"))) == 12


@pytest.mark.slow
def test_layers_that_lack_different_matrices_find_the_same(quiet_folder, monkeypatch):
    """A run that completes partial results equals an uninterrupted run."""
    whole, points, begin = command(out="whole"), [], Retraining.__init__
    command("--layers", "2", "--repeats", 1, out="parts", kinds="g_relu")
    command("--layers", "1", "--repeats", 2, out="parts", kinds="orthogonal")
    monkeypatch.setattr(
        Retraining, "__init__", lambda self, plan, *a, **o: points.append(plan.points) or begin(self, plan, *a, **o)
    )
    parts = command(out="parts")
    assert sorted(points) == [(0,), (1,)]
    for name in ("results", "curves"):
        frames = [files.read_csv(folder / f"{name}.csv") for folder in (whole, parts)]
        pd.testing.assert_frame_equal(*frames, rtol=1e-5)


def test_matrices_of_layers_are_shared_out():
    """Each process or task has whole layers if there are enough, otherwise equal matrices of several layers."""
    units = [("m", layer, 0, CASES) for layer in ("conv1", "conv2", "conv3")]
    assert group_units(units) == {("m", ("conv1", "conv2", "conv3")): [(0, CASES)]}
    whole = split_units(units, 2)
    assert whole == units and group_units(whole[::2]) == {("m", ("conv1", "conv3")): [(0, CASES)]}
    uneven = [("m", "conv1", 0, CASES[:1]), ("m", "conv2", 0, CASES)]
    assert [len(unit[3]) for unit in split_units(uneven, 4)] == [1] + 3 * [len(CASES) // 3]
    cut = split_units(units, 6)
    assert group_units(cut[::2]) == {("m", ("conv1", "conv2", "conv3")): [(0, CASES[::2])]}
    uneven = [
        ("m", "conv1", 0, CASES),
        ("m", "conv2", 0, CASES[1:]),
        ("m", "conv1", 1, CASES[1:]),
        ("k", "conv2", 0, CASES),
    ]
    assert group_units(uneven) == {
        ("m", ("conv1",)): [(0, CASES), (1, CASES[1:])],
        ("m", ("conv2",)): [(0, CASES[1:])],
        ("k", ("conv2",)): [(0, CASES)],
    }


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ["--kinds", "none,haar"],
            "kinds: got 'none,haar', expected comma-separated names of none, permutation, g_relu, orthogonal",
        ),
        (["--kinds", ","], "kinds: got ',', expected"),
        (["--layers", "relu1"], "layers: got 'relu1', expected numbers from 1 to 2"),
        (["--layers", "3"], "layers: got '3'"),
        (["--repeats", "0"], "repeats: got 0"),
        (["--retrain-epochs", "0"], "retrain_epochs: got 0"),
        (["--retrain-learning-rate", "nan"], "retrain_learning_rate: got nan"),
        (["--rotation-seed", "-1"], "rotation_seed: got -1"),
        (["--cache-gb", "0"], "cache_gb: got 0"),
        (["--model", ","], "model: got ',', expected names of"),
        (["--model", "mlp"], "model: got 'mlp', expected one of"),
        (["--model", "resnet20"], "points: got block1.1* of resnet20 (width 16), inside a residual block"),
        (["--model", "mcnn_k,cwcnn_k"], "width: got different default widths (mcnn_k 64, cwcnn_k 512)"),
        (["--model", "mcnn_k,mcnn_k_sigmoid"], "zoo: got one folder for 2 models"),
    ],
)
def test_bad_flags_are_one_line(words, named, quiet_folder, capsys, monkeypatch):
    monkeypatch.setattr(zoo, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(SystemExit) as end:
        run_command(
            experiments.rotate.main,
            experiments.rotate.Settings,
            [*flags(scratch()), "--model", "rotate_tiny", "--out", "run", *words],
        )
    error = capsys.readouterr().err
    assert end.value.code == 2 and named in error and error.count("\n") == 1
    assert not Path("run").exists()


# --- memory ---


@pytest.mark.slow
def test_matrices_in_groups_find_what_all_at_once_do():
    whole, (dataset, found) = program(epochs=2), trained()
    devices = jax.devices()[:1]
    unbounded = Retraining(whole.plan, dataset, devices=devices)
    limit = unbounded.programs[0].memory.bytes_for(4)
    grouped = Retraining(whole.plan, dataset, devices=devices, max_device_memory=limit)
    seen, run = [], grouped.programs[0].block

    def counted(items, features):
        seen.append(len(items[1][0]))
        return run(items, features)

    grouped.programs[0].block = counted
    one_by_one = grouped.run(found.member(0), CASES, key=key())
    assert grouped.rounds(len(CASES)) == 2 and seen == [4] * 2 * 2  # the second group is filled up
    at_once = unbounded.run(found.member(0), CASES, key=key())
    assert [one.case for one in one_by_one] == CASES
    assert_same(one_by_one, at_once)
    with pytest.raises(InputError, match="max_device_memory: .* which is what one matrix needs"):
        Retraining(whole.plan, dataset, max_device_memory=whole.programs[0].memory.bytes_for(1) - 1)


@pytest.mark.slow
def test_layers_that_do_not_fit_follow_each_other():
    dataset, found = trained()
    plan, devices = plan_of(found, (0, 1)), jax.devices()[:1]
    whole = Retraining(plan, dataset, devices=devices)
    at_once = whole.run(found.member(0), CASES, key=key())
    (together,) = whole.programs
    limit, saved = together.memory.bytes_for(1) - 1, []
    bounded = Retraining(plan, dataset, devices=devices, max_device_memory=limit)
    assert [program.points for program in bounded.programs] == [(0,), (1,)]
    assert bounded.rounds(6) == sum(-(-6 // min(6, one.memory.max_members(limit))) for one in bounded.programs)
    assert_same(bounded.run(found.member(0), CASES, key=key(), on_results=saved.append), at_once)
    assert len(saved) == bounded.rounds(6) and {one.point for one in saved[0]} == {0}
    # With a little more both train together, in groups.
    several = Retraining(plan, dataset, devices=devices, max_device_memory=together.memory.bytes_for(4))
    assert [program.points for program in several.programs] == [(0, 1)] and several.rounds(6) == 2
    assert_same(several.run(found.member(0), CASES, key=key()), at_once)


def test_what_a_retraining_needs():
    """A device holds features of training and validation images, and for each case the state before and after."""
    whole, (dataset, found) = program(epochs=2), trained()
    usage, one = whole.programs[0].memory, jax.tree.map(np.asarray, found.network.tail_of(found.member(0), 0))
    (front,) = whole.programs[0]._fronts
    kept = (len(dataset.train) + len(dataset.validation)) * front.bytes_per_image(dataset)
    assert kept < usage.fixed < 100 * kept
    assert usage.per_member >= 3 * num_bytes(one) + 4 * 4 * 4  # parameters and two moments


# --- the published finding ---


def penalties(gap, *, cost=None, seeds=1, repeats=4, noise=0.5, layers=("conv1", "conv2", "conv10")):
    """Return rows with common noise per repeat: G_ReLU exceeds none by `cost`, orthogonal exceeds G_ReLU by `gap`."""
    rng = np.random.default_rng(0)
    rows = []
    for layer, above, little in zip(layers, gap, cost or [0.0] * len(layers), strict=True):
        for seed in range(seeds):
            for repeat in range(repeats):
                common = rng.normal(0, 20)
                for kind, value in (("none", 0.0), ("g_relu", little), ("orthogonal", little + above)):
                    where = {"model": "m", "layer": layer, "seed": seed, "kind": kind, "repeat": repeat}
                    rows.append(where | {"penalty": common + value + noise * rng.normal()})
    return pd.DataFrame(rows)


def verdicts(told):
    """Return the verdicts of the whole text and of each claim."""
    whole = re.match(r"The published finding (holds|fails|is not settled) as a whole", told).group(1)
    claims = ("g_relu costs at most", "orthogonal costs more than g_relu", "the gap grows with depth")
    found = [re.search(rf"{claim}[^:]*: (holds|fails|not settled|undecided)", told).group(1) for claim in claims]
    return [whole, *found]


FOUR = {"layers": ("conv1", "conv2", "conv3", "conv4"), "noise": 0.1}


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (penalties((1, 4, 9), noise=0.2), ["holds", "holds", "holds", "holds"]),
        (penalties((1, 4, 9), cost=(1, 1, 1), noise=0.2), ["holds", "holds", "holds", "holds"]),
        (penalties((-1, -4, -9)), ["fails", "holds", "fails", "fails"]),
        # The gap at the last layer alone is large enough to lift the mean of all and the last above the first.
        (penalties((-1, -1, -2, 11), **FOUR), ["fails", "holds", "fails", "fails"]),
        (penalties((2, 4, 3, 9), **FOUR), ["fails", "holds", "holds", "fails"]),
        # Both kinds are dear, orthogonal more, and the more so the deeper.
        (penalties((8, 10, 12, 14), cost=(20, 20, 20, 20), **FOUR), ["fails", "fails", "holds", "holds"]),
        (penalties((1, 4, 9, 16), cost=(0, 0, 0, 20), **FOUR), ["fails", "fails", "holds", "holds"]),
        (penalties((3,), layers=("conv2",)), ["is not settled", "holds", "holds", "undecided"]),
    ],
)
def test_each_part_of_the_published_finding_is_tested_at_each_layer(rows, wanted):
    assert verdicts(compare_with_published(rows)) == wanted


def swinging(gap, cost, by):
    """Return rows of four repeats whose gaps are alternately larger and smaller by `by`, also over layers."""
    layers = [f"conv{i}" for i in range(len(gap))]
    rows = penalties(gap, cost=cost, noise=0.0, layers=layers)
    sign = (-1) ** (rows.repeat + rows.layer.map(layers.index))
    return rows.assign(penalty=rows.penalty + by * sign * rows.kind.map({"none": 0, "g_relu": 1, "orthogonal": 2}))


def test_what_swings_is_not_settled():
    unsettled = compare_with_published(swinging((0, 0, 0), (2, 2, 2), 3.0))
    assert verdicts(unsettled) == ["is not settled", "not settled", "not settled", "not settled"]
    # -1.0 ± 0.7 at the last layer: a failure where it is the only one; of eight one may be so by chance.
    only, last = (compare_with_published(swinging(gap, None, 0.385)) for gap in ((-1,), (*[5] * 7, -1)))
    assert verdicts(only)[2] == "fails" and "conv0 -1.0 ± 0.7 fails" in only
    assert verdicts(last)[2] == "not settled" and "conv7 -1.0 ± 0.7 not settled" in last


def test_the_published_finding_is_told_with_numbers():
    rows = penalties((-1, -1, -2, 11), cost=(0, 1, 5, 0), layers=FOUR["layers"], noise=0.0)
    told = compare_with_published(rows)
    for words in (
        "95 % intervals over 4 matrices",
        "g_relu costs at most 2 more than none: fails (conv1 0.0 ± 0.0 holds, conv2 1.0 ± 0.0 holds, "
        "conv3 5.0 ± 0.0 fails, conv4 0.0 ± 0.0 holds)",
        "orthogonal costs more than g_relu: fails (conv1 -1.0 ± 0.0 fails, conv2 -1.0 ± 0.0 fails, "
        "conv3 -2.0 ± 0.0 fails, conv4 11.0 ± 0.0 holds)",
        "conv2 to conv3 -1.0 ± 0.0 fails, conv3 to conv4 13.0 ± 0.0 holds, conv1 to conv4 12.0 ± 0.0 holds)",
    ):
        assert words in told


def test_what_the_published_finding_cannot_be_told_from():
    rows = penalties((1, 4, 9), noise=0.1)
    without = compare_with_published(rows[rows.kind != "none"])
    assert verdicts(without) == ["is not settled", "undecided", "holds", "holds"]
    assert "needs 2 or more of the matrices; there is 1" in compare_with_published(penalties((1, 4, 9), repeats=1))
    assert "needs the kinds" in compare_with_published(rows[rows.kind == "g_relu"])


def test_only_relu_networks_are_held_against_it():
    rows = penalties((1, 4, 9)).assign(baseline=90.0, loss=0.1)
    for model, is_relu in (("rotate_tiny", True), ("rotate_tiny_norm", True), ("rotate_tiny_sigmoid", False)):
        assert uses_relu(models.create(model, image_size=8)) is is_relu
    assert "published" in conclusion(rows, ["m"])
    assert "published" not in conclusion(rows, [])


def test_what_became_nan_does_not_vanish_from_a_conclusion():
    rows = penalties((1, 4, 9)).assign(baseline=90.0, loss=0.1)
    lost = (rows.kind == "orthogonal") & (rows.layer == "conv1") & (rows.repeat == 0)
    assert "nan" not in conclusion(rows, []) and lost.sum() == 1
    assert "orthogonal nan (nan at conv1" in conclusion(rows.assign(penalty=rows.penalty.where(~lost)), [])


def test_a_network_that_has_learned_nothing_is_told():
    rows = penalties((1, 4, 9)).assign(baseline=30.0, loss=0.1)
    assert "The accuracy of m is close to chance" in conclusion(rows, ["m"], chance=25.0)
    assert "close to chance" not in conclusion(rows, ["m"], chance=10.0)


def test_no_cases_are_nothing_to_retrain():
    _, found = trained()
    assert program().run(found.member(0), [], key=key()) == [] and program().rounds(0) == 0


def test_batch_norm_is_told():
    rows = penalties((1, 4, 9)).assign(baseline=90.0, loss=0.1)
    for model in ("rotate_tiny", "rotate_tiny_norm", "rotate_tiny_sigmoid"):
        network = models.create(model, image_size=8)
        assert uses_batch_norm(network) is (model == "rotate_tiny_norm")
    told = conclusion(rows, ["m"], ["m"])
    assert "The published finding" in told and "m: with batch norm, unlike the published networks" in told
    assert "batch norm" not in conclusion(rows, ["m"])


@pytest.mark.slow
def test_the_command_tells_of_batch_norm(quiet_folder, asked, capsys):
    command(kinds="g_relu,orthogonal", model="rotate_tiny_norm")
    assert "rotate_tiny_norm: with batch norm" in capsys.readouterr().out


def test_gaps_are_of_members_where_there_are_several():
    rows = penalties((1, 4, 9), seeds=3)
    gap, units = penalty_gaps(rows)
    assert units == "members" and list(gap.columns) == ["conv1", "conv2", "conv10"] and len(gap) == 3
    of = lambda kind: rows[(rows.kind == kind) & (rows.layer == "conv10") & (rows.seed == 1)].penalty  # noqa: E731
    assert gap.loc[1, "conv10"] == pytest.approx(of("orthogonal").mean() - of("g_relu").mean())
    values = gap["conv10"].to_numpy()  # against the formula, with Student's t of two degrees of freedom
    half = 4.302653 * values.std(ddof=1) / np.sqrt(3)
    assert f"conv10 {values.mean():.1f} ± {half:.1f} holds" in compare_with_published(rows)
    growth = (gap["conv10"] - gap["conv1"]).to_numpy()
    half = 4.302653 * growth.std(ddof=1) / np.sqrt(3)
    assert f"conv1 to conv10 {growth.mean():.1f} ± {half:.1f} holds" in compare_with_published(rows)


# --- figures ---


def test_bars_show_means_and_deviations(tmp_path):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"model": m, "layer": f"conv{i}", "kind": k, "seed": 0, "repeat": r, "baseline": 90.0}
        | {"penalty": rng.uniform(-1, 9), "epoch": 1, "val_accuracy": 80.0}
        for m in ("mcnn_k", "mcnn_k_sigmoid")
        for i in (1, 2)
        for k in ("none", "g_relu", "orthogonal")
        for r in range(4)
    )
    figure = rotations(rows, tmp_path / "r")
    for axes, (model, theirs) in zip(figure.axes, rows.groupby("model"), strict=True):
        assert axes.get_title().startswith(f"{model} (baseline 90.0 %)")
        heights = [bar.get_height() for container in axes.containers[1::2] for bar in container]
        by_bar = theirs.groupby([theirs.kind.map(list(KINDS).index), "layer"]).penalty
        np.testing.assert_allclose(heights, by_bar.mean())
        spans = [np.ptp(line[:, 1]) for c in axes.containers[::2] for line in c.lines[2][0].get_segments()]
        np.testing.assert_allclose(spans, 2 * by_bar.std(), rtol=1e-6)
    assert len(rotation_curves(rows, tmp_path / "c").axes) == 4
    assert (tmp_path / "r.png").exists() and (tmp_path / "c.pdf").exists()
