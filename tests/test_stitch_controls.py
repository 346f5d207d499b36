"""Controls beside stitches, losses on features, and agreement."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from stitch_api_helpers import MLP, ONE, of_nnx, planted, vectors
from stitch_command_helpers import FakeSweep, command, contents, table
from stitch_helpers import SEEDS, scratch, trained
from sweep_helpers import make_plan

import experiments.stitch
import experiments.sweeps
import symjax
from experiments.controls import Comparison, parse_losses
from symjax import InputError, zoo
from symjax.data.splitting import split_indices
from symjax.ops import files
from symjax.ops.result_table import ResultTable, Schema
from symjax.plots import penalties
from symjax.stitching.controls import CONTROLS, NOISE, OBJECTIVES, SPREAD, WRONG_LAYER, cluster_noise
from symjax.stitching.partition import cost, count_images
from symjax.stitching.results import ROWS, load_stitch
from symjax.stitching.summary import agreement_table, distinguished, gap_table

# --- noise ---


@pytest.mark.slow
def test_noise_clusters_by_class_and_depends_on_the_example_alone():
    x = np.random.RandomState(0).randn(400, 3).astype(np.float32)
    classes, key = jnp.arange(400) % 2, jax.random.key_data(jax.random.key(1))
    like = (jnp.ones((400, 2, 500)), jnp.arange(400), jnp.ones((400, 1), jnp.bfloat16))
    noise, counts, other = jax.jit(cluster_noise)(key, x, classes, like)
    assert noise.shape == (400, 2, 500) and noise.min() == 0 and other.dtype == jnp.bfloat16
    np.testing.assert_array_equal(counts, like[1])
    order = np.random.RandomState(1).permutation(400)[:50]
    some = cluster_noise(key, x[order], classes[order], (like[0][order],))[0]
    np.testing.assert_allclose(noise[order], some, rtol=1e-5, atol=1e-6)
    # An entry is max(z, 0) with z normal of variance 1 + SPREAD^2 over centers and examples.
    assert np.mean(noise**2) == pytest.approx((1 + SPREAD**2) / 2, rel=0.05)
    within = np.var(noise[::2], axis=0).mean()
    between = np.mean((noise[::2].mean(0) - noise[1::2].mean(0)) ** 2)
    assert between > 3 * within
    assert not np.array_equal(noise, cluster_noise(jax.random.key_data(jax.random.key(2)), x, classes, like)[0])


# --- symjax.stitch ---


def planted_data():
    (network, a), (_, _), _ = planted()
    x, _ = vectors(n=120)
    y = np.asarray(jnp.argmax(network.apply(a, x), axis=-1))
    return {"train": (x[:60], y[:60]), "test": (x[60:], y[60:])}


def test_a_control_that_must_fail_does_and_the_same_front_is_not_distinguished():
    (network, a), b, matrix = planted()
    dead = jax.tree.map(jnp.zeros_like, a.params)
    controls = {"itself": a, "dead": dead}
    data = planted_data()
    result = symjax.stitch((network, a), b, "relu1", families="full,least_squares", controls=controls, **data, **ONE)
    rows = result.table.set_index(["family", "control"])
    assert list(rows.index.levels[1]) == ["dead", "itself", "noise", "related"]  # one point and no init: no others
    values = rows[["stitched_accuracy", "penalty", "val_accuracy", "rank", "agreement", "learning_rate"]]
    most = 100 * np.bincount(data["test"][1]).max() / len(data["test"][1])
    for family in ("full", "least_squares"):
        pd.testing.assert_series_equal(values.loc[family, "related"], values.loc[family, "itself"], check_names=False)
        np.testing.assert_array_equal(
            result.stitches["relu1", family].matrix, result.stitches["relu1", f"{family}@itself"].matrix
        )
        assert values.loc[family, "related"].agreement >= 95 > most + 20
        assert values.loc[family, "dead"].stitched_accuracy <= most
        assert values.loc[family, "dead"].penalty == pytest.approx(100 - values.loc[family, "dead"].stitched_accuracy)
        # B is right on every example, so both are the same share.
        np.testing.assert_allclose(values.loc[family].agreement, values.loc[family].stitched_accuracy)
    np.testing.assert_allclose(result.stitches["relu1", "least_squares"].matrix, matrix, atol=1e-3)
    assert result.plot().axes[0].collections  # markers of the controls
    np.testing.assert_array_equal(
        symjax.stitch((network, a), b, "relu1", families="full,least_squares", **data, **ONE).table.penalty,
        result.table[result.table.control == "related"].penalty,
    )


@pytest.mark.slow
def test_losses_on_features_are_their_mean_squared_errors():
    network, a = of_nnx(lambda rngs: MLP(4, rngs), 0, (5,))
    b = network.init(jax.random.key(1))
    x, y = vectors(n=80)
    options = {"families": "full", "train": (x[:60], y[:60]), "test": (x[60:], y[60:]), "learning_rates": (1e-9,)}
    options |= {**ONE, "start": "identity"}
    kept, _ = split_indices(60, 0.2, 0)
    assert len(kept) % ONE["batch_size"] == 0
    used = x[kept]
    fronts, own = network.features(a, used), network.features(b, used)
    second = b.params["second"]
    behind = np.maximum(fronts["relu1"] @ second["kernel"] + second["bias"], 0)
    expected = {
        ("match", "relu1"): np.mean((fronts["relu1"] - own["relu1"]) ** 2),
        ("match", "relu2"): np.mean((fronts["relu2"] - own["relu2"]) ** 2),
        ("penultimate", "relu1"): np.mean((behind - own["relu2"]) ** 2),
        ("penultimate", "relu2"): np.mean((fronts["relu2"] - own["relu2"]) ** 2),
    }
    for loss in ("match", "penultimate"):
        result = symjax.stitch((network, a), (network, b), ["relu1", "relu2"], loss=loss, **options)
        assert (result.table.objective == loss).all() and result.curves.accuracy.isna().all()
        assert list(result.stitches) == [("relu1", f"full@{loss}"), ("relu2", f"full@{loss}")]
        for row in result.curves.itertuples():
            assert row.loss == pytest.approx(float(expected[loss, row.layer]), rel=1e-5)


def test_a_stitch_that_is_trained_to_match_recovers_the_planted_one():
    a, b, matrix = planted()
    options = {**ONE, "epochs": 400, "start": "random", "learning_rates": (0.1,)}
    result = symjax.stitch(a, b, "relu1", families="full", loss="match", **planted_data(), **options)
    assert result.curves.loss.iloc[-1] < 1e-2 * result.curves.loss.iloc[0]
    np.testing.assert_allclose(result.stitches["relu1", "full@match"].matrix, matrix, atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"controls": 3}, "^controls: got 3, expected True, False or a mapping"),
        ({"controls": {"noise": 0}}, "^controls: got the name 'noise'"),
        ({"controls": {"a@b": 0}}, "^controls: got the name 'a@b'"),
        ({"controls": {"other": {"first": np.ones((5, 4), np.float32)}}}, r"^controls\['other'\]: "),
        ({"loss": "mach"}, "^loss: got 'mach', expected"),
    ],
)
def test_wrong_arguments(options, message):
    a, b, _ = planted()
    with pytest.raises(InputError, match=message):
        symjax.stitch(a, b, "relu1", **planted_data(), **options)


# --- plans ---


def test_the_wrong_layer_is_the_farthest_one_of_equal_width_and_square_families_lack_other_widths():
    plan = make_plan("full,birkhoff").with_controls((WRONG_LAYER, NOISE), OBJECTIVES)
    wrong = {j.layer: (j.front.name, j.layer_index, j.tail.name) for j in plan.junctions if j.control == WRONG_LAYER}
    assert wrong == {"relu1": ("relu2", 0, "relu1"), "relu2": ("relu1", 1, "relu2")}
    assert len(plan.junctions) == len({j.key for j in plan.junctions}) == 2 * 3 * 3
    widths = [point.channels for point in plan.network.points]
    parts = {tuple(f.label for f in part.families): len(part.points) for part in plan.parts()}
    assert widths[0] != widths[1] and parts == {("full",): 18, ("birkhoff",): 12}
    assert make_plan().with_controls(()) == make_plan() and make_plan().parts() == [make_plan()]


def test_square_networks_prefer_points_of_equal_width():
    network, _ = of_nnx(lambda rngs: MLP(4, rngs), 0, (5,))
    plan = make_plan("full", points=(0,), network=network).with_controls([WRONG_LAYER])
    assert [j.front.name for j in plan.junctions] == ["relu1", "relu2"]


def test_stitches_that_match_at_the_point_need_no_tail():
    plan, flops = make_plan("full"), [1.0, 10.0, 100.0]
    images = count_images(plan, trained()[0])
    task, match = (cost(plan.with_controls((), [loss]), flops, images) for loss in OBJECTIVES[:2])
    fronts = cost(plan.with_controls(["untrained"]), flops, images) - 2 * task + cost(plan, flops, images)
    assert task == cost(plan, flops, images) > match
    assert fronts == pytest.approx(task)


# --- the command ---


@pytest.fixture
def fake(monkeypatch, tmp_path):
    trained()
    monkeypatch.chdir(tmp_path)
    FakeSweep.requested, FakeSweep.fail_at = [], None
    monkeypatch.setattr(experiments.sweeps, "Sweep", FakeSweep)
    monkeypatch.setattr(zoo, "train", lambda *_, **__: trained()[1])
    for name in ("penalties", "curves"):
        monkeypatch.setattr(experiments.stitch.plots, name, lambda *_: None)
    return FakeSweep


def test_the_conclusion_warns_of_a_single_epoch_of_birkhoff(fake, tmp_path, capsys):
    words = ["--families", "full,birkhoff", "--layers", "relu1", "--pairs", 1]
    command(*words, "--stitch-epochs", 1, out=tmp_path / "one")
    warning = "Warning: some parameters of birkhoff are trained only with 2 or more epochs of the stitches."
    assert all(warning in text for text in capsys.readouterr())
    command(*words, "--stitch-epochs", 2, out=tmp_path / "two")
    assert not any(warning in text for text in capsys.readouterr())


@pytest.mark.slow
def test_controls_and_losses_extend_a_folder_and_compute_nothing_twice(fake, tmp_path):
    every = ["--families", "full,matched", "--pairs", 2, "--controls", "--loss", "task,match"]
    command(*every, out=tmp_path / "at once")
    at_once, fake.requested = fake.requested, []
    # All five fronts with full, four with matched, since the two layers have unequal widths.
    assert len(at_once) == len({*at_once}) == 2 * 2 * 2 * (5 + 4)
    fake.fail_at = None
    for part in (
        ["--families", "full", "--pairs", 1, "--loss", "match"],
        ["--families", "full,matched", "--pairs", 1, "--layers", "relu2", "--loss", "penultimate,match"],
        ["--families", "matched", "--pairs", 2, "--controls"],
        every,
        every,
    ):
        command(*part, out=tmp_path / "bit by bit")
    assert len(fake.requested) == len({*fake.requested}) == len(at_once) + 2
    one, two = (table(tmp_path / name).fillna({"control": "related"}) for name in ("at once", "bit by bit"))
    two = two[two.objective != "penultimate"]
    key = ["pair", "layer", "family", "control", "objective"]
    one, two = (rows.sort_values(key).reset_index(drop=True) for rows in (one, two))
    pd.testing.assert_frame_equal(one, two[one.columns])
    assert {*one.control} == {"related", *CONTROLS} and one.agreement.notna().all()
    summary = json.loads((tmp_path / "at once" / "summary.json").read_text())
    assert [caption.split(",")[0].split(" of ")[0] for caption in summary["tables"]] == [
        "stitching penalty in percentage points",
        "agreement with the predictions",
        "penalty",
    ]
    assert "full@untrained@match" in summary["tables"][next(iter(summary["tables"]))]["index"]
    assert (
        " of 8 with full, " in summary["conclusion"]
        and "wrong layers of another width for matched" in summary["conclusion"]
    )
    member = trained()[1].member(0)
    pair = tuple(map(int, one.pair[0].split("-")))
    assert load_stitch(tmp_path / "at once", pair, "relu1", "full@noise@match", member.state)[0].matrix.ndim == 2


@pytest.mark.slow
def test_an_interrupted_run_continues(fake, tmp_path):
    every = ["--families", "full", "--pairs", 2, "--controls"]
    command(*every, out=tmp_path / "whole")
    fake.fail_at, fake.requested = fake.requested[-1][0], []
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        command(*every, out=tmp_path / "stopped")
    fake.fail_at = None
    command(*every, out=tmp_path / "stopped")
    assert len(fake.requested) == len({*fake.requested})
    one, two = (contents(tmp_path / name) for name in ("whole", "stopped"))
    assert one["results.csv"] == two["results.csv"] and one["curves.csv"] == two["curves.csv"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss", "mse"], "loss: got 'mse', expected some of task, match, penultimate, each once"),
        (["--loss", "task,task"], "loss: got 'task,task'"),
        (["--loss", ""], "loss: got ''"),
        (["--controls", "--start", "matched", "--families", "full"], "start: got"),
    ],
)
def test_wrong_flags(fake, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit):
        command(*flags, out=tmp_path / "out")
    assert message in capsys.readouterr().err
    assert not fake.requested and not (tmp_path / "out").exists()


def test_controls_need_classes_of_examples():
    dataset = dataclasses.replace(trained()[0], class_names=())
    assert dataset.num_classes is None
    for comparison, name in ((Comparison(True), "controls"), (Comparison(False, ("match",)), "loss")):
        with pytest.raises(InputError, match=f"^{name}: got .*, expected data with one class for each example"):
            comparison.check(dataset)
    Comparison().check(dataset)
    assert parse_losses(" match, task") == ("match", "task")


@pytest.mark.slow
def test_one_run_for_real(tmp_path, monkeypatch, capsys):
    trained()
    monkeypatch.chdir(tmp_path)
    options = ["--families", "full", "--pairs", 1, "--layers", "relu2", "--stitch-epochs", 2, "--controls"]
    permuted = scratch() / "zoo-permuted-labels"
    command(*options, "--dry-run", out=tmp_path / "out")
    assert "members on permuted labels to train" in capsys.readouterr().out and not permuted.exists()
    command(*options, out=tmp_path / "out")
    rows = table(tmp_path / "out").set_index("control")
    assert list(rows.index) == ["related", *CONTROLS] and {*rows.layer} == {"relu2"}
    assert rows.front_layer["wrong_layer"] == "relu1" and rows.front_layer.notna().sum() == 1
    assert ((rows.agreement >= 0) & (rows.agreement <= 100)).all()
    (seed,) = {int(seed) for seed in rows.model_a}
    other = zoo.load(permuted)
    assert other.seeds == (seed,) and other.config.labels == "permuted" and seed in SEEDS
    assert "full@other_labels" in capsys.readouterr().out


# --- tables and figures ---


def hand_made():
    penalties_of = {"related": (1, 2, 3), "noise": (11, 12, 16), "untrained": (0, 2, 4)}
    rows = [
        {"pair": f"{i}-9", "layer": layer, "family": family, "control": control, "penalty": float(value)}
        for family, layer in itertools.product(("full", "rank1"), ("relu1", "relu2"))
        for control, values in penalties_of.items()
        for i, value in enumerate(values)
        if (family, control) != ("rank1", "untrained")
    ]
    return pd.DataFrame(rows).assign(starred=False, clean_accuracy=90.0, agreement=50.0)


def test_gaps_have_intervals_over_pairs():
    gaps = gap_table(hand_made())
    assert list(gaps.index) == ["full@noise", "full@untrained", "rank1@noise"]
    reach = 4.30265 * np.std([10, 10, 13], ddof=1) / 3**0.5
    assert gaps.relu1["full@noise"] == f"11.0 [{11 - reach:.1f}, {11 + reach:.1f}]"
    assert agreement_table(hand_made()).relu2["rank1@noise"] == "50.0 ± 0.0"
    text = distinguished(hand_made())
    assert text.endswith("above 0): 2 of 4 with full, 2 of 2 with rank1.")
    better = hand_made().assign(penalty=lambda rows: rows.penalty.where(rows.control != "noise", -rows.penalty))
    assert distinguished(better).endswith("0 of 4 with full (better: 2), 0 of 2 with rank1 (better: 2).")


def test_controls_are_markers_at_the_bars():
    axes = penalties(hand_made().set_index(np.zeros(30, int))).axes[0]  # labels of rows mean nothing
    assert "accuracy lost at each layer" in axes.get_title(loc="left")
    assert len(axes.patches) == 4 and {bar.get_height() for bar in axes.patches} == {2.0}
    noise, untrained = (np.ma.filled(points.get_offsets(), np.nan) for points in axes.collections[-2:])
    centers = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    np.testing.assert_allclose(noise, np.column_stack([centers, [13.0] * 4]))
    np.testing.assert_allclose(untrained[:2, 1], 2.0)
    assert np.isnan(untrained[2:, 1]).all()


def test_optional_columns_are_written_where_they_are_not_default(tmp_path):
    schema = Schema("results", {"seed": int}, ("value",), optional={"control": "related"})
    rows = ResultTable(tmp_path, schema)
    rows.add(pd.DataFrame({"seed": [1, 2], "value": [0.5, 1.5]}))
    assert list(files.read_csv(rows.path).columns) == ["seed", "value"]
    rows.add(pd.DataFrame({"seed": [1], "value": [9.5], "control": ["noise"]}))
    assert files.read_csv(rows.path)[["seed", "control", "value"]].to_numpy().tolist() == [
        [1, "related", 0.5],
        [1, "noise", 9.5],
        [2, "related", 1.5],
    ]
    requested = pd.DataFrame({"seed": [2, 1], "control": ["noise", "noise"]})
    assert rows.missing(requested).to_numpy().tolist() == [[2, "noise"]]
    assert rows.select(requested).value.tolist() == [9.5]
    assert "control" not in rows.select(pd.DataFrame({"seed": [2]}))
    assert ROWS.full_key[-2:] == ["control", "objective"]
