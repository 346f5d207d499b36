"""Whatever flags a command is given: one line on stderr that names the flag and exit code 2, or it goes ahead.

Commands and flags are found by introspection; a new one is thrown at without a line here. Nothing trains: where a zoo
would begin to, the command has gone ahead.
"""

import dataclasses
import importlib
import itertools
import types
import typing
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from campaign import some, throws
from hypothesis import given
from hypothesis import strategies as st

import symjax.data
import symjax.zoo.training
from experiments import registry
from experiments.command import run_command
from experiments.settings import ZooSettings
from symjax.ops import runs
from symjax.ops.result_table import ResultTable


class WentAhead(Exception):
    """The command found nothing wrong with its flags."""


COMMANDS = {name: importlib.import_module(f"experiments.{name}") for name in registry.commands()}
TRAINING = [name for name, module in COMMANDS.items() if issubclass(module.Settings, ZooSettings)]


def kind_of(command, name):
    """int, float, str, bool, Path or "choice"."""
    hint = typing.get_type_hints(COMMANDS[command].Settings)[name]
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    first = next(option for option in options if option is not type(None))
    return "choice" if typing.get_origin(first) is typing.Literal else first


def fields(command):
    """Names of the flags; what is positional is none."""
    names = [field.name for field in dataclasses.fields(COMMANDS[command].Settings)]
    return [name for name in names if kind_of(command, name) in WRONG]


def own_fields():
    """(command, field), each field once for every class of settings that says what it is."""
    listed = set()
    for command in sorted(COMMANDS, key=lambda name: (name != "zoo", name)):
        for name in fields(command):
            where = next(
                cls for cls in COMMANDS[command].Settings.__mro__ if name in vars(cls).get("__annotations__", {})
            )
            if (where, name) not in listed:
                listed.add((where, name))
                yield command, name


# No flag of the kind takes one of these, but for those in `TAKEN`.
WRONG = {
    int: ["-1", "-1000000000000", "1.5", "x", "nan", "", "1e3"],
    float: ["nan", "inf", "-inf", "-1", "1e999", "x", ""],
    str: [
        "",
        ",",
        " , ,",
        "no such name",
        "../up",
        "a/b\\c",
        "naïve-✓",
        "-",
        "nan",
        "inf",
        "-1",
        "1;2",
        "\n",
        "x" * 300,
        "x" * 300 + ".npz",
        "file/below.npz",
        "loop/below.npz",
    ],
    "choice": ["", "no such choice", "ADAM"],
    bool: ["maybe", "2"],
    Path: ["file", "file/below", "x" * 300, "x" * 300 + "/below", "new/" + "x" * 300, "loop", "loop/below"],
}
TAKEN = {(name, nothing) for name in ("references", "model_options", "model_b_options") for nothing in ("", "\n")}
# The command says what is wrong with one of these, or goes ahead.
DOUBTFUL = {
    int: ["0", "1", "100", "1000000", str(2**32), str(10**30)],
    float: ["0", "1e-45", "1e30", "0.999999", "2"],
    str: ["1", "1,", "1,1", "0", "999", "1e-3,1e-3", "all", "all,all", "none", "relu1,relu1", "9" * 30],
    "choice": ["None"],
    bool: ["True", "False"],
    Path: ["", "new/below", "naïve ✓"],
}
NETWORKS = ("a.npz", "b.npz")  # arguments of compare, without which it does not read names of layers
HUGE = {int: str(10**30), float: "1e30"}
BOUNDED = {  # of these flags nothing is as large
    *(
        "epochs",
        "batch_size",
        "image_size",
        "width",
        "train_size",
        "test_size",
        "split_seed",
        "translate",
        "validation",
    ),
    *("warmup", "pair_seed", "stitch_epochs", "retrain_epochs", "rotation_seed", "repeats", "channels", "draws"),
    *("element_seed", "begin", "end", "threshold"),
}


@pytest.fixture(autouse=True)
def nothing_trains(monkeypatch, tmp_path_factory):
    def went_ahead(*args, **options):
        raise WentAhead

    monkeypatch.setattr(symjax.zoo.training, "train_jobs", went_ahead)
    monkeypatch.setattr(ResultTable, "missing", went_ahead)  # commands that compute without training
    monkeypatch.setattr(symjax.data, "load", load_once)


load_once = lru_cache(maxsize=None)(symjax.data.load)
numbers = itertools.count()


def thrown(command, words, folder, monkeypatch, capsys):
    """(exit code, stderr, what is in the folder then); code 0 where the command went ahead."""
    here = folder / str(next(numbers))
    here.mkdir()
    monkeypatch.chdir(here)
    Path("file").write_text("hello")
    Path("loop").symlink_to("loop")
    if command == "compare":
        for name in NETWORKS:
            np.savez(name, relu1=np.eye(8), relu2=np.eye(8))
        words = [*words, *NETWORKS]
    module = COMMANDS[command]
    try:
        run_command(module.main, module.Settings, [str(word) for word in words])
        code = 0
    except WentAhead:
        code = 0
    except SystemExit as end:
        code = end.code
    left = sorted(str(path) for path in Path().rglob("*") if path.name not in ("file", "loop", *NETWORKS))
    return code, capsys.readouterr().err, left


def spelled(command, name, value):
    flag = f"--{name.replace('_', '-')}"
    return [flag, value] if kind_of(command, name) is bool else [f"{flag}={value}"]


def assert_refused(words, named, code, error, left):
    assert code == 2, f"{words} went ahead"
    assert "Traceback" not in error and not left, (words, error, left)
    if error.startswith("error: "):
        first = error.splitlines()[0]
        assert any(name in first for name in named), f"{words}: {error}"
    else:
        assert "--help" in error, error  # tyro's own box


def names_of(command, name):
    """What a message may call the flag."""
    return (name, name.replace("_", "-"), *(("folder", "runs") if kind_of(command, name) is Path else ()))


@pytest.mark.fuzz
@pytest.mark.parametrize(("command", "name"), list(own_fields()))
@pytest.mark.few(8)
def test_every_flag_is_refused_by_name_or_taken(command, name, tmp_path, monkeypatch, capsys):
    kind = kind_of(command, name)
    refused = [value for value in WRONG[kind] if (name, value) not in TAKEN]
    if name in BOUNDED:
        refused.append(HUGE[kind])
    for value in some(refused, name):
        words = spelled(command, name, value)
        assert_refused(words, names_of(command, name), *thrown(command, words, tmp_path, monkeypatch, capsys))
    for value in some(DOUBTFUL[kind], name):
        words = spelled(command, name, value)
        code, error, left = thrown(command, words, tmp_path, monkeypatch, capsys)
        if code != 0:  # it may be what the value does not go with that is named
            fields_of_command = dataclasses.fields(COMMANDS[command].Settings)
            others = [word for field in fields_of_command for word in names_of(command, field.name)]
            assert_refused(words, [*names_of(command, name), *others], code, error, left)


@st.composite
def command_lines(draw):
    """A command with up to three of its flags, each with a value of any kind."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    words = []
    for name in draw(st.lists(st.sampled_from(fields(command)), min_size=1, max_size=3, unique=True)):
        kind = draw(st.sampled_from([kind_of(command, name)] * 3 + [str, int]))
        words += spelled(command, name, draw(st.sampled_from(WRONG[kind] + DOUBTFUL[kind])))
    return command, words


@pytest.mark.fuzz
@throws(60, few=5)
@given(line=command_lines())
def test_any_command_line(line, tmp_path_factory, monkeypatch, capsys):
    command, words = line
    code, error, left = thrown(command, words, tmp_path_factory.mktemp("line"), monkeypatch, capsys)
    if code != 0:
        assert code == 2 and "Traceback" not in error and not left, (line, error, left)
        assert error.startswith("error: ") or "--help" in error


CONTRADICTIONS = [
    ("zoo", ["--train-size", 100_000], "train_size"),
    ("zoo", ["--test-size", 100_000], "test_size"),
    ("zoo", ["--batch-size", 5000], "batch_size"),
    ("zoo", ["--train-size", 20], "batch_size"),
    ("zoo", ["--image-size", 2, "--translate", 0], "image_size"),
    ("zoo", ["--image-size", 8, "--translate", 8], "translate"),
    ("zoo", ["--validation", 0], "validation"),
    ("zoo", ["--validation", 0.9999], "validation"),
    ("zoo", ["--model", "cct2", "--width", 33], "width"),
    ("zoo", ["--seeds", "1,1"], "seeds"),
    ("stitch", ["--seeds", "5,"], "seeds"),
    ("stitch", ["--pairs", 13], "pairs"),
    ("stitch", ["--families", "full,rank1000"], "families"),
    ("stitch", ["--layers", "relu1,relu9"], "layers"),
    ("stitch", ["--validation", 0], "validation"),
    ("crossval", ["--values", "1"], "values"),
    ("crossval", ["--family", "rank", "--values", "1,2.5"], "values"),
    ("lasso", ["--weights", "1e-3", "--references", "lasso_proximal:1e-3"], "references"),
    ("align", ["--pairs", 7], "pairs"),
    ("align", ["--seeds", "2,"], "seeds"),
    ("align", ["--measures", "cka,nothing"], "measures"),
    ("dynamics", ["--checkpoints", "0,99"], "checkpoints"),
    ("freeze", ["--begin", 0.9, "--end", 0.1], "begin"),
    ("freeze", ["--layers", "relu1"], "layers"),
    ("freeze", ["--schedules", "1/2/3/4/5/6/7"], "schedules"),
    ("rotate", ["--zoo", "zoo"], "zoo"),
    ("rotate", ["--model", "mcnn_k,resnet20"], "model"),
    ("rotate", ["--layers", "1,9"], "layers"),
    ("report", ["--runs", "nowhere"], "runs"),
]


@pytest.mark.parametrize(("command", "words", "named"), CONTRADICTIONS, ids=str)
@pytest.mark.few(15)
def test_contradictory_flags(command, words, named, tmp_path, monkeypatch, capsys):
    assert_refused(words, [named, named.replace("_", "-")], *thrown(command, words, tmp_path, monkeypatch, capsys))


@pytest.mark.parametrize("command", sorted(COMMANDS))
@pytest.mark.parametrize("words", [["--no-such-flag", "1"], ["stray"], ["--out"], ["--out", "a", "b"]], ids=str)
@pytest.mark.few(26)
def test_flags_that_are_none(command, words, tmp_path, monkeypatch, capsys):
    code, error, left = thrown(command, words, tmp_path, monkeypatch, capsys)
    assert code == 2 and ("--help" in error or error.startswith("error: ")) and not left


@pytest.mark.parametrize("path", [*WRONG[Path], "", "nowhere", "naïve ✓"], ids=lambda path: path[:8] or "empty")
def test_folders_to_merge_that_are_none(path, tmp_path, monkeypatch, capsys):
    with runs.open_folder(tmp_path / "run", "align", {}):
        pass
    run = tmp_path / "run"
    for words in ([path, "--out", "out"], [path, run, "--out", "out"], [run, path, "--out", "out"]):
        assert_refused(words, ["folder"], *thrown("merge", words, tmp_path, monkeypatch, capsys))


@pytest.mark.parametrize("command", TRAINING)
@pytest.mark.few(8)
def test_nothing_said_is_taken(command, tmp_path, monkeypatch, capsys):
    """A command that refused every flag would pass the tests above."""
    assert thrown(command, [], tmp_path, monkeypatch, capsys)[0] == 0


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"kind": "align"}', '{"kind": 3, "config": []}', "\ufeff{}", "NaN"]
)
@pytest.mark.parametrize("name", ["out", "zoo"])
@pytest.mark.few(6)
def test_folders_whose_configuration_cannot_be_read(text, name, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "config.json").write_text(text)
    words = [f"--{name}", folder]
    assert_refused(words, ["folder", str(folder)], *thrown("align", words, tmp_path, monkeypatch, capsys))
    assert (folder / "config.json").read_text() == text and [f for f in folder.iterdir() if f.name[0] != "."] == [
        folder / "config.json"
    ]


# --- images of the caller's own ---

RNG = np.random.default_rng(0)
IMAGES = {
    "x_train": RNG.integers(0, 256, (80, 8, 8, 1), np.uint8),
    "y_train": np.arange(80) % 4,
    "x_test": RNG.integers(0, 256, (20, 8, 8, 1), np.uint8),
    "y_test": np.arange(20) % 4,
}


def floats(value, key="x_train"):
    both = {name: IMAGES[name] / 255.0 for name in ("x_train", "x_test")}
    both[key][3, 2, 1, 0] = value
    return both


BAD_IMAGES = {
    "NaN": floats(np.nan),
    "infinite": floats(np.inf, "x_test"),
    "over 1": floats(1.5, "x_test"),
    "negative": floats(-0.5),
    "huge": floats(1e300),
    "label under 0": {"y_train": IMAGES["y_train"] - 1},
    "huge label": {"y_train": IMAGES["y_train"] + 2**40},
    "float labels": {"y_train": IMAGES["y_train"] / 2},
    "NaN labels": {"y_test": np.full(20, np.nan)},
    "text labels": {"y_test": IMAGES["y_test"].astype(str)},
    "unequal lengths": {"y_train": IMAGES["y_train"][:-1]},
    "no training image": {"x_train": IMAGES["x_train"][:0], "y_train": IMAGES["y_train"][:0]},
    "no test image": {"x_test": IMAGES["x_test"][:0], "y_test": IMAGES["y_test"][:0]},
    "one image": {"x_train": IMAGES["x_train"][:1], "y_train": IMAGES["y_train"][:1]},
    "a class to test alone": {"y_test": IMAGES["y_test"] + 1},
    "objects": {"x_train": np.array([{}] * 80, object)},
    "object labels": {"y_train": IMAGES["y_train"].astype(object)},
    "complex": {"x_train": IMAGES["x_train"] * 1j},
    "one rank less": {"x_train": IMAGES["x_train"][0]},
    "other keys": {"x_train": None, "images": IMAGES["x_train"]},
}


@pytest.mark.parametrize("changes", BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_images_are_refused_before_training(changes, tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.npz"
    np.savez(path, **{key: value for key, value in (IMAGES | changes).items() if value is not None})
    words = ["--dataset", path]
    assert_refused(words, ["dataset", "batch_size"], *thrown("zoo", words, tmp_path, monkeypatch, capsys))


@pytest.mark.parametrize("what", ["missing", "folder", "text", "empty", "cut short", "an .npy"])
def test_files_that_hold_no_images(what, tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.npz"
    np.savez(path, **IMAGES)
    whole = path.read_bytes()
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "an .npy":
        with path.open("wb") as file:
            np.save(file, IMAGES["x_train"])
    elif what != "missing":
        path.write_bytes({"text": b"hello", "empty": b"", "cut short": whole[:-200]}[what])
    words = ["--dataset", path]
    assert_refused(words, ["dataset"], *thrown("zoo", words, tmp_path, monkeypatch, capsys))


GOOD_IMAGES = {
    "as they are": {},
    "floats": {name: IMAGES[name] / 255.0 for name in ("x_train", "x_test")},
    "denormals": floats(1e-310),
    "a class without test images": {"y_test": IMAGES["y_test"] % 3},
    "all black": {"x_train": np.zeros_like(IMAGES["x_train"])},
    "one test image": {"x_test": IMAGES["x_test"][:1], "y_test": IMAGES["y_test"][:1]},
}


@pytest.mark.parametrize("changes", GOOD_IMAGES.values(), ids=GOOD_IMAGES)
def test_odd_images_are_taken(changes, tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.npz"
    np.savez(path, **IMAGES | changes)
    words = ["--dataset", path, "--width", 4, "--image-size", 16]
    code, error, _ = thrown("zoo", words, tmp_path, monkeypatch, capsys)
    assert code == 0, error
    dataset = load_once(str(path), image_size=16)
    assert np.isfinite(dataset.mean).all() and np.isfinite(dataset.std).all() and (dataset.std > 0).all()
