"""Freeze schedules that a rule makes during training: which layers freeze, when, and that they stay frozen."""

import dataclasses
import itertools
import shutil

import jax
import numpy as np
import pytest
from campaign import slow
from zoo_helpers import CONFIG, DATASET, assert_same, stopped_in_a_save

from symjax import zoo
from symjax.errors import InputError
from symjax.freezing import Saturation
from symjax.ops import files
from symjax.representations import features_of
from symjax.similarity import cka
from symjax.training import Recipe
from symjax.zoo import Group, ZooConfig, merging, saturation
from symjax.zoo.stored import StoredMember

SEEDS = (0, 1, 2)
SETTINGS = {"devices": jax.devices()[:1], "progress": False}
LONGER = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, epochs=6))


def ruled(threshold, config=LONGER, seeds=SEEDS, **words):
    return dataclasses.replace(config, freeze=Saturation(seeds, "cka", threshold, examples=20, **words))


def train(folder, config, seeds=SEEDS, **settings):
    return zoo.train(config, DATASET, seeds, folder, **SETTINGS | settings)


def scheduled(freeze, config=LONGER):
    return dataclasses.replace(config, freeze=freeze)


def similarities(folder):
    """CKA of each layer with the epoch before, (epochs from 1, layers), the mean over members."""
    images = DATASET.train.images[:20]
    features = []
    for epoch in range(7):
        loaded = zoo.load(folder, SEEDS, epoch=epoch)
        features.append(features_of(loaded.network, loaded.members, images, DATASET.mean, DATASET.std, samples="pool"))
    return np.array(
        [
            [np.mean([cka(x, y) for x, y in zip(before[layer], after[layer], strict=True)]) for layer in before]
            for before, after in itertools.pairwise(features)
        ]
    )


@pytest.fixture(scope="module")
def normal(tmp_path_factory):
    """The folder of normal training, with snapshots of all epochs."""
    folder = tmp_path_factory.mktemp("saturation") / "normal"
    train(folder, LONGER, keep=range(7))
    return folder


@pytest.fixture(scope="module")
def middle(normal):
    """A threshold that the lowest layer reaches, but not after the first epoch."""
    lowest = similarities(normal)[:5, 0]
    place = int(np.argmax(lowest[1:])) + 1
    assert lowest[place] > lowest[:place].max()  # as an ordinary training has it
    return float((lowest[place] + lowest[:place].max()) / 2)


@pytest.fixture(scope="module")
def ruled_folder(middle, tmp_path_factory):
    """The folder of a zoo trained by that rule without interruption, with snapshots of all epochs."""
    folder = tmp_path_factory.mktemp("saturation") / "ruled"
    train(folder, ruled(middle), keep=range(7))
    return folder


@pytest.mark.slow
def test_at_threshold_zero_all_is_frozen_after_an_epoch(tmp_path):
    decided = train(tmp_path / "decided", ruled(0))
    assert decided.freeze == (1, 1) and decided.config == ruled(0)
    same = train(tmp_path / "scheduled", scheduled((1, 1)))
    assert same.freeze == (1, 1)
    assert_same(decided.members, same.members)
    assert decided.metrics.equals(same.metrics)
    assert zoo.load(tmp_path / "decided").freeze == (1, 1)


@pytest.mark.slow
def test_a_threshold_that_is_never_reached_is_normal_training(normal, tmp_path):
    never = train(tmp_path / "zoo", ruled(1.1))
    assert never.freeze == ()
    assert_same(never.members, zoo.load(normal).members)
    assert never.metrics.equals(zoo.load(normal).metrics)
    table = files.read_csv(tmp_path / "zoo" / saturation.FILE)
    assert table.epoch.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5] and not table.frozen.any()
    # Nothing was frozen, so what was compared are the epochs of normal training.
    np.testing.assert_allclose(table.similarity, similarities(normal)[:5].ravel(), atol=2e-5)


def test_layers_freeze_when_they_have_saturated(ruled_folder, middle, tmp_path):
    decided = zoo.load(ruled_folder)
    table, similar = files.read_csv(ruled_folder / saturation.FILE), similarities(ruled_folder)
    count = 0
    for epoch in range(1, 6):
        rows = table[table.epoch == epoch]
        assert rows.layer.tolist() == ["relu1", "relu2"][count:]
        np.testing.assert_allclose(rows.similarity, similar[epoch - 1, count:], atol=2e-5)
        frozen = np.cumprod(rows.similarity >= middle).astype(bool)  # none above one that is not
        assert rows.frozen.tolist() == frozen.tolist()
        count += frozen.sum()
    assert decided.freeze == tuple(table.epoch[table.frozen]) and min(decided.freeze) > 1
    same = train(tmp_path / "scheduled", scheduled(decided.freeze))
    assert_same(decided.members, same.members)
    assert decided.metrics.equals(same.metrics)


@pytest.mark.parametrize("cut", [(1, 0), slow((1, 1)), slow((2, 1)), (3, 2), slow((5, 1))], ids=str)
@pytest.mark.slow
def test_an_interrupted_zoo_decides_the_same(cut, ruled_folder, middle, tmp_path, monkeypatch):
    """Interrupted as one member is saved; some of the others are saved already."""
    save = StoredMember.save

    def interrupted(self, state, metrics):
        if (int(state.epoch), self.seed) == cut:
            raise KeyboardInterrupt
        save(self, state, metrics)

    with stopped_in_a_save(monkeypatch, interrupted):
        train(tmp_path, ruled(middle), save_every_seconds=0)
    before = (tmp_path / saturation.FILE).read_text() if (tmp_path / saturation.FILE).exists() else ""
    resumed, whole = train(tmp_path, ruled(middle)), zoo.load(ruled_folder)
    assert resumed.freeze == whole.freeze
    assert_same(resumed.members, whole.members)
    assert resumed.metrics.equals(whole.metrics)
    after = (tmp_path / saturation.FILE).read_text()
    assert before and after.startswith(before) and after == (ruled_folder / saturation.FILE).read_text()


def test_decisions_in_the_folder_are_final(ruled_folder, middle, tmp_path, monkeypatch):
    """Stored decisions are followed, even where the members train again from the start."""
    folder = shutil.copytree(ruled_folder, tmp_path / "zoo")
    table = files.read_csv(folder / saturation.FILE).iloc[:2].assign(frozen=[True, True])
    for seed in SEEDS:
        shutil.rmtree(folder / f"member-{seed}")
    files.write_csv(folder / saturation.FILE, table)
    monkeypatch.setattr(saturation, "features_of", lambda *_, **__: pytest.fail("compared"))
    decided = train(folder, ruled(middle))
    assert decided.freeze == (1, 1)
    assert_same(decided.members, train(tmp_path / "scheduled", scheduled((1, 1))).members)


@pytest.mark.slow
def test_a_schedule_that_is_lost_or_damaged_is_an_error(ruled_folder, middle, tmp_path):
    folder = shutil.copytree(ruled_folder, tmp_path / "zoo")
    shutil.rmtree(folder / "member-2")  # so that it trains again
    path = folder / saturation.FILE
    table = files.read_csv(path)
    files.write_csv(path, table.assign(frozen="perhaps"))
    with pytest.raises(InputError, match=r"frozen\.csv: damaged \(frozen must be True or False\); delete .*zoo"):
        train(folder, ruled(middle))
    files.write_csv(path, table)
    train(folder, ruled(middle))
    path.unlink()
    shutil.rmtree(folder / "member-2")
    with pytest.raises(InputError, match=r"frozen\.csv lacks the schedule by which .* epochs were trained; delete"):
        train(folder, ruled(middle))


@pytest.mark.slow
def test_a_member_that_diverges_freezes_nothing(tmp_path, capsys):
    recipe = Recipe(epochs=3, batch_size=6, learning_rate=1e30, translate=1)
    config = ruled(0, dataclasses.replace(CONFIG, recipe=recipe), seeds=(0,))
    decided = train(tmp_path / "zoo", config, (0,))
    assert decided.freeze == () and "became NaN" in capsys.readouterr().err


def test_a_rule_is_a_configuration_of_its_own():
    config = ruled(0.9, seeds=(2, 0), images="validation", samples="positions")
    assert ZooConfig.from_json(config.to_json()) == config and config.rule.seeds == (0, 2)
    assert LONGER.rule is None and scheduled((1, 1)).rule is None
    assert (
        len({c.fingerprint for c in (config, ruled(0.9, seeds=(0,)), ruled(0.8, seeds=(0, 2)), scheduled((1, 1)))}) == 4
    )
    assert config.frozen(5) == 0  # a lower bound


@pytest.mark.slow
def test_a_freeze_rule_needs_all_members_at_once(tmp_path):
    config = ruled(0.9)
    with pytest.raises(InputError, match="seeds: got 0, 1, expected 0, 1, 2, on which the freeze rule depends"):
        train(tmp_path / "zoo", config, (1, 0))
    groups = [Group(config, SEEDS, tmp_path / "a"), Group(config, SEEDS, tmp_path / "b")]
    with pytest.raises(InputError, match="groups: got 2 with a freeze rule"):
        zoo.train_together(groups, DATASET, **SETTINGS)
    usage = zoo.jobs.training_program(config, DATASET, zoo.training.parallel.default_execution()).memory
    with pytest.raises(InputError, match="max_device_memory: got memory for 2 of 3 members"):
        train(tmp_path / "zoo", config, max_device_memory=usage.bytes_for(2))
    assert not list(tmp_path.iterdir())


def test_zoos_by_a_rule_are_not_merged(ruled_folder, tmp_path):
    with pytest.raises(InputError, match="folders: got members with a freeze rule"):
        merging.merge_members([ruled_folder], ruled_folder)
