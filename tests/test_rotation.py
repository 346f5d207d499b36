"""Rotations: random matrices, rotated tails, retraining, and its memory."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny_models  # noqa: F401
from campaign import slow
from rotation_helpers import CASES, accuracy_of, key, plan_of, program, trained

from symjax import models, zoo
from symjax.errors import InputError
from symjax.network import Member
from symjax.network.member import leaves_by_path
from symjax.ops.memory import num_bytes
from symjax.rotation import KINDS, Retraining, RotatedTail, sample_rotation

STILL = 1e-30  # a learning rate at which nothing is learned


# --- matrices ---


@pytest.fixture(scope="module")
def draws():
    keys = jax.random.split(jax.random.key(3), 4000)
    return {kind: np.asarray(jax.vmap(lambda k, kind=kind: sample_rotation(k, kind, 4))(keys)) for kind in KINDS}


def test_orthogonal_matrices_have_the_haar_measure(draws):
    matrices = draws["orthogonal"].astype(np.float64)
    np.testing.assert_allclose(
        matrices @ matrices.swapaxes(1, 2), np.broadcast_to(np.eye(4), matrices.shape), atol=2e-6
    )
    trace = np.trace(matrices, axis1=1, axis2=2)
    # Diaconis, Shahshahani 1994: on O(d), E tr = 0, E tr^2 = 1, E tr(A^2) = 1, E tr^4 = 3. Standard errors are a few
    # hundredths; QR without its signs has E tr = -2 here, and special orthogonal matrices have no negative determinant.
    for value, expected, within in (
        (trace.mean(), 0, 0.06),
        ((trace**2).mean(), 1, 0.1),
        (np.trace(matrices @ matrices, axis1=1, axis2=2).mean(), 1, 0.1),
        ((trace**4).mean(), 3, 0.6),
        (np.linalg.det(matrices).mean(), 0, 0.06),
    ):
        assert abs(value - expected) < within
    np.testing.assert_allclose((matrices**2).mean(0), 0.25, atol=0.02)


def test_g_relu_matrices_are_scaled_permutations(draws):
    matrices = draws["g_relu"]
    assert ((matrices > 0).sum(1) == 1).all() and ((matrices > 0).sum(2) == 1).all() and (matrices >= 0).all()
    np.testing.assert_allclose((matrices > 0).mean(0), 0.25, atol=0.03)  # every permutation alike
    logs = np.log(matrices[matrices > 0])  # exp(N(0, 1)) / exp(1/2)
    assert abs(logs.mean() + 0.5) < 0.03 and abs(logs.std() - 1) < 0.03
    assert abs(np.corrcoef(logs[::2], logs[1::2])[0, 1]) < 0.05
    x = np.random.default_rng(0).normal(size=(4000, 4, 1)).astype(np.float32)
    relu = lambda z: np.maximum(z, 0)  # noqa: E731
    np.testing.assert_array_equal(relu(matrices @ x), matrices @ relu(x))
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
    dataset, trained_zoo = trained(model)
    member, images = trained_zoo.member(1), np.float32((dataset.test.images - dataset.mean) / dataset.std)
    matrix = np.asarray(sample_rotation(key(5), kind, trained_zoo.network.points[point].channels))
    tail = absorbed(trained_zoo.network, member, point, matrix)

    @jax.jit
    def run(member, tail):
        features = trained_zoo.network.pre_activation(member, images, point)
        return RotatedTail(trained_zoo.network, point, matrix).apply(tail, features), trained_zoo.network.apply(
            member, images
        )

    logits, expected = run(member, tail)
    error = np.abs(np.asarray(logits) - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max()
    assert error < 1e-5 if undone else error > 0.01


@pytest.mark.slow
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


@pytest.mark.parametrize("model", ["rotate_tiny", slow("rotate_tiny_norm")])
def test_the_front_is_frozen_and_the_rest_learns(model):
    dataset, trained_zoo = trained(model)
    member = trained_zoo.member(0)
    before = jax.tree.map(np.copy, member)
    results = program(model).run(member, CASES, key=key())
    jax.tree.map(np.testing.assert_array_equal, member, before)
    for one, case in zip(results, CASES, strict=True):
        assert one.case == case
        assert set(leaves_by_path(one.tail)) == trained_zoo.network.read_by_tail(0)
        assert one.accuracy == pytest.approx(accuracy_of(trained_zoo, dataset, member, one, 0), abs=1e-9)
        moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one.tail, trained_zoo.network.tail_of(member, 0))
        assert min(jax.tree.leaves(moved)) > 0
        assert [row["epoch"] for row in one.history] == [1, 2, 3, 4]
        assert one.val_accuracy == one.history[-1]["val_accuracy"]
        assert one.case.kind == "none" or one.history[-1]["loss"] < 0.8 * one.history[0]["loss"]
    assert not np.allclose(results[2].matrix, results[3].matrix)
    assert not np.allclose(results[4].matrix, results[5].matrix)


@pytest.mark.slow
def test_a_case_does_not_depend_on_what_it_trains_beside():
    dataset, trained_zoo = trained()
    together = program().run(trained_zoo.member(0), CASES, key=key())
    one_device = Retraining(program().plan, dataset, devices=jax.devices()[:1])
    (alone,) = one_device.run(trained_zoo.member(0), CASES[4:5], key=key())
    np.testing.assert_array_equal(alone.matrix, together[4].matrix)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), alone.tail, together[4].tail)
    # Repeats see their images in orders of their own.
    first, second = (one.tail.params["convs"][1]["kernel"] for one in together[:2])
    assert np.abs(first - second).max() > 1e-3
    other = program().run(trained_zoo.member(0), CASES, key=key(1))
    assert not np.allclose(other[5].matrix, together[5].matrix)


def assert_same(actual, expected):
    """Assert that results are equal bit by bit."""
    assert [(one.point, one.case) for one in actual] == [(one.point, one.case) for one in expected]
    for one, other in zip(actual, expected, strict=True):
        assert one.accuracy == other.accuracy and one.history == other.history
        jax.tree.map(np.testing.assert_array_equal, (one.matrix, one.tail), (other.matrix, other.tail))


@pytest.mark.parametrize("augment", [False, slow(True)])
@pytest.mark.slow
def test_layers_together_find_what_they_do_apart(augment):
    dataset, trained_zoo = trained()
    whole = Retraining(plan_of(trained_zoo, (0, 1), augment=augment), dataset, devices=jax.devices()[:1])
    assert [program.points for program in whole.programs] == [(0, 1)]
    epochs, saved = [], []
    together = whole.run(trained_zoo.member(0), CASES, key=key(), on_epoch=epochs.append, on_results=saved.append)
    assert len(epochs) == 2 and len(saved) == 1
    assert_same(together, saved[0])
    apart = []
    for point in (0, 1):
        alone = Retraining(plan_of(trained_zoo, (point,), augment=augment), dataset, devices=jax.devices()[:1])
        apart += alone.run(trained_zoo.member(0), CASES, key=key())
    assert_same(together, apart)
    mean = np.mean([one.history[-1]["loss"] for one in together])
    assert epochs[-1]["loss"] == pytest.approx(mean, rel=1e-6)


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
    dataset, trained_zoo = trained()
    baseline = 100 * zoo.test_accuracy(trained_zoo, dataset)
    still = program(epochs=1, rate=STILL)
    results = still.run(trained_zoo.member(1), CASES, key=key())
    penalties = {kind: [baseline[1] - r.accuracy for r in results if r.case.kind == kind] for kind in KINDS}
    np.testing.assert_allclose(penalties["none"], 0, atol=1e-4)
    assert np.mean(penalties["orthogonal"]) > 10
    fresh = program(epochs=1, rate=STILL, start="fresh").run(trained_zoo.member(1), CASES, key=key())
    kernels = [one.tail.params["convs"][1]["kernel"] for one in (*results[:2], *fresh[:2], fresh[4])]
    np.testing.assert_array_equal(kernels[0], trained_zoo.member(1).params["convs"][1]["kernel"])
    assert len({kernel.tobytes() for kernel in kernels}) == 3  # one for all that continue, one for each repeat


def test_no_cases_are_nothing_to_retrain():
    _, trained_zoo = trained()
    assert program().run(trained_zoo.member(0), [], key=key()) == [] and program().rounds(0) == 0


def test_bad_plans_are_refused():
    _, trained_zoo = trained()
    for options, named in (
        ({"start": "again"}, "start: got 'again'"),
        ({"budget": 0}, "budget: got 0"),
        ({"points": ()}, "points: got none"),
        ({"points": (0, 0)}, "points: got 0, 0, expected one or more, each once"),
        ({"points": (0, 2)}, "points: got 2"),
    ):
        with pytest.raises(InputError, match=named):
            plan_of(trained_zoo, **options)


# --- memory ---


@pytest.mark.slow
def test_matrices_in_groups_find_what_all_at_once_do():
    whole, (dataset, trained_zoo) = program(epochs=2), trained()
    devices = jax.devices()[:1]
    unbounded = Retraining(whole.plan, dataset, devices=devices)
    limit = unbounded.programs[0].memory.bytes_for(4)
    grouped = Retraining(whole.plan, dataset, devices=devices, max_device_memory=limit)
    group_sizes, run = [], grouped.programs[0].block

    def counted(items, features):
        group_sizes.append(len(items[1][0]))
        return run(items, features)

    grouped.programs[0].block = counted
    one_by_one = grouped.run(trained_zoo.member(0), CASES, key=key())
    assert grouped.rounds(len(CASES)) == 2 and group_sizes == [4] * 2 * 2  # the second group is filled up
    at_once = unbounded.run(trained_zoo.member(0), CASES, key=key())
    assert [one.case for one in one_by_one] == CASES
    assert_same(one_by_one, at_once)
    with pytest.raises(InputError, match="max_device_memory: .* which one matrix needs"):
        Retraining(whole.plan, dataset, max_device_memory=whole.programs[0].memory.bytes_for(1) - 1)


@pytest.mark.slow
def test_layers_that_do_not_fit_follow_each_other():
    dataset, trained_zoo = trained()
    plan, devices = plan_of(trained_zoo, (0, 1)), jax.devices()[:1]
    whole = Retraining(plan, dataset, devices=devices)
    at_once = whole.run(trained_zoo.member(0), CASES, key=key())
    (together,) = whole.programs
    limit, saved = together.memory.bytes_for(1) - 1, []
    bounded = Retraining(plan, dataset, devices=devices, max_device_memory=limit)
    assert [program.points for program in bounded.programs] == [(0,), (1,)]
    assert bounded.rounds(6) == sum(-(-6 // min(6, one.memory.max_members(limit))) for one in bounded.programs)
    assert_same(bounded.run(trained_zoo.member(0), CASES, key=key(), on_results=saved.append), at_once)
    assert len(saved) == bounded.rounds(6) and {one.point for one in saved[0]} == {0}
    # With a little more both train together, in groups.
    several = Retraining(plan, dataset, devices=devices, max_device_memory=together.memory.bytes_for(4))
    assert [program.points for program in several.programs] == [(0, 1)] and several.rounds(6) == 2
    assert_same(several.run(trained_zoo.member(0), CASES, key=key()), at_once)


def test_what_a_retraining_needs():
    """A device holds features of training and validation images, and for each case the state before and after."""
    whole, (dataset, trained_zoo) = program(epochs=2), trained()
    usage, one = (
        whole.programs[0].memory,
        jax.tree.map(np.asarray, trained_zoo.network.tail_of(trained_zoo.member(0), 0)),
    )
    (front,) = whole.programs[0]._fronts
    kept = (len(dataset.train) + len(dataset.validation)) * front.bytes_per_image(dataset)
    assert kept < usage.fixed < 100 * kept
    assert usage.per_member >= 3 * num_bytes(one) + 4 * 4 * 4  # parameters and two moments
