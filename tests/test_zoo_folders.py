"""Folders of zoos: they survive interruptions, and damage is an error."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import pytest
import tiny_models  # noqa: F401
from zoo_helpers import (
    CONFIG,
    DATASET,
    LONG,
    SEEDS,
    assert_close,
    assert_same,
    make_dataset,
    modification_times,
    stopped_in_a_save,
    train,
    trained_reference,
)

from symjax import zoo
from symjax.errors import InputError
from symjax.ops import files, runs
from symjax.ops.parallel import Execution
from symjax.training import Recipe
from symjax.zoo import ZooConfig
from symjax.zoo.merging import merge_members
from symjax.zoo.stored import StoredMember


@pytest.fixture
def reference():
    return trained_reference()[0]


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(trained_reference()[1], tmp_path / "copy")


def test_a_finished_zoo_is_reused(reference, copy, monkeypatch):
    before = modification_times(copy)

    def fail(*_):
        raise AssertionError("recomputed")

    monkeypatch.setattr(zoo.training, "train_jobs", fail)
    monkeypatch.setattr(zoo.jobs, "epochs_program", fail)
    again = train(copy)
    assert_same(again.members, reference.members)
    assert again.metrics.equals(reference.metrics)
    assert modification_times(copy) == before
    some = train(copy, (2, 1))
    assert some.seeds == (2, 1) and some.metrics.seed.unique().tolist() == [2, 1]
    assert_same(some.member(1), reference.member(1))


def test_more_seeds_train_only_the_missing_ones(reference, copy, monkeypatch):
    shutil.rmtree(copy / "member-1")
    before = modification_times(copy)
    trained = []
    save = StoredMember.save
    monkeypatch.setattr(StoredMember, "save", lambda self, *rest: (trained.append(self.seed), save(self, *rest)))
    again = train(copy)
    assert trained == [1]
    assert before.items() <= (modification_times(copy) | {".": None}).items()
    assert_close(again.members, reference.members)


def test_an_interrupted_run_continues_bitwise(reference, tmp_path, monkeypatch):
    """Interrupted in a save: members 0 and 1 are an epoch ahead of 2 and 3, so two groups train one after the other."""
    save = StoredMember.save
    saves = []

    def interrupted(self, state, metrics):
        saves.append(self.seed)
        if len(saves) == 7:  # the third member of the second epoch
            files.write_csv(self.folder / "metrics.csv", metrics)
            (self.folder / "epoch-00002.orbax-checkpoint-tmp").mkdir()
            raise KeyboardInterrupt
        save(self, state, metrics)

    with stopped_in_a_save(monkeypatch, interrupted):
        train(tmp_path, save_every_seconds=0)
    assert [StoredMember(tmp_path, seed).epochs() for seed in SEEDS] == [[1, 2], [1, 2], [1], [1]]
    with pytest.raises(InputError, match="seeds: got any, expected finished members of .*: none"):
        zoo.load(tmp_path)
    groups, train_jobs = [], zoo.training.train_jobs
    monkeypatch.setattr(
        zoo.training, "train_jobs", lambda *a: groups.append([j.stored.seed for j in a[3]]) or train_jobs(*a)
    )
    resumed = train(tmp_path)
    assert groups == [[2, 3], [0, 1]]
    assert_same(resumed.members, reference.members)
    assert resumed.metrics.equals(reference.metrics)
    assert not list(tmp_path.rglob("*tmp*"))
    assert sorted(path.name for path in tmp_path.glob("member-*/epoch-*")) == ["epoch-00003"] * 4


@pytest.mark.slow
def test_a_killed_process_continues_bitwise(tmp_path):
    script = f"""
        import sys
        sys.path[:0] = [{os.path.dirname(__file__)!r}, {os.path.dirname(os.path.dirname(__file__))!r}]
        import jax
        jax.config.update("jax_num_cpu_devices", 2)
        import zoo_helpers
        from symjax import zoo
        zoo.jobs.SAVING_SHARE = float("inf")
        zoo_helpers.train({str(tmp_path / "killed")!r}, config=zoo_helpers.LONG, save_every_seconds=0)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    end = time.monotonic() + 120
    while not list(tmp_path.glob("killed/member-3/epoch-?????")) and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = [int(path.name[-5:]) for path in tmp_path.glob("killed/member-*/epoch-?????")]
    assert done and max(done) < LONG.recipe.epochs
    resumed, undisturbed = (train(tmp_path / name, config=LONG) for name in ("killed", "undisturbed"))
    assert_same(resumed.members, undisturbed.members)
    assert resumed.metrics.equals(undisturbed.metrics)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "delete"])
@pytest.mark.few(1)
def test_damage_is_an_error_and_never_other_numbers(reference, copy, damage):
    checkpoint = copy / "member-2" / "epoch-00003"
    errors = 0
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        if damage == "delete":
            path.unlink()
        else:
            middle = len(whole) // 2
            flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :] if whole else b"x"
            path.write_bytes({"cut": whole[:middle], "flip": flipped, "empty": b""}[damage])
        try:
            assert_same(zoo.load(copy, [2]).member(2), reference.member(2))
        except InputError as error:
            errors += 1
            assert f"delete {copy / 'member-2'}" in str(error)
        path.write_bytes(whole)
    assert errors >= 2
    assert_same(zoo.load(copy).members, reference.members)


def test_a_checkpoint_without_its_arrays_and_one_of_another_seed(copy):
    for path in (copy / "member-2" / "epoch-00003").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(copy / "member-1" / "epoch-00003")
    shutil.copytree(copy / "member-0" / "epoch-00003", copy / "member-1" / "epoch-00003")
    for use in (train, zoo.load):
        with pytest.raises(InputError, match="member-2/epoch-00003 is damaged.*delete .*member-2 to have"):
            use(copy, [2])
    with pytest.raises(InputError, match="it holds seed 0 after epoch 3"):
        zoo.load(copy, [1])
    assert zoo.load(copy, [3]).seeds == (3,)


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
    """Members of the same seeds and shapes as those of `reference`, trained with another learning rate."""
    folder = tmp_path_factory.mktemp("zoo") / "other"
    train(
        folder,
        keep=[1],
        config=dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, learning_rate=0.05)),
    )
    return folder


@pytest.mark.parametrize("piece", ["epoch-00003", "metrics.csv", "epoch-00001"])
@pytest.mark.slow
def test_pieces_of_members_of_another_zoo(piece, reference, other_folder, tmp_path):
    copy = tmp_path / "copy"
    train(copy, [1], keep=[1])
    target, source = copy / "member-1" / piece, other_folder / "member-1" / piece
    if target.is_dir():
        shutil.rmtree(target)
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    message = f"{target}: written with another configuration .*delete {target.parent} and run"
    with pytest.raises(InputError, match=message):
        zoo.load(copy, [1], epoch=1 if piece == "epoch-00001" else None)
    if piece != "epoch-00001":
        with pytest.raises(InputError, match=message):
            train(copy, [1])
    with pytest.raises(InputError, match=message):  # as the folder of a task
        with runs.open_folder(tmp_path / "whole", "zoo", CONFIG.document(DATASET)) as whole:
            merge_members([whole, copy], whole)
    shutil.rmtree(target.parent)
    assert_close(train(copy, [1], keep=[1]).member(1), reference.member(1))
    assert zoo.load(copy, epoch=1).seeds == (1,)


def test_damaged_metrics(copy):
    path = copy / "member-2" / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    for content in ("", "".join(lines[:-1]), "".join(lines)[:-4], lines[0] + lines[2] + lines[1] + lines[3]):
        path.write_text(content)
        with pytest.raises(InputError, match=r"member-2.*delete"):
            zoo.load(copy)


def test_a_folder_of_another_zoo_is_refused(copy):
    before = modification_times(copy)
    other = ZooConfig(
        "stripes", "tiny", recipe=Recipe(epochs=3, batch_size=6, learning_rate=0.05, flip=True, translate=1)
    )
    with pytest.raises(InputError, match=r"recipe\.learning_rate: saved 0\.03, requested 0\.05"):
        train(copy, config=other)
    with pytest.raises(InputError, match=r"data\.digest: saved .*, requested .*"):
        train(copy, dataset=make_dataset(seed=5))
    assert modification_times(copy) == before
    document = files.read_json(copy / "config.json")
    for broken in ({"data": {}}, {"recipe": 3}, {"recipe": {"epochs": 3}}, {"model": "perceptron"}, {"shape": "round"}):
        files.write_json(copy / "config.json", document | {"config": document["config"] | broken})
        with pytest.raises(InputError, match=r"config\.json is damaged or of another version"):
            zoo.load(copy)


def test_load_names_what_is_missing(reference, tmp_path):
    assert zoo.load(trained_reference()[1]).seeds == SEEDS
    with pytest.raises(InputError, match="seeds: got 3, 4, expected finished members of .*: 0, 1, 2, 3"):
        zoo.load(trained_reference()[1], [3, 4])
    with pytest.raises(InputError, match="expected a zoo folder"):
        zoo.load(tmp_path)
    with pytest.raises(InputError, match="seed: got 9, expected a seed of this zoo: 0, 1, 2, 3"):
        reference.member(9)


def test_checkpoints_do_not_depend_on_the_execution(reference):
    images = np.zeros((2, 8, 8, 1), np.float32)
    native = zoo.load(trained_reference()[1], execution=Execution(members="vmap", conv="native"))
    assert_close(
        *(jax.jit(z.network.apply)(z.member(0), images) for z in (native, reference)),
        atol=1e-5,
    )
