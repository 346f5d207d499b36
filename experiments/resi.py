"""Test which similarity measures reflect known relations of networks: a small ReSi benchmark (Klabunde et al. 2024).

Six tests: similar networks should have similar accuracies (accuracy) and outputs (output). Networks trained with equal
shares of random labels (labels), on the same shortcuts (shortcut) or with the same augmentation (augmentation) should
be more similar than others. Close layers of a network should be more similar than distant ones (layers). The result is
a rank of each measure. With no argument: narrow Myrtle CNNs on scikit-learn's digits, 6 for each of 8 ways of training.
The same command again computes nothing; more measures or tests extend the results.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments import dry_run, resi_scores
from experiments.command import run_command
from experiments.defaults import optional
from experiments.features import FeatureSettings, parse_measures, samples_option
from experiments.folders import run_folder
from experiments.registry import Experiment, PublishedTable
from experiments.resi_data import SHARES, SHIFTS, Group, check_data, groups_of
from experiments.resi_scores import STITCH, TESTS, conclusion, format_ranks
from experiments.settings import zoo_folder
from experiments.summary import Summary
from symjax import plots
from symjax.checks import integer_fields
from symjax.data import normalize
from symjax.errors import InputError, renamed
from symjax.network import Member, Network
from symjax.ops import files
from symjax.ops.parallel import default_execution
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.similarity import MEASURES, pairwise
from symjax.similarity.channels import pad_channels
from symjax.similarity.table import without_twins
from symjax.stitching import FitConfig, Plan, Sweep, parse_families
from symjax.zoo import Zoo

PAIR = {"model_a": str, "layer_a": str, "model_b": str, "layer_b": str}
ROWS = Schema("results", {"test": str, "measure": str, **PAIR}, ("value",), order=("test", "measure"))
MODELS = Schema("models", {"test": str, "model": str}, ("accuracy",))
AGREEMENT = Schema("agreement", {"model_a": str, "model_b": str}, ("agreement",))

_VISION = (
    "Jaccard, distance correlation, angular shape metric, aligned cosine, second-order cosine, orthogonal "
    "Procrustes, rank similarity, CKA, RTD, linear regression, Procrustes distance, GULP, RSA, eigenspace "
    "overlap, RSM norm difference, PWCCA, IMD, permutation Procrustes, hard correlation match, soft correlation "
    "match, magnitude difference, SVCCA, concentricity difference, uniformity difference"
).split(", ")
EXPERIMENT = Experiment(
    place=180,
    published={
        "ranking of measures on vision models, best first, Klabunde et al. 2024": PublishedTable(
            ("measure",), {str(place): (name,) for place, name in enumerate(_VISION, 1)}
        )
    },
)


@dataclasses.dataclass(frozen=True)
class Settings(FeatureSettings):
    seeds: str = "10"
    """Seeds of the networks of the tests accuracy, output and layers: a number of seeds or a list, as in 3,7,9."""
    group_seeds: int = 4
    """Number of networks in each group of the other tests, 3 or more; they have the first of these seeds."""
    tests: str = "all"
    """Comma-separated names of tests: accuracy, output, labels, shortcut, augmentation, layers; or all."""
    measures: str = "all"
    """Comma-separated names of symjax.similarity.MEASURES; or all, without distances whose similarity is there too."""
    stitches: str = "least_squares,matched"
    """Comma-separated stitch families whose penalty is one more measure, except in the test layers; or none."""
    layer: str = "last"
    """The stitch point at which networks are compared, by name, or last; the test layers compares those of --layers."""
    out: Annotated[Path | None, optional("DIR", "runs/resi/ and a name made from the settings")] = None
    """The folder of the results."""

    def parse_tests(self) -> tuple[str, ...]:
        """Return the names of the tests in the order of `TESTS`."""
        names = [name.strip() for name in self.tests.split(",")] if self.tests != "all" else list(TESTS)
        if unknown := [name for name in names if name not in TESTS]:
            raise InputError(f"tests: got {unknown[0]!r}, expected all or some of {', '.join(TESTS)}")
        return tuple(test for test in TESTS if test in names)

    def all_measures(self) -> list[str]:
        """Return the names of the measures."""
        return without_twins() if self.measures == "all" else parse_measures(self.measures)

    def families(self) -> str:
        """Return the names of the stitch families."""
        with renamed(families="stitches"):
            return "" if self.stitches == "none" else ",".join(f.label for f in parse_families(self.stitches))


def main(settings: Settings) -> Summary:
    seeds, tests, measures = settings.parse_seeds(), settings.parse_tests(), settings.all_measures()
    families = settings.families()
    if len(seeds) < 3:
        raise InputError(f"seeds: got {len(seeds)}, expected three or more, for intervals over networks")
    integer_fields(settings, group_seeds=(3, len(seeds)))
    dataset = settings.load_dataset()
    check_data(tests, dataset)
    config, layers = settings.zoo_config(), settings.parse_layers(dataset)
    network = config.network(dataset)
    point = len(network.points) - 1 if settings.layer == "last" else network.parse_points(settings.layer)[0]
    kinds = list(dict.fromkeys("seeds" if test in ("accuracy", "output") else test for test in tests))
    if "layers" in kinds and len(layers) < 3:
        raise InputError(f"layers: got {len(layers)}, expected three or more for the test layers")
    groups = {kind: groups_of(kind, config, dataset) for kind in kinds}
    numbers = {kind: len(seeds) if kind in ("seeds", "layers") else settings.group_seeds for kind in kinds}
    identity = {"zoo": config.identity(dataset), "layer": network.points[point].name, "layers": layers}
    document = identity | {name: getattr(settings, name) for name in ("images", "examples", "samples", "test_size")}
    document |= {"shares": SHARES, "shifts": SHIFTS}
    out = run_folder("resi", zoo_folder(config).name, document, dataset, settings.out)

    distinct: dict[Path, tuple[Group, tuple[int, ...]]] = {}
    for kind in sorted(kinds, key=numbers.get):
        distinct |= {group.folder: (group, seeds[: numbers[kind]]) for group in groups[kind]}

    def phases() -> list[dry_run.Phase]:
        return [
            dry_run.zoo_phase(
                group.config, group.dataset, own, folder, settings.memory_limit, name=f"members {group.name} to train"
            )
            for folder, (group, own) in distinct.items()
        ]

    dry_run.stop(settings, config, dataset, out.path, phases)
    trained = {
        folder: settings.train_zoo(group.config, group.dataset, folder, seeds=own)
        for folder, (group, own) in distinct.items()
    }
    with out.open() as folder:
        results, models = ResultTable(folder, ROWS), ResultTable(folder, MODELS)
        compared = []
        for kind, of_test in groups.items():
            zoos = [trained[group.folder] for group in of_test]
            names = [network.points[point].name] if kind != "layers" else layers
            compared.append(Compared(kind, of_test, zoos, numbers[kind], names, settings))
        requested = [fill(results, compared, measures, settings.samples)]
        for networks in compared:
            if families and networks.test != "layers":
                requested.append(networks.fill_stitches(results, families, point))
            networks.fill_models(models)
            if networks.test == "seeds":
                networks.fill_agreement(ResultTable(folder, AGREEMENT))
        table = results.select(pd.concat(requested)).merge(
            ResultTable(folder, AGREEMENT).rows(), how="left", on=["model_a", "model_b"]
        )
        ranked = resi_scores.ranks_with_intervals(table, models.rows().drop_duplicates("model"))
        ranked = ranked[[*(test for test in tests if test in ranked), "rank", "low", "high"]]
        files.write_csv(folder / "ranks.csv", ranked.reset_index())
        columns = {"name": "measure", "value": "rank", "xlabel": f"median rank in {len(ranked.columns) - 3} tests"}
        plots.intervals(ranked.reset_index(), folder / "ranks", **columns)
        accuracy = models.rows().assign(group=lambda rows: rows.model.map(resi_scores.group_of))
        count = sum(map(len, [trained[path].seeds for path in trained]))
        return Summary(
            folder,
            f"{network.name} on {dataset.name}: {count} networks, {len(ranked)} measures",
            conclusion(ranked),
            {
                "score in each test (best 1), and median rank with its 95 % interval": format_ranks(ranked),
                "test accuracy (%) of the groups": accuracy.groupby(["test", "group"], sort=False)[["accuracy"]]
                .mean()
                .map("{:.1f}".format)
                .reset_index("test", drop=True)
                .rename_axis(index=None),
            },
            ("ranks",),
        )


def fill(results: ResultTable, tests: "Sequence[Compared]", measures: Sequence[str], samples: str) -> pd.DataFrame:
    """Compute the missing values of measures, all tests of a measure together; return the keys of all."""
    requested = pd.concat([test.requested(measures) for test in tests])
    missing = results.missing(requested)
    representations = {}
    for test in tests:
        if test.test in missing.test.unique():
            representations |= test.representations()
    with progress_bar(desc="measures", unit="measure", total=missing.measure.nunique(), disable=missing.empty) as bar:
        for measure, rows in missing.groupby("measure", sort=False):
            options = samples_option(measure, samples)
            try:
                values = measured(measure, representations, rows, options)
            except InputError:  # of layers that the measure cannot compare
                others = rows.test != "layers"
                if others.all():
                    raise
                values = np.full(len(rows), np.nan)
                if others.any():
                    values[others] = measured(measure, representations, rows[others], options)
            results.add(rows.assign(value=values))
            bar.update()
    return requested


def measured(measure: str, representations: dict, rows: pd.DataFrame, options: dict) -> np.ndarray:
    """Return the value of each pair of representations, the mean over both orders."""
    sides = [pd.MultiIndex.from_frame(rows[["test", f"model_{side}", f"layer_{side}"]]) for side in "ab"]
    keys = sides[0].append(sides[1]).unique()
    arrays = [representations[key] for key in keys]
    if MEASURES[measure].zero_channels:  # one width, so that all pairs have one program
        width = max(x.shape[-1] for x in arrays)
        arrays = [pad_channels(x, width) for x in arrays]
    a, b = (keys.get_indexer(side) for side in sides)
    compared = pairwise(
        {i: {"": x} for i, x in enumerate(arrays)}, measure, pairs=list(zip(a, b, strict=True)), **options
    )
    values = compared.values[0, :, 0]
    return (values[a, b] + values[b, a]) / 2


class Compared:
    """The networks of one test."""

    def __init__(self, test, groups: Sequence[Group], zoos: Sequence[Zoo], number: int, layers, settings: Settings):
        self.test, self.layers, self.settings = test, layers, settings
        self.dataset = groups[0].dataset
        self.network: Network = zoos[0].network
        members = [zoo.members for zoo in zoos]
        self.members: Member = jax.tree.map(
            lambda *leaves: jnp.concatenate([leaf[:number] for leaf in leaves]), *members
        )
        self.models = [
            f"{group.name}/{seed}" for group, zoo in zip(groups, zoos, strict=True) for seed in zoo.seeds[:number]
        ]
        self.pairs = list(itertools.combinations(self.models, 2))

    def requested(self, measures: Iterable[str]) -> pd.DataFrame:
        """Return the keys of the rows of measures."""
        if self.test == "layers":
            keys = [(model, a, model, b) for model in self.models for a, b in itertools.combinations(self.layers, 2)]
        else:
            keys = [(a, *self.layers, b, *self.layers) for a, b in self.pairs]
        return pd.DataFrame([(self.test, name, *key) for name in measures for key in keys], columns=list(ROWS.key))

    def representations(self) -> dict[tuple[str, str, str], np.ndarray]:
        """Return the features (n, ...) by test, model and layer."""
        features = self.settings.features(self.network, self.members, self.dataset, self.layers)
        return {(self.test, m, name): x[i] for i, m in enumerate(self.models) for name, x in features.items()}

    def fill_stitches(self, results: ResultTable, families: str, point: int) -> pd.DataFrame:
        """Compute missing similarities by stitching; return the keys of all.

        The similarity of two networks is minus the mean penalty of the stitches in both directions.
        """
        requested = self.requested(f"{STITCH}{name}" for name in families.split(","))
        if not len(results.missing(requested)):
            return requested
        config = FitConfig(eval_batch_size=256)
        plan = Plan(self.network, (point,), parse_families(families), config, default_execution())
        directed = [pair for pair in itertools.permutations(range(len(self.models)), 2)]
        accuracy, values, (layer,) = self.accuracies(), {}, self.layers
        sweep = Sweep(plan, self.dataset, num_pairs=len(directed))
        with progress_bar(desc=f"stitches {self.test}", unit="pair", total=len(directed)) as bar:
            for result in sweep.run(self.member, directed):
                a, b = sorted(result.pair)
                clean = (accuracy[a] + accuracy[b]) / 2
                for row in result.rows:
                    name = f"{STITCH}{row['family']}", self.models[a], layer, self.models[b], layer
                    values.setdefault(name, []).append(row["stitched_accuracy"] - clean)
                bar.update()
        rows = pd.DataFrame([(self.test, *name) for name in values], columns=list(ROWS.key))
        results.add(rows.assign(value=[float(np.mean(both)) for both in values.values()]))
        return requested

    @cached_property
    def classes(self) -> np.ndarray:
        """Return the predicted classes of the test images, (members, n)."""
        images, mean, std = self.dataset.test.images, self.dataset.mean, self.dataset.std
        predict = jax.jit(lambda member: self.network.apply(member, normalize(images, mean, std)).argmax(-1))
        return np.stack([predict(self.member(index)) for index in range(len(self.models))])

    def member(self, index: int) -> Member:
        """Return one network."""
        return jax.tree.map(lambda leaf: leaf[index], self.members)

    def accuracies(self) -> np.ndarray:
        """Return the test accuracy of each network in percent."""
        return 100 * (self.classes == self.dataset.test.labels).mean(-1)

    def fill_models(self, table: ResultTable) -> None:
        """Compute missing accuracies."""
        rows = pd.DataFrame({"test": self.test, "model": self.models})
        if len(table.missing(rows)):
            table.add(rows.assign(accuracy=self.accuracies()))

    def fill_agreement(self, table: ResultTable) -> None:
        """Compute the missing shares of test images for which two networks predict the same class."""
        rows = pd.DataFrame(self.pairs, columns=list(AGREEMENT.key))
        if len(table.missing(rows)):
            classes = dict(zip(self.models, self.classes, strict=True))
            table.add(rows.assign(agreement=[float((classes[a] == classes[b]).mean()) for a, b in self.pairs]))


if __name__ == "__main__":
    run_command(main, Settings)
