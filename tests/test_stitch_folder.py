"""Folders of the stitch command: what they keep, reuse and refuse, with results of a fake sweep."""

import os
import shutil

import jax
import numpy as np
import pytest
from stitch_command_helpers import FAMILIES, FakeSweep, assert_alike, command, contents, stitches, table
from stitch_helpers import flags, scratch, trained

import experiments.crossval
import experiments.lasso
import experiments.stitch
import experiments.sweeps
from experiments.command import run_command
from symjax import zoo


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path, monkeypatch):
    """Commands run in an empty folder, on a zoo that is trained once."""
    trained()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")  # as conftest.py has it, whatever the number of cores


@pytest.fixture
def fake(monkeypatch):
    FakeSweep.requested, FakeSweep.fail_at = [], None
    monkeypatch.setattr(experiments.sweeps, "Sweep", FakeSweep)
    monkeypatch.setattr(zoo, "train", lambda *_, **__: trained()[1])
    for name in ("penalties", "curves"):
        monkeypatch.setattr(experiments.stitch.plots, name, lambda *_: None)
    return FakeSweep


def assert_same(folder, other):
    """The same files, byte for byte, but for the times in archives."""
    one, two = ({k: v for k, v in contents(f).items() if not k.endswith(".npz")} for f in (folder, other))
    assert one == two
    assert stitches(folder).keys() == stitches(other).keys()
    jax.tree.map(np.testing.assert_array_equal, stitches(folder), stitches(other))


def test_more_of_anything_extends_a_folder_and_computes_nothing_twice(fake, tmp_path):
    every = ["--families", "full,matched,rank1,lasso:0.01"]
    command(*every, "--pairs", "all", out=tmp_path / "at once")
    at_once, fake.requested = fake.requested, []
    assert len(at_once) == 6 * 2 * 4 == len(set(at_once))
    for part in (
        ["--families", "full", "--layers", "relu2", "--pairs", 1],
        ["--families", "full,matched", "--layers", "relu2", "--pairs", 1],
        ["--families", "matched,rank1", "--layers", "relu1", "--pairs", 3],
        ["--families", "rank1,lasso:0.01,full", "--pairs", 2],
        [*every, "--pairs", "all"],
        [*every, "--pairs", "all"],
    ):
        command(*part, out=tmp_path / "bit by bit")
    assert len(fake.requested) == len(set(fake.requested)) and set(fake.requested) == set(at_once)
    assert_alike(tmp_path / "bit by bit", tmp_path / "at once")


@pytest.mark.slow
def test_a_pair_is_one_processs_whatever_it_lacks(fake, tmp_path, monkeypatch, capsys):
    """The shares of two processes, computed one after the other, where different rows of the pairs are missing.

    Each finds in the end that the other's are missing, which is an error.
    """
    prepared, shares = tmp_path / "prepared", []
    command("--families", "full", "--pairs", 1, out=prepared)
    command("--families", "full", "--layers", "relu1", "--pairs", 3, out=prepared)
    for process in (0, 1):
        fake.requested = []
        shutil.copytree(prepared, tmp_path / str(process))
        share = lambda items, process=process: list(items)[process::2]  # noqa: E731
        monkeypatch.setattr(experiments.sweeps.hosts, "local_shard", share)
        with pytest.raises(SystemExit, match="2"):
            command("--families", "full,rank1", "--pairs", 4, out=tmp_path / str(process))
        assert "stitches are done, but" in capsys.readouterr().err
        shares.append({pair for pair, _, _ in fake.requested})
    assert len(shares[0]) == len(shares[1]) == 2 and not shares[0] & shares[1]


def test_an_interrupted_run_finishes_what_is_missing(fake, tmp_path, capsys):
    command(*FAMILIES, "--pairs", 4, out=tmp_path / "undisturbed")
    pairs = list(dict.fromkeys(pair for pair, _, _ in fake.requested))
    fake.requested, fake.fail_at = [], pairs[2]
    with pytest.raises(SystemExit) as caught:
        command(*FAMILIES, "--pairs", 4, out=tmp_path / "interrupted")
    assert caught.value.code == 130
    assert "continue from the saved state" in capsys.readouterr().err
    assert set(table(tmp_path / "interrupted").pair) == {f"{a}-{b}" for a, b in pairs[:2]}
    fake.requested, fake.fail_at = [], None
    command(*FAMILIES, "--pairs", 4, out=tmp_path / "interrupted")
    assert {pair for pair, _, _ in fake.requested} == set(pairs[2:])
    assert_same(tmp_path / "interrupted", tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_run_that_dies_between_any_two_writes_goes_on(fake, tmp_path, monkeypatch):
    """Every file takes its place by one rename; the run dies before the first, the second, and so on."""
    command(*FAMILIES, "--pairs", 2, out=tmp_path / "undisturbed")
    replace, died = os.replace, 0
    for last in range(100):
        folder, renamed = tmp_path / f"died at {last}", []

        def replace_or_die(source, target, renamed=renamed, last=last):
            if len(renamed) == last:
                raise KeyboardInterrupt  # nothing in between may take it for a failure and go on
            renamed.append(target)
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace_or_die)
            try:
                command(*FAMILIES, "--pairs", 2, out=folder)
                break
            except SystemExit as stopped:
                assert stopped.code == 130
                died += 1
        if (folder / "results.csv").exists():
            assert table(folder).groupby("pair").size().isin([6]).all()
        command(*FAMILIES, "--pairs", 2, out=folder)
        assert_same(folder, tmp_path / "undisturbed")
    assert died > 8


def test_results_are_kept_whole_when_a_part_is_damaged(fake, tmp_path, capsys):
    command(*FAMILIES, "--pairs", 2, out=tmp_path / "a")
    part = next((tmp_path / "a" / "parts").glob("*.results.csv"))
    part.write_bytes(part.read_bytes()[:-7])
    before = (tmp_path / "a" / "results.csv").read_bytes()
    with pytest.raises(SystemExit) as caught:
        command(*FAMILIES, "--pairs", 2, out=tmp_path / "a")
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert str(part) in err and "delete it" in err
    assert (tmp_path / "a" / "results.csv").read_bytes() == before
    part.unlink()
    command(*FAMILIES, "--pairs", 2, out=tmp_path / "a")
    assert (tmp_path / "a" / "results.csv").read_bytes() == before


def test_a_folder_of_other_settings_is_refused_before_training(fake, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("trained")

    command(*FAMILIES, "--pairs", 1, out=tmp_path / "a")
    before = contents(tmp_path / "a")
    monkeypatch.setattr(zoo, "train", fail)
    for other, output in (
        (["--stitch-epochs", 3], "fit.epochs: saved 2, requested 3"),
        (["--stitch-epochs", 2, "--pair-seed", 5], "pair_seed: saved 0, requested 5"),
        (["--stitch-epochs", 2, "--stitch-optimizer", "sgd"], 'fit.optimizer: saved "adam", requested "sgd"'),
        (["--stitch-epochs", 2, "--test-size", 30], "test_size: saved null, requested 30"),
        (["--stitch-epochs", 2, "--weight-decay", 0], "zoo.recipe.weight_decay"),
    ):
        with pytest.raises(SystemExit) as caught:
            command("--families", "full", "--pairs", 1, *other, out=tmp_path / "a")
        err = capsys.readouterr().err
        assert caught.value.code == 2 and output in err and "--out" in err
    with pytest.raises(SystemExit) as caught:
        command("--families", "full", "--pairs", 1, out=scratch() / "zoo")
    assert caught.value.code == 2 and "a zoo folder, expected a stitch folder" in capsys.readouterr().err
    assert contents(tmp_path / "a") == before


@pytest.mark.slow
def test_without_out_settings_have_folders_of_their_own(fake, tmp_path, monkeypatch):
    for others in ([], ["--stitch-epochs", "3"], ["--pair-seed", "1"], ["--families", "full"], ["--layers", "relu2"]):
        argv = [*flags(scratch()), "--pairs", "1", *others]
        run_command(experiments.stitch.main, experiments.stitch.Settings, argv)
    folders = sorted((tmp_path / "runs" / "stitch").iterdir())
    assert len(folders) == 3 and all(folder.name.startswith("stripes-stitch_tiny4-") for folder in folders)
