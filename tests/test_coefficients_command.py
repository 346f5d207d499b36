"""The coefficients command: rows against an oracle, the number of significant correlations, and wrong flags."""

from pathlib import Path

import numpy as np
import pytest
from stitch_helpers import flags, scratch, trained

import experiments.coefficients
from experiments.coefficients import conclusion, correlations
from experiments.command import run_command


def layers(shared, noise_seed):
    """Return features (200, 6) at the end, and at an epoch that shares `shared` of their directions."""
    generator = np.random.default_rng(0)
    end = generator.normal(size=(200, 6)).astype(np.float32)
    noise = np.random.default_rng(noise_seed).normal(size=(200, 6)).astype(np.float32)
    mixed = np.where(np.arange(6) < shared, end, noise) @ generator.normal(size=(6, 6)).astype(np.float32)
    return mixed, end


def test_shared_directions_have_correlation_one_and_are_counted():
    early, end = layers(2, 1)
    table = correlations({"relu1": np.stack([early, end])}, {"relu1": end}, "cca", [0, 5])
    bases = [np.linalg.qr(x.astype(np.float64) - x.mean(0, dtype=np.float64))[0] for x in (early, end)]
    expected = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    first = table[table.epoch == 0]
    np.testing.assert_allclose(first.correlation, expected, atol=1e-4)
    assert first["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert (expected[:2] > 0.999).all() and (expected[2:] < 0.5).all() and set(first.significant) == {2}
    np.testing.assert_allclose(table[table.epoch == 5].correlation, 1, atol=1e-5)
    text = conclusion(table.assign(seed=0), ["relu1"])
    assert "After epoch 0" in text and "relu1 33" in text and "relu1 100" in text


def command(*others):
    argv = [*flags(scratch()), "--out", "run", "--layers", "relu1", "--checkpoints", "0,6", *others]
    run_command(experiments.coefficients.main, experiments.coefficients.Settings, [str(word) for word in argv])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--samples positions", "samples: got positions, expected pool"),
        ("--curves 1", "curves: got 1, expected 2 or more"),
        ("--examples 9", "examples: got 9, expected 10 or more, over twice the channels"),
    ],
)
def test_wrong_flags(words, message, tmp_path, monkeypatch, capsys):
    trained()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        command(*words.split())
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.figures
def test_the_command(tmp_path, monkeypatch, capsys):
    trained()
    monkeypatch.chdir(tmp_path)
    argv = [word if word != str(scratch() / "zoo") else str(tmp_path / "zoo") for word in flags(scratch())]
    argv += ["--out", "run", "--layers", "relu1", "--checkpoints", "0,6"]
    run_command(experiments.coefficients.main, experiments.coefficients.Settings, argv)
    assert "After epoch 0" in capsys.readouterr().out and Path("run", "coefficients.png").stat().st_size > 5000
    monkeypatch.setattr(experiments.coefficients, "correlations", None)  # nothing is computed again
    run_command(experiments.coefficients.main, experiments.coefficients.Settings, argv)
