"""Cross-validated stitching and the lasso's sparsity, as commands on a tiny zoo."""

import dataclasses
import shutil

import jax
import numpy as np
import pandas as pd
import pytest
from stitch_command_helpers import FakeSweep
from stitch_helpers import flags, scratch, trained

import experiments.crossval
import experiments.lasso
import experiments.stitch
import experiments.sweeps
import experiments.zoo
from experiments import summary
from experiments.command import run_command
from experiments.folders import diverged
from symjax import zoo
from symjax.ops import files
from symjax.stitching import FAMILIES
from symjax.stitching.results import ROWS, load_stitch
from symjax.stitching.selection import choose, grids


@pytest.fixture(autouse=True)
def tiny_zoo(tmp_path, monkeypatch):
    trained()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")  # as conftest.py has it, whatever the number of cores


def command(module, *others, out):
    argv = [*flags(scratch()), "--stitch-epochs", "2", "--out", out, *others]
    run_command(module.main, module.Settings, [str(word) for word in argv])


@pytest.fixture
def fake(monkeypatch):
    """Stitches that are drawn in place of trained ones."""
    FakeSweep.requested, FakeSweep.fail_at = [], None
    monkeypatch.setattr(experiments.sweeps, "Sweep", FakeSweep)
    return FakeSweep


def test_crossval(fake, tmp_path, capsys):
    out = tmp_path / "run"
    ask = ["--family", "rank", "--values", "1,2,4", "--pairs", 2]
    command(experiments.crossval, *ask, out=out)
    printed = capsys.readouterr().out
    rows, chosen = files.read_csv(out / "results.csv", ROWS.required), files.read_csv(out / "chosen.csv", ROWS.columns)
    assert len(rows) == 2 * 2 * 3 and set(rows.family) == {"rank1", "rank2", "rank4"}
    assert len(chosen) == 2 * 2
    for row in chosen.itertuples():
        candidates = rows[(rows.pair == row.pair) & (rows.layer == row.layer)].sort_values("hyperparameter")
        assert row.val_accuracy == candidates.val_accuracy.max()
        assert row.hyperparameter == candidates.hyperparameter[candidates.val_accuracy.idxmax()]
    report = summary.read(out)
    assert report.experiment == "crossval" and report.figures == ("penalties", "choices") and report.seconds > 0
    counts = report.tables["how often each value was chosen"]
    assert counts.to_numpy().sum() == 4 and counts.index.tolist() == ["1", "2", "4"]
    fixed = rows.assign(family="rank:" + rows.hyperparameter.map("{:g}".format))
    assert report.conclusion == experiments.crossval.conclusion(fixed, chosen) and report.conclusion in printed
    assert f"rank costs {chosen.penalty.mean():.1f} points" in report.conclusion
    assert "chosen by validation" in printed
    assert all((out / f"{name}.png").exists() for name in report.figures)

    fake.requested.clear()
    command(experiments.crossval, *ask, out=out)
    assert not fake.requested
    assert capsys.readouterr().out == printed and summary.read(out).seconds > report.seconds


def test_validation_chooses_and_the_test_images_tell():
    """In the planted table, the value with the best validation accuracy is never the best on the test images."""
    # By value, a number for each of two layers: accuracy on the validation images, and the penalty on the test images.
    values = {
        0.1: ((90.0, 70.0), (3.0, 9.0)),  # best at the first layer
        1.0: ((80.0, 85.0), (5.0, 6.0)),  # at none, but on average
        10.0: ((60.0, 88.0), (1.0, 9.6)),  # at the second
        100.0: ((50.0, 50.0), (0.5, 0.7)),  # by the test images alone
    }
    rows = pd.DataFrame(
        {"pair": pair, "layer": layer, "family": f"alpha:{value:g}", "hyperparameter": value}
        | {"val_accuracy": val[k] + shift, "penalty": penalty[k] + shift, "stitched_accuracy": 95 - penalty[k]}
        for pair, shift in (("0-1", 0.25), ("1-0", -0.25))
        for k, layer in enumerate(("relu1", "relu2"))
        for value, (val, penalty) in values.items()
    )
    chosen = choose(rows)
    assert chosen.hyperparameter.tolist() == [0.1, 10, 0.1, 10]
    assert experiments.crossval.conclusion(rows, chosen) == (
        "Chosen by validation, alpha costs 6.3 points on average over pairs and layers; one value for all of them, "
        "chosen by validation too (alpha:1), costs 5.5. Single values cost from 0.6 to 6.0."
    )


def test_the_lasso_command(fake, tmp_path, capsys):
    command(
        experiments.lasso,
        "--weights",
        "0.1,1e4",
        "--references",
        "birkhoff",
        "--pairs",
        1,
        out=tmp_path / "run",
    )
    report = summary.read(tmp_path / "run")
    assert report.conclusion in capsys.readouterr().out and "birkhoff costs" in report.conclusion
    assert {label for _, _, label in fake.requested} == {"lasso_proximal:0.1", "lasso_proximal:10000", "birkhoff"}
    (table,) = report.tables.values()
    assert table.loc["lasso_proximal:10000", "relu1"].endswith("@ 0.00")
    assert (tmp_path / "run" / "sparsity.png").exists() and (tmp_path / "run" / "sparsity.pdf").exists()


def test_points_of_one_model_in_the_other_commands(fake, tmp_path, capsys):
    """Layers that share a point of A are distinct in tables and figures."""
    words = ["--layers", "relu1,relu1:relu2", "--pairs", 1]
    command(experiments.lasso, *words, "--weights", "0.1", "--references", "full,birkhoff", out=tmp_path / "lasso")
    printed = capsys.readouterr().out
    assert "relu1 to relu2" in printed and "Left out: birkhoff, which need equal widths" in printed
    command(experiments.crossval, *words, "--family", "rank", "--values", "1,2", out=tmp_path / "crossval")
    rows = files.read_csv(tmp_path / "crossval" / "results.csv", ROWS.required)
    assert "relu1 to relu2" in capsys.readouterr().out and not {"network_a", "network_b"} & {*rows}
    chosen = files.read_csv(tmp_path / "crossval" / "chosen.csv")
    assert chosen.layer.tolist() == ["relu1", "relu1 to relu2"]
    assert rows.layer_b.notna().all()


@pytest.mark.slow
def test_lasso(tmp_path):
    out = tmp_path / "run"
    # A weight that no loss can hold against: every entry is zero, and the network guesses.
    ask = ["--weights", "0.1,1e4", "--references", "birkhoff", "--pairs", 1]
    command(experiments.lasso, *ask, out=out)
    rows = files.read_csv(out / "results.csv", ROWS.required).set_index(["family", "layer"])
    channels = {"relu1": 4, "relu2": 8}
    for layer, count in channels.items():
        assert rows.sparsity["lasso_proximal:10000", layer] == 1
        assert rows.sparsity["lasso_proximal:0.1", layer] < 0.5
        assert rows.sparsity["birkhoff", layer] >= 1 - 1 / count  # more where a channel is dead
    pair = tuple(map(int, rows.pair.iloc[0].split("-")))
    stitch, _ = load_stitch(out, pair, "relu1", "lasso_proximal:10000", like=trained()[1].members.state)
    np.testing.assert_array_equal(stitch.matrix, 0)
    report = summary.read(out)
    assert "lasso_proximal:0.1 costs" in report.conclusion and "birkhoff costs" in report.conclusion
    assert report.tables[next(iter(report.tables))].loc["lasso_proximal:10000", "relu1"].endswith("@ 1.00")
    assert (out / "sparsity.png").exists() and (out / "sparsity.pdf").exists()


@pytest.mark.parametrize("family", grids())
@pytest.mark.few(3)
def test_all_values_train_together(family, tmp_path, monkeypatch):
    """One sweep is asked for, of all values of the family, for all pairs and layers."""
    requested = []

    class Asked:
        def __init__(self, plan, dataset, *, num_pairs):
            self.plan = plan
            requested.append((plan.points, [one.hyperparameter for one in plan.families], num_pairs))

        group_size, evaluation_steps = 1, 0

        def run(self, *_, **__):
            raise KeyboardInterrupt

    monkeypatch.setattr(experiments.sweeps, "Sweep", Asked)
    monkeypatch.setattr(zoo, "test_accuracy", lambda *_, **__: np.zeros(3))
    values = ["--values", "1,3"] if family == "rank" else []  # rank 4 is all of the narrower layer
    with pytest.raises(SystemExit):
        command(experiments.crossval, "--family", family, *values, "--pairs", 2, out=tmp_path / "run")
    grid = [1.0, 3.0] if values else list(FAMILIES[family].grid)
    assert requested == [((0, 1), grid, 2)] and len(grid) > 1


def planted(**families):
    """Rows of two pairs and two layers whose means over both are these (penalty, sparsity)."""
    return pd.DataFrame(
        {"family": name, "pair": pair, "layer": layer, "penalty": penalty + p + 3 * k, "sparsity": zeros + k / 100}
        for name, (penalty, zeros) in families.items()
        for pair, p in (("0-1", 0.5), ("1-0", -0.5))
        for layer, k in (("relu1", 1), ("relu2", -1))
    )


def test_a_penalty_that_is_nan_is_not_passed_over():
    """A NaN in one of two pairs makes means, extremes and deviations NaN; the other pair does not stand for both."""
    rows = pd.DataFrame({"pair": ["0-1", "1-0"], "layer": "relu1", "hyperparameter": 1.0, "val_accuracy": 80.0})
    rows = pd.concat([rows.assign(family=f"alpha:{n}", penalty=[n, n + 1.0], hyperparameter=n) for n in (1.0, 2.0)])
    rows.iloc[1, rows.columns.get_loc("penalty")] = np.nan
    assert experiments.crossval.conclusion(rows, rows.head(2)) == (
        "Chosen by validation, alpha costs nan points on average over pairs and layers; one value for all of them, "
        "chosen by validation too (alpha:1.0), costs nan. Single values cost from nan to nan."
    )
    table = planted(**{"lasso:0.1": (2.0, 0.3), "lasso:0.5": (1.0, 0.9)}, full=(0.5, 0.02))
    lost = table.assign(penalty=table.penalty.where(table.index != 4))  # of lasso:0.5, which would be chosen
    assert "images, lasso:0.1 costs 2.0 points with 30% zeros; full" in experiments.lasso.conclusion(lost)
    assert experiments.lasso.summary(lost).loc["lasso:0.5", "relu1"] == "nan ± nan @ 0.91"
    alone = planted(**{"lasso:0.1": (np.nan, 0.3)}, full=(0.5, 0.02))
    assert "lasso:0.1 costs nan points" in experiments.lasso.conclusion(alone)


@pytest.mark.parametrize(
    ("lassos", "expected"),
    [
        # The sparsest of those that cost 5 points at most; another is sparser, and dearer.
        (
            {"lasso:0.1": (2.0, 0.3), "lasso:0.5": (4.9, 0.6), "lasso:1": (5.1, 0.9)},
            "lasso:0.5 costs 4.9 points with 60% zeros",
        ),
        ({"lasso:0.1": (5.0, 0.3), "lasso:0.5": (6.0, 0.6)}, "lasso:0.1 costs 5.0 points with 30% zeros"),
        # Not the heaviest, not the cheapest.
        (
            {"lasso:0.1": (1.0, 0.2), "lasso:0.5": (3.0, 0.7), "lasso:1": (4.0, 0.5)},
            "lasso:0.5 costs 3.0 points with 70% zeros",
        ),
        # None is cheap: the cheapest.
        (
            {"lasso_proximal:0.1": (9.0, 0.2), "lasso_proximal:1": (8.0, 0.1), "lasso_proximal:2": (30.0, 0.9)},
            "lasso_proximal:1 costs 8.0 points with 10% zeros",
        ),
    ],
)
def test_the_finding_is_the_sparsest_of_the_cheap(lassos, expected):
    table = planted(**lassos, full=(0.5, 0.02), birkhoff=(17.0, 0.96))
    others = "full costs 0.5 points with 2% zeros; birkhoff costs 17.0 points with 96% zeros"
    assert experiments.lasso.conclusion(table) == f"On average over layers, on the test images, {expected}; {others}."


def of_diverged_members(module, *others):
    argv = flags(scratch())[:-2]  # but for --zoo
    argv[argv.index("--learning-rate") + 1] = "1e30"
    run_command(module.main, module.Settings, [*argv, *others])


@pytest.mark.slow
def test_members_that_have_diverged_are_not_stitched(tmp_path, capsys):
    """Their accuracy is NaN: the largest of NaN logits would be the first class."""
    trained()
    for module in (experiments.stitch, experiments.crossval, experiments.lasso):
        with pytest.raises(SystemExit) as stop:
            of_diverged_members(module, "--zoo", "zoo", "--out", "run")
        output = capsys.readouterr()
        assert stop.value.code == 2 and not output.out
        assert "error: --seeds: got 0, 1, 2, which have diverged" in output.err and "Traceback" not in output.err
        assert not (tmp_path / "run" / "parts").exists()
        shutil.rmtree(tmp_path / "run")
    of_diverged_members(experiments.zoo, "--out", "zoo")
    assert (
        "Test accuracy nan %, on average over 3 networks, except seeds 0, 1, 2, which have diverged"
        in capsys.readouterr().out
    )
    rows = files.read_csv(tmp_path / "zoo" / "accuracy.csv")
    assert rows.seed.tolist() == [0, 1, 2] and rows[["validation", "test"]].isna().all(axis=None)


def test_members_whose_logits_alone_are_not_finite_have_diverged():
    _, members = trained()
    assert not diverged(members, [90.0, 0.0, 100.0])
    assert diverged(members, [90.0, np.nan, 100.0]) == "1"
    worst = jax.tree.map(np.copy, members.members)
    jax.tree.leaves(worst.state)[-1][2] = np.inf  # divides by itself in batch norm: the logits are finite
    assert diverged(dataclasses.replace(members, members=worst), [np.nan, 90.0, 90.0]) == "0, 2"


@pytest.mark.parametrize(
    "module,words,expected",
    [
        (experiments.crossval, ["--values", "0.1"], "values: got '0.1'"),
        (experiments.crossval, ["--values", "0.1,x"], "expected a number instead of 'x'"),
        (
            experiments.crossval,
            ["--family", "lasso", "--values", "-1,1"],
            "weight: got -1.0, expected a positive number",
        ),
        (experiments.lasso, ["--references", "lasso_proximal:0.5"], "references"),
        (experiments.lasso, ["--weights", "zero"], "expected a number instead of 'zero'"),
    ],
)
def test_bad_flags_are_one_line(module, words, expected, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command(module, *words, out=tmp_path / "run")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and expected in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists() and jax.config.read("jax_disable_most_optimizations")
