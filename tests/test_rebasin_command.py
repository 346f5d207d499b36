"""The rebasin command: rows against the library, resume, the effect of scales, and messages about wrong flags."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stitch_helpers import flags, scratch, trained

import experiments.rebasin
from experiments.command import run_command
from experiments.rebasin_summary import conclusion, per_line, table_of
from symjax import alignment, data, zoo
from symjax.ops import files, parallel
from symjax.training import Recipe
from symjax.zoo import estimate


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path, monkeypatch):
    """Commands run in an empty folder."""
    trained()  # writes the data set
    monkeypatch.chdir(tmp_path)


def command(*others):
    argv = [*map(str, flags(scratch())), "--out", "run", "--ts", "3", *others]
    run_command(experiments.rebasin.main, experiments.rebasin.Settings, argv)
    return files.read_csv("run/results.csv")


@pytest.mark.figures
def test_the_command(capsys, monkeypatch):
    words = ["--methods", "weights", "--pairs", "3"]
    table = command(*words)
    assert len(table) == 3 * 3 * 2 * 3  # alignments, pairs, statistics, positions
    dataset, members = trained()
    row = table[(table.method == "none") & (table.statistics == "repair")].iloc[1]
    ends = (members.member(int(row[side])) for side in ("model_a", "model_b"))
    line = alignment.barrier(members.network, *ends, dataset, 3)
    np.testing.assert_allclose(row.test_loss, line.test_loss[1], rtol=1e-4)
    for name in ("test_accuracy", "test_loss", "objective", "gains"):
        assert Path("run", f"{name}.png").stat().st_size > 5000
    merged = files.read_csv("run/merged.csv")
    assert len(merged) == 6 and (merged.cycle_error.dropna() == 0).all()
    assert "Change of the test loss barrier by scaling: weights" in capsys.readouterr().out
    monkeypatch.setattr(alignment, "barrier", None)  # nothing is computed again
    monkeypatch.setattr(alignment, "merge", None)
    pd.testing.assert_frame_equal(command(*words), table)


def rows(effect):
    """Rows of 4 networks whose loss in the middle is lower with scales by `effect`."""
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    rng, table = np.random.default_rng(0), []
    for method, group in (("none", "none"), ("weights", "permutation"), ("weights", "scaled_permutation")):
        for a, b in pairs:
            loss = 1 + 0.01 * rng.normal() - effect * (group == "scaled_permutation")
            for t, value in ((0.0, 0.25), (0.5, loss), (1.0, 0.25)):
                line = {"method": method, "group": group, "model_a": a, "model_b": b, "statistics": "interpolated"}
                table.append({**line, "t": t, "test_loss": value, "test_accuracy": 1 - value / 2})
    return pd.DataFrame(table)


def test_effect_of_scales():
    assert re.search(r"weights: -0\.(50|49)\d \[.*\], lower\.", conclusion(rows(0.5)))
    assert re.search(r"weights: 0\.(50|49)\d \[.*\], higher\.", conclusion(rows(-0.5)))
    assert conclusion(rows(0.0)).endswith("], not settled.")
    lines = per_line(rows(0.5))
    scaled = lines[lines.alignment == "weights, scaled_permutation"]
    assert scaled.barrier.mean() == pytest.approx(0.25, abs=0.02) and lines.ends.eq(87.5).all()
    assert table_of(rows(0.5)).loc["ends", "midpoint accuracy (%)"] == "87.5"


def test_intervals_that_do_not_exist():
    """Of one pair of networks, or with a network whose loss is NaN."""
    table = rows(0.5)
    pair = table[(table.model_a == 0) & (table.model_b == 1)]
    assert re.search(r"weights: -0\.\d{3}, not settled\.", conclusion(pair))
    table.loc[table.model_b == 3, "test_loss"] = np.nan
    assert conclusion(table).endswith("weights: nan, not settled.")
    assert table_of(table).loc["naive", "test loss barrier"] == "nan"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--methods no", "methods: got 'no', expected one of weights"),
        ("--groups ,", "groups: got '', expected one of permutation"),
        ("--methods sinkhorn --groups largest", "groups: got largest for one of straight_through"),
        ("--ts 2", "ts: got 2"),
        ("--examples 0", "examples: got 0"),
    ],
)
def test_wrong_flags(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        command(*words.split())
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_dry_run_counts_lines(capsys, monkeypatch):
    monkeypatch.setattr(estimate, "rehearse", lambda *_: 1e9)
    words = [*map(str, flags(scratch())), "--out", "run", "--dry-run"]
    run_command(experiments.rebasin.main, experiments.rebasin.Settings, words)
    assert "lines to evaluate" in capsys.readouterr().out and not Path("run").exists()


@pytest.mark.slow
def test_matched_perceptrons_on_digits_are_connected():
    """Midpoint accuracy within 1 point of the ends, far below before."""
    options = {"width": 256, "model_options": {"multiples": (1, 1)}}
    recipe = Recipe(epochs=30, translate=0, schedule="cosine")
    config = zoo.ZooConfig("digits", "mlp", recipe=recipe, **options)
    dataset = data.load("digits")
    members = zoo.train(config, config.load_dataset(), 2, progress=False)
    a, b = members.member(0), members.member(1)
    element, _ = alignment.match(members.network, a, b, group="scaled_permutation")
    symmetry = members.network.symmetry(a, parallel.take(dataset.test.images, slice(2)).astype(np.float32))
    lines = [
        alignment.barrier(members.network, a, end, dataset, 3, statistics=statistics)
        for end, statistics in ((b, "interpolated"), (symmetry.act(b, element), "repair"))
    ]
    naive, matched = (line.test_accuracy for line in lines)
    assert naive[1] < naive[[0, 2]].mean() - 0.05
    assert matched[1] > matched[[0, 2]].mean() - 0.01


@pytest.mark.slow
def test_language_models(capsys):
    """Their inputs are no real numbers, and no stitch point holds channels that can be permuted alone."""
    words = "--dataset text --model lstm --width 8 --seeds 3 --epochs 1 --train-size 64 --test-size 40 --ts 3".split()
    words += ["--groups", "permutation", "--out", "run"]
    run = lambda *method: run_command(  # noqa: E731
        experiments.rebasin.main, experiments.rebasin.Settings, [*words, *method]
    )
    run()
    assert "Matching by activations and merging by CCA do not apply" in capsys.readouterr().out
    assert set(files.read_csv("run/merged.csv").method) == {"none", "universe", "many"}
    rows = files.read_csv("run/results.csv")
    assert rows[rows.t == 1].groupby(["model_a", "model_b"]).test_loss.nunique().eq(1).all()  # b keeps its function
    with pytest.raises(SystemExit):
        run("--methods", "activations")
    assert "error: --methods: got one that compares features, expected 'weights'" in capsys.readouterr().err


@pytest.mark.slow
def test_transformers_on_text(capsys):
    """Blocks hold the channels of the stream, so that features are compared; b keeps its function."""
    words = "--dataset text --model gpt --width 8 --seeds 3 --epochs 1 --train-size 64 --test-size 40 --ts 3".split()
    words += ["--model-options", "layers=1,heads=2", "--groups", "permutation,largest", "--out", "run"]
    run_command(experiments.rebasin.main, experiments.rebasin.Settings, words)
    assert "do not apply" not in capsys.readouterr().out
    assert set(files.read_csv("run/merged.csv").method) == {"none", "universe", "many", "cca"}
    rows = files.read_csv("run/results.csv")
    ends = rows[rows.t == 1].groupby(["model_a", "model_b"]).test_loss
    assert set(rows.method) == {"none", "weights", "activations"} and (ends.max() - ends.min() < 1e-4).all()
    assert files.read_csv("run/gains.csv").groupby("space").gain.max()["block1"] > 0
