"""The width command: distances by width against an oracle, resume, the table, and messages about wrong flags."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind_from_stats
from stitch_helpers import flags, scratch, trained

import experiments.width
from experiments.command import run_command
from experiments.width import conclusion, layer_features, summarize
from symjax import mean_over_pairs, pwcca_distance
from symjax.data import normalize
from symjax.ops import files
from symjax.training.loop import initial_member
from symjax.zoo import estimate


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path, monkeypatch):
    """Commands run in an empty folder."""
    trained()  # writes the data set
    monkeypatch.chdir(tmp_path)


def zoo_flags():
    """Return the flags of the tiny zoo without its folder."""
    words = [str(word) for word in flags(scratch())]
    zoo = words.index("--zoo")
    return [*words[:zoo], *words[zoo + 2 :]]


def command(*others):
    argv = [*zoo_flags(), "--out", "run", "--epochs", "1", *others]
    run_command(experiments.width.main, experiments.width.Settings, argv)
    return files.read_csv("run/results.csv")


@pytest.mark.figures
def test_the_command(capsys, monkeypatch):
    table = command("--widths", "2", "4", "--layer", "relu1")
    assert len(table) == 2 * 2 * 3 and set(table.state) == {"trained", "initial"}
    assert table.groupby("width").channels.first().is_monotonic_increasing
    means = files.read_csv("run/means.csv")
    for (width, state), group in table.groupby(["width", "state"]):
        expected = mean_over_pairs(group.value.to_numpy(), group[["model_a", "model_b"]].to_numpy())
        row = means[(means.width == width) & (means.state == state)].iloc[0]
        np.testing.assert_allclose([row.distance, row.low, row.high], [*expected[:1], *expected[2:]], rtol=1e-5)
    assert Path("run", "distance.png").stat().st_size > 5000 and "widths 2, 4" in capsys.readouterr().out
    monkeypatch.setattr(experiments.width, "layer_features", None)  # nothing is computed again
    pd.testing.assert_frame_equal(command("--widths", "2", "4", "--layer", "relu1"), table)


def test_layers_are_those_of_the_state_and_of_channels_chosen_by_seed():
    dataset, trained_zoo = trained()
    settings = experiments.width.Settings(examples=7, layer=trained_zoo.network.points[0].name)
    network, seeds = trained_zoo.network, trained_zoo.seeds
    for state in ("trained", "initial"):
        features = layer_features(trained_zoo, state, dataset, 3, settings)
        for i, seed in enumerate(seeds):
            member = trained_zoo.member(seed) if state == "trained" else initial_member(network, seed)
            inputs = normalize(dataset.test.images[:7], dataset.mean, dataset.std)
            layer = np.asarray(network.features(member, inputs)[network.points[0].name])
            errors = [np.abs(layer - features[i][..., k : k + 1]).max(axis=(0, 1, 2)) for k in range(3)]
            channels = [int(np.argmin(of_channel)) for of_channel in errors]
            assert max(of_channel.min() for of_channel in errors) < 1e-5 and channels == sorted(set(channels))


@pytest.mark.slow
def test_distances_of_pairs(monkeypatch):
    features = np.random.default_rng(0).normal(size=(3, 20, 4)).astype(np.float32)
    monkeypatch.setattr(experiments.width, "layer_features", lambda *_: features)
    table = command("--widths", "2", "4", "--layer", "relu1", "--samples", "pool")
    for row in table[table.width == 2].itertuples():
        x, y = features[row.model_a], features[row.model_b]
        np.testing.assert_allclose(row.value, (pwcca_distance(x, y) + pwcca_distance(y, x)) / 2, atol=1e-5)


@pytest.mark.parametrize(("noise", "verdict"), [(0.0, "falls"), (0.02, "falls"), (0.5, "no change is shown")])
def test_conclusion(noise, verdict):
    """The distance of trained networks falls with the width, that of initial ones rises; each pair adds noise."""
    pairs, draws = [(0, 1), (0, 2), (1, 2)], np.random.default_rng(0).normal(size=(3, 3))
    rows = [
        {"width": width, "state": state, "model_a": a, "model_b": b, "value": value + noise * draws[i, k]}
        for i, (width, distance) in enumerate(((2, 0.5), (4, 0.3), (8, 0.2)))
        for state, value in (("trained", distance), ("initial", 1 - distance))
        for k, (a, b) in enumerate(pairs)
    ]
    accuracy = pd.DataFrame({"width": np.repeat([2, 4, 8], 3), "seed": [0, 1, 2] * 3})
    table = pd.DataFrame(rows).assign(layer="relu1", channels=2)
    means = summarize(table, accuracy.assign(accuracy=100 - 1000 / accuracy.width))
    assert means.accuracy.tolist() == [-400.0] * 2 + [-150.0] * 2 + [-25.0] * 2
    trained_line, initial_line, correlation = conclusion(means).splitlines()
    trained_means = means[means.state == "trained"]
    estimates = [trained_means[name].to_numpy()[[0, 2]] for name in ("distance", "standard_error")]
    (narrow, wide), errors = estimates
    assert f", change {wide - narrow:.3f} [" in trained_line and trained_line.endswith(f"({verdict}).")
    assert initial_line.endswith(f"({verdict.replace('falls', 'rises')}).")
    if noise:  # Welch's test has the p-value .05 at the ends of the interval
        low = float(re.search(r"\[(.*?),", trained_line)[1])
        deviations = errors * np.sqrt(3)
        p = ttest_ind_from_stats(wide - low, deviations[1], 3, narrow, deviations[0], 3, equal_var=False).pvalue
        np.testing.assert_allclose(p, 0.05, atol=0.005)
    assert f"over 3 widths: {np.corrcoef([-400, -150, -25], trained_means.distance)[0, 1]:.2f}" in correlation


@pytest.mark.slow
def test_a_dry_run_lists_the_zoos_and_writes_nothing(capsys, monkeypatch):
    monkeypatch.setattr(estimate, "rehearse", lambda *_: 1e9)
    run_command(experiments.width.main, experiments.width.Settings, [*zoo_flags(), "--widths", "2", "4", "--dry-run"])
    printed = capsys.readouterr().out
    assert "members of width 2 to train" in printed and "members of width 4 to train" in printed
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--widths 2", "widths: got (2,), expected two or more different integers"),
        ("--width 2", "width: got 2, expected --widths"),
        ("--seeds 2", "seeds: got 2, expected three or more"),
        ("--widths 2 4 --filters 99", "filters: got 99, expected 1 to"),
        ("--widths 2 4 --layer nosuch", "--layer: got 'nosuch', expected a stitch point"),
        ("--widths 2 4 --layer relu1,relu2", "--layer: got 'relu1,relu2', expected a stitch point"),
    ],
)
def test_wrong_flags(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        command(*words.split())
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert not Path("run").exists()
