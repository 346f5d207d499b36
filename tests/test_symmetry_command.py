"""The symmetry command: what it measures, what it reuses, and what it says about bad flags."""

from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from stitch_helpers import SEEDS, acted, flags, scratch, trained

import experiments.symmetry
import symjax.stitching.transformed
from experiments.command import run_command
from symjax import data, plots, zoo
from symjax.errors import InputError
from symjax.groups import GELU_SLOPE, GROUPS, INTERTWINERS, Symmetry
from symjax.network import Network, stitch_point
from symjax.ops import files
from symjax.stitching.transformed import moments_program, stitch_to_transformed


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path, monkeypatch):
    """Commands run in an empty folder, on a zoo that is trained once."""
    trained()
    monkeypatch.chdir(tmp_path)


def command(*others, out="run"):
    argv = [*flags(scratch()), "--out", out, "--channels", 4, "--draws", 2, *others]
    run_command(experiments.symmetry.main, experiments.symmetry.Settings, [str(word) for word in argv])
    return Path(out)


@pytest.mark.figures
@pytest.mark.slow
def test_matched_stitches_undo_symmetries(capsys, monkeypatch):
    out = command("--layers", "relu2")
    rows = files.read_csv(out / "results.csv")
    assert len(rows) == 2 * len(SEEDS) and set(rows.layer) == {"relu2"}
    matched, identity = (rows[rows.family == family] for family in ("matched", "identity"))
    assert (matched.penalty == 0).all() and (matched.difference < 1e-5).all()
    assert identity.penalty.mean() > 5 and (identity.difference > 0.1).all()
    defects = files.read_csv(out / "defects.csv")
    assert len(defects) == 2 * len(GROUPS) * len(INTERTWINERS)
    assert (defects[defects.member].defect < 1e-12).all() and (defects[~defects.member].defect > 1e-3).all()
    curve = files.read_csv(out / "homogeneity.csv")
    gelu = curve[(curve.activation == "gelu") & (curve.scale == 1000)]
    np.testing.assert_allclose(gelu.xi / 1000, GELU_SLOPE, rtol=1e-5)
    printed = capsys.readouterr().out
    assert f"disagree on 0 of {len(defects)} matrices" in printed and "0.126754" in printed
    for name in ("defects", "homogeneity", "undone"):
        assert (out / f"{name}.png").stat().st_size > 5000 and (out / f"{name}.pdf").stat().st_size > 3000
    # The same again computes nothing, another layer only that layer.
    requested = []
    monkeypatch.setattr(experiments.symmetry, "measure_defects", None)
    monkeypatch.setattr(experiments.symmetry, "homogeneity", None)
    compute = experiments.symmetry.stitch_to_transformed
    monkeypatch.setattr(
        experiments.symmetry, "stitch_to_transformed", lambda *a, **o: requested.append(a[3]) or compute(*a, **o)
    )
    command("--layers", "relu2")
    assert not requested
    capsys.readouterr()
    command("--layers", "relu2", "--dry-run")
    assert "All results exist" in capsys.readouterr().out
    command("--seeds", "2")
    assert requested == [(0,)]
    more = files.read_csv(out / "results.csv")
    assert len(more) == len(rows) + 4
    pd.testing.assert_frame_equal(more[more.layer == "relu2"].reset_index(drop=True), rows)


def test_the_memory_of_float_inputs():
    inputs = np.zeros((64, 6), np.float32)
    split = data.Split(inputs, np.arange(64) % 2)
    dataset = data.Dataset("floats", split, split, split, ("a", "b"), mean=None, std=None)
    params = {"hidden": np.ones((6, 8), np.float32), "out": np.ones((8, 2), np.float32)}
    network = Network.from_function(
        lambda params, x: stitch_point(jax.nn.relu(x @ params["hidden"]), "relu1") @ params["out"],
        params,
        example=inputs,
    )
    assert moments_program(network, dataset, (0,)).shared[0].dtype == np.float32


@pytest.mark.slow
def test_members_in_groups_give_the_same_rows():
    dataset, members = trained()
    programs = zoo.evaluation_program(members.network, dataset.test), moments_program(members.network, dataset, (1,))
    keys = jax.random.split(jax.random.key(1), len(SEEDS))
    limit = max(program.memory.bytes_for(1) for program in programs)
    bounded = stitch_to_transformed(members, dataset, keys, (1,), max_device_memory=limit)
    assert len(bounded) == 2 * len(SEEDS) and bounded == stitch_to_transformed(members, dataset, keys, (1,))
    with pytest.raises(InputError, match="max_device_memory: .* one member needs"):
        stitch_to_transformed(members, dataset, keys, (1,), max_device_memory=limit - 1)


@pytest.mark.slow
def test_a_stopped_run_keeps_the_members_it_has(monkeypatch):
    """Stopped in the second member: the first one's rows are there, and are not computed again."""
    evaluate, calls = symjax.stitching.transformed.evaluate_stitch, []

    def stopped(*arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(symjax.stitching.transformed, "evaluate_stitch", stopped)
        command("--layers", "relu2")
    rows = files.read_csv("run/results.csv")
    assert list(rows.family) == ["matched", "identity"] and rows.seed.nunique() == 1
    calls.clear()
    monkeypatch.setattr(
        symjax.stitching.transformed, "evaluate_stitch", lambda *a, **o: calls.append(1) or evaluate(*a, **o)
    )
    command("--layers", "relu2")
    more = files.read_csv("run/results.csv")
    assert len(calls) == 2 * (len(SEEDS) - 1) and len(more) == 2 * len(SEEDS)
    pd.testing.assert_frame_equal(more[:2], rows)


def test_a_wrong_action_is_seen(monkeypatch):
    """The planted fault: the action does not change the weights that read one layer."""
    right = Symmetry.act

    def wrong(self, member, element):
        moved = right(self, member, element)
        return moved._replace(params={**moved.params, "dense": member.params["dense"]})

    monkeypatch.setattr(Symmetry, "act", wrong)
    rows = files.read_csv(command("--layers", "relu1") / "results.csv")
    assert (rows[rows.family == "matched"].clean_accuracy < 90).any()


def test_the_action_is_the_one_written_by_hand():
    """Against a permutation and scaling of one layer, acted out in NumPy."""
    _, zoo = trained()
    rng = np.random.default_rng(0)
    permutation, scaling = rng.permutation(4), rng.uniform(0.5, 2, 4)
    matrix = np.zeros((4, 4))
    matrix[np.arange(4), permutation] = scaling
    expected = acted(zoo.member(0), 0, permutation, scaling)
    symmetry = zoo.network.symmetry(zoo.member(0), np.zeros((2, 8, 8, 1), np.float32))
    moved = symmetry.act(zoo.member(0), {"relu1": matrix})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), moved, expected)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--layers", "relu9"], "relu9"),
        (["--channels", "1"], "channels: got 1"),
        (["--draws", "0"], "draws: got 0"),
        (["--element-seed", "-1"], "element-seed: got -1"),
        (["--model", "resnet21"], "resnet21"),
    ],
)
def test_bad_flags_are_one_line(words, named, capsys):
    with pytest.raises(SystemExit) as end:
        command(*words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and named in error and error.count("\n") == 1
    assert not Path("run").exists()


def test_figures_show_the_tables(tmp_path):
    table = pd.DataFrame(
        {"activation": a, "matrix": m, "member": a == "relu", "defect": d}
        for a in ("relu", "gelu")
        for m in ("p", "q")
        for d in (1e-3, 1e-2)
    )
    worst = plots.worst_defects(table).defect
    assert worst["relu", "p"] == 1e-2 and worst["gelu", "p"] == 1e-3
    axes = plots.defects(table, tmp_path / "d").axes[0]
    assert [text.get_text() for text in axes.texts] == ["1e-02", "1e-02", "1e-03", "1e-03"]
    assert len(axes.patches) == 2  # frames
    rows = pd.DataFrame(
        {"seed": s, "layer": layer, "family": f, "penalty": s + i}
        for s in (0, 1)
        for layer in ("a", "b")
        for i, f in enumerate(("matched", "identity"))
    )
    axes = plots.symmetry_penalties(rows, tmp_path / "u").axes[0]
    heights = [sorted(collection.get_offsets()[:, 1]) for collection in axes.collections]
    assert heights == [[0, 0, 1, 1], [1, 1, 2, 2]]
