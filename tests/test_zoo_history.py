"""Zoos with kept checkpoints, with labels of their own, and with layers that freeze."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from test_zoo import CONFIG, DATASET, assert_close, assert_same, files, stopped_in_a_save

from symjax import runs, zoo
from symjax.errors import InputError
from symjax.network.member import leaves_by_path
from symjax.representations import features_of
from symjax.training import Recipe
from symjax.zoo import Group, ZooConfig
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
def kept_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "kept"
    train(folder, keep=KEEP)
    return folder


# --- kept checkpoints ---


def kept(folder, seeds=SEEDS):
    """After which epochs all of these members were kept."""
    return set.intersection(*(set(StoredMember(folder, seed).kept()) for seed in seeds))


def test_kept_epochs_are_those_moments_of_the_training(kept_folder, plain_folder, tmp_path):
    assert_same(zoo.load(kept_folder).members, zoo.load(plain_folder).members)
    assert kept(kept_folder) | {3} == set(KEEP) and not kept(plain_folder) - {3}
    # What is kept after an epoch is what another zoo, stopped in the middle, goes on from.
    first = zoo.load(kept_folder, epoch=1)
    assert first.metrics.epoch.tolist() == [1] * 3 and len(first) == 3
    whole = zoo.load(kept_folder).metrics
    np.testing.assert_array_equal(first.metrics.loss, whole.loss[whole.epoch == 1])
    assert zoo.load(kept_folder, epoch=3).metrics.equals(whole)
    start = zoo.load(kept_folder, (2, 0), epoch=0)
    assert start.seeds == (2, 0) and start.metrics.empty and np.isnan(start.validation_accuracy).all()
    drawn = jax.jit(start.network.init)(jax.random.fold_in(jax.random.key(2), 0))
    assert_close(start.member(2), drawn, atol=1e-6)
    apart = [
        np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (start.member(2), first.member(2))), strict=True)
    ]
    assert np.median(apart) > 0.01
    _, history = zoo.load_history(kept_folder, 2, (0, 1, 3))
    assert_same(jax.tree.map(lambda leaf: leaf[0], history), start.member(2))
    assert_same(jax.tree.map(lambda leaf: leaf[2], history), zoo.load(kept_folder).member(2))


def test_a_finished_zoo_gets_checkpoints_and_loses_nothing(kept_folder, plain_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(plain_folder, tmp_path / "zoo")
    before = files(folder)
    trained = []
    epochs = zoo.jobs.epochs_program
    monkeypatch.setattr(zoo.jobs, "epochs_program", lambda *rest: trained.append(1) or epochs(*rest))
    with pytest.raises(InputError, match=r"has members none after 1 epochs, wanted 0, 1; train\(..., keep=\[1\]\)"):
        zoo.load(folder, (0, 1), epoch=1)
    again = train(folder, keep=(0, 1))
    assert len(trained) == 1  # as far as the last of them
    assert_same(again.members, zoo.load(plain_folder).members)
    for epoch in (0, 1):
        assert_close(zoo.load(folder, epoch=epoch).members, zoo.load(kept_folder, epoch=epoch).members, atol=1e-6)
    after = files(folder)
    unchanged = [name for name in before if not (folder / name).is_dir()]
    assert all(after[name] == before[name] for name in unchanged)
    train(folder, keep=(0, 1, 3))
    assert len(trained) == 1 and files(folder) == after


def test_a_member_that_goes_another_way_is_an_error_and_costs_the_others_nothing(plain_folder, tmp_path):
    folder = shutil.copytree(plain_folder, tmp_path / "zoo")
    path = folder / "member-1" / "metrics.csv"
    frame = runs.read_csv(path)
    frame.loc[frame.epoch == 2, "loss"] += 0.1
    runs.write_csv(path, frame)
    before = files(folder)
    train(folder, keep=(0, 1))
    with pytest.raises(InputError, match=r"member-1 lacks checkpoints.*in epoch 2 the loss is .* \(--zoo\)"):
        train(folder, (*SEEDS, 5), keep=(2,))
    after = files(folder)
    assert all(after[name] == before[name] for name in before if not (folder / name).is_dir())
    assert [StoredMember(folder, seed).epoch() for seed in (*SEEDS, 5)] == [3, 3, 3, 2]
    assert len(StoredMember(folder, 5).metrics(2)) == 2


def test_members_trained_again_leave_where_they_are_to_stop(plain_folder, kept_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(plain_folder, tmp_path / "zoo")
    path = folder / "member-1" / "metrics.csv"
    frame = runs.read_csv(path)
    frame.loc[frame.epoch == 3, "loss"] += 0.1  # beyond what is trained again
    runs.write_csv(path, frame)
    trained, epochs = [], zoo.jobs.epochs_program

    def watched(*rest):
        program = epochs(*rest)
        return lambda state, data: trained.append(np.asarray(state.seed).tolist()) or program(state, data)

    monkeypatch.setattr(zoo.jobs, "epochs_program", watched)
    whole = train(folder, (*SEEDS, 5), keep=(1,))
    assert trained == [[0, 1, 2, 5], [5], [5]]
    assert_close(zoo.load(folder, SEEDS, epoch=1).members, zoo.load(kept_folder, epoch=1).members, atol=1e-6)
    assert_close(whole.member(5), train(tmp_path / "alone", (5,)).member(5))
    # Nobody is left until a member that was interrupted later joins.
    trained.clear()
    shutil.rmtree(folder / "member-5")
    save = StoredMember.save
    with monkeypatch.context() as patch:
        patch.setattr(StoredMember, "save", lambda *rest: save(*rest) or stop())
        patch.setattr(zoo.jobs, "SAVING_SHARE", np.inf)
        with pytest.raises(KeyboardInterrupt):
            train(folder, (5,), keep=(0,), save_every_seconds=0)
    trained.clear()
    train(folder, (0, 5), keep=(0,))
    assert trained == [[5], [5]]
    assert kept(folder, (0,)) | {3} == {0, 1, 3}


def stop():
    raise KeyboardInterrupt


def test_an_interrupted_run_has_what_it_kept_and_goes_on_bitwise(kept_folder, tmp_path, monkeypatch):
    save = StoredMember.save

    def interrupted(self, state, metrics):
        if int(state.epoch) == 2 and self.seed == 1:
            raise KeyboardInterrupt
        save(self, state, metrics)

    with stopped_in_a_save(monkeypatch, interrupted):
        train(tmp_path, keep=KEEP, save_every_seconds=0)
    assert kept(tmp_path) == {0, 1}
    assert_same(zoo.load(tmp_path, epoch=1).members, zoo.load(kept_folder, epoch=1).members)
    resumed = train(tmp_path, keep=(*KEEP, 2))
    assert_same(resumed.members, zoo.load(kept_folder).members)
    assert resumed.metrics.equals(zoo.load(kept_folder).metrics)
    assert kept(tmp_path) | {3} == {0, 1, 2, 3}


def test_a_damaged_kept_checkpoint_is_an_error_and_is_made_again(kept_folder, tmp_path):
    folder = shutil.copytree(kept_folder, tmp_path / "zoo")
    path = folder / "member-1" / "kept-00001.npz"
    whole = path.read_bytes()
    for damaged in (whole[:-200], whole[:3000] + bytes([whole[3000] ^ 255]) + whole[3001:], b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"kept-00001\.npz.*delete it to have it made again"):
            zoo.load(folder, epoch=1)
    path.unlink()
    train(folder, keep=KEEP)
    assert_close(zoo.load(folder, epoch=1).members, zoo.load(kept_folder, epoch=1).members, atol=1e-6)


@pytest.mark.parametrize("keep", [(-1,), (4,), (1.5,), (True,)], ids=str)
def test_bad_epochs_to_keep(keep, tmp_path):
    with pytest.raises(InputError, match="keep: got .*, expected an integer from 0 to 3"):
        train(tmp_path / "zoo", keep=keep)
    assert not (tmp_path / "zoo").exists()


# --- labels ---

MEMORIZE = Recipe(epochs=40, batch_size=8, learning_rate=0.03, weight_decay=0.0, flip=False, translate=0)
TRUE = ZooConfig("stripes", "tiny", width=8, recipe=MEMORIZE)


def test_names_of_older_zoos_stay():
    assert "labels" not in CONFIG.to_json() and "freeze" not in CONFIG.to_json()
    other = dataclasses.replace(CONFIG, labels="permuted_each", freeze=(1, 2))
    assert ZooConfig.from_json(other.to_json()) == other and other.fingerprint != CONFIG.fingerprint
    with pytest.raises(InputError, match="labels: 'wrong' is unknown; known: true, permuted"):
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
def test_members_learn_labels_of_their_own_in_one_program(tmp_path):
    """Random images are learnt by heart: each member knows its own labels and nothing of the others'."""
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

    def known(labels):
        return zoo.evaluate(network, members, dataset.train, dataset.mean, dataset.std, labels=labels)

    assert (known(np.stack(rows)) > 0.9).all()
    assert (known(np.stack([rows[2], rows[3], rows[1], rows[0]])) < 0.75).all()
    np.testing.assert_array_equal(np.concatenate([zoo.train_accuracy(z, dataset) for z in zoos]), known(np.stack(rows)))
    # Each is a zoo as any other: a member is the same alone, by another program.
    alone = zoo.train(TRUE, dataset, [1], tmp_path / "alone", **SETTINGS)
    assert_close(
        alone.metrics.loss[:5], zoos[0].metrics[zoos[0].metrics.seed == 1].loss.reset_index(drop=True)[:5], 1e-3
    )


@pytest.mark.slow
def test_labels_of_members_own_are_counted_over_examples(plain_folder):
    """40 examples in batches of 16, so the last has padding."""
    loaded = zoo.load(plain_folder)
    images, true = (np.concatenate([a, a[:8]]) for a in (DATASET.train.images, DATASET.train.labels))
    split, seen = dataclasses.replace(DATASET.train, images=images, labels=true), []
    labels = np.stack([true, (true + 1) % 3, np.roll(true, 1)]).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo.trained, "EVALUATION_BATCH", 16)
        pad = zoo.trained.pad_batches
        patch.setattr(zoo.trained, "pad_batches", lambda *rest: seen.append(1) or pad(*rest))
        found = zoo.evaluate(loaded.network, loaded.members, split, DATASET.mean, DATASET.std, labels=labels)
    assert len(seen) == 1
    normal = (images.astype(np.float32) - DATASET.mean) / DATASET.std
    for i, seed in enumerate(SEEDS):
        answers = np.argmax(jax.jit(loaded.network.apply)(loaded.member(seed), normal), -1)
        assert found[i] == pytest.approx(np.mean(answers == labels[i]))


def test_pooled_features_are_not_rounded_to_bfloat16():
    config = dataclasses.replace(CONFIG, precision="bfloat16")
    network = config.network(DATASET)
    members = jax.jit(jax.vmap(network.init))(jax.random.split(jax.random.key(0), 2))
    words = (DATASET.test.images[:9], DATASET.mean, DATASET.std)
    maps, pooled = (features_of(network, members, *words, layers="relu1", pool=pool)["relu1"] for pool in (False, True))
    assert maps.dtype == jax.numpy.bfloat16 and pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, maps.astype(np.float64).mean((2, 3)), rtol=1e-5)


def test_groups_must_fit_together(tmp_path):
    other = dataclasses.replace(TRUE, width=4)
    with pytest.raises(InputError, match="differ in more than labels"):
        zoo.train_together([Group(TRUE, (0,), tmp_path / "a"), Group(other, (0,), tmp_path / "b")], DATASET)
    with pytest.raises(InputError, match="two have one folder"):
        zoo.train_together([Group(TRUE, (0,), tmp_path / "a"), Group(TRUE, (1,), tmp_path / "a")], DATASET)
    assert not list(tmp_path.iterdir())


# --- freezing ---


def test_frozen_segments_stay_and_the_others_train(plain_folder, tmp_path):
    config = dataclasses.replace(CONFIG, freeze=(1, 2))
    train(tmp_path / "zoo", config=config, keep=(0, 1, 2))
    at = [zoo.load(tmp_path / "zoo", epoch=epoch).members for epoch in range(4)]

    network = zoo.load(tmp_path / "zoo").network
    ends = [frozenset(), *(network.read_by_front(point) for point in (0, 1)), frozenset(leaves_by_path(at[0]))]

    def moved(before, after, segment):
        a, b = leaves_by_path(at[before]), leaves_by_path(at[after])
        return max(np.abs(a[path] - b[path]).max() for path in ends[segment + 1] - ends[segment])

    # Until its epoch a segment is trained, and then not a digit changes, batch statistics included.
    assert moved(0, 1, 0) > 0.01 and moved(1, 3, 0) == 0
    assert moved(1, 2, 1) > 0.01 and moved(2, 3, 1) == 0
    assert moved(2, 3, 2) > 0.01
    assert_close(at[1], train(tmp_path / "normal", keep=(1,)) and zoo.load(tmp_path / "normal", epoch=1).members, 1e-6)


def test_a_schedule_beyond_the_end_is_normal_training(plain_folder, tmp_path):
    never = train(tmp_path / "zoo", config=dataclasses.replace(CONFIG, freeze=(3, 3)))
    assert_same(never.members, zoo.load(plain_folder).members)
    assert never.metrics.equals(zoo.load(plain_folder).metrics)


def test_bad_schedules(tmp_path):
    for freeze in ((2, 1), (-1,), (1.5,), (True,)):
        with pytest.raises(InputError, match="freeze: got"):
            dataclasses.replace(CONFIG, freeze=freeze)
    with pytest.raises(InputError, match="freeze: got 3 epochs, wanted at most 2"):
        train(tmp_path / "zoo", config=dataclasses.replace(CONFIG, freeze=(1, 1, 1)))
    assert not (tmp_path / "zoo").exists()
