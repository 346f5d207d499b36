"""The bias of measures: known limits, intervals against SciPy, resume, and messages about wrong flags."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import experiments.bias
from experiments.bias import Settings, draw, summarize
from experiments.command import run_command
from symjax.ops import files
from symjax.tables import difference_interval

SMALL = "--measures cka,cka_gretton --neurons 4 --ratios 0.5 1.5 --reference 64 --runs 20 --out run"


def command(*flags):
    run_command(experiments.bias.main, Settings, [*SMALL.split(), *flags])
    return files.read_csv("run/results.csv")


def test_intervals_are_those_of_scipy():
    rng = np.random.default_rng(0)
    values, others = rng.normal(size=9), 2 + 3 * rng.normal(size=5)
    expected = stats.ttest_ind(values, others, equal_var=False).confidence_interval(0.9)
    difference, *ends = difference_interval(values, others, 0.9)
    np.testing.assert_allclose(difference, values.mean() - others.mean())
    np.testing.assert_allclose(ends, expected)
    assert difference_interval([1.0, 1.0], [0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert np.isnan(difference_interval([1.0, np.nan], [0.5, 0.5])).all()


def test_planted_share():
    settings = Settings(neurons=3, share=0.25)
    x, y = (np.asarray(side, np.float64).reshape(2, -1, 3) for side in draw(settings, 2000, np.arange(5)))
    np.testing.assert_array_equal(x[0], x[1])
    for left, right, common in zip(x, y, (0.0, 0.5), strict=True):
        np.testing.assert_allclose(np.cov(left.T, right.T)[:3, 3:], common * np.eye(3), atol=0.05)
        np.testing.assert_allclose(np.cov(right.T), np.eye(3), atol=0.05)
    again = draw(settings, 2000, np.array([3]))[0]
    np.testing.assert_array_equal(again[0], x[0].reshape(5, 2000, 3)[3].astype(np.float32))


def test_bias_is_the_difference_to_the_reference():
    rows = [("cka", "planted", count, run) for count in (2, 8, 64) for run in range(3)]
    table = pd.DataFrame(rows, columns=["measure", "data", "examples", "run"]).assign(value=np.arange(9.0))
    means = summarize(table, Settings(neurons=4, ratios=(2, 0.5), reference=64))
    np.testing.assert_array_equal(means[["ratio", "examples", "bias", "reference"]], [[0.5, 2, -6, 7], [2, 8, -3, 7]])


@pytest.mark.figures
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = command()
    assert len(table) == 2 * 2 * 3 * 20 and (tmp_path / "run/bias.png").exists()
    assert table[(table.measure == "cka") & (table.examples == 2)].value.isna().all()  # 4 examples are needed
    means = files.read_csv("run/means.csv").set_index(["measure", "data", "examples"])
    unbiased, biased = means.loc["cka", "independent", 6], means.loc["cka_gretton", "independent", 6]
    assert unbiased.low < 0 < unbiased.high
    # Biased CKA of independent normals is about d / (d + n), and its planted limit the share.
    assert abs(biased.bias - (4 / 10 - 4 / 68)) < 0.1 and biased.low > 0
    assert abs(means.loc["cka", "planted", 6].reference - 0.5) < 0.05
    assert "Independent data: no bias is significant for 1 of 2 measures (cka)" in capsys.readouterr().out
    monkeypatch.setattr(experiments.bias, "compile_measure", None)  # nothing is computed again
    assert command().equals(table)


def test_wrong_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for flags, message in (
        (("--measures", "cka,own"), "measures: got 'cka,own', where 'own' is unknown, expected some of cca, "),
        (("--ratios", "0.1"), "ratios: got (0.1,), expected different numbers of examples from 2"),
        (("--ratios", "1", "1.01"), "ratios: "),
        (("--reference", "6"), "ratios: "),
        (("--runs", "1"), "runs: got 1, expected 2 or more"),
        (("--share", "2"), "share: got 2.0, expected a number from 0 to 1"),
        (("--seed", "-1"), "seed: "),
    ):
        with pytest.raises(SystemExit) as stop:
            command(*flags)
        assert stop.value.code == 2 and f"error: --{message}" in capsys.readouterr().err
    assert "procrustes_distance" not in Settings(measures="all").parse_measures()  # procrustes is
    assert Settings(measures="cka, pls,cka").parse_measures() == ("cka", "pls")
    assert {"cka", "procrustes"} < {*Settings().parse_measures()} < {*Settings(measures="all").parse_measures()}
    assert not (tmp_path / "run").exists()
