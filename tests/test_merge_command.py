"""Merging the folders of tasks: each key once, conflicts and what is missing told, and the same as one whole run."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stitch_helpers import flags, scratch, trained

import experiments.align
import experiments.merge
import experiments.width as width_command
from experiments import registry
from experiments.command import run_command
from experiments.sharing import SharedSettings, split_name
from symjax import zoo
from symjax.errors import InputError
from symjax.ops import files, runs
from symjax.ops.result_table import ResultTable
from symjax.rotation import results as rotation
from symjax.stitching.results import KEY, ROWS
from symjax.zoo.merging import merge_members

CONFIG = {"zoo": {"model": "none"}, "pair_seed": 0}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def merge(*argv):
    run_command(experiments.merge.main, experiments.merge.Settings, [str(word) for word in argv])


def refused(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as ended:
        merge(*argv)
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert not output.out and "Traceback" not in output.err
    return output.err


def stitch_rows(pair, families=("full", "rank1"), accuracy=90.0) -> pd.DataFrame:
    a, b = map(int, pair.split("-"))
    plain = {
        "pair": pair,
        "model_a": a,
        "model_b": b,
        "layer": "relu1",
        "layer_b": "relu1",
        "layer_index": 0,
        "starred": False,
    }
    numbers = {"hyperparameter": np.nan, "start": "auto", "learning_rate": 1e-2, "clean_accuracy": 95.1}
    numbers |= {"stitched_accuracy": accuracy, "penalty": 95.1 - accuracy, "val_accuracy": 1 / 3, "sparsity": 0.0}
    return pd.DataFrame([{**plain, "family": family, **numbers} for family in families])[list(ROWS.required)]


def plant(folder, pairs, config=CONFIG, families=("full", "rank1"), accuracy=90.0, matrix=1.0, done=True) -> Path:
    """A stitch folder as a task leaves it."""
    with runs.open_folder(folder, "stitch", config) as folder:
        for name in ("parts", "stitches"):
            (folder / name).mkdir(exist_ok=True)
        for pair in pairs:
            rows = stitch_rows(pair, families, accuracy)
            curves = [{**row, "learning_rate": 1e-2, "accuracy": 99.0} for row in rows[list(KEY)].to_dict("records")]
            curves = pd.DataFrame([{**row, "epoch": epoch, "loss": 0.1} for row in curves for epoch in (1, 2)])
            arrays = {f"relu1/{family}/matrix": np.full((2, 2), matrix) for family in families}
            files.write_npz(folder / "stitches" / f"{pair}.npz", arrays)
            files.write_csv(folder / "parts" / f"{pair}.curves.csv", curves)
            files.write_csv(folder / "parts" / f"{pair}.results.csv", rows)
        seeds = sorted({int(seed) for pair in pairs for seed in pair.split("-")})
        files.write_csv(folder / "accuracy.csv", pd.DataFrame({"seed": seeds, "accuracy": 95.1}))
        if done:
            command = "python -m experiments.stitch --pairs 4 --task 1/2 --out run --bias"
            summary = {"experiment": "stitch", "title": "", "conclusion": "", "tables": {}, "figures": [], "seconds": 1}
            files.write_json(folder / "summary.json", summary | {"command": command, "versions": {}})
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_keys_are_taken_once(capsys):
    plant("run.task-1-of-2", ["0-1", "1-2"])
    plant("run.task-2-of-2", ["2-0", "1-2"])
    merge("run.task-1-of-2", "run.task-2-of-2")
    output = capsys.readouterr()
    assert "run: 6 rows of 2 folders" in output.out and "not " not in output.err
    assert "next: python -m experiments.stitch --pairs 4 --bias --out run\n" in output.out
    rows = files.read_csv("run/results.csv", ROWS.required)
    expected = pd.concat([stitch_rows(pair) for pair in ("0-1", "1-2", "2-0")], ignore_index=True)
    pd.testing.assert_frame_equal(rows, expected, check_exact=True)
    assert len(files.read_csv("run/curves.csv")) == 3 * 2 * 2
    assert files.read_csv("run/accuracy.csv").seed.tolist() == [0, 1, 2]
    assert sorted(path.stem for path in Path("run/stitches").iterdir()) == ["0-1", "1-2", "2-0"]
    assert runs.read_config("run", "stitch") == CONFIG


def test_a_merge_can_be_repeated_gone_on_with_and_added_to(capsys):
    for i, pairs in enumerate((["0-1"], ["1-2"], ["2-0"]), 1):
        plant(f"run.task-{i}-of-3", pairs)
    before = {i: contents(f"run.task-{i}-of-3") for i in (1, 2, 3)}
    merge("run.task-1-of-3", "run.task-3-of-3")
    assert "missing: task 2/3" in capsys.readouterr().err
    merge("run.task-2-of-3")
    one = contents("run")
    assert len(files.read_csv("run/results.csv")) == 6
    merge("run.task-3-of-3", "run.task-1-of-3", "run.task-2-of-3", "run", "--out", "run")  # itself among them
    assert contents("run") == one
    # Stopped half-way: stitches and curves of a pair are there, its rows are not.
    (Path("run/parts/1-2.results.csv")).unlink()
    merge(*(f"run.task-{i}-of-3" for i in (1, 2, 3)))
    assert contents("run") == one
    assert {i: contents(f"run.task-{i}-of-3") for i in (1, 2, 3)} == before


def test_families_of_one_pair_in_two_folders():
    plant("a", ["0-1"], families=("full",))
    plant("b", ["0-1"], families=("rank1", "full"))
    merge("a", "b", "--out", "c")
    assert set(map(tuple, files.read_csv("c/results.csv")[list(KEY)].to_numpy())) == {
        ("0-1", "relu1", "relu1", "full"),
        ("0-1", "relu1", "relu1", "rank1"),
    }
    assert set(files.read_npz("c/stitches/0-1.npz")) == {"relu1/full/matrix", "relu1/rank1/matrix"}


@pytest.mark.parametrize("what", ["accuracy", "matrix"])
def test_a_key_with_two_values_is_an_error(what, capsys):
    plant("a", ["0-1", "1-2"])
    plant("b", ["1-2"], **{what: 89.0})
    error = refused(capsys, "a", "b", "--out", "c")
    assert (
        "a and b" in error
        and "1-2" in error
        and {"accuracy": "stitched_accuracy 90.0 and 89.0", "matrix": "arrays"}[what] in error
    )
    assert not Path("c/parts/1-2.results.csv").exists()


@pytest.mark.parametrize("piece", ["parts/0-1.results.csv", "parts/0-1.curves.csv", "stitches/0-1.npz", "accuracy.csv"])
def test_a_piece_of_another_configuration_is_an_error(piece, capsys):
    plant("a", ["0-1"])
    plant("b", ["1-2"])
    plant("other", ["0-1"], CONFIG | {"pair_seed": 1}, accuracy=80.0, matrix=2.0)
    shutil.copy(Path("other", piece), Path("a", piece))
    assert f"error: a/{piece}: written with another configuration" in refused(capsys, "a", "b", "--out", "c")
    assert not Path("c/results.csv").exists() or piece == "accuracy.csv"


def test_what_has_no_row_does_not_count():
    """Of a task that was stopped between a stitch and its row, another has computed the pair again."""
    plant("a", ["0-1"], matrix=2.0)
    Path("a/parts/0-1.results.csv").unlink()
    plant("b", ["0-1"], matrix=1.0)
    merge("a", "b", "--out", "c")
    assert (files.read_npz("c/stitches/0-1.npz")["relu1/full/matrix"] == 1).all()


def test_rows_of_one_layer_that_lead_to_different_ones():
    """The same pair, layer of A and family in both folders, to another layer of B in one."""
    plant("a", ["0-1"], matrix=1.0)
    folder = plant("b", ["0-1"], matrix=1.0, accuracy=80.0)
    for ending in ("results", "curves"):
        path = folder / "parts" / f"0-1.{ending}.csv"
        files.write_csv(path, files.read_csv(path).assign(layer_b="relu2"))
    arrays = {"relu1/relu2/full/matrix": np.full((3, 2), 2.0), "relu1/relu2/rank1/matrix": np.full((3, 2), 3.0)}
    files.write_npz(folder / "stitches" / "0-1.npz", arrays)
    files.write_csv(folder / "accuracy_b.csv", pd.DataFrame({"seed": [1], "accuracy": 95.1}))
    merge("a", "b", "--out", "c")
    rows = files.read_csv("c/results.csv", ROWS.required)
    assert rows[["layer_b", "family", "stitched_accuracy"]].values.tolist() == [
        ["relu1", "full", 90.0], ["relu1", "rank1", 90.0], ["relu2", "full", 80.0], ["relu2", "rank1", 80.0],
    ]  # fmt: skip
    assert files.read_csv("c/curves.csv").groupby(["layer", "layer_b", "family"]).size().tolist() == [2] * 4
    merged = files.read_npz("c/stitches/0-1.npz")
    assert set(merged) == {*arrays, "relu1/full/matrix", "relu1/rank1/matrix"}
    assert files.read_csv("c/accuracy_b.csv").seed.tolist() == [1]
    before = contents("c")
    merge("b", "a", "c", "--out", "c")
    assert contents("c") == before


def test_the_tables_of_any_experiment(capsys):
    every = {name: known for name in registry.files() if (known := registry.find(name))}
    assert len(every) > 20
    assert all(experiments.merge.results_in(Path("no"), name, known) for name, known in every.items())
    for folder, width in (("a", 4), ("b", 8)):
        with runs.open_folder(Path(folder), "width", {}) as path:
            key = {"zoo": "trained", "width": width}
            row = {**dict.fromkeys((*width_command.ROWS.key, *width_command.ROWS.columns), 0), **key}
            ResultTable(path, width_command.ROWS).add(pd.DataFrame([row]))
            accuracies = pd.DataFrame([{**key, "seed": seed, "accuracy": 90.0} for seed in (0, 1)])
            ResultTable(path, width_command.ACCURACY).add(accuracies)
    merge("a", "b", "--out", "c")
    assert "c: 2 rows of 2 folders" in capsys.readouterr().out
    rows, accuracies = (
        ResultTable(Path("c"), schema).rows() for schema in (width_command.ROWS, width_command.ACCURACY)
    )
    assert sorted(rows.width) == [4, 8] and sorted(accuracies.width) == [4, 4, 8, 8]


def test_bad_folders_are_errors(capsys):
    plant("run.task-1-of-2", ["0-1"])
    plant("run.task-2-of-2", ["1-2"], config={**CONFIG, "pair_seed": 1})
    error = refused(capsys, "run.task-1-of-2", "run.task-2-of-2")
    assert "run.task-2-of-2" in error and "pair_seed: saved 1, requested 0" in error
    assert "--out" in refused(capsys, "run.task-1-of-2", "elsewhere")
    Path("empty").mkdir()
    for wrong in ("empty", "nowhere"):
        assert f"got {wrong}, which has no config.json" in refused(capsys, wrong, "--out", "c")
    with runs.open_folder("other", "unknown", {}):
        pass
    assert "folders: got other, a folder of unknown" in refused(capsys, "other", "--out", "c")
    path = Path("run.task-1-of-2/parts/0-1.results.csv")
    path.write_bytes(path.read_bytes()[:-30])
    assert str(path) in refused(capsys, "run.task-1-of-2", "--out", "c")
    assert not Path("c/results.csv").exists()
    assert "folders" in refused(capsys, "--out", "c")


def test_unfinished_tasks_are_reported(capsys):
    plant("run.task-1-of-2", ["0-1"], done=False)
    plant("run.task-2-of-2", ["1-2"])
    merge("run.task-1-of-2", "run.task-2-of-2")
    assert "not finished: run.task-1-of-2" in capsys.readouterr().err


def test_rotations_of_two_processes_and_two_folders():
    for folder, marks in (("a", ("", "+1")), ("b", ("",))):
        with runs.open_folder(folder, "rotate", {"x": 1}) as path:
            (path / "parts").mkdir()
            for mark, kind in zip(marks, ("none", "orthogonal") if folder == "a" else ("g_relu",), strict=True):
                key = {"model": "m", "layer": "conv1", "seed": 0, "kind": kind, "repeat": 0}
                rows = pd.DataFrame([{**dict.fromkeys(rotation.ROWS.columns, 1.5), **key}])
                curves = pd.DataFrame(
                    [{**dict.fromkeys(rotation.CURVES.columns, 2.5), **key, "epoch": e} for e in (1, 2)]
                )
                files.write_csv(path / "parts" / f"m.conv1.0{mark}.curves.csv", curves)
                files.write_csv(path / "parts" / f"m.conv1.0{mark}.results.csv", rows)
    merge("a", "b", "--out", "c")
    assert sorted(path.name for path in Path("c/parts").iterdir()) == ["m.conv1.0.curves.csv", "m.conv1.0.results.csv"]
    assert files.read_csv("c/results.csv").kind.tolist() == ["g_relu", "none", "orthogonal"]
    assert len(files.read_csv("c/curves.csv")) == 6


# --- members ---


def test_members_of_zoos(capsys):
    trained()
    whole = scratch() / "zoo"
    for i, seeds in enumerate(((0, 2), (1, 2)), 1):
        folder = Path(f"zoo.task-{i}-of-2")
        folder.mkdir()
        shutil.copy(whole / "config.json", folder)
        for seed in seeds:
            shutil.copytree(whole / f"member-{seed}", folder / f"member-{seed}")
        accuracies = pd.DataFrame({"seed": seeds, "validation": 50.0, "test": [float(seed) for seed in seeds]})
        files.write_csv(folder / "accuracy.csv", accuracies)  # of a finished task
    last = next(Path("zoo.task-1-of-2/member-0").glob("epoch-*"))
    shutil.move(last, "checkpoint")  # a member without a checkpoint was interrupted before the first
    merge("zoo.task-1-of-2", "zoo.task-2-of-2")
    assert "2 finished members" in capsys.readouterr().out
    shutil.move("checkpoint", last)
    merge("zoo.task-1-of-2", "zoo.task-2-of-2")
    merge("zoo.task-1-of-2", "zoo.task-2-of-2")
    assert "3 finished members" in capsys.readouterr().out
    assert files.read_csv("zoo/accuracy.csv").test.tolist() == [0, 1, 2]
    merged, expected = zoo.load("zoo"), zoo.load(whole)
    assert merged.seeds == expected.seeds
    pd.testing.assert_frame_equal(merged.metrics, expected.metrics, check_exact=True)
    assert json.dumps([np.asarray(a).tolist() for a in np.atleast_1d(merged.validation_accuracy)]) == json.dumps(
        expected.validation_accuracy.tolist()
    )
    # A member of one seed, but another network.
    metrics = Path("zoo.task-1-of-2/member-2/metrics.csv")
    files.write_csv(metrics, files.read_csv(metrics).assign(loss=0.5))
    assert "member-2" in refused(capsys, "zoo.task-1-of-2", "zoo.task-2-of-2", "--out", "zoo")
    with pytest.raises(InputError, match="members of one seed that differ"):
        merge_members([Path("zoo"), Path("zoo.task-1-of-2")], Path("zoo"))


# --- tasks ---


def test_tasks_make_the_whole(capsys):
    trained()
    argv = [*flags(scratch()), "--measures", "cka", "--examples", "24"]

    def align(*more):
        run_command(experiments.align.main, experiments.align.Settings, [*argv, *more])

    align("--out", "whole")
    align("--out", "run", "--task", "1/2")
    align("--out", "run", "--task", "2/2")
    assert len(files.read_csv("run.task-1-of-2/results.csv")) == 2 * 4  # pairs, times layers with layers
    assert len(files.read_csv("run.task-2-of-2/results.csv")) == 1 * 4
    merge("run.task-1-of-2", "run.task-2-of-2")
    merged, whole = (files.read_csv(f"{name}/results.csv") for name in ("run", "whole"))
    pd.testing.assert_frame_equal(merged, whole, rtol=1e-5)
    before = Path("run/results.csv").read_bytes()
    capsys.readouterr()
    align("--out", "run")
    assert "pair/s" not in capsys.readouterr().err and Path("run/results.csv").read_bytes() == before
    assert Path("run/heatmaps.png").exists()


@pytest.mark.parametrize("count", [1, 5, 8])
@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_parts_make_the_whole(count, tasks):
    items = [f"pair {i}" for i in range(count)]
    if tasks > count:
        with pytest.raises(InputError, match=f"at most {count}"):
            SharedSettings(task=f"1/{tasks}").part(items, "pairs")
        return
    parts = [SharedSettings(task=f"{i}/{tasks}").part(items, "pairs") for i in range(1, tasks + 1)]
    assert sorted(itertools.chain(*parts)) == sorted(items) and max(map(len, parts)) - min(map(len, parts)) <= 1
    assert SharedSettings().part(items, "pairs") == items


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "-1/2", "1/2/3", "", "1/0"])
def test_bad_tasks(text):
    with pytest.raises(InputError, match="task: got"):
        dataclasses.replace(SharedSettings(), task=text).parse_task()


def test_names_of_tasks():
    assert SharedSettings(task="3/8").part_folder(Path("a/b.c")) == Path("a/b.c.task-3-of-8")
    assert split_name(Path("a/b.c.task-3-of-8")) == (Path("a/b.c"), (3, 8))
    assert SharedSettings().part_folder(Path("a")) == Path("a") and split_name(Path("a")) == (Path("a"), None)
