"""The clusters command: planted clusters, resume, the table, and messages about wrong flags."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from stitch_helpers import trained
from test_width_command import zoo_flags

import experiments.clusters
import experiments.layer_distances
from experiments.clusters import cluster, cluster_table, conclusion, group_means, zoo_groups
from experiments.command import run_command
from symjax import pwcca_distance, zoo
from symjax.ops import files


def planted(gap, count=6):
    """Return the distances of points of three groups on a line, `gap` apart, and the learning rates of the groups."""
    generator = np.random.default_rng(0)
    rates = np.repeat([1e-3, 1e-2, 1e-1], count)
    points = generator.normal(size=3 * count) + gap * np.repeat(np.arange(3), count)
    return pd.DataFrame(np.abs(points[:, None] - points[None])), pd.Series(rates)


def concluded(gap):
    """Return the adjusted Rand index, the difference of distances and both p-values in the conclusion."""
    distances, rates = planted(gap)
    text = conclusion(pd.DataFrame({"learning_rate": rates, "cluster": cluster(distances, 3)}), distances)
    number = r"(-?[\d.e-]*\d)"
    pattern = rf"rates {number} .*?p = {number}\).*difference {number}, permutation test: p = {number}\)\.$"
    return [float(value) for value in re.search(pattern, text).groups()]


@pytest.mark.slow
def test_planted_clusters_are_found_and_others_are_not():
    index, p, difference, difference_p = concluded(50.0)
    assert index == 1.0 and p < 0.01 and 60 < difference < 70 and difference_p < 0.01
    distances, rates = planted(50.0)
    means = group_means(distances, rates).astype(float)
    assert (np.diag(means) < 3).all() and means.iloc[0, 2] > 90
    table = pd.DataFrame({"learning_rate": rates, "cluster": cluster(distances, 3), "accuracy": 90.0})
    counts = cluster_table(table).drop(columns="accuracy")
    assert counts.shape == (3, 3) and sorted(counts.to_numpy().ravel()) == [0] * 6 + [6] * 3
    index, p, difference, difference_p = concluded(0.0)
    assert abs(index) < 0.3 and p > 0.05 and abs(difference) < 0.5 and difference_p > 0.05


def command(*others):
    argv = [*zoo_flags(), "--out", "run", "--epochs", "1", "--seeds", "2", "--layer", "relu1", *others]
    learning_rate = argv.index("--learning-rate")
    del argv[learning_rate : learning_rate + 2]
    run_command(experiments.clusters.main, experiments.clusters.Settings, argv)
    return files.read_csv("run/results.csv")


@pytest.mark.figures
def test_the_command(tmp_path, monkeypatch, capsys):
    _, members = trained()  # writes the data set
    monkeypatch.chdir(tmp_path)
    zoos = []

    def train(config, dataset, seeds, folder, **options):
        zoos.append(tuple(seeds))
        first = jax.tree.map(lambda leaf: leaf[: len(seeds)], members.members)
        return dataclasses.replace(members, config=config, seeds=tuple(seeds), members=first)

    monkeypatch.setattr(zoo, "train", train)
    features = {"relu1": np.random.default_rng(0).normal(size=(6, 20, 3)).astype(np.float32)}
    models = []

    def fake(network, members, images, mean, std, **options):
        models.append(len(jax.tree.leaves(members)[0]))
        return {name: array[: models[-1]] for name, array in features.items()}

    monkeypatch.setattr(experiments.layer_distances, "features_of", fake)
    table = command("--learning-rates", "0.01", "0.02", "--samples", "pool")
    assert len(table) == 4 * 3 // 2 and models == [4]
    assert len(zoos) == 2 and not {*zoos[0]} & {*zoos[1]}  # seeds of one rate belong to no other
    labels = ["0.01/0", "0.01/1", "0.02/0", "0.02/1"]
    for row in table.itertuples():
        x, y = (features["relu1"][labels.index(model)] for model in (row.model_a, row.model_b))
        np.testing.assert_allclose(row.value, (pwcca_distance(x, y) + pwcca_distance(y, x)) / 2, atol=1e-5)
    assert len(files.read_csv("run/clusters.csv")) == 4 and Path("run", "distances.png").stat().st_size > 5000
    assert "4 networks of 2 learning rates" in capsys.readouterr().out
    pd.testing.assert_frame_equal(command("--learning-rates", "0.01", "0.02", "--samples", "pool"), table)
    assert models == [4]  # nothing is computed again


def test_other_rates_and_more_seeds_reuse_networks():
    def seeds(rates, count):
        groups = zoo_groups(experiments.clusters.Settings(learning_rates=rates, seeds=str(count)))
        return {group.config.recipe.learning_rate: set(group.seeds) for group in groups}

    few, more = seeds((0.01, 0.02), 2), seeds((0.01, 0.015, 0.02), 3)
    assert all(few[rate] < more[rate] for rate in few) and len(set.union(*more.values())) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--learning-rates 0.1", "learning-rates: got (0.1,), expected two or more different positive numbers"),
        ("--learning-rates 0.1 -1", "learning-rates: got (0.1, -1.0), expected"),
        ("--learning-rate 0.1", "learning-rate: got 0.1, expected --learning-rates"),
        ("--seeds 1", "seeds: got 1, expected two or more for each learning rate"),
    ],
)
def test_wrong_flags(words, message, tmp_path, monkeypatch, capsys):
    trained()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        command(*words.split())
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert not Path("run").exists()
