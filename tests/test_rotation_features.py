"""Features of a frozen front: computed once, in blocks of bounded memory, with augmentation."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_models  # noqa: F401
from rotation_helpers import accuracy_of, key, plan_of, program, trained

from symjax.ops import parallel
from symjax.rotation import Retraining, RotationCase
from symjax.rotation.features import FrontFeatures, FrontProgram, count_blocks, group_fronts
from symjax.training import Recipe


def features_of(trained_zoo, dataset, blocks, augment=False):
    plan = dataclasses.replace(plan_of(trained_zoo), recipe=Recipe(translate=1))
    (front,) = Retraining(plan, dataset).programs[0]._fronts
    calls = []
    run = front._run
    front._run = lambda *arguments: calls.append(1) or run(*arguments)
    member = trained_zoo.member(0)
    return FrontFeatures(front, member, dataset, blocks, augment=augment, key=key()), calls


def test_features_that_fit_are_computed_once():
    dataset, trained_zoo = trained()
    features, calls = features_of(trained_zoo, dataset, 1)
    expected = trained_zoo.network.pre_activation(
        trained_zoo.member(0), np.float32((dataset.train.images - dataset.mean) / dataset.std), 0
    )
    for epoch in range(3):
        (block,) = features.training(epoch)
        np.testing.assert_allclose(block.images, expected, atol=1e-5)
        np.testing.assert_array_equal(block.labels, dataset.train.labels)
        assert sum(float(batch.mask.sum()) for batch in features.evaluation(dataset.validation)) == 18
    assert len(calls) == 2  # training and validation images


def test_augmentation_does_not_depend_on_the_number_of_devices():
    dataset, trained_zoo = trained()
    recipe, execution = Recipe(flip=True, translate=2), parallel.default_execution()
    images = np.concatenate([dataset.train.images] * 2)  # more than a batch of one device
    features = []
    for devices in (jax.local_devices()[:1], jax.local_devices()[:2]):
        front = FrontProgram(trained_zoo.network, 0, recipe, execution, devices)
        batches = list(front.batches(trained_zoo.member(0), images, dataset.mean, dataset.std, key()))
        features.append(np.concatenate([np.asarray(batch) for batch in batches])[: len(images)])
    np.testing.assert_allclose(*features, atol=1e-6)
    assert not np.allclose(features[0][:64], features[0][72 : 72 + 64])  # of the same images, moved otherwise


def test_features_that_do_not_fit_come_in_blocks():
    dataset, trained_zoo = trained()
    features, calls = features_of(trained_zoo, dataset, 3)
    whole, _ = features_of(trained_zoo, dataset, 1)
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
    dataset, trained_zoo = trained()
    features, _ = features_of(trained_zoo, dataset, 1, augment=True)
    (first,), (second,), (again,) = (features.training(epoch) for epoch in (0, 1, 0))
    assert np.abs(np.sort(np.ravel(first.images)) - np.sort(np.ravel(second.images))).max() > 1e-3
    np.testing.assert_array_equal(first.images, again.images)
    assert sorted(np.asarray(first.labels)) == sorted(dataset.train.labels)


def test_blocks_fit_the_budget():
    dataset, trained_zoo = trained()
    (front,) = program().programs[0]._fronts
    assert front.bytes_per_image(dataset) == 8 * 8 * 4 * 4
    for images, blocks in ((90, 1), (89, 2), (72, 2), (36, 2), (30, 3), (1, 6)):
        # 72 training images and 18 for validation; a block holds a batch of 12 at least
        assert count_blocks(front, dataset, 1024 * images, 12) == blocks, images


def test_layers_share_the_budget():
    """Points are grouped where the features of both fit; the number of blocks is independent of other points."""
    dataset, trained_zoo = trained()
    fronts = Retraining(plan_of(trained_zoo, (0, 1)), dataset).programs[0]._fronts
    both = 1024 + 512  # bytes of an image's features
    for budget, expected, alone in (
        (90 * both, [([0, 1], 1)], [1, 1]),
        (90 * both - 1, [([0], 1), ([1], 1)], [1, 1]),
        (45 * 1024, [([0], 2), ([1], 1)], [2, 1]),
        (36 * 1024, [([0], 2), ([1], 2)], [2, 2]),  # the second's validation images do not fit beside the others
        (1, [([0], 6), ([1], 6)], [6, 6]),
    ):
        shares = group_fronts(fronts, dataset, budget, 12)
        assert [([front.point for front in group], blocks) for group, blocks in shares] == expected, budget
        assert [count_blocks(front, dataset, budget, 12) for front in fronts] == alone


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.slow
def test_blocks_train_as_one_does(augment):
    dataset, trained_zoo = trained()
    plan = plan_of(trained_zoo, epochs=4, rate=0.02, budget=1024 * 24, augment=augment)
    blocks, metrics = Retraining(plan, dataset), []
    assert blocks.programs[0].blocks == 3
    (one,) = blocks.run(trained_zoo.member(0), [RotationCase("orthogonal", 0)], key=key(), on_epoch=metrics.append)
    assert len(one.history) == len(metrics) == 4 and one.history[-1]["loss"] < one.history[0]["loss"]
    assert one.accuracy == pytest.approx(accuracy_of(trained_zoo, dataset, trained_zoo.member(0), one, 0), abs=1e-9)
