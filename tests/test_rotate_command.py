"""The rotate command: its folder of results, what it reuses, flags, and figures."""

import dataclasses
import zlib
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import tiny_models  # noqa: F401
from rotation_helpers import CASES, key, plan_of, trained
from stitch_helpers import flags, scratch, write_npz

import experiments.rotate
from experiments.command import run_command
from symjax import zoo
from symjax.ops import files
from symjax.plots import rotation_curves, rotations
from symjax.rotation import KINDS, CaseResult, Retraining
from symjax.rotation.partition import group_units, split_units

# --- the command ---


@pytest.fixture
def quiet_folder(tmp_path, monkeypatch):
    write_npz(scratch() / "stripes.npz")
    monkeypatch.chdir(tmp_path)


def command(*others, out="run", model="rotate_tiny", kinds="none,g_relu,orthogonal"):
    trained(model)
    argv = flags(scratch())
    argv[argv.index("--model") + 1], argv[argv.index("--seeds") + 1] = model, "0,"
    argv[argv.index("--zoo") + 1] = str(scratch() / model)
    argv += ["--out", out, "--kinds", kinds, "--retrain-epochs", 1, "--retrain-learning-rate", 0.01]
    argv += ["--repeats", 2, *others]
    run_command(experiments.rotate.main, experiments.rotate.Settings, [str(word) for word in argv])
    return Path(out)


@pytest.fixture
def retrained(monkeypatch):
    """Record calls of the retraining as (point, kind, repeat); results depend on these only."""
    calls = []

    def counted(self, member, cases, *, key, on_epoch, on_results):
        calls.extend((point, *case) for point in self.plan.points for case in cases)
        on_epoch({"loss": 1.0})
        for case in cases:  # as in groups of one
            of_case = []
            for point in self.plan.points:
                value = float(zlib.crc32(f"{point}{case}".encode()) % 100)
                row = {"epoch": 1, "loss": 1.0, "accuracy": 9.0, "val_accuracy": value}
                of_case.append(CaseResult(point, case, value, value, [row], np.eye(4), None))
            on_results(of_case)

    monkeypatch.setattr(Retraining, "run", counted)
    return calls


def test_the_command(quiet_folder, capsys, monkeypatch):
    out = command("--layers", "2")
    rows = files.read_csv(out / "results.csv")
    dataset, trained_zoo = trained()
    baseline = 100 * zoo.test_accuracy(trained_zoo, dataset)[0]
    assert len(rows) == 6 and set(rows.layer) == {"conv2"} and not rows.duplicated(["kind", "repeat"]).any()
    np.testing.assert_allclose(rows.baseline, baseline, rtol=1e-6)
    np.testing.assert_allclose(rows.penalty, rows.baseline - rows.accuracy, rtol=1e-12)
    # Of the library's own, at the same key.
    plan = plan_of(trained_zoo, (1,), epochs=1)
    plan = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, weight_decay=1e-4))
    member_key = jax.random.fold_in(key(0), 0)
    results = Retraining(plan, dataset).run(trained_zoo.member(0), CASES, key=member_key)
    for one in results:
        row = rows[(rows.kind == one.case.kind) & (rows["repeat"] == one.case.repeat)].iloc[0]
        assert row.accuracy == one.accuracy and row.val_accuracy == one.val_accuracy
    printed = capsys.readouterr().out
    for kind, penalties in rows.groupby("kind").penalty:
        assert f"{penalties.mean():z.1f} ± {penalties.std():.1f}" in printed
        assert f"{kind} {penalties.mean():.1f}" in printed
    assert "95 % intervals over 2 matrices" in " ".join(printed.split()) and "batch norm" not in printed
    for name in ("penalties", "curves"):
        assert (out / f"{name}.png").exists() and (out / f"{name}.pdf").exists()
    before = (out / "results.csv").read_bytes()
    monkeypatch.setattr(Retraining, "run", lambda *_, **__: pytest.fail("retrained"))
    command("--layers", "2")
    assert (out / "results.csv").read_bytes() == before and capsys.readouterr().out == printed
    command("--layers", "2", "--dry-run")
    assert "All results exist" in capsys.readouterr().out


@pytest.mark.slow
def test_more_extends_and_computes_nothing_twice(quiet_folder, retrained):
    out = command("--layers", "2")
    rows = files.read_csv(out / "results.csv")
    assert len(rows) == len(retrained) == 6
    retrained.clear()
    command("--layers", "all", "--repeats", 3, kinds="orthogonal,permutation")
    expected = {(0, kind, i) for kind in ("orthogonal", "permutation") for i in range(3)}
    expected |= {(1, "permutation", i) for i in range(3)} | {(1, "orthogonal", 2)}
    assert set(retrained) == expected and len(retrained) == len(expected)
    more = files.read_csv(out / "results.csv")
    names = ["model", "layer", "seed", "kind", "repeat"]
    kept = rows.merge(more, on=names)
    assert len(kept) == 6 and (kept.accuracy_x == kept.accuracy_y).all()
    assert not more.duplicated(names).any() and len(more) == 16
    assert len(files.read_csv(out / "curves.csv")) == 16


@pytest.mark.slow
def test_seeds_share_programs(quiet_folder, retrained, monkeypatch, capsys):
    """Two members with two layers use one program for both layers; more matrices extend the results."""
    points = []
    begin = Retraining.__init__
    monkeypatch.setattr(
        Retraining, "__init__", lambda self, plan, *a, **o: points.append(plan.points) or begin(self, plan, *a, **o)
    )
    out = command("--seeds", "1,0", kinds="none,orthogonal")
    assert points == [(0, 1)] and len(retrained) == 2 * 2 * 2 * 2
    assert "mean ± deviation over 2 matrices in each of 2 members" in capsys.readouterr().out
    rows = files.read_csv(out / "results.csv")
    names = ["model", "layer", "seed", "kind", "repeat"]
    assert len(rows) == 16 and not rows.duplicated(names).any() and set(rows.seed) == {0, 1}
    points.clear()
    retrained.clear()
    command("--seeds", "0,1", kinds="none,orthogonal")
    assert not points and not retrained and len(files.read_csv(out / "results.csv")) == 16
    command("--seeds", "0,1", kinds="none,permutation")
    assert points == [(0, 1)] and len(retrained) == 8


@pytest.mark.slow
def test_an_interrupted_run_goes_on(quiet_folder, retrained, monkeypatch):
    """Saved groups and layers are not computed again."""
    write, written = files.write_csv, []

    def interrupted(path, frame):
        if len(written) == 5:  # one layer of the third group
            raise KeyboardInterrupt
        write(path, frame)
        if str(path).endswith(".0.results.csv"):
            written.append(frame.layer[0])

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(files, "write_csv", interrupted)
        command()
    assert end.value.code == 130 and written == ["conv1", "conv2"] * 2 + ["conv1"]
    everything = set(retrained)
    retrained.clear()
    command()
    assert sorted(retrained) == sorted(
        everything - {(0, *case) for case in CASES[:3]} - {(1, *case) for case in CASES[:2]}
    )
    assert len(files.read_csv(Path("run/results.csv"))) == 12


@pytest.mark.slow
def test_layers_that_lack_different_matrices_find_the_same(quiet_folder, monkeypatch):
    """A run that completes partial results equals an uninterrupted run."""
    whole, points, begin = command(out="whole"), [], Retraining.__init__
    command("--layers", "2", "--repeats", 1, out="parts", kinds="g_relu")
    command("--layers", "1", "--repeats", 2, out="parts", kinds="orthogonal")
    monkeypatch.setattr(
        Retraining, "__init__", lambda self, plan, *a, **o: points.append(plan.points) or begin(self, plan, *a, **o)
    )
    parts = command(out="parts")
    assert sorted(points) == [(0,), (1,)]
    for name in ("results", "curves"):
        frames = [files.read_csv(folder / f"{name}.csv") for folder in (whole, parts)]
        pd.testing.assert_frame_equal(*frames, rtol=1e-5)


def test_matrices_of_layers_are_shared_out():
    """Each process or task has whole layers if there are enough, otherwise equal matrices of several layers."""
    units = [("m", layer, 0, CASES) for layer in ("conv1", "conv2", "conv3")]
    assert group_units(units) == {("m", ("conv1", "conv2", "conv3")): [(0, CASES)]}
    whole = split_units(units, 2)
    assert whole == units and group_units(whole[::2]) == {("m", ("conv1", "conv3")): [(0, CASES)]}
    uneven = [("m", "conv1", 0, CASES[:1]), ("m", "conv2", 0, CASES)]
    assert [len(unit[3]) for unit in split_units(uneven, 4)] == [1] + 3 * [len(CASES) // 3]
    cut = split_units(units, 6)
    assert group_units(cut[::2]) == {("m", ("conv1", "conv2", "conv3")): [(0, CASES[::2])]}
    uneven = [
        ("m", "conv1", 0, CASES),
        ("m", "conv2", 0, CASES[1:]),
        ("m", "conv1", 1, CASES[1:]),
        ("k", "conv2", 0, CASES),
    ]
    assert group_units(uneven) == {
        ("m", ("conv1",)): [(0, CASES), (1, CASES[1:])],
        ("m", ("conv2",)): [(0, CASES[1:])],
        ("k", ("conv2",)): [(0, CASES)],
    }


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ["--kinds", "none,haar"],
            "kinds: got 'none,haar', expected comma-separated names of none, permutation, g_relu, orthogonal",
        ),
        (["--kinds", ","], "kinds: got ',', expected"),
        (["--layers", "relu1"], "layers: got 'relu1', expected comma-separated numbers from 1 to 2"),
        (["--layers", "3"], "layers: got '3'"),
        (["--repeats", "0"], "repeats: got 0"),
        (["--retrain-epochs", "0"], "retrain-epochs: got 0"),
        (["--retrain-learning-rate", "nan"], "retrain-learning-rate: got nan"),
        (["--rotation-seed", "-1"], "rotation-seed: got -1"),
        (["--cache-gb", "0"], "cache-gb: got 0"),
        (["--model", ","], "model: got ',', expected names of"),
        (["--model", "perceptron"], "model: got 'perceptron', expected one of"),
        (["--model", "resnet20"], "points: got block1.1* of resnet20 (width 16), inside a residual block"),
        (["--model", "mcnn_k,cwcnn_k"], "width: got different default widths (mcnn_k 64, cwcnn_k 512)"),
        (["--model", "mcnn_k,mcnn_k_sigmoid"], "zoo: got one folder for 2 models"),
    ],
)
def test_bad_flags_are_one_line(words, named, quiet_folder, capsys, monkeypatch):
    monkeypatch.setattr(zoo, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(SystemExit) as end:
        run_command(
            experiments.rotate.main,
            experiments.rotate.Settings,
            [*flags(scratch()), "--model", "rotate_tiny", "--out", "run", *words],
        )
    error = capsys.readouterr().err
    assert end.value.code == 2 and named in error and error.count("\n") == 1
    assert not Path("run").exists()


# --- the published result ---


@pytest.mark.slow
def test_the_command_tells_of_batch_norm(quiet_folder, retrained, capsys):
    command(kinds="g_relu,orthogonal", model="rotate_tiny_norm")
    assert "rotate_tiny_norm: with batch norm" in capsys.readouterr().out


# --- figures ---


def test_bars_show_means_and_deviations(tmp_path):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"model": m, "layer": f"conv{i}", "kind": k, "seed": 0, "repeat": r, "baseline": 90.0}
        | {"penalty": rng.uniform(-1, 9), "epoch": 1, "val_accuracy": 80.0}
        for m in ("mcnn_k", "mcnn_k_sigmoid")
        for i in (1, 2)
        for k in ("none", "g_relu", "orthogonal")
        for r in range(4)
    )
    figure = rotations(rows, tmp_path / "r")
    for axes, (model, of_model) in zip(figure.axes, rows.groupby("model"), strict=True):
        assert axes.get_title().startswith(f"{model} (baseline 90.0 %)")
        heights = [bar.get_height() for container in axes.containers[1::2] for bar in container]
        by_bar = of_model.groupby([of_model.kind.map(list(KINDS).index), "layer"]).penalty
        np.testing.assert_allclose(heights, by_bar.mean())
        spans = [np.ptp(line[:, 1]) for c in axes.containers[::2] for line in c.lines[2][0].get_segments()]
        np.testing.assert_allclose(spans, 2 * by_bar.std(), rtol=1e-6)
    assert len(rotation_curves(rows, tmp_path / "c").axes) == 4
    assert (tmp_path / "r.png").exists() and (tmp_path / "c.pdf").exists()
