"""The dissect command: results and their extension, variants, conclusion, figure, and wrong flags."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from broden_helpers import write_broden
from scipy import stats
from stitch_helpers import SEEDS, flags, scratch, trained

import experiments.dissect
from experiments.command import run_command
from experiments.dissect import DEFAULTS, Settings
from experiments.dissect_summary import conclusion
from symjax import plots
from symjax.ops import files
from symjax.tables import mean_interval


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Run each command in an empty folder, on a zoo that is trained once."""
    _, zoo = trained()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Settings, "train_zoo", lambda *_, **__: zoo)


def run(*others):
    """Run the command with these flags; return the rows of results.csv."""
    concepts = write_broden(Path("broden")) if not Path("broden").exists() else "broden"
    argv = [*flags(scratch()), "--out", "run", "--concepts", concepts, "--quantile", 0.1, *others]
    run_command(experiments.dissect.main, Settings, [str(word) for word in argv])
    return files.read_csv("run/results.csv")


@pytest.mark.slow
def test_results_are_extended_and_not_computed_again(monkeypatch, capsys):
    rows = run("--powers", "1")
    assert len(rows) == len(SEEDS) * 4 and set(rows.basis) == {"Q^0", "Q^1", "permutation", "g_relu"}
    wide = rows.pivot(index="seed", columns="basis", values="mean_iou")
    np.testing.assert_allclose(wide.permutation, wide["Q^0"], atol=1e-12)
    np.testing.assert_allclose(wide.g_relu, wide["Q^0"], atol=1e-12)
    assert (wide["Q^1"] != wide["Q^0"]).all()
    units = files.read_csv("run/units.csv")
    best = units.groupby(["seed", "basis"]).iou.mean().unstack("basis")
    pd.testing.assert_frame_equal(best, wide, check_names=False)
    assert set(units.concept) <= {"sky", "wheel", "street-s", "none"}
    printed = capsys.readouterr().out
    assert "dissected on 6 images of broden" in printed and "change these values by" in printed
    dissect, calls = experiments.dissect.dissect, []
    monkeypatch.setattr(experiments.dissect, "dissect", lambda *a, **o: calls.append(1) or dissect(*a, **o))
    pd.testing.assert_frame_equal(run("--powers", "0,1"), rows)
    assert not calls
    extended = run("--powers", "0.5")
    assert len(calls) == 1 and len(extended) == len(SEEDS) * 5
    pd.testing.assert_frame_equal(extended[extended.basis != "Q^0.5"].reset_index(drop=True), rows)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["--powers", "1,x"], "powers: got '1,x'"),
        (["--quantile", "1e-9"], "quantile: got 1e-09"),
        (["--iou", "1"], "iou: got 1.0"),
        (["--examples", "0"], "examples: got 0"),
        (["--layers", "relu9"], "relu9"),
        (["--concepts", "none"], "folder: got none/category.csv"),
    ],
)
def test_wrong_flags_are_reported_in_one_line(others, message, capsys):
    with pytest.raises(SystemExit) as end:
        run(*others)
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and error.count("\n") == 1
    assert not Path("run").exists()


def test_residual_networks_have_a_variant_without_relu():
    with_relu, without = Settings().variants().values()
    assert dict(with_relu.model_options) == {"blocks": (1, 1, 1)}
    assert dict(without.model_options) == {"blocks": (1, 1, 1), "residual_relu": False}
    assert with_relu.width == without.width == 8 and with_relu.recipe.epochs == DEFAULTS["epochs"]
    assert list(Settings(model="mcnn").variants()) == ["mcnn"]
    assert list(Settings(model_options="residual_relu=False").variants()) == ["resnet20"]


def known_rows(falling=True, members=5):
    """Return rows whose values fall along the path with ReLU (if `falling`) and are constant without."""
    rows = [
        (variant, "block", seed, basis, a, count, count / 100)
        for variant in ("with ReLU", "without ReLU")
        for seed in range(members)
        for basis, a in {"Q^0": 0.0, "Q^1": 1.0, "permutation": np.nan, "g_relu": np.nan}.items()
        for count in [10 + seed % 3 - (falling and variant == "with ReLU" and a == 1) * (4 + seed % 2)]
    ]
    columns = ["variant", "layer", "seed", "basis", "exponent", "detectors", "mean_iou"]
    return pd.DataFrame(rows, columns=columns)


def test_conclusion_follows_the_intervals():
    text = conclusion(known_rows(), (0, 1), 5)
    assert "with ReLU, from Q^0 to Q^1: unique detectors 10.8, change -4.4 [-5.1, -3.7] (falls)" in text
    assert "without ReLU, from Q^0 to Q^1: unique detectors 10.8, change +0.0 [0.0, 0.0] (no change is shown)" in text
    assert "minus change without: unique detectors -4.4 [-5.1, -3.7]" in text and "by at most 0." in text
    assert "falls" not in conclusion(known_rows(falling=False), (0, 1), 5)
    assert "falls" not in conclusion(known_rows(members=2), (0, 1), 2)
    table = known_rows()
    table.loc[3, ["detectors", "mean_iou"]] = np.nan
    expected = "activations that are not finite, of with ReLU 0: nothing is concluded"
    assert conclusion(table, (0, 1), 5) == expected


def test_intervals_equal_those_of_t_tests():
    a = np.random.default_rng(0).standard_normal(7)
    first = stats.ttest_1samp(a, 0).confidence_interval()
    np.testing.assert_allclose(mean_interval(a), (a.mean(), *first))
    assert np.isnan(mean_interval([1.0])[1:]).all() and mean_interval([1.0, 1.0]) == (1, 1, 1)


def test_the_figure_shows_means_and_intervals(tmp_path):
    table = known_rows()
    figure = plots.detectors(table, tmp_path / "detectors")
    top, bottom = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in top.get_lines()}
    np.testing.assert_allclose(lines["with ReLU"], [10.8, 6.4])
    np.testing.assert_allclose(bottom.get_lines()[0].get_ydata(), [0.108, 0.064])
    heights = top.collections[0].get_paths()[0].vertices[:, 1]
    original, rotated = (table[(table.variant == "with ReLU") & (table.exponent == a)].detectors for a in (0, 1))
    np.testing.assert_allclose([heights.min(), heights.max()], [mean_interval(rotated)[1], mean_interval(original)[2]])
