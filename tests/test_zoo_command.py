"""The zoo command: flags, its table, interruption, and as a process."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tiny_models  # noqa: F401
from campaign import slow
from zoo_helpers import SEEDS, assert_close, split, trained_reference

import experiments.zoo
from experiments.command import run_command
from experiments.defaults import DATASET_DEFAULTS, by_dataset, defaults_of
from experiments.settings import ZooSettings, parse_seeds, zoo_folder
from symjax import zoo
from symjax.ops import files
from symjax.training import Recipe


@pytest.fixture
def reference():
    return trained_reference()[0]


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
        (["--model", "perceptron"], "mcnn_k"),
        (["--width", "0"], "width: got 0"),
        (["--epochs", "0"], "epochs: got 0"),
        (["--epochs", "many"], "epochs"),
        (["--batch-size", "0"], "batch-size: got 0"),
        (["--batch-size", "5000"], "batch-size: got 5000, expected at most"),
        (["--learning-rate", "0"], "learning-rate: got 0"),
        (["--learning-rate", "inf"], "learning-rate: got inf"),
        (["--weight-decay", "nan"], "weight-decay: got nan"),
        (["--flip", "maybe"], "flip"),
        (["--translate", "-1"], "translate"),
        (["--image-size", "0"], "image-size: got 0"),
        (["--image-size", "4"], "image-size: got 4, expected a size that fits mcnn"),
        (["--validation", "1"], "validation: got 1"),
        (["--validation", "0"], "validation: "),
        (["--train-size", "9999"], "train-size: got 9999"),
        (["--test-size", "0"], "test-size: got 0"),
        (["--split-seed", "-5"], "split-seed: got -5"),
        (["--precision", "float8"], "precision"),
        (["--dataset", "no-such-set"], "no-such-set"),
        (["--dataset", "missing.npz"], "missing.npz"),
        (["--out", "/dev/null"], "/dev/null"),
        (["--color", "red"], "color"),
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
        slow(["-m", "experiments.zoo", "--width", "0"], 2, "error: --width: got 0"),
    ],
)
@pytest.mark.slow
def test_as_a_process(words, code, printed, tmp_path):
    folder = PROJECT if "-m" in words else tmp_path
    result = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    assert result.returncode == code
    assert printed in result.stdout + result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["width", "image_size", "epochs", "learning_rate", "translate"])
def test_help_has_the_default_of_a_perceptron_on_digits(name):
    text = by_dataset("X", name, "as it is").help_behavior_hint
    own, of_digits = (getattr(defaults_of("digits", model), name) for model in ("mlp", "mcnn"))
    assert own != of_digits and f"digits {of_digits}," in text
    assert f"mlp on digits {'as it is' if own is None else own}" in text
