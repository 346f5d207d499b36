"""The project command: rows, resume, the clean accuracy at all directions, and messages about wrong flags."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stitch_helpers import SEEDS, flags, scratch, trained

import experiments.project
from experiments.command import run_command
from experiments.project import about_a_quarter, conclusion, grid
from symjax.ops import files
from symjax.tables import interval_text


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
        experiments.project, "projected_accuracy", lambda *a, **o: calls.append(a[3]) or compute(*a, **o)
    )
    command("--methods", "pca,cca", "--directions", "0,1,500")
    assert not calls
    more = command("--methods", "pca", "--directions", "0,2")
    assert [list(ks.values()) for ks in calls] == [[[2]]]
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


def test_tables_have_about_a_quarter_of_the_channels():
    accuracy = {("relu1", "pca", 1): 70, ("relu1", "pca", 2): 80, ("relu1", "pca", 8): 98, ("relu1", "cca", 2): 70}
    accuracy |= {("relu2", "pca", 2): 30, ("relu2", "pca", 6): 90, ("relu2", "cca", 2): 20}  # a tie: the smaller one
    table = pd.DataFrame(
        [(*key, value) for key, value in accuracy.items()], columns=["layer", "method", "directions", "x"]
    )
    table = table.assign(channels=table.layer.map({"relu1": 8, "relu2": 16}), clean_accuracy=98.0)
    rows = about_a_quarter(
        pd.concat([table.assign(seed=seed, accuracy=table.x + change) for seed, change in ((0, 0.0), (1, 2.0))])
    )
    assert grid(rows).columns.tolist() == ["relu1 (2 of 8)", "relu2 (2 of 16)"]
    assert grid(rows).loc["cca"].tolist() == [interval_text([70, 72], 1), interval_text([20, 22], 1)]
    means = f"pca {interval_text([55, 57], 1)}, cca {interval_text([45, 47], 1)}. Accuracy of the networks 98.0 [98.0"
    assert means in conclusion(rows)


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
