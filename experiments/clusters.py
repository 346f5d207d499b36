"""Find clusters of networks by the PWCCA distance of one layer (Morcos et al. 2018, section 3.3).

Networks that differ in the learning rate and the seed are trained, and the distance of one layer is computed between
all pairs. Average linkage divides the networks into as many clusters as there are learning rates; the adjusted Rand
index says how far clusters and learning rates agree. By default 4 narrow Myrtle CNNs are trained for each of 5 learning
rates on scikit-learn's digits. Running the same command again recomputes nothing; more seeds or rates extend the
results.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.command import run_command
from experiments.defaults import optional
from experiments.folders import run_folder, run_on_zoos, test_percent
from experiments.layer_distances import LayerSettings, pair_distances
from experiments.registry import Experiment, PublishedTable
from experiments.settings import zoo_folder
from experiments.summary import Summary
from symjax import plots, zoo
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.ops import files
from symjax.ops.result_table import ResultTable, Schema
from symjax.tables import interval_text
from symjax.zoo import Group, ZooConfig

EXPERIMENT = Experiment(
    place=150,
    published={
        "clusters of 200 networks by PWCCA distance, Morcos et al. 2018": PublishedTable(
            ("published",), {"five learning rates": ("networks form distinct clusters",)}
        )
    },
)
ROWS = Schema("results", {"model_a": str, "model_b": str}, ("value",))
ACCURACY = Schema("accuracy", {"model": str}, ("learning_rate", "seed", "accuracy"), recomputable=True)
SEEDS_PER_RATE = 10**4
DRAWS = 999  # permutations of the test


@dataclasses.dataclass(frozen=True)
class Settings(LayerSettings):
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    """Learning rates, in place of --learning-rate. Each has networks of its own seeds, as many as --seeds."""
    out: Annotated[Path | None, optional("DIR", "runs/clusters/ and a name made from the settings")] = None
    """The folder of the results."""


def main(settings: Settings) -> Summary:
    groups = zoo_groups(settings)
    dataset = settings.load_dataset()
    network = settings.zoo_config().network(dataset)
    layer = network.points[settings.point(network)]
    identity = settings.zoo_config().identity(dataset)
    recipe = {name: value for name, value in identity["recipe"].items() if name != "learning_rate"}
    document = {"zoo": {**identity, "recipe": recipe}, "layer": layer.name}
    document |= {name: getattr(settings, name) for name in ("examples", "samples", "test_size")}
    out = run_folder("clusters", settings.run_name, document, dataset, settings.out)

    named = {f"members of learning rate {g.config.recipe.learning_rate!r} to train": g for g in groups}
    with run_on_zoos(settings, named, dataset, out) as (folder, zoos):
        models = accuracy_table(folder, zoos, dataset, settings.memory_limit)
        distances = distance_matrix(folder, zoos, dataset, settings)
        clusters = models.assign(cluster=cluster(distances, len(groups)))
        files.write_csv(folder / "clusters.csv", clusters)
        rates = models.learning_rate.map(repr)
        plots.distance_matrix(distances, rates, folder / "distances", label=f"PWCCA distance of {layer.name}")
        return Summary(
            folder,
            f"{network.name} on {dataset.name}: {len(models)} networks of {len(groups)} learning rates",
            conclusion(clusters, distances),
            {
                f"mean PWCCA distance of {layer.name} between different networks, by learning rate": group_means(
                    distances, models.learning_rate
                ),
                "test accuracy (%) and clusters by learning rate": cluster_table(clusters),
            },
            ("distances",),
        )


def zoo_groups(settings: Settings) -> list[Group]:
    """Return the zoo of each learning rate, ascending; no seed occurs twice."""
    if settings.learning_rate is not None:
        raise InputError(f"learning_rate: got {settings.learning_rate}, expected --learning-rates")
    rates, seeds = settings.learning_rates, settings.parse_seeds()
    if len(rates) < 2 or len(set(rates)) < len(rates) or not all(0 < rate < float("inf") for rate in rates):
        raise InputError(f"learning_rates: got {rates}, expected two or more different positive numbers")
    if len(seeds) < 2:
        raise InputError(f"seeds: got {len(seeds)}, expected two or more for each learning rate")
    if max(seeds) >= SEEDS_PER_RATE:
        raise InputError(f"seeds: got {max(seeds)}, expected seeds below {SEEDS_PER_RATE}")
    # The seeds of a rate depend on this rate alone, so that other rates and more seeds reuse its networks.
    offsets = {rate: SEEDS_PER_RATE * (zlib.crc32(repr(rate).encode()) % 10**5) for rate in sorted(rates)}
    configs = {rate: dataclasses.replace(settings, learning_rate=rate).zoo_config() for rate in offsets}
    return [
        Group(config, tuple(seed + offsets[rate] for seed in seeds), zoo_folder(config))
        for rate, config in configs.items()
    ]


def label(config: ZooConfig, seed: int) -> str:
    """Return the label of a network."""
    return f"{config.recipe.learning_rate!r}/{seed % SEEDS_PER_RATE}"


def accuracy_table(folder: Path, zoos: list[zoo.Zoo], dataset: Dataset, limit: float | None) -> pd.DataFrame:
    """Return model, learning rate, seed and test accuracy of all networks, in their order."""
    table = ResultTable(folder, ACCURACY)
    labels = [label(members.config, seed) for members in zoos for seed in members.seeds]
    for members in zoos:
        keys = pd.DataFrame({"model": [label(members.config, seed) for seed in members.seeds]})
        if len(table.missing(keys)):
            columns = {"learning_rate": members.config.recipe.learning_rate, "seed": members.seeds}
            table.add(keys.assign(**columns, accuracy=test_percent(members, dataset, limit)))
    return table.select(pd.DataFrame({"model": labels}))


def distance_matrix(folder: Path, zoos: list[zoo.Zoo], dataset: Dataset, settings: Settings) -> pd.DataFrame:
    """Return the symmetric matrix of distances between all networks; compute the missing pairs."""
    labels = [label(members.config, seed) for members in zoos for seed in members.seeds]
    requested = pd.DataFrame(itertools.combinations(labels, 2), columns=list(ROWS.key))
    results = ResultTable(folder, ROWS)
    missing = results.missing(requested)
    if len(missing):
        members = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(zoo.members for zoo in zoos))
        features = settings.features(zoos[0].network, members, dataset)
        missing_pairs = list(missing.itertuples(index=False, name=None))
        results.add(missing.assign(value=pair_distances(features, labels, missing_pairs, settings.samples)))
    distances = pd.DataFrame(0.0, labels, labels)
    for row in results.select(requested).itertuples():
        distances.loc[row.model_a, row.model_b] = distances.loc[row.model_b, row.model_a] = row.value
    return distances


def cluster(distances: pd.DataFrame, count: int) -> np.ndarray:
    """Return the cluster of each network, 1 to `count`, by average linkage."""
    from scipy.cluster.hierarchy import fcluster, linkage  # imported in functions, for a quick --help
    from scipy.spatial.distance import squareform

    return fcluster(linkage(squareform(distances.to_numpy()), "average"), count, "maxclust")


def statistic_and_p_value(statistic: Callable[[np.ndarray], float], groups: np.ndarray) -> tuple[float, float]:
    """Return the statistic of the groups and its one-sided p-value, by permutations of the groups."""
    observed, generator = statistic(groups), np.random.default_rng(0)
    drawn = [statistic(generator.permutation(groups)) for _ in range(DRAWS)]
    return float(observed), (1 + sum(value >= observed - 1e-12 for value in drawn)) / (1 + DRAWS)


def group_means(distances: pd.DataFrame, rates: pd.Series) -> pd.DataFrame:
    """Return the mean distance between different networks, by learning rate of both."""
    values = distances.to_numpy().copy()
    np.fill_diagonal(values, np.nan)
    levels = rates.unique()
    means = [[np.nanmean(values[np.ix_(rates == a, rates == b)]) for b in levels] for a in levels]
    names = [repr(float(rate)) for rate in levels]
    return pd.DataFrame(means, names, names).map("{:.3f}".format)


def cluster_table(clusters: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy and the number of networks in each cluster, by learning rate."""
    accuracy = clusters.groupby("learning_rate").accuracy.agg(interval_text).rename("accuracy")
    counts = pd.crosstab(clusters.learning_rate, clusters.cluster).add_prefix("cluster ")
    return pd.concat([accuracy, counts], axis=1).rename(index=repr).rename_axis(index=None)


def conclusion(clusters: pd.DataFrame, distances: pd.DataFrame) -> str:
    """Return how far clusters agree with learning rates, and the distances within and between learning rates."""
    from sklearn.metrics import adjusted_rand_score

    rates, values = pd.factorize(clusters.learning_rate)[0], distances.to_numpy()
    upper = np.triu(np.ones(values.shape, bool), 1)

    def means(groups: np.ndarray) -> list[float]:
        equal = groups[:, None] == groups[None]
        return [values[upper & mask].mean() for mask in (equal, ~equal)]

    index, p = statistic_and_p_value(partial(adjusted_rand_score, clusters.cluster.to_numpy()), rates)
    gap, gap_p = statistic_and_p_value(lambda groups: float(np.subtract(*means(groups)[::-1])), rates)
    within, between = means(rates)
    return (
        f"Adjusted Rand index of clusters and learning rates {index:.2f} (1: equal; 0: as by chance; permutation test: "
        f"p = {p:.2g}). Mean distance {within:.3f} between networks of one learning rate, {between:.3f} between "
        f"networks of different ones (difference {gap:.3f}, permutation test: p = {gap_p:.2g})."
    )


if __name__ == "__main__":
    run_command(main, Settings)
