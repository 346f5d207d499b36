"""Zoos: members are independent of each other, and folders survive interruptions and damage."""

import contextlib
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
from campaign import slow

import experiments.zoo
from experiments.command import run_command
from experiments.defaults import DATASET_DEFAULTS
from experiments.settings import ZooSettings, parse_seeds, zoo_folder
from symjax import zoo
from symjax.data.dataset import Source, Split
from symjax.data.splitting import build
from symjax.errors import InputError
from symjax.ops import files, runs
from symjax.ops.parallel import Execution
from symjax.training import Recipe
from symjax.zoo import ZooConfig
from symjax.zoo.merging import merge_members
from symjax.zoo.stored import StoredMember

# A model and images that compile and train in seconds.
CONFIG = ZooConfig("stripes", "tiny", recipe=Recipe(epochs=3, batch_size=6, learning_rate=0.03, flip=True, translate=1))
SEEDS = (0, 1, 2, 3)


def split(n, seed):
    rng = np.random.RandomState(seed)
    labels = (np.arange(n) % 3).astype(np.int32)
    rows, columns = np.meshgrid(np.arange(8) // 2 % 2, np.arange(8) // 2 % 2, indexing="ij")
    stripes = np.stack([rows, columns, 0 * rows])[labels][..., None]
    return Split((rng.randint(0, 100, (n, 8, 8, 1)) + 100 * stripes).astype(np.uint8), labels)


def make_dataset(seed=0):
    source = Source("stripes", split(40, seed), split(25, seed + 1), ("a", "b", "c"))
    return build(source, validation=0.2, train_size=None, test_size=None, seed=0)


DATASET = make_dataset()


def train(folder, seeds=SEEDS, config=CONFIG, dataset=DATASET, **settings):
    settings = {"devices": jax.devices()[:1], "progress": False} | settings
    return zoo.train(config, dataset, seeds, folder, **settings)


def assert_close(a, b, atol=1e-4):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@contextlib.contextmanager
def stopped_in_a_save(monkeypatch, save):
    """Save members after every epoch by `save` in place of `StoredMember.save`; it raises a KeyboardInterrupt once."""
    with monkeypatch.context() as patch:
        patch.setattr(zoo.jobs, "SAVING_SHARE", np.inf)
        patch.setattr(StoredMember, "save", save)
        with pytest.raises(KeyboardInterrupt):
            yield


def modification_times(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def reference_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("zoo") / "reference"


@pytest.fixture(scope="module")
def reference(reference_folder):
    """Four members trained without interruption on one device. Tests copy the folder and do not write into it."""
    return train(reference_folder)


@pytest.fixture
def copy(reference, reference_folder, tmp_path):
    return shutil.copytree(reference_folder, tmp_path / "copy")


# --- training ---


def test_a_zoo_learns_and_its_metrics_are_complete(reference):
    assert (len(reference), reference.seeds) == (4, SEEDS)
    assert list(reference.metrics.columns) == ["seed", "epoch", "loss", "accuracy", "validation_accuracy"]
    assert reference.metrics.seed.tolist() == np.repeat(SEEDS, 3).tolist()
    assert reference.metrics.epoch.tolist() == [1, 2, 3] * 4
    first, last = (reference.metrics[reference.metrics.epoch == epoch] for epoch in (1, 3))
    assert last.loss.mean() < first.loss.mean()
    assert reference.validation_accuracy.tolist() == last.validation_accuracy.tolist()


def test_test_accuracy_is_counted_over_examples(reference):
    accuracies = zoo.test_accuracy(reference, DATASET)
    images = (DATASET.test.images.astype(np.float32) - DATASET.mean) / DATASET.std
    for seed, accuracy in zip(SEEDS, accuracies, strict=True):
        logits = jax.jit(reference.network.apply)(reference.member(seed), images)
        assert accuracy == pytest.approx(np.mean(np.argmax(logits, -1) == DATASET.test.labels))
    assert accuracies.shape == (4,) and accuracies.mean() > 0.4


def test_a_member_depends_only_on_its_seed(reference, tmp_path):
    alone = train(tmp_path, [3])
    assert_close(alone.member(3), reference.member(3))
    np.testing.assert_allclose(
        alone.metrics.loss, reference.metrics.loss[reference.metrics.seed == 3], atol=1e-4, rtol=1e-4
    )
    leaves = zip(*(jax.tree.leaves(reference.member(seed)) for seed in (2, 3)), strict=True)
    assert np.median([np.abs(a - b).max() for a, b in leaves]) > 0.05


@pytest.mark.slow
def test_two_devices_and_uneven_numbers_are_one_device(reference, tmp_path):
    spread = train(tmp_path, (2, 0, 3), devices=jax.devices()[:2])
    assert spread.seeds == (2, 0, 3)
    for seed in spread.seeds:
        assert_close(spread.member(seed), reference.member(seed))


@pytest.mark.slow
@pytest.mark.parametrize("members", ["vmap", "map"])
@pytest.mark.parametrize("conv", ["native", "matmul"])
def test_every_execution_trains_alike(reference, tmp_path, members, conv):
    other = train(tmp_path, (1, 3), execution=Execution(members=members, conv=conv))
    for seed in (1, 3):
        assert_close(other.member(seed), reference.member(seed), atol=1e-3)


def test_a_diverged_member_is_reported(tmp_path, capsys):
    diverged = train(tmp_path, [7], dataset=dataclasses.replace(DATASET, std=np.full(1, 1e-38, np.float32)))
    assert diverged.metrics.loss.isna().tolist() == [True] * 3
    warnings = capsys.readouterr().err.splitlines()
    assert warnings[0] == "warning: the loss of seed 7 became NaN in epoch 1"
    assert len(warnings) == 2  # once when it happens, once when the zoo is loaded
    zoo.load(tmp_path)
    assert "seeds 7 became NaN" in capsys.readouterr().err


# --- folders ---


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
        import test_zoo
        from symjax import zoo
        zoo.jobs.SAVING_SHARE = float("inf")
        test_zoo.train({str(tmp_path / "killed")!r}, config=test_zoo.LONG, save_every_seconds=0)
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


LONG = ZooConfig("stripes", "tiny", recipe=Recipe(epochs=40, batch_size=6, learning_rate=0.03, flip=True, translate=1))


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
@pytest.mark.few(1)
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
    for broken in ({"data": {}}, {"recipe": 3}, {"recipe": {"epochs": 3}}, {"model": "mlp"}, {"shape": "round"}):
        files.write_json(copy / "config.json", document | {"config": document["config"] | broken})
        with pytest.raises(InputError, match=r"config\.json is damaged or of another version"):
            zoo.load(copy)


def test_load_names_what_is_missing(reference, reference_folder, tmp_path):
    assert zoo.load(reference_folder).seeds == SEEDS
    with pytest.raises(InputError, match="seeds: got 3, 4, expected finished members of .*: 0, 1, 2, 3"):
        zoo.load(reference_folder, [3, 4])
    with pytest.raises(InputError, match=r"is not a zoo folder"):
        zoo.load(tmp_path)
    with pytest.raises(InputError, match="seed: got 9, expected a seed of this zoo: 0, 1, 2, 3"):
        reference.member(9)


def test_checkpoints_do_not_depend_on_the_execution(reference, reference_folder):
    images = np.zeros((2, 8, 8, 1), np.float32)
    native = zoo.load(reference_folder, execution=Execution(members="vmap", conv="native"))
    assert_close(
        *(jax.jit(z.network.apply)(z.member(0), images) for z in (native, reference)),
        atol=1e-5,
    )


# --- arguments ---


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1], [1.0], [True], ["1"], [2**31]], ids=str)
def test_bad_seeds(seeds, tmp_path):
    with pytest.raises(InputError, match="seeds: got"):
        train(tmp_path / "a", seeds)
    assert not (tmp_path / "a").exists()


def test_bad_sizes_leave_no_folder(tmp_path):
    source = Source("stripes", split(40, 0), split(25, 1), ("a", "b", "c"))
    whole = build(source, validation=0.0, train_size=None, test_size=None, seed=0)
    with pytest.raises(InputError, match="validation: .*without validation images"):
        train(tmp_path / "a", dataset=whole)
    with pytest.raises(InputError, match="batch_size: got 33, expected at most 32, the number of training images"):
        train(tmp_path / "a", config=ZooConfig("stripes", "tiny", recipe=Recipe(batch_size=33)))
    with pytest.raises(InputError, match=r"image_size: got 8, expected a size that fits deep"):
        train(tmp_path / "a", config=ZooConfig("stripes", "deep", recipe=CONFIG.recipe))
    with pytest.raises(InputError, match="precision: got 'float8'"):
        ZooConfig(precision="float8")
    with pytest.raises(InputError, match="model: got 'mlp', expected one of .*mcnn"):
        ZooConfig(model="mlp")
    assert not (tmp_path / "a").exists()


def test_config_goes_to_json_and_back():
    assert ZooConfig.from_json(CONFIG.to_json()) == CONFIG
    assert CONFIG.width == 2
    assert ZooConfig("stripes", "tiny", width=2, recipe=CONFIG.recipe).fingerprint == CONFIG.fingerprint
    assert ZooConfig("stripes", "tiny", width=3, recipe=CONFIG.recipe).fingerprint != CONFIG.fingerprint
    with pytest.raises(InputError, match="got colour besides the fields of ZooConfig"):
        ZooConfig.from_json({**CONFIG.to_json(), "colour": 1})


# --- the command ---


@pytest.mark.parametrize(
    "text,seeds", [("1", (0,)), ("4", SEEDS), ("3,7,9", (3, 7, 9)), ("3,", (3,)), (" 2, 0 ", (2, 0)), ("0,", (0,))]
)
def test_seeds_of_a_flag(text, seeds):
    assert parse_seeds(text) == seeds


def test_defaults_depend_on_the_dataset():
    digits, cifar10 = ZooSettings().zoo_config(), ZooSettings(dataset="cifar10").zoo_config()
    assert (digits.width, digits.image_size, digits.recipe.flip) == (8, 16, False)
    assert (cifar10.width, cifar10.image_size, cifar10.recipe) == (64, None, Recipe(flip=True, translate=2))
    # Flags override defaults, also with False and 0.
    chosen = ZooSettings(dataset="cifar10", flip=False, translate=0, epochs=2).zoo_config().recipe
    assert (chosen.flip, chosen.translate, chosen.epochs) == (False, 0, 2)
    assert all(defaults.flip is False for name, defaults in DATASET_DEFAULTS.items() if "cifar" not in name)
    folders = {zoo_folder(config) for config in (digits, cifar10)}
    assert len(folders) == 2 and all(str(folder).startswith("runs/zoo/") for folder in folders)


@pytest.fixture
def npz(tmp_path):
    path = tmp_path / "stripes.npz"
    train_part, test_part = split(40, 0), split(25, 1)
    arrays = {"x_train": train_part.images, "y_train": train_part.labels}
    np.savez(path, **arrays, x_test=test_part.images, y_test=test_part.labels)
    return path


def command(*argv):
    run_command(experiments.zoo.main, experiments.zoo.Settings, [str(a) for a in argv])


def test_the_command_trains_and_prints_a_table(reference, npz, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset", npz, "--model", "tiny", "--seeds", "3,1,0", "--epochs", "3", "--batch-size", "6"]
    flags += ["--learning-rate", "0.03", "--flip", "True", "--translate", "1", "--validation", "0.2"]
    command(*flags)
    first = capsys.readouterr()
    (folder,) = (tmp_path / "runs" / "zoo").iterdir()
    assert folder.name.startswith("stripes-tiny2-")
    table = files.read_csv(folder / "accuracy.csv", ["seed", "validation", "test"])
    assert table.seed.tolist() == [3, 1, 0]
    loaded = zoo.load(folder, [3, 1, 0])
    assert_close(loaded.member(3), reference.member(3))
    np.testing.assert_allclose(table.validation, 100 * loaded.validation_accuracy)
    rows = {words[0]: words[1:] for words in map(str.split, first.out.splitlines()) if len(words) == 3}
    assert list(rows)[-4:] == ["3", "1", "0", "mean"]
    assert float(rows["mean"][1]) == pytest.approx(table.test.mean(), abs=0.01)
    assert "zoo" in first.err and "loss=" in first.err and "validation=" in first.err
    command(*flags)
    again = capsys.readouterr()
    assert again.out == first.out and "zoo" not in again.err


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--seeds", "0"], "seeds: got '0'"),
        (["--seeds", "1,1"], "seeds: got 1, 1"),
        (["--seeds", "-1,2"], "seeds"),
        (["--seeds", "a"], "seeds: got 'a'"),
        (["--seeds", "99999999999"], "seeds: got"),
        (["--seeds", "3000000000,"], "seeds: got 3000000000"),
        (["--seeds", ""], "seeds: got ''"),
        (["--model", "mlp"], "mcnn_k"),
        (["--width", "0"], "width: got 0"),
        (["--epochs", "0"], "epochs: got 0"),
        (["--epochs", "many"], "epochs"),
        (["--batch-size", "0"], "batch_size: got 0"),
        (["--batch-size", "5000"], "batch_size: got 5000, expected at most"),
        (["--learning-rate", "0"], "learning_rate: got 0"),
        (["--learning-rate", "inf"], "learning_rate: got inf"),
        (["--weight-decay", "nan"], "weight_decay: got nan"),
        (["--flip", "maybe"], "flip"),
        (["--translate", "-1"], "translate"),
        (["--image-size", "0"], "image_size: got 0"),
        (["--image-size", "4"], "image_size: got 4, expected a size that fits mcnn"),
        (["--validation", "1"], "validation: got 1"),
        (["--validation", "0"], "validation: "),
        (["--train-size", "9999"], "train_size: got 9999"),
        (["--test-size", "0"], "test_size: got 0"),
        (["--split-seed", "-5"], "split_seed: got -5"),
        (["--precision", "float8"], "precision"),
        (["--dataset", "no-such-set"], "no-such-set"),
        (["--dataset", "missing.npz"], "missing.npz"),
        (["--out", "/dev/null"], "/dev/null"),
        (["--colour", "red"], "colour"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_flags(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit) as caught:
        command(*flags)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert message in err and "Traceback" not in err and not out
    assert not list(tmp_path.iterdir())


def test_an_interruption_is_one_line(capsys, monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "train", interrupt)
    with pytest.raises(SystemExit) as caught:
        command("--out", tmp_path)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted; run the same command again to continue from the saved state\n"


PROJECT = os.path.dirname(os.path.dirname(__file__))


@pytest.mark.parametrize(
    ("words", "code", "printed"),
    [
        # As a script it runs anywhere.
        ([os.path.join(PROJECT, "experiments", "zoo.py"), "--help"], 0, "--learning-rate FLOAT"),
        slow(["-m", "experiments.zoo", "--width", "0"], 2, "error: width: got 0"),
    ],
)
def test_as_a_process(words, code, printed, tmp_path):
    folder = PROJECT if "-m" in words else tmp_path
    result = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    assert result.returncode == code
    assert printed in result.stdout + result.stderr and "Traceback" not in result.stderr
