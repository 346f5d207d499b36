"""The resi command: planted relations, scores against other libraries, groups of data, resume, and wrong flags."""

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics
from stitch_helpers import trained
from test_width_command import zoo_flags

import experiments.resi
from experiments import resi_scores, resi_values, summary
from experiments.command import run_command
from experiments.resi_data import check_data, stamp, with_random_labels, with_shortcuts
from experiments.resi_scores import ranks_with_intervals
from symjax import cka, zoo
from symjax.errors import InputError
from symjax.ops import files
from symjax.ops.result_table import ResultTable
from symjax.zoo import estimate

LAYERS = ("relu1", "relu2", "relu3", "relu4")


def planted(measures):
    """Return a table of values and the models, for functions {measure: f(distance of two models or layers)}."""
    generator = np.random.default_rng(0)
    groups = {"seeds": ["seeds"], "labels": ["labels=0", "labels=1"]}
    models = {test: [f"{group}/{i}" for group in names for i in range(5)] for test, names in groups.items()}
    place = {model: generator.normal() for model in models["seeds"]}
    place |= {model: 10 * float(model[7]) + generator.normal() for model in models["labels"]}
    rows = [
        (test, name, a, "relu4", b, "relu4", fn(abs(place[a] - place[b])), -abs(place[a] - place[b]))
        for test in groups
        for a, b in itertools.combinations(models[test], 2)
        for name, fn in measures.items()
    ]
    rows += [
        ("layers", name, model, a, model, b, fn(abs(LAYERS.index(a) - LAYERS.index(b))), np.nan)
        for model in models["seeds"]
        for a, b in itertools.combinations(LAYERS, 2)
        for name, fn in measures.items()
    ]
    columns = ["test", "measure", "model_a", "layer_a", "model_b", "layer_b", "value", "agreement"]
    accuracies = pd.DataFrame({"model": list(place), "accuracy": list(place.values())})
    return pd.DataFrame(rows, columns=columns), accuracies


def scores(table, models):
    return resi_scores.scores(table, models, np.ones((1, len(models)), int)).loc[0]


def test_a_measure_of_the_planted_relation_is_best_and_a_random_one_is_not():
    noise = np.random.default_rng(1)
    fns = {"cka": lambda d: -d, "pwcca_distance": lambda d: d, "svcca": lambda d: noise.normal(), "wrong": lambda d: d}
    table, models = planted(fns)
    scored = scores(table, models)
    np.testing.assert_allclose(scored.loc[["cka", "pwcca_distance"]], 1.0)
    np.testing.assert_allclose(scored.loc["wrong", ["accuracy", "output", "layers"]].to_numpy(float), [-1, -1, 0])
    ranked = ranks_with_intervals(table, models)
    assert list(ranked.index[:2]) == ["cka", "pwcca_distance"] and ranked.index[-1] == "wrong"
    assert (ranked.low <= ranked["rank"]).all() and (ranked["rank"] <= ranked.high).all()
    assert ranked.loc["svcca", "low"] > ranked.loc["cka", "high"]
    table.loc[(table.measure == "svcca") & (table.test == "layers"), "value"] = np.nan
    assert np.isnan(scores(table, models).loc["svcca", "layers"]) and not scores(table, models).loc["cka"].isna().any()


def test_scores_of_a_draw_are_those_of_scipy_and_sklearn_for_its_pairs():
    noise = np.random.default_rng(2)
    table, models = planted({"svcca": lambda d: round(noise.normal(), 1), "constant": lambda d: 1.0})
    counts = np.stack([np.ones(len(models), int), noise.integers(0, 4, len(models))])
    scored, accuracy = resi_scores.scores(table, models, counts), models.set_index("model").accuracy
    table = table[table.measure == "svcca"]
    for draw, weights in enumerate(counts):
        number = dict(zip(models.model, weights, strict=True))
        drawn = table.loc[
            np.repeat(table.index, [number[a] * number[b] for a, b in zip(table.model_a, table.model_b, strict=True)])
        ]
        rows = drawn[drawn.test == "seeds"]
        differences = -abs(accuracy[rows.model_a].to_numpy() - accuracy[rows.model_b].to_numpy())
        expected = [scipy.stats.spearmanr(rows.value, target)[0] for target in (differences, rows.agreement)]
        rows = drawn[drawn.test == "labels"]
        same = rows.model_a.str[7] == rows.model_b.str[7]
        expected.append(sklearn.metrics.average_precision_score(same, rows.value))
        rows, shares = table[table.test == "layers"], []
        for model in models.model[:5]:
            value = {(row.layer_a, row.layer_b): row.value for row in rows[rows.model_a == model].itertuples()}
            triples = itertools.combinations(LAYERS, 3)
            shares.append(np.mean([[value[i, j] >= value[i, k], value[j, k] >= value[i, k]] for i, j, k in triples]))
        expected.append(np.average(shares, weights=weights[:5]))
        np.testing.assert_allclose(scored.loc[draw, "svcca"], expected)
        assert scored.loc[draw, "constant"].isna().tolist() == [True, True, False, False]


def test_equal_differences_of_accuracies_are_ties():
    """Accuracies of 360 images whose differences are equal, but not in floating point."""
    correct = np.array([330, 340, 350, 333, 343, 353])
    names = [f"seeds/{i}" for i in range(len(correct))]
    models = pd.DataFrame({"model": names, "accuracy": 100 * (correct / 360)})
    pairs, values = list(itertools.combinations(range(6), 2)), np.random.default_rng(0).normal(size=15)
    rows = [("seeds", "svcca", names[a], "last", names[b], "last", v) for (a, b), v in zip(pairs, values, strict=True)]
    table = pd.DataFrame(rows, columns=["test", "measure", *resi_scores.PAIR, "value"]).assign(agreement=values)
    expected = scipy.stats.spearmanr(values, [-abs(correct[a] - correct[b]) for a, b in pairs])[0]
    assert scores(table, models).loc["svcca", "accuracy"] == pytest.approx(expected, abs=1e-12)


def test_a_share_of_labels_and_shortcuts_is_changed():
    dataset, _ = trained()
    for share, low, high in ((0.0, 0, 0), (0.5, 0.2, 0.55), (1.0, 0.6, 0.9)):  # of 4 classes, 3 in 4 draws are wrong
        changed = with_random_labels(dataset, share)
        assert low <= (changed.train.labels != dataset.train.labels).mean() <= high
        assert changed.test is dataset.test and (changed.train.images == dataset.train.images).all()
    shortcut = with_shortcuts(dataset, 1.0)
    assert shortcut.train.labels.tolist() == dataset.train.labels.tolist()
    assert (shortcut.train.images[:, 0, :, 0].argmax(-1) == dataset.train.labels).all()
    np.testing.assert_array_equal(shortcut.train.images[:, 1:], dataset.train.images[:, 1:])
    right = (shortcut.test.images[:, 0, :, 0].argmax(-1) == dataset.test.labels).mean()
    assert 0.05 < right < 0.6  # chance is a quarter
    image = stamp(np.full((1, 4, 4, 1), 9, np.uint8), np.array([5]), 10)[0, ..., 0]
    assert image[:3].tolist() == [[0, 0, 0, 0], [0, 255, 0, 0], [0, 0, 0, 0]] and (image[3] == 9).all()


def command(*others):
    argv = [*zoo_flags(), "--out", "run", "--epochs", "1", "--examples", "20", "--group-seeds", "3", *others]
    run_command(experiments.resi.main, experiments.resi.Settings, argv)
    return files.read_csv("run/results.csv")


@pytest.fixture
def zoos(tmp_path, monkeypatch):
    """Commands run in an empty folder, and take the tiny zoo for every zoo; return the data that they train on."""
    _, members = trained()  # writes the data set
    monkeypatch.chdir(tmp_path)
    trained_on = []

    def train(config, dataset, seeds, folder, **options):
        trained_on.append((str(folder), dataset))
        return dataclasses.replace(members, config=config)

    monkeypatch.setattr(zoo, "train", train)
    return trained_on


def test_the_command(zoos, monkeypatch, capsys):
    flags = ["--measures", "cka,procrustes_distance", "--tests", "accuracy,output,labels", "--stitches", "matched"]
    table = command(*flags)
    assert len(zoos) == len({folder for folder, _ in zoos}) == 3  # labels=0 is the zoo of the tests accuracy and output
    assert len(table) == 3 * (3 + 36) and set(table.measure) == {"cka", "procrustes_distance", "stitch:matched"}
    dataset, members = trained()
    settings = experiments.resi.Settings(examples=20)
    layer = members.network.points[-1].name
    (features,) = settings.features(members.network, members.members, dataset, [layer]).values()
    for row in table[(table.test == "seeds") & (table.measure == "cka")].itertuples():
        x, y = (features[int(model[-1])] for model in (row.model_a, row.model_b))
        np.testing.assert_allclose(row.value, cka(x, y), atol=1e-5)
    ranks, tables = files.read_csv("run/ranks.csv"), summary.read("run").tables
    assert list(ranks.columns) == ["measure", "accuracy", "output", "labels", "rank", "low", "high"]
    assert "9 networks, 3 measures" in capsys.readouterr().out
    monkeypatch.setattr(resi_values, "measured", None)  # nothing is computed again
    monkeypatch.setattr(resi_values.Compared, "classes", None)
    others = pd.DataFrame({"model": [f"seeds/{seed}" for seed in range(90, 99)], "accuracy": 1.0})
    ResultTable(Path("run"), resi_values.MODELS).add(others)  # of an earlier command with more seeds
    pd.testing.assert_frame_equal(command(*flags), table)
    for name, table in summary.read("run").tables.items():
        pd.testing.assert_frame_equal(table, tables[name])


@pytest.mark.slow
def test_a_dry_run_lists_the_zoos_and_writes_nothing(zoos, monkeypatch, capsys):
    monkeypatch.setattr(estimate, "rehearse", lambda *_: 1e9)
    run_command(
        experiments.resi.main,
        experiments.resi.Settings,
        [*zoo_flags(), "--tests", "accuracy,shortcut", "--group-seeds", "3", "--dry-run"],
    )
    printed = capsys.readouterr().out
    assert all(f"members {name} to train" in printed for name in ("seeds", "shortcut=0", "shortcut=0.8", "shortcut=1"))
    assert not zoos and not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tests accuracy,nosuch", "--tests: got 'nosuch', expected all or some of accuracy, output"),
        ("--layer all", "--layer: got 'all', expected a stitch point"),
        ("--seeds 2", "--seeds: got 2, expected three or more"),
        ("--group-seeds 4", "--group-seeds: got 4, expected an integer from 3 to 3"),
        ("--measures nosuch", "--measures: got 'nosuch'"),
        ("--stitches nosuch", "--stitches: got 'nosuch'"),
    ],
)
def test_wrong_flags(zoos, words, message, capsys):
    with pytest.raises(SystemExit) as end:
        command(*words.split())
    assert end.value.code == 2 and f"error: {message}" in capsys.readouterr().err and not zoos


def test_data_without_images_or_classes_are_refused():
    dataset, _ = trained()
    vectors = SimpleNamespace(
        name="mine", num_classes=4, train=SimpleNamespace(images=np.zeros((3, 5), np.float32), labels=np.zeros(3))
    )
    check_data(("labels", "layers"), vectors)
    with pytest.raises(InputError, match="tests: got shortcut"):
        check_data(("shortcut",), vectors)
    with pytest.raises(InputError, match="dataset: got mine, expected one with a class"):
        check_data(("labels",), SimpleNamespace(**vars(vectors) | {"num_classes": None}))
