"""The command that compares files of activations: rows, figures, what it computes again, and messages."""

from pathlib import Path

import numpy as np
import pytest

import experiments.compare
from experiments import summary
from experiments.command import run_command
from symjax.ops import files
from symjax.similarity import MEASURES

RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(size=(20, 3))
MEASURE = "procrustes_distance"


def layer(width):
    return (SIGNAL @ RNG.normal(size=(3, width)) + RNG.normal(size=(20, width))).astype(np.float32)


NETWORKS = {name: {"relu1": layer(4), "relu2": layer(5)} for name in ("a", "b", "c")}


@pytest.fixture(autouse=True)
def networks(tmp_path, monkeypatch):
    """Write two archives and a folder, and work in their folder."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        np.savez(f"{name}.npz", **NETWORKS[name], ids=np.arange(20))
    Path("c").mkdir()
    for name, array in NETWORKS["c"].items():
        np.save(f"c/{name}.npy", array)


def command(*flags, out="run"):
    run_command(experiments.compare.main, experiments.compare.Settings, [*map(str, flags), "--out", out])
    return files.read_csv(f"{out}/results.csv")


def test_three_networks(monkeypatch, capsys):
    first = command("a.npz", "b.npz", "--measures", MEASURE)
    assert len(first) == 4 and set(first.model_a + first.model_b) == {"ab"}
    row = first[(first.layer_a == "relu1") & (first.layer_b == "relu2")].iloc[0]
    expected = MEASURES[MEASURE].fn(NETWORKS["a"]["relu1"], NETWORKS["b"]["relu2"])
    assert row.value == pytest.approx(float(expected), abs=1e-6) and np.isnan(row.p)
    assert sorted(path.name for path in Path("run").glob("*.png")) == ["heatmaps-1.png", "layers.png"]
    assert "layers of a (rows) and of b (columns)" in capsys.readouterr().out

    calls, compare = [], experiments.compare.compare
    monkeypatch.setattr(experiments.compare, "compare", lambda *a, **o: calls.append(o["names"]) or compare(*a, **o))
    table = command("a.npz", "b.npz", "c", "--measures", MEASURE)
    assert calls == [("a", "c"), ("b", "c")] and len(table) == 12
    assert table[:4].equals(first)
    again = command("a.npz", "b.npz", "c", "--measures", MEASURE)
    assert len(calls) == 2 and again.equals(table)
    run = summary.read("run")
    assert run.figures == ("heatmaps-1", "heatmaps-2", "heatmaps-3", "layers", "embedding", "dendrogram")
    assert all(Path("run", f"{figure}.pdf").exists() for figure in run.figures)
    same = table[table.layer_a == table.layer_b].groupby(["model_a", "model_b"]).value.mean()
    (between,) = run.tables.values()
    assert between.loc["b", "c"] == between.loc["c", "b"] == f"{same['b', 'c']:.3f}"
    a, b = same.idxmin()
    assert run.conclusion == f"Most alike are, by measure: {MEASURE} {same.min():.3f} ({a} and {b})."

    np.savez("b.npz", **NETWORKS["a"])  # another network of the same name
    table = command("a.npz", "b.npz", "--measures", MEASURE)
    assert len(calls) == 3 and len(table) == 16


@pytest.mark.slow
def test_intervals_of_selected_layers_and_joined_examples(capsys):
    np.savez("d.npz", relu2=NETWORKS["a"]["relu2"][::-1], ids=np.arange(20)[::-1])
    flags = ["--measures", MEASURE, "--resamples", 8, "--permutations", 4, "--select", "relu2", "--join", "inner"]
    table = command("a.npz", "d.npz", "--examples", 12, *flags)
    assert len(table) == 1 and table.value[0] < 1e-3 and table.p[0] == pytest.approx(0.2)
    assert "p = 0.2" in capsys.readouterr().out


def test_more_examples_than_there_are_and_spaces_between_names():
    table = command("a.npz", "b.npz", "--measures", MEASURE, "--examples", 1000, "--select", "relu1, relu2")
    assert table.value.tolist() == command("a.npz", "b.npz", "--measures", MEASURE, out="all").value.tolist()


def test_names_and_networks_without_common_layers(capsys):
    for folder in ("x", "y", "z"):
        Path(folder).mkdir()
        np.savez(f"{folder}/net.npz", **{f"{folder}{i}": layer(3) for i in (1, 2)})
    paths = [f"{folder}/net.npz" for folder in ("x", "y", "z")]
    table = command(*paths, "--measures", MEASURE)
    assert sorted(set(table.model_a)) == ["x/net", "y/net"]
    assert "no layers of equal names" in capsys.readouterr().out
    assert not Path("run/embedding.png").exists()


@pytest.mark.slow
def test_maps_of_several_sizes():
    maps = {f"conv{size}": RNG.normal(size=(20, 2, size, size)).astype(np.float32) for size in (2, 4)}
    for name in "xy":
        np.savez(f"{name}.npz", **maps)
    flags = ["x.npz", "y.npz", "--layout", "nchw", "--measures"]
    assert len(command(*flags, "pls")) == 2  # whose samples are pixels: equal layers only
    assert len(command(*flags, "pls", "--samples", "pool", out="pooled")) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["a.npz"], "networks: got 1, expected two or more"),
        (["a.npz", "none.npz"], "networks: got none.npz, which does not exist"),
        (["a.npz", "a.npz"], "networks: got a.npz, a.npz, expected different ones"),
        (["a.npz", "c", "--join", "inner"], "ids: got none for 'c'"),
        (["a.npz", "c", "--select", "relu7"], "--select: got 'relu7', expected one of"),
        (["a.npz", "c", "--measures", "ckaa"], "'ckaa' is unknown (did you mean cka?)"),
        (["a.npz", "c", "--resamples", "-1"], "resamples: got -1"),
    ],
)
def test_mistakes(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command(*flags)
    assert stop.value.code == 2 and message in capsys.readouterr().err
