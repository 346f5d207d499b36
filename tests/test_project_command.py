"""The project command: rows, resume, the clean accuracy at all directions, and messages about wrong flags."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stitch_helpers import SEEDS, flags, scratch, trained

import experiments.project
from experiments.command import run_command
from experiments.project import sufficient
from symjax.ops import files


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path, monkeypatch):
    """Commands run in an empty folder, on a zoo that is trained once."""
    trained()
    monkeypatch.chdir(tmp_path)


def command(*others):
    argv = [*flags(scratch()), "--out", "run", "--layers", "relu2", "--examples", 40, *others]
    run_command(experiments.project.main, experiments.project.Settings, [str(word) for word in argv])
    return files.read_csv("run/results.csv")


@pytest.mark.figures
def test_the_command(capsys, monkeypatch):
    table = command("--methods", "pca,cca", "--directions", "0,1,500")
    channels = int(table.channels.iloc[0])
    assert len(table) == len(SEEDS) * 2 * 3 and set(table.directions) == {0, 1, channels}
    np.testing.assert_allclose(
        *table[(table.method == "pca") & (table.directions == channels)][["accuracy", "clean_accuracy"]].to_numpy().T
    )
    none = table[table.directions == 0].pivot(index="seed", columns="method", values="accuracy")
    np.testing.assert_allclose(none.pca, none.cca)  # both set the layer to its mean
    assert none.pca.mean() < table.clean_accuracy.mean() - 20
    assert Path("run", "accuracy.png").stat().st_size > 5000
    calls = []
    compute = experiments.project.projected_accuracy
    monkeypatch.setattr(
        experiments.project, "projected_accuracy", lambda *a, **o: calls.append(a[4]) or compute(*a, **o)
    )
    command("--methods", "pca,cca", "--directions", "0,1,500")
    assert not calls
    more = command("--methods", "pca", "--directions", "0,2")
    assert calls == [[2]]
    pd.testing.assert_frame_equal(more[more.directions != 2].reset_index(drop=True), table)
    # With fewer seeds a method that compares two networks has other partners; the others have all rows.
    calls.clear()
    table = command("--methods", "pca,cca", "--directions", "0", "--seeds", "0,1")
    assert len(calls) == 1  # of cca
    assert sorted(table[(table.method == "cca") & (table.directions == 0) & (table.seed == 1)].partner) == [0, 2]
    assert set(table[table.method == "pca"].partner) == {-1}
    capsys.readouterr()
    command("--methods", "pca", "--directions", "0,2", "--dry-run")
    assert "All results exist" in capsys.readouterr().out


def test_sufficient_directions_are_counted_from_the_end():
    accuracy = {0: 10.0, 1: 99.5, 2: 50.0, 4: 99.2, 8: 100.0}
    table = pd.DataFrame({"directions": accuracy.keys(), "accuracy": accuracy.values()})
    table = table.assign(layer="relu1", method="pca", seed=0, channels=8, clean_accuracy=100.0)
    assert sufficient(table).needed.tolist() == [4]
    assert sufficient(table.assign(clean_accuracy=102.0)).needed.tolist() == [9]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--methods ica", "methods: got 'ica', expected names of pca"),
        ("--directions 1,x", "directions: got '1,x', expected integers"),
        ("--seeds 0, --methods cca", "seeds: got one, expected two or more for cca"),
        ("--examples 3", "examples: got 3, expected 4 or more"),
    ],
)
def test_wrong_flags(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        command(*words.split())
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert not Path("run").exists()
