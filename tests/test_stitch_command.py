"""The stitch command: one run for real, processes, and what it says about bad flags."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import lru_cache

import jax
import numpy as np
import pytest
from stitch_command_helpers import FAMILIES, assert_alike, command, contents, table
from stitch_helpers import SEEDS, flags, scratch, trained, write_npz

import experiments.crossval
import experiments.lasso
import experiments.stitch
import experiments.sweeps
from experiments.command import run_command
from symjax import zoo
from symjax.errors import InputError
from symjax.ops import files
from symjax.pairs import draw_pairs
from symjax.stitching import Sweep, evaluate_stitch
from symjax.stitching.results import KEY, ROWS, flatten, load_stitch


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path, monkeypatch):
    """Commands run in an empty folder, on a zoo that is trained once."""
    trained()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")  # as conftest.py has it, whatever the number of cores


@lru_cache
def sweep_of(plan, num_pairs):
    return Sweep(plan, trained()[0], num_pairs=num_pairs)


@pytest.fixture
def compiled_once(monkeypatch):
    monkeypatch.setattr(experiments.sweeps, "Sweep", lambda plan, _, num_pairs: sweep_of(plan, num_pairs))


# --- one run for real ---


@pytest.fixture
def reference(compiled_once, capsys):
    """The folder of three pairs, and what the command printed; it runs once."""
    folder, printed = scratch() / "reference", scratch() / "reference.txt"
    if not printed.exists():
        command(*FAMILIES, "--pairs", 3, out=folder)
        output = capsys.readouterr()
        printed.write_text(output.out + output.err)
    return folder


@pytest.mark.figures
def test_the_folder_is_complete(reference):
    rows = table(reference)
    assert list(rows.columns) == list(ROWS.required)
    assert len(rows) == 3 * 2 * 3 == len(rows[list(KEY)].drop_duplicates())
    assert rows.layer.unique().tolist() == ["relu1", "relu2"] and rows.layer_index.unique().tolist() == [0, 1]
    assert rows.starred.dtype == bool and not rows.starred.any()
    assert (rows.model_a != rows.model_b).all()
    assert (rows.pair == rows.model_a.astype(str) + "-" + rows.model_b.astype(str)).all()
    dataset, members = trained()
    count = len(dataset.test)
    clean = np.rint(zoo.test_accuracy(members, dataset).astype(np.float64) * count)
    for row in rows.itertuples():
        a, b = (100 * clean[SEEDS.index(seed)] / count for seed in (row.model_a, row.model_b))
        assert row.clean_accuracy == np.mean([a, b])
        assert row.penalty == row.clean_accuracy - row.stitched_accuracy
        assert (row.stitched_accuracy * count / 100) == pytest.approx(round(row.stitched_accuracy * count / 100))
    curves = files.read_csv(reference / "curves.csv")
    assert len(curves) == 3 * 2 * 2 * 2 and set(curves.family) == {"full", "rank1"} and set(curves.epoch) == {1, 2}
    assert curves.accuracy.between(0, 100).all() and curves.accuracy.max() > 1
    document = json.loads((reference / "config.json").read_text())
    assert document["kind"] == "stitch" and document["versions"]["jax"] == jax.__version__
    assert document["config"]["fit"]["epochs"] == 2 and document["config"]["zoo"]["model"] == "stitch_tiny"
    request = document["request"]
    assert request["seeds"] == list(SEEDS) and len(request["pairs"]) == 3
    assert request["layers"] == list(dict.fromkeys(rows.layer)) and set(request["families"]) == set(rows.family)
    for name, start in (("penalties", b""), ("curves", b"")):
        assert (reference / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" + start
        assert (reference / f"{name}.pdf").read_bytes()[:5] == b"%PDF-" + start
    assert sorted(p.stem for p in (reference / "stitches").iterdir()) == sorted(rows.pair.unique())


def test_the_table_is_printed(reference):
    printed = (scratch() / "reference.txt").read_text()
    rows = table(reference)
    lines = [line for line in printed.splitlines() if line.startswith("matched")]
    assert len(lines) == 1
    for layer in ("relu1", "relu2"):
        chosen = rows[(rows.family == "matched") & (rows.layer == layer)].penalty
        assert f"{chosen.mean():z.1f} ± {chosen.std():.1f}" in lines[0]
    assert f"clean accuracy {rows.clean_accuracy.mean():.2f} %" in printed
    assert str(reference) in printed and "over 3 pairs" in printed
    assert "stitch" in printed and "evaluate" in printed and "loss=" in printed and "accuracy=" in printed


def test_saved_stitches_repeat_their_accuracies_exactly(reference):
    dataset, members = trained()
    for row in table(reference).itertuples():
        pair = (row.model_a, row.model_b)
        a, b = (members.member(seed) for seed in pair)
        stitch, stats = load_stitch(reference, pair, row.layer, row.family, b.state)
        for split, reported in ((dataset.test, row.stitched_accuracy), (dataset.validation, row.val_accuracy)):
            where = (row.layer_index, split, dataset.mean, dataset.std)
            assert evaluate_stitch(members.network, a, b, stitch, stats, *where) == reported
        assert row.sparsity == np.mean(stitch.matrix == 0)


def test_what_cannot_be_loaded(reference, tmp_path):
    _, members = trained()
    rows = table(reference)
    a, b = pair = (int(rows.model_a[0]), int(rows.model_b[0]))
    stats = members.member(b).state
    with pytest.raises(InputError, match=r"got relu3/full, expected one of .*relu1/full.*relu2/matched"):
        load_stitch(reference, pair, "relu3", "full", stats)
    with pytest.raises(InputError, match="7-8"):
        load_stitch(reference, (7, 8), "relu1", "full", stats)
    with pytest.raises(InputError, match="another model"):
        load_stitch(reference, pair, "relu1", "full", {**stats, "norm": {"mean": 0, "var": 0}})
    broken = tmp_path / "stitches" / f"{a}-{b}.npz"
    broken.parent.mkdir()
    broken.write_bytes((reference / "stitches" / f"{a}-{b}.npz").read_bytes()[:-30])
    with pytest.raises(InputError, match="not a complete npz"):
        load_stitch(tmp_path, pair, "relu1", "full", stats)


def test_the_same_command_again_computes_nothing(reference, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("recomputed")

    monkeypatch.setattr(Sweep, "run", fail)
    monkeypatch.setattr(zoo.training, "train_jobs", fail)
    before = {name: data for name, data in contents(reference).items() if not name.endswith((".png", ".pdf"))}
    command(*FAMILIES, "--pairs", 3, out=reference)
    assert before.items() <= contents(reference).items()
    # Less than what is there, too: its figures show what was asked for, the folder keeps all.
    command("--families", "full", "--layers", "relu2", "--stitch-epochs", 2, "--pairs", 1, out=reference)
    assert contents(reference)["results.csv"] == before["results.csv"]


# --- processes ---


@pytest.mark.slow
def test_a_killed_process_finishes_what_is_missing(tmp_path, compiled_once):
    write_npz(scratch() / "stripes.npz")
    argv = [*flags(scratch()), "--families", "full,birkhoff", "--stitch-epochs", "2", "--pairs", "all"]
    here = os.path.dirname(__file__)
    script = f"""
        import sys, time
        sys.path[:0] = [{here!r}, {os.path.dirname(here)!r}]
        import jax
        jax.config.update("jax_num_cpu_devices", 2)
        jax.config.update("jax_disable_most_optimizations", True)
        import stitch_helpers
        import experiments.stitch as command
        from experiments.command import run_command
        add = command.StitchResults.add
        command.StitchResults.add = lambda *arguments: (add(*arguments), time.sleep(1))
        run_command(command.main, command.Settings, {[*argv, "--out", str(tmp_path / "killed")]!r})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    end = time.monotonic() + 600
    results = tmp_path / "killed" / "results.csv"
    while not results.exists() and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(table(tmp_path / "killed")) < 6 * 4
    for folder in ("killed", "undisturbed"):
        run_command(experiments.stitch.main, experiments.stitch.Settings, [*argv, "--out", str(tmp_path / folder)])
    assert_alike(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.slow
def test_as_a_process():
    project = os.path.dirname(os.path.dirname(__file__))
    argv = [sys.executable, "-m", "experiments.stitch", "--families", "nosuch"]
    result = subprocess.run(argv, cwd=project, capture_output=True, text=True)
    assert result.returncode == 2 and not result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: --families: got 'nosuch', expected one of identity, matched")


@pytest.mark.parametrize("module", [experiments.stitch, experiments.crossval, experiments.lasso])
def test_two_members_have_two_pairs_and_no_error(module, capsys):
    few, many = module.Settings(seeds="2"), module.Settings()
    assert sorted(few.draw_pairs(few.parse_seeds())) == [(0, 1), (1, 0)]
    assert capsys.readouterr().err == "pairs: using all 2, since 2 seeds have 2 ordered pairs; the default is 4\n"
    assert many.draw_pairs(many.parse_seeds()) == draw_pairs(range(4), 4) and not capsys.readouterr().err
    with pytest.raises(InputError, match="pairs: got '4', expected 1 to 2 with 2 members, or all"):
        module.Settings(seeds="2", pairs="4").draw_pairs((0, 1))


# --- bad flags, on the default data set ---


@pytest.mark.parametrize(
    "argv,expected",
    [
        (
            ["--families", "nosuch"],
            ["families: got 'nosuch', expected one of", "identity", "birkhoff", "rank1", "softsort"],
        ),
        (["--families", ""], ["families: got none"]),
        (
            ["--families", "full,lasso:-1"],
            ["families: got 'lasso:-1'", "weight: got -1.0, expected a positive number"],
        ),
        (["--families", "rank9"], ["families: got rank9, expected a rank of at most 8, the channels of relu1"]),
        (["--families", "rank0"], ["families: got 'rank0'", "rank: got 0, expected a positive number"]),
        (["--layers", "relu9"], ["got 'relu9', expected a stitch point", ": relu1, relu2, relu3, relu4"]),
        (["--layers", ""], ["layers: got none", "relu1"]),
        (["--model-b", "perceptron"], ["model-b: got 'perceptron', expected one of", "mcnn", "resnet20"]),
        (["--model-b", "mcnn", "--model-b-options", "depth"], ["model-b-options: got 'depth'"]),
        (["--model-b", "mcnn", "--width-b", "0"], ["width-b: got 0"]),
        (["--model-b-options", "norm=False"], ["model-b-options: got norm=False without --model-b"]),
        (["--zoo-b", "b"], ["zoo-b: got b without --model-b"]),
        (["--model-b", "mcnn", "--zoo-b", "b"], ["zoo-b: got b, expected none: --model-b equals --model"]),
        (["--model-b", "mcnn_k", "--zoo", "a", "--zoo-b", "a"], ["zoo-b: got a for both zoos"]),
        (["--model-b", "resnet20"], ["layers: got 'all'", "relu1:", "relu4", "of resnet20 (width 8), "]),
        (
            ["--model-b", "resnet20", "--layers", "relu1"],
            ["layers: got 'relu1', expected a stitch point of resnet20 (width 8):"],
        ),
        (["--layers", "relu1:relu9"], ["layers: got 'relu9', expected a stitch point of mcnn (width 8): relu1"]),
        (
            ["--model-b", "mcnn", "--width-b", "4", "--families", "birkhoff,matched"],
            ["families: got 8 channels at relu1 of A and 4 at relu1"],
        ),
        (["--model", "perceptron"], ["model: got 'perceptron', expected one of", "mcnn", "resnet20"]),
        (["--dataset", "no-such-set"], ["no-such-set", "digits"]),
        (["--dataset", "missing.npz"], ["missing.npz"]),
        (["--pairs", "0"], ["pairs: got '0', expected 1 to 12 with 4 members, or all"]),
        (["--pairs", "13"], ["pairs: got '13', expected 1 to 12"]),
        (["--pairs", "some"], ["pairs: got 'some'", "or all"]),
        (["--pairs", "1.5"], ["pairs: got '1.5'"]),
        (["--pairs", ""], ["pairs: got ''"]),
        (["--pairs", "-1"], ["pairs"]),
        (["--pair-seed", "-1"], ["pair-seed: got -1"]),
        (["--pair-seed", "4294967296"], ["pair-seed: got 4294967296"]),
        (["--pair-seed", "x"], ["pair-seed"]),
        (["--seeds", "1"], ["seeds: got 1 member, expected two or more"]),
        (["--seeds", "5,"], ["seeds: got 1 member,"]),
        (["--seeds", "3,3"], ["seeds: got 3, 3"]),
        (["--seeds", "0"], ["seeds: got '0'"]),
        (["--stitch-learning-rates", "0"], ["learning-rates", "positive"]),
        (["--stitch-learning-rates", "1e-2,-1"], ["learning-rates", "positive"]),
        (["--stitch-learning-rates", "nan"], ["learning-rates", "positive"]),
        (["--stitch-learning-rates", "inf"], ["learning-rates", "positive"]),
        (["--stitch-learning-rates", ""], ["learning-rates", "one or more"]),
        (["--stitch-learning-rates", "fast"], ["stitch-learning-rates: got 'fast'"]),
        (["--stitch-learning-rates", "1e-2,0.01"], ["learning-rates", "each once"]),
        (["--stitch-epochs", "0"], ["stitch-epochs: got 0"]),
        (["--stitch-epochs", "many"], ["stitch-epochs"]),
        (["--stitch-optimizer", "rmsprop"], ["stitch-optimizer", "adam", "sgd"]),
        (["--stitch-schedule", "linear"], ["stitch-schedule", "cosine", "constant"]),
        (["--start", "zero"], ["start", "identity", "least_squares"]),
        (["--epochs", "0"], ["epochs: got 0"]),
        (["--width", "0"], ["width: got 0"]),
        (["--batch-size", "5000"], ["batch-size: got 5000, expected at most"]),
        (["--validation", "0"], ["validation: "]),
        (["--test-size", "0"], ["test-size: got 0"]),
        (["--image-size", "4"], ["image-size: got 4, expected a size that fits mcnn"]),
        (["--out", "/dev/null"], ["/dev/null"]),
        (["--color", "red"], ["color"]),
    ],
    ids=lambda value: "=".join(value) if value and value[0].startswith("--") else "",
)
def test_bad_flags(argv, expected, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("trained")

    monkeypatch.setattr(zoo.training, "train_jobs", fail)
    with pytest.raises(SystemExit) as caught:
        run_command(experiments.stitch.main, experiments.stitch.Settings, argv)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert not out and "Traceback" not in err
    for word in expected:
        assert word in " ".join(err.split()), err
    assert not list(tmp_path.iterdir())


def test_statistics_go_to_names_and_back():
    stats = trained()[1].member(0).state
    names = flatten(stats)
    assert sorted(names) == [f"['norms'][{i}]['{name}']" for i in (0, 1) for name in ("mean", "var")]
