"""The commands that look at a training: dynamics, classes, freeze."""

import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest
from campaign import slow
from stitch_helpers import SEEDS, flags, scratch, trained
from test_dynamics import least_squares_correlation

import experiments.classes
import experiments.dynamics
import experiments.freeze
from experiments import summary
from experiments.command import run_command
from experiments.history import snapshots_folder
from experiments.settings import zoo_folder
from symjax import models, zoo
from symjax.flops import segment_flops, step_flops
from symjax.ops import files
from symjax.representations import representations
from symjax.similarity import MEASURES
from symjax.training import Recipe

pytestmark = [
    pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning"),
]
EXAMPLES = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a zoo that has snapshots of all epochs."""
    dataset, zoo_of_all = trained()
    folder = tmp_path_factory.mktemp("training")
    settings = {"keep": range(7), "devices": jax.devices()[:1], "progress": False}
    zoo.train(zoo_of_all.config, dataset, SEEDS, folder / "zoo", **settings)
    return folder


def command(module, folder, *others, out=None):
    argv = [*flags(scratch()), "--zoo", folder / "zoo", "--out", folder / (out or module.__name__.rpartition(".")[2])]
    argv += ["--examples", EXAMPLES, *others]
    run_command(module.main, module.Settings, [str(word) for word in argv])
    return folder / (out or module.__name__.rpartition(".")[2])


def features(folder, epochs, seeds=SEEDS, **options):
    """Return the features of these members by epoch."""
    dataset, _ = trained()
    images = dataset.test.images[:EXAMPLES]
    zoos = {epoch: zoo.load(folder / "zoo", seeds, epoch=epoch) for epoch in epochs}
    return {epoch: representations(z, images, dataset.mean, dataset.std, **options) for epoch, z in zoos.items()}


def test_dynamics_rows_are_the_measures_and_more_extends(folder, capsys, monkeypatch):
    settings = ["--seeds", 2, "--checkpoints", "0,2", "--measures", "cka"]
    out = command(experiments.dynamics, folder, *settings)
    printed = capsys.readouterr().out
    rows = files.read_csv(out / "results.csv")
    assert len(rows) == 2 * 3 * 4 and sorted(rows.epoch.unique()) == [0, 2, 6]
    at = features(folder, (0, 2, 6), (0, 1), samples="pool")
    for row in rows.itertuples():
        expected = MEASURES["cka"].fn(at[row.epoch][row.layer][row.seed], at[6][row.end_layer][row.seed])
        np.testing.assert_allclose(row.value, expected, atol=2e-4)
    for name in ("layers", "time", "curves"):
        assert (out / f"{name}.png").exists() and (out / f"{name}.pdf").exists()
    assert "relu1 is at 0.95 of its end" in printed
    kept = summary.read(out)
    assert kept.figures == ("layers", "time", "curves") and kept.conclusion in printed
    # The same again computes nothing; a seed, a moment and a measure are added alone.
    requested = []
    original = experiments.dynamics.dynamics.similarity_to_end

    def watched(history, end, measure, epochs, **options):
        requested.append((measure, tuple(epochs)))
        return original(history, end, measure, epochs, **options)

    monkeypatch.setattr(experiments.dynamics.dynamics, "similarity_to_end", watched)
    command(experiments.dynamics, folder, *settings)
    assert not requested and capsys.readouterr().out == printed
    command(experiments.dynamics, folder, *settings, "--dry-run")
    assert "All results exist" in capsys.readouterr().out
    command(experiments.dynamics, folder, "--checkpoints", "0,2,4", "--measures", "cka,cka_lange", "--seeds", "1,2")
    whole = (0, 2, 4, 6)
    assert requested == [("cka", (4,)), ("cka_lange", whole), ("cka", whole), ("cka_lange", whole)]
    capsys.readouterr()
    one = command(experiments.dynamics, folder, *settings, "--layers", "relu1", out="one")
    assert summary.read(one).figures == ("time", "curves") and not (one / "layers.png").exists()
    more = files.read_csv(out / "results.csv")
    pd.testing.assert_frame_equal(rows.merge(more), rows)
    assert not more.duplicated(list(more.columns[:-1])).any()


def test_classes_rows_are_least_squares(folder, capsys):
    out = command(experiments.classes, folder, "--checkpoints", "0,3", "--samples", "positions", "--layers", "relu2")
    printed = capsys.readouterr().out
    dataset, _ = trained()
    rows = files.read_csv(out / "results.csv")
    assert len(rows) == 3 * 3 * 4
    labels = dataset.test.labels[:EXAMPLES]
    at = features(folder, (0, 3, 6), layers="relu2")
    for row in rows.itertuples():
        x = at[row.epoch]["relu2"][row.seed]
        indicator = np.float64(labels == list(dataset.class_names).index(str(row[5])))
        x, indicator = x.reshape(-1, x.shape[-1]), np.repeat(indicator, x[0, ..., 0].size)
        assert row.value == pytest.approx(least_squares_correlation(x, indicator), abs=1e-3)
    command(
        experiments.classes, folder, "--checkpoints", "0,3", "--samples", "positions", "--layers", "relu2", "--dry-run"
    )
    assert "All results exist" in capsys.readouterr().out
    assert "relu2: first " in printed and (out / "classes.png").exists() and (out / "layers.pdf").exists()


def test_the_default_zoo_is_named_by_its_snapshots(folder, capsys):
    config = zoo.ZooConfig()
    names = {(0, 1, 2, 5, 10): "0-2_5_10", tuple(range(11)): "0-10", (3, 10): "3_10"}
    for epochs, name in names.items():
        path = snapshots_folder(config, epochs)
        assert path.parent == zoo_folder(config).parent and path.name == f"{zoo_folder(config).name}-snapshots-{name}"
    assert len(snapshots_folder(config, range(0, 1000, 2)).name) < 100
    with pytest.raises(SystemExit, match="2"):
        command(experiments.dynamics, folder, "--zoo", scratch() / "zoo", "--checkpoints", "2", out="bad")
    message = capsys.readouterr().err
    assert "member-0 was trained for; train a zoo that keeps them" in message
    assert "another --zoo" in message and message.count("\n") == 1 and not (folder / "bad").exists()


FROZEN = ["--schedules", "1/3,similarity", "--threshold", 0, "--measure", "cka"]


def similarity_zoo(folder, name):
    """Return the folder of the zoo that was trained with the schedule of similarity, beside the zoo of this name."""
    (path,) = folder.glob(f"{name}-freeze-similarity-*")
    return path


@pytest.mark.slow
def test_freeze_compares_schedules_with_normal_training(folder, capsys, monkeypatch):
    out = command(experiments.freeze, folder, *FROZEN)
    printed = capsys.readouterr().out
    dataset, zoo_of_all = trained()
    rows = files.read_csv(out / "results.csv").set_index(["schedule", "seed"])
    normal = 100 * zoo.test_accuracy(zoo_of_all, dataset)
    np.testing.assert_allclose(rows.accuracy["normal"], normal, atol=1e-3)
    frozen = zoo.load(folder / "zoo-freeze-1-3")
    np.testing.assert_allclose(rows.accuracy["1/3"], 100 * zoo.test_accuracy(frozen, dataset), atol=1e-3)
    network = models.create("stitch_tiny", channels=1, classes=4)
    recipe = zoo_of_all.config.recipe
    steps = [step_flops(network, (8, 8, 1), recipe, k) for k in (0, 1, 2)]
    share = [flops / steps[0] for flops in steps]
    expected = 1 - (share[0] + 2 * share[1] + 3 * share[2]) / 6
    flops = rows.flops.groupby("schedule").mean()
    assert 1 - flops["1/3"] / flops["normal"] == pytest.approx(expected)
    assert f"1/3: saves {100 * expected:.1f} % of the operations" in printed
    # Any similarity will do at threshold 0: all is frozen after an epoch, with one pass before it and one after.
    by_similarity = zoo.load(similarity_zoo(folder, "zoo"))
    assert by_similarity.freeze == (1, 1) and by_similarity.config.rule.seeds == SEEDS
    looks = 2 * EXAMPLES * sum(segment_flops(network, (8, 8, 1))[:2])
    whole = len(dataset.train) // recipe.batch_size * (steps[0] + 5 * steps[2]) + looks
    assert flops["1/1 found by 0 1 2"] == pytest.approx(whole)
    assert "similarity: saves " in printed and printed.count("(including the passes that determined the schedule") == 1
    kept = files.read_csv(out / "schedules.csv").set_index("name")
    assert kept.schedule.to_dict() == {"normal": "normal", "1/3": "1/3", "similarity": "1/1"}
    assert (kept.seeds == "0 1 2").all()
    monkeypatch.setattr(zoo.training, "train_jobs", None)
    monkeypatch.setattr(experiments.freeze, "test_percent", None)
    command(experiments.freeze, folder, *FROZEN)
    assert capsys.readouterr().out == printed
    command(experiments.freeze, folder, *FROZEN, "--dry-run")
    assert "All results exist" in capsys.readouterr().out


def test_a_schedule_shorter_than_the_layers_is_of_the_lowest():
    layers = ["relu1", "relu2", "relu3", "relu4"]
    settings = experiments.freeze.Settings(schedules="2/4")
    shorter = experiments.freeze.parse_schedule(settings, "2/4", len(layers))
    table = experiments.freeze.schedule_table({"2/4": shorter, "none": ()}, layers)
    assert table.loc["2/4"].tolist() == ["2", "4", "never", "never"] and set(table.loc["none"]) == {"never"}
    config = zoo.ZooConfig(freeze=shorter)
    assert [config.frozen(epoch) for epoch in range(6)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.slow
def test_layers_that_never_saturate_are_normal_training_and_cost_their_looks(folder, capsys, monkeypatch):
    shutil.copytree(folder / "zoo", folder / "other")
    monkeypatch.chdir(folder / "other")
    words = ["--schedules", "similarity", "--threshold", 1, "--measure", "cka", "--zoo", "."]
    out = command(experiments.freeze, folder, *words, out="never")
    rows = files.read_csv(out / "results.csv").set_index(["schedule", "seed"])
    np.testing.assert_array_equal(rows.accuracy["normal found by 0 1 2"], rows.accuracy["normal"])
    never = zoo.load(similarity_zoo(folder, "other"))
    assert never.freeze == ()
    assert experiments.freeze.num_comparisons(never) == 6  # before the first epoch, and after five of six
    looks = rows.flops.groupby("schedule").mean().diff().abs().iloc[-1]
    network = models.create("stitch_tiny", channels=1, classes=4)
    assert looks == pytest.approx(6 * EXAMPLES * sum(segment_flops(network, (8, 8, 1))[:2]))
    assert "similarity: saves -" in capsys.readouterr().out


def test_looks_end_with_the_last_layer_and_with_the_last_epoch():
    def trained_as(freeze, epochs=9):
        config, network = zoo.ZooConfig(recipe=Recipe(epochs=epochs)), SimpleNamespace(points=(1, 2))
        return SimpleNamespace(freeze=freeze, config=config, network=network)

    for freeze, expected in (((), 9), ((3,), 9), ((3, 3), 4), ((1, 8), 9)):
        assert experiments.freeze.num_comparisons(trained_as(freeze)) == expected
    assert experiments.freeze.num_comparisons(trained_as((), epochs=1)) == 0


@pytest.mark.parametrize(
    ("module", "words"),
    [
        slow("dynamics", ["--checkpoints", "2", "--measures", "cka"]),
        ("classes", ["--checkpoints", "2"]),
        slow("freeze", ["--schedules", "1/1"]),
    ],
)
@pytest.mark.slow
def test_numbers_of_one_network_are_not_over_networks(module, words, folder):
    out = command(getattr(experiments, module), folder, "--seeds", "0,", *words, out=f"one-{module}")
    kept = (out / summary.SUMMARY).read_text()
    assert "of one network" in kept and "1 networks" not in kept


@pytest.mark.parametrize(
    ("module", "words", "named"),
    [
        (
            "dynamics",
            ["--checkpoints", "0,9"],
            "checkpoints: got '0,9', expected epochs from 0 to 6 separated by commas, or all",
        ),
        ("dynamics", ["--checkpoints", "6"], "expected an epoch before the last"),
        ("dynamics", ["--measures", "cosine"], "'cosine' is unknown"),
        (
            "dynamics",
            ["--measures", "cka,cka_distance"],
            "measures: got 'cka,cka_distance', where 'cka_distance' is a distance, expected",
        ),
        ("dynamics", ["--layers", "relu9"], "relu9"),
        ("classes", ["--checkpoints", "some"], "checkpoints: got 'some'"),
        ("classes", ["--examples", "3"], "examples: got 3"),
        ("freeze", ["--schedules", "cubic"], "schedules: got 'cubic'"),
        ("freeze", ["--schedules", "3/1"], "freeze: got 3, 1"),
        ("freeze", ["--schedules", "1/2/3"], "got 1/2/3, 3 epochs, expected at most 2"),
        ("freeze", ["--begin", "0.9"], "begin, end: got 0.9"),
        ("freeze", ["--threshold", "nan"], "threshold: got nan, expected a number from 0 to 1"),
        ("freeze", ["--threshold", "5"], "threshold: got 5.0"),
        ("freeze", ["--measure", "cosine"], "measure: got 'cosine', where 'cosine' is unknown (did you mean"),
        ("freeze", ["--measure", "cka_distance"], "measure: got 'cka_distance', where 'cka_distance' is a distance"),
        ("freeze", ["--measure", "cka,svcca"], "measure: got 'cka,svcca', expected one"),
    ],
)
def test_bad_flags_are_one_line(module, words, named, folder, capsys):
    with pytest.raises(SystemExit) as end:
        command(getattr(experiments, module), folder, *words, out="bad")
    error = capsys.readouterr().err
    assert end.value.code == 2 and named in error and error.count("\n") == 1
    assert not (folder / "bad").exists()
