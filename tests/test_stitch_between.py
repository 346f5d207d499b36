"""The stitch command from one model to another (--model-b), and from a point to another one (--layers relu2:relu1)."""

import json

import jax
import numpy as np
import pandas as pd
import pytest
from campaign import slow
from stitch_command_helpers import FakeSweep
from stitch_helpers import SEEDS, flags, scratch, settings, trained

import experiments.crossval
import experiments.lasso
import experiments.stitch
import experiments.sweeps
from experiments.command import run_command
from symjax import zoo
from symjax.ops import files
from symjax.stitching import Sweep, load_stitch
from symjax.stitching.results import ROWS
from symjax.zoo import estimate

ROW = ["pair", "layer", "family"]
NUMBERS = ["clean_accuracy", "stitched_accuracy", "penalty", "val_accuracy", "sparsity", "learning_rate"]


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path, monkeypatch):
    """Commands run in an empty folder, on zoos that are trained once."""
    trained()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")  # as conftest.py has it


def command(*words, out, module=experiments.stitch):
    """Return results.csv; None for a dry run."""
    argv = [*flags(scratch()), "--out", out, "--stitch-epochs", 1, *words]
    run_command(module.main, module.Settings, [str(word) for word in argv])
    return None if "--dry-run" in words else files.read_csv(out / "results.csv", ROWS.required)


@pytest.mark.slow
def test_a_model_of_the_same_code_gives_the_same_numbers(tmp_path):
    """Networks of one seed have equal weights in both zoos, so that pairs of different seeds are the same pairs."""
    words = ["--families", "full,matched", "--layers", "relu2", "--pairs", "all"]
    within = command(*words, out=tmp_path / "within").set_index(ROW)
    zoo_b, dataset = tmp_path / "zoo-b", trained()[0]
    twins = settings(model="stitch_twin").zoo_config()
    zoo.train(twins, dataset, SEEDS, zoo_b, devices=jax.devices()[:1], progress=False)  # as `trained` does
    between = command(*words, "--model-b", "stitch_twin", "--zoo-b", zoo_b, out=tmp_path / "between").set_index(ROW)
    assert len(between) == len(SEEDS) ** 2 * 2 and len(within) == len(SEEDS) * (len(SEEDS) - 1) * 2
    pd.testing.assert_frame_equal(between.loc[within.index, NUMBERS], within[NUMBERS], check_exact=True)
    assert between.network_a.eq("stitch_tiny(width=4)").all() and between.network_b.eq("stitch_twin(width=4)").all()
    assert between.layer_b.eq("relu2").all() and between["resize"].eq("none").all()
    assert (between.clean_accuracy == (between.clean_accuracy_a + between.clean_accuracy_b) / 2).all()
    # The model itself is no other one: nothing is trained, and the folder is the same.
    same = command(*words, "--model-b", "stitch_tiny", out=tmp_path / "within")
    assert same.set_index(ROW).equals(within) and "network_b" not in same


WIDE = ["--model-b", "stitch_tiny", "--model-b-options", "multiples=(2,3)", "--layers", "relu1:relu2,relu1"]
WIDE += ["--pairs", 2, "--families", "identity,full,birkhoff"]


@pytest.mark.parametrize("sweep", [FakeSweep, slow(Sweep)])
def test_between_models_of_other_widths_and_points(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiments.sweeps, "Sweep", sweep)
    monkeypatch.setattr(estimate, "rehearse", lambda *_: 1e9)
    words = [*WIDE, "--zoo-b", tmp_path / "zoo-b"]
    command(*words, "--dry-run", out=tmp_path / "out")
    printed = capsys.readouterr().out
    assert "stitch_tiny to stitch_tiny on stripes" in printed and not (tmp_path / "zoo-b").exists()
    counts = dict(zip(("train", "B", "stitch"), printed.split("to do")[1].split()[:3], strict=True))
    assert "members of B to train" in printed and counts == {"train": "0", "B": "3", "stitch": "2"}

    rows = command(*words, out=tmp_path / "out")
    output = capsys.readouterr()
    left_out = "Left out: identity, birkhoff, which need equal widths (4 channels at relu1, 8 in the tail's relu1)."
    assert left_out in output.out and left_out in output.err
    name_b = "stitch_tiny(width=4, multiples=(2, 3))"
    assert f"stitch_tiny(width=4) to {name_b} on stripes: clean accuracy " in output.out
    assert "relu1 to relu2" in output.out and "over 2 pairs" in output.out
    assert set(rows.family) == {"full"} and len(rows) == 2 * 2
    assert sorted(set(zip(rows.layer, rows.layer_b, strict=True))) == [("relu1", "relu1"), ("relu1", "relu2")]
    assert rows.network_b.eq(name_b).all() and rows["resize"].isin(["none", "mean"]).all()
    dataset, members = trained()
    members_b = zoo.load(tmp_path / "zoo-b")
    for column, of_zoo, seeds in (("a", members, rows.model_a), ("b", members_b, rows.model_b)):
        clean = dict(zip(SEEDS, np.rint(zoo.test_accuracy(of_zoo, dataset) * len(dataset.test)), strict=True))
        reported = rows[f"clean_accuracy_{column}"] * len(dataset.test) / 100
        np.testing.assert_allclose(reported, [clean[seed] for seed in seeds])
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    assert document["config"]["zoo_b"]["model_options"] == {"multiples": [2, 3]}
    assert document["request"]["layers"] == ["relu1", "relu1:relu2"]
    row = rows.iloc[0]
    pair = int(row.model_a), int(row.model_b)
    like = members_b.member(pair[1]).state
    stitch, _ = load_stitch(tmp_path / "out", pair, "relu1", "full", like, layer_b="relu2")
    assert stitch.matrix.shape == (12, 4)

    monkeypatch.setattr(sweep, "run", lambda *_, **__: pytest.fail("computed again"))
    monkeypatch.setattr(zoo.training, "train_jobs", lambda *_, **__: pytest.fail("trained again"))
    assert command(*words, out=tmp_path / "out").equals(rows)
