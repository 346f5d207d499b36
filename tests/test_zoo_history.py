"""Zoos with snapshots, with labels for each member, and with layers that freeze."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from zoo_helpers import CONFIG, DATASET, assert_close, assert_same, modification_times, stopped_in_a_save

from symjax import zoo
from symjax.errors import InputError
from symjax.network.member import leaves_by_path
from symjax.ops import runs
from symjax.representations import features_of
from symjax.training import Recipe
from symjax.zoo import Group, ZooConfig, estimate
from symjax.zoo.merging import merge_members
from symjax.zoo.stored import StoredMember

SEEDS = (0, 1, 2)
KEEP = (0, 1, 3)
SETTINGS = {"devices": jax.devices()[:1], "progress": False}


def train(folder, seeds=SEEDS, config=CONFIG, **settings):
    return zoo.train(config, DATASET, seeds, folder, **SETTINGS | settings)


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "plain"
    train(folder)
    return folder


@pytest.fixture(scope="module")
def snapshot_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "snapshots"
    train(folder, keep=KEEP)
    return folder


# --- snapshots ---


def saved(folder, seeds=SEEDS):
    """The epochs of the checkpoints of each member."""
    return [StoredMember(folder, seed).epochs() for seed in seeds]


def test_snapshots_are_the_members_after_these_epochs(snapshot_folder, plain_folder):
    assert_same(zoo.load(snapshot_folder).members, zoo.load(plain_folder).members)
    assert saved(snapshot_folder) == [[0, 1, 3]] * 3 and saved(plain_folder) == [[3]] * 3
    first = zoo.load(snapshot_folder, epoch=1)
    assert first.metrics.epoch.tolist() == [1] * 3 and len(first) == 3
    whole = zoo.load(snapshot_folder).metrics
    np.testing.assert_array_equal(first.metrics.loss, whole.loss[whole.epoch == 1])
    assert zoo.load(snapshot_folder, epoch=3).metrics.equals(whole)
    start = zoo.load(snapshot_folder, (2, 0), epoch=0)
    assert start.seeds == (2, 0) and start.metrics.empty and np.isnan(start.validation_accuracy).all()
    initial = jax.jit(start.network.init)(jax.random.fold_in(jax.random.key(2), 0))
    assert_close(start.member(2), initial, atol=1e-6)
    leaves = zip(*map(jax.tree.leaves, (start.member(2), first.member(2))), strict=True)
    assert np.median([np.abs(a - b).max() for a, b in leaves]) > 0.01
    _, history = zoo.load_history(snapshot_folder, 2, KEEP)
    for i, epoch in enumerate(KEEP):
        expected = zoo.load(snapshot_folder, epoch=epoch).member(2)
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], history), expected)


def test_missing_snapshots_are_an_error_before_anything_is_written(plain_folder, snapshot_folder, tmp_path):
    folder = shutil.copytree(plain_folder, tmp_path / "zoo")
    before = modification_times(folder)
    with pytest.raises(InputError, match=r"epoch: got 1 for members 0, 1, .*: none; train\(..., keep=\[1\]\) in"):
        zoo.load(folder, (0, 1), epoch=1)
    message = r"keep: got 0, 1, expected epochs after the 3 that .*member-0 .* for; .*keep=\[0, 1, 3\].* another --zoo"
    for use in (train, lambda folder, keep: estimate.remaining_epochs(folder, SEEDS, 3, keep)):
        with pytest.raises(InputError, match=message):
            use(folder, keep=(0, 1, 3))
    names = {name for name in modification_times(folder) if not (folder / name).is_dir()}
    assert all(modification_times(folder)[name] == before[name] for name in names)
    train(folder, keep=(3,))
    # A new member has its snapshots; members that have them are not trained again.
    folder = shutil.copytree(snapshot_folder, tmp_path / "snapshots")
    train(folder, (*SEEDS, 5), keep=(1,))
    assert saved(folder, (0, 5)) == [[0, 1, 3], [0, 1, 3]]


def test_a_snapshot_stays_when_a_later_run_does_not_ask_for_it(tmp_path, monkeypatch):
    save = StoredMember.save

    def interrupted(self, state, metrics):
        if int(state.epoch) == 2:
            raise KeyboardInterrupt
        save(self, state, metrics)

    with stopped_in_a_save(monkeypatch, interrupted):
        train(tmp_path, (0,), keep=(0, 1), save_every_seconds=0)
    train(tmp_path, (0,))
    train(tmp_path, (0,), keep=(1, 3))
    assert saved(tmp_path, (0,)) == [[0, 1, 3]]
    (tmp_path / "snapshots.json").write_text('[0, "a"]')
    with pytest.raises(InputError, match=r"snapshots\.json: got 'a'"):
        train(tmp_path, (0,))


@pytest.mark.slow
def test_an_interrupted_run_has_its_snapshots_and_continues_bitwise(snapshot_folder, tmp_path, monkeypatch):
    save = StoredMember.save

    def interrupted(self, state, metrics):
        if int(state.epoch) == 2 and self.seed == 1:
            raise KeyboardInterrupt
        save(self, state, metrics)

    with stopped_in_a_save(monkeypatch, interrupted):
        train(tmp_path, keep=KEEP, save_every_seconds=0)
    assert saved(tmp_path) == [[0, 1, 2], [0, 1], [0, 1]]
    assert_same(zoo.load(tmp_path, epoch=1).members, zoo.load(snapshot_folder, epoch=1).members)
    resumed = train(tmp_path, keep=(*KEEP, 2))
    assert_same(resumed.members, zoo.load(snapshot_folder).members)
    assert resumed.metrics.equals(zoo.load(snapshot_folder).metrics)
    assert saved(tmp_path) == [[0, 1, 2, 3]] * 3


def test_a_damaged_snapshot_is_an_error(snapshot_folder, tmp_path):
    folder = shutil.copytree(snapshot_folder, tmp_path / "zoo")
    for path in (folder / "member-1" / "epoch-00001").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"epoch-00001 is damaged .*; delete .*member-1 to have"):
        zoo.load(folder, epoch=1)
    assert_same(zoo.load(folder).members, zoo.load(snapshot_folder).members)


@pytest.mark.slow
def test_merged_members_bring_their_snapshots(snapshot_folder, plain_folder, tmp_path):
    with runs.open_folder(tmp_path / "zoo", "zoo", CONFIG.document(DATASET)) as folder:
        merge_members([plain_folder], folder)
        assert merge_members([plain_folder, snapshot_folder], folder) == (list(SEEDS), {})
    assert saved(folder) == [[0, 1, 3]] * 3
    train(folder)
    assert_same(zoo.load(folder, epoch=1).members, zoo.load(snapshot_folder, epoch=1).members)


@pytest.mark.parametrize("keep", [(-1,), (4,), (1.5,), (True,)], ids=str)
def test_bad_epochs_to_keep(keep, tmp_path):
    with pytest.raises(InputError, match="keep: got .*, expected an integer from 0 to 3"):
        train(tmp_path / "zoo", keep=keep)
    assert not (tmp_path / "zoo").exists()


# --- labels ---

MEMORIZE = Recipe(epochs=40, batch_size=8, learning_rate=0.03, weight_decay=0.0, flip=False, translate=0)
TRUE = ZooConfig("stripes", "tiny", width=8, recipe=MEMORIZE)


def test_labels_and_freeze_are_part_of_the_configuration():
    other = dataclasses.replace(CONFIG, labels="permuted_each", freeze=(1, 2))
    assert ZooConfig.from_json(other.to_json()) == other and other.fingerprint != CONFIG.fingerprint
    with pytest.raises(InputError, match="labels: got 'wrong', expected one of true, permuted"):
        ZooConfig(labels="wrong")


def test_permuted_labels_are_fixed_permutations():
    true = np.asarray(DATASET.train.labels)
    shared, each = (dataclasses.replace(TRUE, labels=name) for name in ("permuted", "permuted_each"))
    for config in (shared, each):
        labels = [config.training_labels(DATASET, seed) for seed in (0, 1, 0)]
        np.testing.assert_array_equal(labels[0], labels[2])
        assert np.array_equal(labels[0], labels[1]) == (config is shared)
        np.testing.assert_array_equal(np.sort(labels[0]), np.sort(true))
        assert 0.1 < np.mean(labels[0] == true) < 0.7
    assert not np.array_equal(shared.training_labels(DATASET, 0), each.training_labels(DATASET, 0))
    np.testing.assert_array_equal(TRUE.training_labels(DATASET, 5), true)


@pytest.mark.slow
def test_members_learn_different_labels_in_one_program(tmp_path):
    """Random images are memorized: each member knows its labels, and not those of the others."""
    images = np.random.default_rng(0).integers(0, 255, DATASET.train.images.shape, dtype=np.uint8)
    dataset = dataclasses.replace(DATASET, train=dataclasses.replace(DATASET.train, images=images))
    each = dataclasses.replace(TRUE, labels="permuted_each")
    before = zoo.jobs.epochs_program.cache_info().misses
    groups = [Group(TRUE, (0, 1), tmp_path / "true"), Group(each, (0, 1), tmp_path / "each")]
    zoos = zoo.train_together(groups, dataset, **SETTINGS)
    assert zoo.jobs.epochs_program.cache_info().misses == before + 1
    rows = [z.config.training_labels(dataset, seed) for z in zoos for seed in z.seeds]
    members = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(z.members for z in zoos))
    network = zoos[0].network

    def accuracies(labels):
        return zoo.evaluate(network, members, dataset.train, dataset.mean, dataset.std, labels=labels)

    assert (accuracies(np.stack(rows)) > 0.9).all()
    assert (accuracies(np.stack([rows[2], rows[3], rows[1], rows[0]])) < 0.75).all()
    np.testing.assert_array_equal(
        np.concatenate([zoo.train_accuracy(z, dataset) for z in zoos]), accuracies(np.stack(rows))
    )
    # A member that trains alone, by another program, is the same.
    alone = zoo.train(TRUE, dataset, [1], tmp_path / "alone", **SETTINGS)
    assert_close(
        alone.metrics.loss[:5], zoos[0].metrics[zoos[0].metrics.seed == 1].loss.reset_index(drop=True)[:5], 1e-3
    )


@pytest.mark.slow
def test_labels_of_each_member_are_counted_over_examples(plain_folder):
    """40 examples in batches of 16, so the last has padding."""
    loaded = zoo.load(plain_folder)
    images, true = (np.concatenate([a, a[:8]]) for a in (DATASET.train.images, DATASET.train.labels))
    split, calls = dataclasses.replace(DATASET.train, images=images, labels=true), []
    labels = np.stack([true, (true + 1) % 3, np.roll(true, 1)]).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo.evaluation, "EVALUATION_BATCH", 16)
        pad = zoo.evaluation.pad_batches
        patch.setattr(zoo.evaluation, "pad_batches", lambda *rest: calls.append(1) or pad(*rest))
        accuracies = zoo.evaluate(loaded.network, loaded.members, split, DATASET.mean, DATASET.std, labels=labels)
    assert len(calls) == 1
    normal = (images.astype(np.float32) - DATASET.mean) / DATASET.std
    for i, seed in enumerate(SEEDS):
        answers = np.argmax(jax.jit(loaded.network.apply)(loaded.member(seed), normal), -1)
        assert accuracies[i] == pytest.approx(np.mean(answers == labels[i]))


def test_pooled_features_are_not_rounded_to_bfloat16():
    config = dataclasses.replace(CONFIG, precision="bfloat16")
    network = config.network(DATASET)
    members = jax.jit(jax.vmap(network.init))(jax.random.split(jax.random.key(0), 2))
    words = (DATASET.test.images[:9], DATASET.mean, DATASET.std)
    maps, pooled = (
        features_of(network, members, *words, layers="relu1", samples=samples)["relu1"]
        for samples in ("positions", "pool")
    )
    assert maps.dtype == jax.numpy.bfloat16 and pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, maps.astype(np.float64).mean((2, 3)), rtol=1e-5)


def test_groups_must_fit_together(tmp_path):
    other = dataclasses.replace(TRUE, width=4)
    with pytest.raises(InputError, match="differ in more than labels"):
        zoo.train_together([Group(TRUE, (0,), tmp_path / "a"), Group(other, (0,), tmp_path / "b")], DATASET)
    with pytest.raises(InputError, match="two with one folder"):
        zoo.train_together([Group(TRUE, (0,), tmp_path / "a"), Group(TRUE, (1,), tmp_path / "a")], DATASET)
    assert not list(tmp_path.iterdir())


# --- freezing ---


@pytest.mark.slow
def test_frozen_segments_stay_and_the_others_train(plain_folder, tmp_path):
    config = dataclasses.replace(CONFIG, freeze=(1, 2))
    train(tmp_path / "zoo", config=config, keep=(0, 1, 2))
    at = [zoo.load(tmp_path / "zoo", epoch=epoch).members for epoch in range(4)]

    network = zoo.load(tmp_path / "zoo").network
    ends = [frozenset(), *(network.read_by_front(point) for point in (0, 1)), frozenset(leaves_by_path(at[0]))]

    def moved(before, after, segment):
        a, b = leaves_by_path(at[before]), leaves_by_path(at[after])
        return max(np.abs(a[path] - b[path]).max() for path in ends[segment + 1] - ends[segment])

    # A segment is trained until its epoch; afterwards it stays the same bit by bit, batch statistics included.
    assert moved(0, 1, 0) > 0.01 and moved(1, 3, 0) == 0
    assert moved(1, 2, 1) > 0.01 and moved(2, 3, 1) == 0
    assert moved(2, 3, 2) > 0.01
    assert_close(at[1], train(tmp_path / "normal", keep=(1,)) and zoo.load(tmp_path / "normal", epoch=1).members, 1e-6)


@pytest.mark.slow
def test_a_schedule_beyond_the_end_is_normal_training(plain_folder, tmp_path):
    never = train(tmp_path / "zoo", config=dataclasses.replace(CONFIG, freeze=(3, 3)))
    assert_same(never.members, zoo.load(plain_folder).members)
    assert never.metrics.equals(zoo.load(plain_folder).metrics)


def test_bad_schedules(tmp_path):
    for freeze in ((2, 1), (-1,), (1.5,), (True,)):
        with pytest.raises(InputError, match="freeze: got"):
            dataclasses.replace(CONFIG, freeze=freeze)
    with pytest.raises(InputError, match="freeze: got 3 epochs, expected at most 2"):
        train(tmp_path / "zoo", config=dataclasses.replace(CONFIG, freeze=(1, 1, 1)))
    assert not (tmp_path / "zoo").exists()
