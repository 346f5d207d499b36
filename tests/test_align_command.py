"""The align command: rows against the measures' own functions, what it reuses, and what it says about bad flags."""

import itertools
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from align_helpers import EXAMPLES, features
from campaign import slow
from stitch_helpers import SEEDS, flags, scratch, trained

import experiments.align
import experiments.features
from experiments.command import run_command
from experiments.features import in_blocks
from symjax.ops import files, runs
from symjax.similarity import MEASURES

PAIRS = list(itertools.combinations(SEEDS, 2))


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path, monkeypatch):
    """Commands run in an empty folder, on a zoo that is trained once."""
    trained()
    monkeypatch.chdir(tmp_path)


def command(*others, out="run", measures="cka,procrustes"):
    argv = [*flags(scratch()), "--out", out, "--measures", measures, "--examples", EXAMPLES, *others]
    run_command(experiments.align.main, experiments.align.Settings, [str(word) for word in argv])
    return Path(out)


@pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")
def test_rows_are_the_measures(capsys):
    out = command(measures="cka,pwcca")
    rows, layers = files.read_csv(out / "results.csv"), features()
    keys = ["measure", "model_a", "layer_a", "model_b", "layer_b"]
    assert not rows.duplicated(keys).any() and rows.value.notna().all()
    counts = rows.groupby("measure").size()
    # All layers with all layers, but for pixels as samples; pwcca is not symmetric.
    assert counts.to_dict() == {"cka": 4 * len(PAIRS), "pwcca": 4 * len(PAIRS)}
    assert (rows[rows.measure == "pwcca"].layer_a == rows[rows.measure == "pwcca"].layer_b).all()
    for row in rows.itertuples():
        x, y = layers[row.layer_a][SEEDS.index(row.model_a)], layers[row.layer_b][SEEDS.index(row.model_b)]
        np.testing.assert_allclose(row.value, MEASURES[row.measure].fn(x, y), atol=2e-5)
    printed = capsys.readouterr().out
    for measure in ("cka", "pwcca"):
        values = rows[(rows.measure == measure) & (rows.layer_a == "relu2") & (rows.layer_b == "relu2")]
        # Both orders of a pair are one pair.
        values = values.groupby(values.model_a + values.model_b).value.mean()
        assert f"{values.mean():z.3f} ± {values.std():.3f}" in printed
    for name in ("heatmaps", "layers"):
        assert (out / f"{name}.png").exists() and (out / f"{name}.pdf").exists()


@pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")
@pytest.mark.parametrize("samples", ["pool", "flatten", "positions"])
@pytest.mark.slow
def test_maps_reach_the_measures_that_take_them(samples):
    measures = ("cka", "pls", "wreath_procrustes", "channel_normalized_cka")
    out = command("--samples", samples, measures=",".join(measures))
    rows, layers = files.read_csv(out / "results.csv"), features()
    same = {"pls", "cka"} if samples == "positions" else set()  # whose sizes differ
    for measure in measures:
        of_measure = rows[rows.measure == measure]
        assert len(of_measure) == (2 if measure in same else 4) * len(PAIRS)
        options = {} if measure == "channel_normalized_cka" else {"samples": samples}
        for row in of_measure.itertuples():
            x, y = layers[row.layer_a][SEEDS.index(row.model_a)], layers[row.layer_b][SEEDS.index(row.model_b)]
            np.testing.assert_allclose(row.value, MEASURES[measure].fn(x, y, **options), atol=2e-5)


@pytest.mark.slow
def test_other_maps_are_another_configuration(capsys):
    out = command("--samples", "pool", measures="cka")
    assert runs.read_config(out, "align")["samples"] == "pool"
    before = (out / "results.csv").read_bytes()
    assert "samples: pool" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        command(measures="cka")
    assert ended.value.code == 2 and "samples" in capsys.readouterr().err
    assert (out / "results.csv").read_bytes() == before
    default = command(measures="cka", out="default")
    flat = command("--samples", "flatten", measures="cka", out="flat")  # which is the way of cka, but another command
    values = [files.read_csv(folder / "results.csv").value for folder in (default, flat)]
    np.testing.assert_array_equal(*values)
    assert len({files.fingerprint(runs.read_config(folder, "align")) for folder in (out, default, flat)}) == 3


@pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")
@pytest.mark.slow
def test_the_same_command_again_computes_nothing_and_more_extends(monkeypatch, capsys):
    out = command("--pairs", 1)
    one = files.read_csv(out / "results.csv")
    requested = []
    compare = experiments.align.compare
    monkeypatch.setattr(experiments.align, "compare", lambda *a: requested.append(a[1:3]) or compare(*a))
    command("--pairs", 1)
    assert not requested
    capsys.readouterr()
    command("--pairs", 1, "--dry-run")
    assert "All results exist" in capsys.readouterr().out
    command(measures="cka,channel_normalized_cka")
    drawn = tuple(one[["model_a", "model_b"]].iloc[0])
    assert requested == [("cka", [pair for pair in PAIRS if pair != drawn]), ("channel_normalized_cka", PAIRS)]
    more = files.read_csv(out / "results.csv")
    assert set(more.measure) == {"cka", "channel_normalized_cka", "procrustes"}
    kept = one.merge(more, how="left", on=list(one.columns[:-1]))
    np.testing.assert_array_equal(kept.value_x, kept.value_y)
    assert more.groupby("measure").size().to_dict() == {"cka": 12, "channel_normalized_cka": 12, "procrustes": 4}


@pytest.mark.parametrize("piece", ["parts/cka.results.csv", slow("accuracy.csv")])
@pytest.mark.slow
def test_pieces_of_another_configuration_end_in_no_results(piece, capsys):
    own, other = command(measures="cka"), command("--examples", 30, measures="cka", out="other")
    shutil.copy(other / piece, own / piece)
    (own / "results.csv").unlink()
    with pytest.raises(SystemExit) as ended:
        command(measures="cka")
    assert ended.value.code == 2
    assert f"error: {own / piece}: written with another configuration" in capsys.readouterr().err
    assert not (own / "results.csv").exists() or piece == "accuracy.csv"
    (own / piece).unlink()
    command(measures="cka")
    again = command(measures="cka", out="again")
    assert (own / "results.csv").read_bytes() == (again / "results.csv").read_bytes()


def test_a_clock_that_jumps(monkeypatch):
    """The clock jumps by months, back and forth, between any two readings."""
    still = command(measures="cka")
    now, looks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: now() + 1e7 * (-1) ** next(looks))
    jumped = command(measures="cka", out="jumped")
    assert (still / "results.csv").read_bytes() == (jumped / "results.csv").read_bytes()
    assert next(looks) > 0


def test_blocks_of_pairs_are_kept(monkeypatch):
    compare, requested, blocks = experiments.align.compare, [], [[pair] for pair in PAIRS]
    monkeypatch.setattr(experiments.features, "MODELS_IN_BLOCK", 1)
    monkeypatch.setattr(experiments.features, "PAIRS_IN_BLOCK", 1)

    def interrupted_at_the_third(layers, measure, pairs, *others):
        requested.append(pairs)
        if len(requested) == 3:
            raise KeyboardInterrupt
        return compare(layers, measure, pairs, *others)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(experiments.align, "compare", interrupted_at_the_third)
        command("--layers", "relu1", measures="cka")
    assert requested == blocks[:3]
    requested.clear()
    monkeypatch.setattr(experiments.align, "compare", lambda *a: requested.append(a[2]) or compare(*a))
    out = command("--layers", "relu1", measures="cka")
    assert requested == blocks[2:] and len(files.read_csv(out / "results.csv")) == len(PAIRS)


def test_blocks_hold_each_pair_once_few_models_and_many_pairs():
    models = range(20)
    pairs = list(itertools.combinations(models, 2))
    blocks = list(in_blocks(pairs, models, pairs))
    assert sorted(pair for block in blocks for pair in block) == pairs and len(blocks) == 4  # of 28 to 64 between 8
    assert all(len(block) >= 32 for block in blocks[:-1])
    drawn = pairs[::7]
    assert [len(block) for block in in_blocks(drawn, models, drawn)] == [28]
    missing = pairs[3:150:2]  # what is left is computed in parts of the same blocks
    left = list(in_blocks(pairs, models, missing))
    assert sorted(pair for block in left for pair in block) == missing
    assert all(any(set(part) <= set(block) for block in blocks) for part in left)


def test_only_the_models_of_a_block_are_compared():
    rng = np.random.default_rng(0)
    layers = {"a": np.float32(rng.normal(size=(9, 3)) + 0.3 * rng.normal(size=(4, 9, 3)))}
    rows = experiments.align.compare(layers, "cka", [(7, 3)], [3, 5, 7, 9])
    expected = MEASURES["cka"].fn(layers["a"][0], layers["a"][2])
    assert rows[["model_a", "model_b"]].to_numpy().tolist() == [[7, 3]]
    np.testing.assert_allclose(rows.value, expected, rtol=1e-5)


def test_only_what_is_needed_is_computed(monkeypatch):
    zoos, measured = [], []
    represent, accuracy = experiments.align.representations, experiments.folders.zoo.test_accuracy
    monkeypatch.setattr(
        experiments.align, "representations", lambda z, *a, **k: zoos.append(z) or represent(z, *a, **k)
    )
    monkeypatch.setattr(
        experiments.folders.zoo, "test_accuracy", lambda *a, **k: measured.append(1) or accuracy(*a, **k)
    )
    out = command("--pairs", 1, measures="cka")
    drawn = tuple(files.read_csv(out / "results.csv")[["model_a", "model_b"]].iloc[0])
    assert [z.seeds for z in zoos] == [tuple(sorted(drawn))] and len(zoos[0].members.params["convs"][0]["kernel"]) == 2
    command("--pairs", 1, measures="cka")
    assert len(zoos) == len(measured) == 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ["--measures", "cka,cosine"],
            "'cosine' is unknown (did you mean rsa_cosine_cov?), expected some of cca",
        ),
        (["--measures", ","], "measures: got ',', expected some of"),
        (["--pairs", "4"], "pairs: got '4', expected 1 to 3"),
        (["--pairs", "some"], "pairs: got 'some'"),
        (["--pair-seed", "-1"], "pair-seed: got -1"),
        (["--examples", "1"], "examples: got 1"),
        (["--layers", "relu9"], "relu9"),
        (["--seeds", "5,"], "got 1 member, expected two"),
    ],
)
def test_bad_flags_are_one_line(words, named, capsys):
    with pytest.raises(SystemExit) as end:
        command(*words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and named in error and error.count("\n") == 1
    assert not Path("run").exists()


def test_dead_and_duplicate_channels_are_reported(monkeypatch, capsys):
    command("--layers", "relu1", measures="procrustes")
    assert "duplicate" not in capsys.readouterr().err
    represent = experiments.align.representations

    def degenerate(*args, **options):
        layers = {layer: np.array(array) for layer, array in represent(*args, **options).items()}
        layers["relu2"][0, ..., 1] = 0
        layers["relu2"][:2, ..., 3] = 2 * layers["relu2"][:2, ..., 0]
        return layers

    monkeypatch.setattr(experiments.align, "representations", degenerate)
    command("--layers", "relu1,relu2", measures="procrustes", out="degenerate")
    expected = f"dead or duplicate channels, of {len(SEEDS)} networks: relu2 (1 dead, 2 duplicate)"
    assert expected in capsys.readouterr().err.splitlines()
