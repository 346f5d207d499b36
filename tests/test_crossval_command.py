"""Cross-validated stitching and the lasso's sparsity, as commands on a tiny zoo."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from stitch_helpers import flags, scratch, trained

import experiments.crossval
import experiments.lasso
import experiments.stitch
import experiments.zoo
from experiments.folders import diverged
from experiments.settings import run_command
from symjax import runs, summary, zoo
from symjax.stitching import Sweep
from symjax.stitching.results import COLUMNS, load_stitch


@pytest.fixture(autouse=True)
def tiny_zoo(tmp_path, monkeypatch, quick_compilation):
    trained()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")  # as conftest.py has it, whatever the number of cores


def command(module, *others, out):
    argv = [*flags(scratch()), "--stitch-epochs", "2", "--out", out, *others]
    run_command(module.main, module.Settings, [str(word) for word in argv])


def compute_nothing(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("something was computed again")

    monkeypatch.setattr(Sweep, "run", fail)
    monkeypatch.setattr(zoo, "test_accuracy", lambda *_, **__: np.zeros(3))


def test_crossval(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    ask = ["--family", "rank", "--values", "1,2,4", "--pairs", 2]
    command(experiments.crossval, *ask, out=out)
    printed = capsys.readouterr().out
    rows, chosen = runs.read_csv(out / "results.csv", COLUMNS), runs.read_csv(out / "chosen.csv", COLUMNS)
    assert len(rows) == 2 * 2 * 3 and set(rows.family) == {"rank1", "rank2", "rank4"}
    assert len(chosen) == 2 * 2
    for row in chosen.itertuples():
        theirs = rows[(rows.pair == row.pair) & (rows.layer == row.layer)].sort_values("hyperparameter")
        assert row.val_accuracy == theirs.val_accuracy.max()
        assert row.hyperparameter == theirs.hyperparameter[theirs.val_accuracy.idxmax()]
    told = summary.read(out)
    assert told.experiment == "crossval" and told.figures == ("penalties", "choices") and told.seconds > 0
    counts = told.tables["how often each value was chosen"]
    assert counts.to_numpy().sum() == 4 and counts.index.tolist() == ["1", "2", "4"]
    assert f"rank costs {chosen.penalty.mean():.1f} points" in told.finding and told.finding in printed
    assert "chosen by validation" in printed
    assert all((out / f"{name}.png").exists() for name in told.figures)

    compute_nothing(monkeypatch)
    command(experiments.crossval, *ask, out=out)
    assert capsys.readouterr().out == printed and summary.read(out).seconds > told.seconds


def test_lasso(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    # A weight that no loss can hold against: every entry is zero, and the network guesses.
    ask = ["--weights", "0.1,1e4", "--beside", "birkhoff", "--pairs", 1]
    command(experiments.lasso, *ask, out=out)
    rows = runs.read_csv(out / "results.csv", COLUMNS).set_index(["family", "layer"])
    channels = {"relu1": 4, "relu2": 8}
    for layer, count in channels.items():
        assert rows.sparsity["lasso_proximal:10000", layer] == 1
        assert rows.sparsity["lasso_proximal:0.1", layer] < 0.5
        assert rows.sparsity["birkhoff", layer] >= 1 - 1 / count  # more where a channel is dead
    pair = tuple(map(int, rows.pair.iloc[0].split("-")))
    stitch, _ = load_stitch(out, pair, "relu1", "lasso_proximal:10000", like=trained()[1].members.stats)
    np.testing.assert_array_equal(stitch.matrix, 0)
    told = summary.read(out)
    assert "lasso_proximal:0.1 costs" in told.finding and "birkhoff costs" in told.finding
    assert told.tables[next(iter(told.tables))].loc["lasso_proximal:10000", "relu1"].endswith("@ 1.00")
    assert (out / "sparsity.png").exists() and (out / "sparsity.pdf").exists()


def of_diverged_members(module, *others):
    argv = flags(scratch())[:-2]  # but for --zoo
    argv[argv.index("--learning-rate") + 1] = "1e30"
    run_command(module.main, module.Settings, [*argv, *others])


def test_members_that_have_diverged_are_not_stitched(tmp_path, capsys):
    """Nor is their accuracy that of the first class, which the largest of NaN would be."""
    trained()
    for module in (experiments.stitch, experiments.crossval, experiments.lasso):
        with pytest.raises(SystemExit) as stop:
            of_diverged_members(module, "--zoo", "zoo", "--out", "run")
        told = capsys.readouterr()
        assert stop.value.code == 2 and not told.out
        assert "error: seeds: 0, 1, 2 have diverged" in told.err and "Traceback" not in told.err
        assert not (tmp_path / "run" / "parts").exists()
        shutil.rmtree(tmp_path / "run")
    of_diverged_members(experiments.zoo, "--out", "zoo")
    assert "test accuracy nan % on average, but for seeds 0, 1, 2, which have diverged" in capsys.readouterr().out
    rows = runs.read_csv(tmp_path / "zoo" / "accuracy.csv")
    assert rows.seed.tolist() == [0, 1, 2] and rows[["validation", "test"]].isna().all(axis=None)


def test_members_whose_logits_alone_are_not_finite_have_diverged():
    _, members = trained()
    assert not diverged(members, [90.0, 0.0, 100.0])
    assert diverged(members, [90.0, np.nan, 100.0]) == "1"
    worst = jax.tree.map(np.copy, members.members)
    jax.tree.leaves(worst.stats)[-1][2] = np.inf  # divides by itself in batch norm: the logits are finite
    assert diverged(dataclasses.replace(members, members=worst), [np.nan, 90.0, 90.0]) == "0, 2"


@pytest.mark.parametrize(
    "module,words,wanted",
    [
        (experiments.crossval, ["--values", "0.1"], "values: got '0.1'"),
        (experiments.crossval, ["--values", "0.1,x"], "'x' is not a number"),
        (experiments.crossval, ["--family", "lasso", "--values", "-1,1"], "weight must be positive"),
        (experiments.lasso, ["--beside", "lasso_proximal:1"], "beside"),
        (experiments.lasso, ["--weights", "zero"], "'zero' is not a number"),
    ],
)
def test_bad_flags_are_one_line(module, words, wanted, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command(module, *words, out=tmp_path / "run")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and wanted in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists() and jax.config.read("jax_disable_most_optimizations")
