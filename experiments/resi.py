"""Test which similarity measures reflect known relations of networks: a small ReSi benchmark (Klabunde et al. 2024).

Six tests: similar networks should have similar accuracies (accuracy) and outputs (output). Networks trained with equal
shares of random labels (labels), on the same shortcuts (shortcut) or with the same augmentation (augmentation) should
be more similar than others. Close layers of a network should be more similar than distant ones (layers). The result is
a rank of each measure. By default the networks are 10 narrow Myrtle CNNs on scikit-learn's digits, and 4 for each of 7
other ways of training. Running the same command again recomputes nothing; more measures or tests extend the results.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import pandas as pd

from experiments import dry_run, resi_scores
from experiments.command import run_command
from experiments.defaults import optional
from experiments.features import FeatureSettings, parse_measures
from experiments.folders import run_folder
from experiments.registry import Experiment, PublishedTable
from experiments.resi_data import SHARES, SHIFTS, Group, check_data, groups_of
from experiments.resi_scores import TESTS, conclusion, format_ranks
from experiments.resi_values import AGREEMENT, MODELS, ROWS, Compared, fill
from experiments.settings import point_of, zoo_folder
from experiments.summary import Summary
from symjax import plots
from symjax.checks import integer_fields
from symjax.errors import InputError, did_you_mean, renamed
from symjax.ops import files
from symjax.ops.result_table import ResultTable
from symjax.stitching import parse_families

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
    """Comma-separated names of symjax.similarity.MEASURES; or all, without distances whose similarity is included."""
    stitches: str = "least_squares,matched"
    """Comma-separated stitch families whose penalties are ranked as measures, except in the test layers; or none."""
    layer: str = "last"
    """The stitch point at which networks are compared, by name, or last; the test layers compares those of --layers."""
    out: Annotated[Path | None, optional("DIR", "runs/resi/ and a name made from the settings")] = None
    """The folder of the results."""

    def parse_tests(self) -> tuple[str, ...]:
        """Return the names of the tests in the order of `TESTS`."""
        names = [name.strip() for name in self.tests.split(",")] if self.tests != "all" else list(TESTS)
        if unknown := [name for name in names if name not in TESTS]:
            got = f"{unknown[0]!r}{did_you_mean(unknown[0], TESTS)}"
            raise InputError(f"tests: got {got}, expected all or some of {', '.join(TESTS)}")
        return tuple(test for test in TESTS if test in names)

    def families(self) -> str:
        """Return the names of the stitch families."""
        with renamed(families="stitches"):
            return "" if self.stitches == "none" else ",".join(f.label for f in parse_families(self.stitches))


def main(settings: Settings) -> Summary:
    seeds, tests, measures = settings.parse_seeds(), settings.parse_tests(), parse_measures(settings.measures)
    families = settings.families()
    if len(seeds) < 3:
        raise InputError(f"seeds: got {len(seeds)}, expected three or more, for intervals over networks")
    integer_fields(settings, group_seeds=(3, len(seeds)))
    dataset = settings.load_dataset()
    check_data(tests, dataset)
    config, layers = settings.zoo_config(), settings.parse_layers(dataset)
    network = config.network(dataset)
    point = point_of(network, settings.layer)
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
                group.config,
                group.dataset,
                group_seeds,
                folder,
                settings.memory_limit,
                name=f"members {group.name} to train",
            )
            for folder, (group, group_seeds) in distinct.items()
        ]

    dry_run.stop(settings, config, dataset, out.path, phases)
    trained = {
        folder: settings.train_zoo(group.config, group.dataset, folder, seeds=group_seeds)
        for folder, (group, group_seeds) in distinct.items()
    }
    with out.open() as folder:
        results, accuracies = ResultTable(folder, ROWS), ResultTable(folder, MODELS)
        compared = []
        for kind, of_test in groups.items():
            zoos = [trained[group.folder] for group in of_test]
            names = [network.points[point].name] if kind != "layers" else layers
            compared.append(Compared(kind, of_test, zoos, numbers[kind], names, settings))
        requested = [fill(results, compared, measures, settings.samples)]
        for networks in compared:
            if families and networks.test != "layers":
                requested.append(networks.fill_stitches(results, families, point))
            networks.fill_models(accuracies)
            if networks.test == "seeds":
                networks.fill_agreement(ResultTable(folder, AGREEMENT))
        table = results.select(pd.concat(requested)).merge(
            ResultTable(folder, AGREEMENT).rows(), how="left", on=["model_a", "model_b"]
        )
        names = dict.fromkeys(name for networks in compared for name in networks.models)
        models = accuracies.select(pd.DataFrame({"model": [*names]}))
        ranked = resi_scores.ranks_with_intervals(table, models)
        ranked = ranked[[*(test for test in tests if test in ranked), "rank", "low", "high"]]
        files.write_csv(folder / "ranks.csv", ranked.reset_index())
        columns = {"name": "measure", "value": "rank", "xlabel": f"median rank in {len(ranked.columns) - 3} tests"}
        plots.intervals(ranked.reset_index(), folder / "ranks", **columns)
        accuracy = models.assign(group=models.model.map(resi_scores.group_of))
        count = sum(map(len, [trained[path].seeds for path in trained]))
        return Summary(
            folder,
            f"{network.name} on {dataset.name}: {count} networks, {len(ranked)} measures",
            conclusion(ranked),
            {
                "score in each test (best 1), and median rank with its 95 % interval": format_ranks(ranked),
                "test accuracy (%) of the groups": accuracy.groupby("group", sort=False)[["accuracy"]]
                .mean()
                .map("{:.1f}".format)
                .rename_axis(index=None),
            },
            ("ranks",),
        )


if __name__ == "__main__":
    run_command(main, Settings)
