"""Compares networks that generalise with networks that memorise, layer by layer (Morcos et al. 2018).

With no argument: 4 narrow Myrtle CNNs on scikit-learn's digits and 4 on the same images with their labels permuted once
and for all, trained side by side in one program until they know their training images by heart; PWCCA and SVCCA
distances within both groups and across. The same command again recomputes nothing; more seeds or measures extend what
is there.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd

from experiments import dry_run
from experiments.features import FeatureSettings, in_blocks, parse_measures
from experiments.folders import run_folder
from experiments.registry import Experiment
from experiments.settings import optional, run_command, zoo_folder
from experiments.summary import Summary
from symjax import plots, zoo
from symjax.errors import InputError
from symjax.ops import files
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.similarity import MEASURES, PairMean, group_means, mean_over_pairs, pairwise
from symjax.tables import mean
from symjax.zoo import Group, Zoo, ZooConfig

PAIR = {"group_a": str, "seed_a": int, "group_b": str, "seed_b": int}
ROWS = Schema("results", {"measure": str, "layer": str, **PAIR}, ("distance",), order=("measure",))
ACCURACY = Schema("accuracy", {"group": str, "seed": int}, ("train", "test"), recomputable=True)
GROUPS = ("generalizing", "memorizing")
# Passes over the training images after which they are known by heart.
EPOCHS = {"digits": 40}
OTHER_EPOCHS = 100
EARLY = 0.25  # layers are alike in both groups where the gap is at most so much of that in the last layer

EXPERIMENT = Experiment(place=100)


@dataclasses.dataclass(frozen=True)
class Settings(FeatureSettings):
    seeds: str = "4"
    """Of each group: a number of seeds, 4 for 0,1,2,3, or the seeds themselves; 3 or more."""
    epochs: Annotated[int | None, optional("INT", f"digits {EPOCHS['digits']}, otherwise {OTHER_EPOCHS}")] = None
    """Passes over the training images."""
    weight_decay: float = 0.0
    """The factor of an L2 penalty on kernels, but not on biases and batch norm."""
    flip: bool = False
    """Mirror training images at random."""
    translate: int = 0
    """Move training images at random by up to so many pixels."""
    images: Literal["test", "train"] = "train"
    """The images to compare the layers on, as they are stored, without augmentation."""
    examples: int = 1000
    """How many of them; all where there are fewer."""
    permutation: Literal["shared", "each"] = "shared"
    """Of the labels that are memorised: one for all networks, as published, or each its own."""
    measures: str = "pwcca,svcca"
    """Similarity measures, names of symjax.similarity.MEASURES with commas between."""
    zoo: Annotated[Path | None, optional("DIR", "two folders as python -m experiments.zoo has them")] = None
    """The folder of the two zoos, generalizing and memorizing; trained there where they are missing."""
    out: Annotated[Path | None, optional("DIR", "runs/memorize/ and a name made from the settings")] = None
    """The folder of the results."""

    def zoo_config(self) -> ZooConfig:
        """Of the networks that generalise."""
        epochs = EPOCHS.get(self.dataset, OTHER_EPOCHS) if self.epochs is None else self.epochs
        config = super().zoo_config()
        return dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, epochs=epochs))

    def groups(self, seeds: tuple[int, ...]) -> list[Group]:
        """Both groups' zoos."""
        true = self.zoo_config()
        permuted = dataclasses.replace(true, labels="permuted" if self.permutation == "shared" else "permuted_each")
        return [
            Group(config, seeds, self.zoo / name if self.zoo else zoo_folder(config))
            for name, config in zip(GROUPS, (true, permuted), strict=True)
        ]


def main(settings: Settings) -> Summary:
    # Ascending, so that a pair of networks has one name however the seeds are typed.
    seeds, measures = tuple(sorted(settings.parse_seeds())), parse_measures(settings.measures)
    if len(seeds) < 3:
        raise InputError(f"seeds: got {len(seeds)} for each group, expected 3 or more: error bars are over networks")
    groups, dataset = settings.groups(seeds), settings.load_dataset()
    layers = settings.parse_layers(dataset)
    document = {name: group.config.identity(dataset) for name, group in zip(GROUPS, groups, strict=True)} | {
        name: getattr(settings, name) for name in ("images", "examples", "maps", "test_size")
    }
    document["layers"] = layers
    out = run_folder("memorize", zoo_folder(groups[1].config).name, document, dataset, settings.out)
    dry_run.stop(
        settings,
        groups[0].config,
        dataset,
        out.path,
        lambda: [
            *dry_run.zoo_phases(dict(zip(GROUPS, groups, strict=True)), dataset, settings.memory_limit),
            *phases(settings, dataset, layers, out.path, measures, seeds),
        ],
    )
    zoos = zoo.train_together(groups, dataset, max_device_memory=settings.memory_limit)
    with out.open() as folder:
        accuracies = accuracy_table(ResultTable(folder, ACCURACY), zoos, dataset, settings.memory_limit)
        table = compare(ResultTable(folder, ROWS), settings, zoos, dataset, layers, measures)
        means = summarise(table)
        files.write_csv(folder / "groups.csv", means)
        plots.group_distances(means, folder / "groups")
        known = 100 * accuracies.groupby("group", sort=False)[["train", "test"]].agg(mean)
        learnt = "accuracy in percent: training images with the labels that were learnt, test images with the true ones"
        tables = {learnt: known.map("{:.2f}".format)}
        for measure, rows in means.groupby("measure", sort=False):
            tables[f"{measure}: distance of equal layers, mean ± standard error over networks"] = spelled(rows, layers)
        count = f"{len(settings.chosen(dataset)[0])} {settings.images} images"
        title = f"{zoos[0].network.name} on {dataset.name}, {len(seeds)} networks in each group, {count}"
        return Summary(folder, title, conclusion(table, layers, known), tables, ("groups",))


def phases(
    settings: Settings, dataset, layers: list[str], folder: Path, measures: list[str], seeds
) -> list[dry_run.Phase]:
    """What a dry run tells of `compare`."""
    models = both(seeds)
    missing = missing_pairs(ResultTable(folder, ROWS), measures, models)
    to_do, every = sum(map(len, missing.values())), len(measures) * len(pairs_of(models))
    counts = {"to_do": len(models) if to_do else 0, "there": 0 if to_do else len(models), "together": len(seeds)}
    looked = settings.layers_phase("members to look at", dataset, layers, **counts)
    return [looked._replace(stored=2 * looked.stored), dry_run.Phase("pairs to compare", to_do, every - to_do)]


def accuracy_table(table: ResultTable, zoos: list[Zoo], dataset, limit: float | None) -> pd.DataFrame:
    """Return the accuracy of every member, in [0, 1], on its own training labels and on the test images."""
    for group, trained in zip(GROUPS, zoos, strict=True):
        members = pd.DataFrame({"group": group, "seed": trained.seeds})
        if len(table.missing(members)):
            options = {"max_device_memory": limit}
            train = zoo.train_accuracy(trained, dataset, **options)
            table.add(members.assign(train=train, test=zoo.test_accuracy(trained, dataset, **options)))
    return table.select(pd.DataFrame(both(sorted(zoos[0].seeds)), columns=["group", "seed"]))


Model = tuple[str, int]  # its group and its seed


def both(seeds) -> list[Model]:
    """The networks of both groups."""
    return [(group, seed) for group in GROUPS for seed in seeds]


def pairs_of(models: list[Model]) -> list[tuple[int, int]]:
    """Positions of two. Networks of one seed begin with the same weights, so across the groups they are no pair."""
    return [(i, j) for i, j in itertools.combinations(range(len(models)), 2) if models[i][1] != models[j][1]]


def requested(measures: list[str], models: list[Model]) -> pd.DataFrame:
    """Return the measures and pairs of networks that have rows."""
    keys = [(m, *models[i], *models[j]) for m in measures for i, j in pairs_of(models)]
    return pd.DataFrame(keys, columns=["measure", *PAIR])


def missing_pairs(results: ResultTable, measures: list[str], models: list[Model]) -> dict[str, list[tuple[int, int]]]:
    """Return the pairs that have no rows, by measure."""
    missing = set(results.missing(requested(measures, models)).itertuples(index=False, name=None))
    return {m: [(i, j) for i, j in pairs_of(models) if (m, *models[i], *models[j]) in missing] for m in measures}


def compare(results: ResultTable, settings: Settings, zoos: list[Zoo], dataset, layers, measures) -> pd.DataFrame:
    """Return the distances of equal layers of all pairs of networks of both groups, and compute the missing ones."""
    models = both(zoos[0].seeds)
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
    """Rows of equal layers of these pairs: a distance, or 1 - a similarity; the mean of both orders of a pair."""
    result = pairwise(features, measure, pairs=pairs, layers="same")
    rows = []
    for k, layer in enumerate(features):
        for i, j in pairs:
            value = (result.values[k, i, k, j] + result.values[k, j, k, i]) / 2
            value = 1 - value if MEASURES[measure].kind == "similarity" else value
            rows.append((measure, layer, *models[i], *models[j], value))
    return pd.DataFrame(rows, columns=["measure", "layer", *PAIR, "distance"])


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """measure, layer, pairs (within a group, or across), mean, standard_error, low, high; NaN where a distance is."""
    rows = []
    for measure, of_measure in table.groupby("measure", sort=False):
        sides = [list(zip(of_measure[f"group_{s}"], of_measure[f"seed_{s}"], strict=True)) for s in "ab"]
        models = sorted(set(sides[0]) | set(sides[1]))
        layers = list(of_measure.layer.unique())
        pairs = list(dict.fromkeys((models.index(a), models.index(b)) for a, b in zip(*sides, strict=True)))
        wide = of_measure.pivot(index=["group_a", "seed_a", "group_b", "seed_b"], columns="layer", values="distance")
        values = np.array([wide.loc[(*models[i], *models[j]), layers].to_numpy() for i, j in pairs], float)
        groups, lost = [group for group, _ in models], ~np.isfinite(values)
        unknown = group_means(lost.astype(float), pairs, groups)  # the share of pairs without a value
        for (a, b), group_mean in group_means(np.where(lost, 0, values), pairs, groups).items():
            columns = {"mean": group_mean.estimate, "standard_error": group_mean.standard_error}
            columns |= {"low": group_mean.low, "high": group_mean.high}
            none = np.asarray(unknown[a, b].estimate) > 0
            columns = {name: np.where(none, np.nan, np.asarray(column, float)) for name, column in columns.items()}
            rows.append(
                pd.DataFrame({"measure": measure, "layer": layers, "pairs": a if a == b else "across"} | columns)
            )
    return pd.concat(rows, ignore_index=True)


def spelled(means: pd.DataFrame, layers: list[str]) -> pd.DataFrame:
    """Of one measure: kinds of pairs down, layers across."""
    text = means["mean"].map("{:.3f}".format) + " ± " + means.standard_error.map("{:.3f}".format)
    return means.assign(text=text).pivot(index="pairs", columns="layer", values="text").loc[[*GROUPS, "across"], layers]


def conclusion(table: pd.DataFrame, layers: list[str], known: pd.DataFrame) -> str:
    """Whether the published finding holds, a line for each measure."""
    lines, learned = [], known.train.memorizing >= 95
    if not learned:
        lines.append(
            f"the memorizing networks know only {known.train.memorizing:.1f} % of their labels: train for longer "
            "(--epochs), on fewer images (--train-size) or wider networks (--width)"
        )
    for measure, rows in table.groupby("measure", sort=False):
        if lost := sorted(set(rows.layer[~np.isfinite(rows.distance)]), key=layers.index):
            count = int((~np.isfinite(rows.distance)).sum())
            lines.append(f"{measure}: {count} of {len(rows)} distances are NaN, in {', '.join(lost)}")
            if {layers[0], layers[-1]} & set(lost):
                continue
        gap = gaps(rows, layers[0], layers[-1])
        farther = (
            f"{measure}: memorizing networks are farther from each other than generalizing ones by "
            f"{gap.first.estimate:.3f} ± {gap.first.standard_error:.3f} in {layers[0]}, by "
            f"{gap.last.estimate:.3f} ± {gap.last.standard_error:.3f} in {layers[-1]}"
        )
        late, early = (shown(*claim) for claim in ((gap.last, gap.growth), (gap.below, gap.above)))
        said = [
            f"generalizing networks are {WORDS[late]}closer in late layers",
            f"the early gap is {WORDS[early]}under {EARLY:.0%} of the late one",
        ]
        whole = False if False in (late, early) else late and early
        verdict = VERDICTS[whole] if learned else "nothing is shown by that"
        lines.append(f"{farther}: {verdict} ({', '.join(said)})")
    return "\n".join(lines)


WORDS = {True: "", False: "not ", None: "not shown to be "}
VERDICTS = {True: "as published", False: "not as published", None: "not settled"}


def shown(*means: PairMean) -> bool | None:
    """Whether all are above zero, by their intervals; False where one is shown to be below, None where it is open."""
    if any(one.high < 0 for one in means):
        return False
    return True if all(one.low > 0 for one in means) else None


class Gaps(NamedTuple):
    """The memorizing group's mean distance less the generalizing group's.

    Attributes:
      first, last: in these layers.
      growth: from the first to the last.
      below, above: room of the first under `EARLY` of the last, and over minus that: both positive where it is within.
    """

    first: PairMean
    last: PairMean
    growth: PairMean
    below: PairMean
    above: PairMean


def gaps(rows: pd.DataFrame, first: str, last: str) -> Gaps:
    """Of one measure, in two layers, with error bars.

    Networks of one seed begin alike in both groups, so the groups are not independent: the difference is taken for each
    pair of seeds, and error bars leave a seed out of both groups at a time (`mean_over_pairs`).
    """
    within = rows[(rows.group_a == rows.group_b) & rows.layer.isin([first, last])]
    wide = within.pivot(index=["seed_a", "seed_b"], columns=["group_a", "layer"], values="distance")
    early, late = (wide["memorizing"] - wide["generalizing"])[[first, last]].to_numpy(float).T
    values = np.column_stack([early, late, late - early, EARLY * late - early, EARLY * late + early])
    means = mean_over_pairs(values, np.array(wide.index.tolist()))
    return Gaps(*(PairMean(*(float(field[i]) for field in means)) for i in range(values.shape[1])))


if __name__ == "__main__":
    run_command(main, Settings)
