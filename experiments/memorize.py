"""Compare networks that generalize with networks that memorize, layer by layer (Morcos et al. 2018).

By default 4 narrow Myrtle CNNs are trained on scikit-learn's digits, and 4 on the same images with permuted labels. All
train in one program, long enough to fit their training labels. The results are PWCCA and SVCCA distances within both
groups and across. Running the same command again recomputes nothing; more seeds or measures extend the results.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd

from experiments import dry_run
from experiments.command import run_command
from experiments.defaults import optional
from experiments.features import FeatureSettings, in_blocks, parse_measures
from experiments.folders import RunSettings, run_folder
from experiments.memorize_summary import GROUPS, PAIR, conclusion, format_means, group_table
from experiments.registry import Experiment, PublishedTable
from experiments.settings import zoo_folder
from experiments.summary import Summary
from symjax import plots, zoo
from symjax.errors import InputError
from symjax.ops import files
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.similarity import MEASURES, pairwise
from symjax.tables import mean
from symjax.zoo import Group, Zoo, ZooConfig

ROWS = Schema("results", {"measure": str, "layer": str, **PAIR}, ("distance",), order=("measure",))
ACCURACY = Schema("accuracy", {"group": str, "seed": int}, ("train", "test"), recomputable=True)
EPOCHS = {"digits": 40}  # enough to fit permuted labels, by data set
DEFAULT_EPOCHS = 100  # for other data sets

EXPERIMENT = Experiment(
    place=100,
    published={
        "PWCCA distance of equal layers on CIFAR-10, Morcos et al. 2018 (about)": PublishedTable(
            ("layer 5", "layer 8", "layer 10"),
            {"generalizing": (0.28, 0.45, 0.42), "memorizing": (0.34, 0.60, 0.61), "across": (0.34, 0.59, 0.63)},
        )
    },
)


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings, FeatureSettings):
    seeds: str = "4"
    """Seeds of each group, 3 or more: a number of seeds, as in 4 for 0,1,2,3, or a list, as in 3,7,9."""
    epochs: Annotated[int | None, optional("INT", f"digits {EPOCHS['digits']}, otherwise {DEFAULT_EPOCHS}")] = None
    """Number of passes over the training images."""
    weight_decay: float = 0.0
    """Factor of an L2 penalty on kernels, not on biases and batch norm."""
    flip: bool = False
    """Flip training images horizontally at random."""
    translate: int = 0
    """Shift training images at random by up to this many pixels."""
    images: Literal["test", "train"] = "train"
    """Images on which layers are compared, without augmentation."""
    examples: int = 1000
    """Number of these images; all if there are fewer."""
    permutation: Literal["shared", "each"] = "shared"
    """Permutation of the labels to memorize: shared by all networks, as published, or a different one for each."""
    measures: str = "pwcca,svcca"
    """Comma-separated names of symjax.similarity.MEASURES."""
    zoo: Annotated[Path | None, optional("DIR", "two folders, as for python -m experiments.zoo")] = None
    """Folder of the two zoos, which are its subfolders generalizing and memorizing; missing members are trained."""

    def zoo_config(self) -> ZooConfig:
        """Return the configuration of the generalizing networks."""
        epochs = EPOCHS.get(self.dataset, DEFAULT_EPOCHS) if self.epochs is None else self.epochs
        config = super().zoo_config()
        return dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, epochs=epochs))

    def groups(self, seeds: tuple[int, ...]) -> dict[str, Group]:
        """Return the zoos of both groups, by name."""
        true = self.zoo_config()
        permuted = dataclasses.replace(true, labels="permuted" if self.permutation == "shared" else "permuted_each")
        return {
            name: Group(config, seeds, self.zoo / name if self.zoo else zoo_folder(config))
            for name, config in zip(GROUPS, (true, permuted), strict=True)
        }


def main(settings: Settings) -> Summary:
    # Sorted, so that the key of a pair does not depend on the order of the seeds.
    seeds, measures = tuple(sorted(settings.parse_seeds())), parse_measures(settings.measures)
    if len(seeds) < 3:
        raise InputError(f"seeds: got {len(seeds)} for each group, expected 3 or more for error bars over networks")
    groups, dataset = settings.groups(seeds), settings.load_dataset()
    layers = settings.parse_layers(dataset)
    configs, limit = [group.config for group in groups.values()], settings.memory_limit
    document = dict(zip(GROUPS, (config.identity(dataset) for config in configs), strict=True))
    document |= {name: getattr(settings, name) for name in ("images", "examples", "samples", "test_size")}
    document["layers"] = layers
    out = run_folder("memorize", zoo_folder(configs[1]).name, document, dataset, settings.out)

    def all_phases() -> list[dry_run.Phase]:
        training = dry_run.zoo_phases(groups, dataset, limit)
        return [*training, *phases(settings, dataset, layers, out.path, measures, seeds)]

    dry_run.stop(settings, configs[0], dataset, out.path, all_phases)
    zoos = zoo.train_together(list(groups.values()), dataset, max_device_memory=limit)
    with out.open() as folder:
        accuracies = accuracy_table(ResultTable(folder, ACCURACY), zoos, dataset, limit)
        table = compare(ResultTable(folder, ROWS), settings, zoos, dataset, layers, measures)
        means = group_table(table)
        files.write_csv(folder / "groups.csv", means)
        plots.group_distances(means, folder / "groups")
        accuracy = 100 * accuracies.groupby("group", sort=False)[["train", "test"]].agg(mean)
        caption = "accuracy in percent: training images with the labels of the training, test images with true labels"
        tables = {caption: accuracy.map("{:.2f}".format)}
        for measure, rows in means.groupby("measure", sort=False):
            tables[f"{measure}: distance of equal layers, mean ± standard error over networks"] = format_means(
                rows, layers
            )
        count = f"{len(settings.selected_images(dataset)[0])} {settings.images} images"
        title = f"{zoos[0].network.name} on {dataset.name}, {len(seeds)} networks in each group, {count}"
        return Summary(folder, title, conclusion(table, layers, accuracy), tables, ("groups",))


def phases(
    settings: Settings, dataset, layers: list[str], folder: Path, measures: list[str], seeds
) -> list[dry_run.Phase]:
    """Return the phases of a dry run after the training."""
    models = models_of(seeds)
    missing = missing_pairs(ResultTable(folder, ROWS), measures, models)
    to_do, every = sum(map(len, missing.values())), len(measures) * len(pairs_of(models))
    counts = {"to_do": len(models) if to_do else 0, "done": 0 if to_do else len(models), "together": len(seeds)}
    features = settings.layers_phase("members to evaluate", dataset, layers, **counts)
    return [features._replace(stored=2 * features.stored), dry_run.Phase("pairs to compare", to_do, every - to_do)]


def accuracy_table(table: ResultTable, zoos: list[Zoo], dataset, limit: float | None) -> pd.DataFrame:
    """Return the accuracy of every member, in [0, 1], on its own training labels and on the test images."""
    for group, trained in zip(GROUPS, zoos, strict=True):
        members = pd.DataFrame({"group": group, "seed": trained.seeds})
        if len(table.missing(members)):
            options = {"max_device_memory": limit}
            train = zoo.train_accuracy(trained, dataset, **options)
            table.add(members.assign(train=train, test=zoo.test_accuracy(trained, dataset, **options)))
    return table.select(pd.DataFrame(models_of(sorted(zoos[0].seeds)), columns=["group", "seed"]))


Model = tuple[str, int]  # group and seed of a network


def models_of(seeds) -> list[Model]:
    """Return the networks of both groups."""
    return [(group, seed) for group in GROUPS for seed in seeds]


def pairs_of(models: list[Model]) -> list[tuple[int, int]]:
    """Return the positions of pairs of networks of different seeds.

    Networks of equal seeds in the two groups start from the same weights and are not independent, so they are left out.
    """
    return [(i, j) for i, j in itertools.combinations(range(len(models)), 2) if models[i][1] != models[j][1]]


def requested(measures: list[str], models: list[Model]) -> pd.DataFrame:
    """Return the keys of the requested rows: measures and pairs of networks."""
    keys = [(m, *models[i], *models[j]) for m in measures for i, j in pairs_of(models)]
    return pd.DataFrame(keys, columns=["measure", *PAIR])


def missing_pairs(results: ResultTable, measures: list[str], models: list[Model]) -> dict[str, list[tuple[int, int]]]:
    """Return the pairs that have no rows, by measure."""
    missing = set(results.missing(requested(measures, models)).itertuples(index=False, name=None))
    return {m: [(i, j) for i, j in pairs_of(models) if (m, *models[i], *models[j]) in missing] for m in measures}


def compare(results: ResultTable, settings: Settings, zoos: list[Zoo], dataset, layers, measures) -> pd.DataFrame:
    """Return the distances of equal layers of all pairs of networks of both groups, and compute the missing ones."""
    models = models_of(zoos[0].seeds)
    features, pairs = None, missing_pairs(results, measures, models)
    bar = progress_bar(iterable=measures, desc="memorize", unit="measure")
    for measure in bar:
        bar.set_postfix_str(measure)
        if not (missing := pairs[measure]):
            continue
        if features is None:
            parts = [settings.features(trained.network, trained.members, dataset, layers) for trained in zoos]
            features = {layer: np.concatenate([part[layer] for part in parts]) for layer in layers}
        for group in in_blocks(pairs_of(models), range(len(models)), missing):
            results.add(distances(features, measure, group, models))
    return results.select(requested(measures, models))


def distances(features, measure: str, pairs: list[tuple[int, int]], models: list[Model]) -> pd.DataFrame:
    """Return rows with the distance, or 1 - similarity, of equal layers; it is the mean of both orders of a pair."""
    result = pairwise(features, measure, pairs=pairs, layers="same")
    rows = []
    for k, layer in enumerate(features):
        for i, j in pairs:
            value = (result.values[k, i, k, j] + result.values[k, j, k, i]) / 2
            value = 1 - value if MEASURES[measure].kind == "similarity" else value
            rows.append((measure, layer, *models[i], *models[j], value))
    return pd.DataFrame(rows, columns=["measure", "layer", *PAIR, "distance"])


if __name__ == "__main__":
    run_command(main, Settings)
