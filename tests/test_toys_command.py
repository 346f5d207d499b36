"""The toys: relations that are known exactly, resume, and messages about wrong flags."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import experiments.toys
from experiments.command import run_command
from experiments.toys import mean_cosine, relative_distance, rotating_states, rotation_values, shared_signal
from symjax.ops import files

SMALL = "--neurons 6 --samples 60 --shared 0 3 6 --signal-runs 2 --units 4 --sequences 40 --steps 3 --rotation-runs 2"


def command(*flags):
    run_command(experiments.toys.main, experiments.toys.Settings, [*SMALL.split(), "--out", "run", *flags])
    return files.read_csv("run/results.csv")


def test_shared_directions_are_shared_and_others_are_noise():
    x, y = shared_signal(jax.random.key(0), 2, neurons=5, samples=4000, noise=0.1)
    for side in (x, y):  # in a basis without preferred axes: two directions of variance 1, three of variance 0.01
        np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(side.T)), [0.01] * 3 + [1] * 2, rtol=0.1)
    singular = np.linalg.svd(np.asarray(x).T @ np.asarray(y) / len(x), compute_uv=False)
    np.testing.assert_allclose(singular, [1, 1, 0, 0, 0], atol=0.06)


def test_states_of_a_linear_network_are_equal_by_cca_alone():
    states = np.asarray(rotating_states(jax.random.key(1), 0.0, units=4, sequences=30, steps=5), np.float64)
    differences = np.diff(states, axis=1)  # without b
    np.testing.assert_allclose(
        np.linalg.norm(differences, axis=-1) / np.linalg.norm(differences[0], axis=-1), 1, rtol=1e-5
    )
    sizes = {"units": 4, "sequences": 30, "steps": 5}
    linear, nonlinear = (np.asarray(rotation_values(jax.random.key(1), scale, **sizes)) for scale in (0.0, 100.0))
    np.testing.assert_allclose(linear[:, 0], 1, atol=1e-5)
    assert (nonlinear[:-1, 0] < 0.95).all()
    for values in (linear, nonlinear):
        assert (values[:-1, 1] < 0.99).all() and (values[:-1, 2] > 0.1).all()
        np.testing.assert_allclose(values[-1], [1, 1, 0], atol=1e-5)


def test_cosine_and_distance():
    x, y = np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[4.0, 3.0], [0.0, -2.0]])
    np.testing.assert_allclose(mean_cosine(x, y), (24 / 25 - 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(relative_distance(x, y), (2**0.5 + 4) / (5 + 2), rtol=1e-6)


@pytest.mark.figures
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = command("--scales", "0", "--shared", "0", "6")
    assert len(table) == 2 * 2 * 3 + 2 * 4 * 3
    signal = table[table.toy == "signal"].groupby(["parameter", "measure"]).value
    np.testing.assert_allclose(signal.mean()[6.0], 1, atol=1e-4)
    assert (signal.mean()[0.0] < 0.5).all()
    assert "a = 0: mean CCA 1.00 [1.00, 1.00], cosine" in capsys.readouterr().out
    for name in ("signal", "rotation"):
        assert Path("run", f"{name}.png").stat().st_size > 5000
    monkeypatch.setattr(experiments.toys, "signal_values", lambda *_, **__: None)  # nothing is computed again
    more = command("--scales", "0", "1", "--shared", "0", "6")
    assert len(more) == len(table) + 2 * 4 * 3
    assert more[more.parameter.isin([0, 6])].reset_index(drop=True).equals(table)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--samples 12", "samples: got 12, expected 13 or more, over twice the neurons"),
        ("--shared 7", r"shared: got \(7,\), expected different numbers from 0 to 6"),
        ("--noise 0", "noise: got 0.0, expected a positive number"),
        ("--steps 0", "steps: got 0, expected an integer from 1 to 100000"),
    ],
)
def test_wrong_flags(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        command(*flags.split())
    assert end.value.code == 2 and not Path("run").exists()
    assert re.search(message, capsys.readouterr().err)
