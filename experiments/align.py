"""Compares the layers of networks that differ in their seed, by any similarity measures, for all pairs of them.

With no argument: a zoo of 4 narrow Myrtle CNNs on scikit-learn's digits, all 6 pairs, all layers of one with all layers
of the other. The zoo is trained where it is missing. The same command again recomputes nothing; more pairs or measures
extend what is there.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd

from experiments import dry_run
from experiments.features import in_blocks, maps_option, only_those, parse_measures, which_layers
from experiments.folders import clean_accuracy, run_folder
from experiments.registry import Experiment, PublishedTable
from experiments.settings import optional, run_command, zoo_folder
from experiments.sharing import SharedSettings
from experiments.summary import Summary
from symjax import plots, zoo
from symjax.errors import InputError
from symjax.ops import hosts, parallel
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.pairs import draw_pairs
from symjax.representations import as_maps, representations
from symjax.similarity import MEASURES, Pairwise, diagnose, pairwise
from symjax.tables import mean, mean_and_deviation

KEY = {"measure": str, "model_a": int, "layer_a": str, "model_b": int, "layer_b": str}
ROWS = Schema("results", KEY, ("value",), part=("measure",), order=("measure", "model_a", "model_b"))

LAYERS = ("relu1", "relu2", "relu3", "relu4")
EXPERIMENT = Experiment(
    place=70,
    published={
        "Procrustes similarity of equal layers, CIFAR-10": PublishedTable(
            LAYERS,
            {
                "mCNN, G_ReLU": (0.6208, 0.5106, 0.4432, 0.4899),
                "mCNN, orthogonal": (0.7724, 0.5743, 0.5087, 0.5825),
                "cwCNN, G_ReLU": (0.8176, 0.7602, 0.5691, 0.4971),
                "cwCNN, orthogonal": (0.8460, 0.6735, 0.5409, 0.6050),
            },
        ),
        "G_ReLU-CKA of mCNN on CIFAR-10, layers of one network by layers of another": PublishedTable(
            LAYERS,
            {
                "relu1": (0.84, 0.60, 0.31, 0.21),
                "relu2": (0.62, 0.61, 0.31, 0.21),
                "relu3": (0.31, 0.31, 0.45, 0.34),
                "relu4": (0.20, 0.21, 0.35, 0.43),
            },
        ),
        "CKA with normalised channels (called orthogonal there), likewise": PublishedTable(
            LAYERS,
            {
                "relu1": (0.98, 0.91, 0.53, 0.37),
                "relu2": (0.90, 0.97, 0.66, 0.49),
                "relu3": (0.52, 0.66, 0.92, 0.83),
                "relu4": (0.37, 0.49, 0.83, 0.93),
            },
        ),
    },
    results=partial(ResultTable, schema=ROWS),
)


@dataclasses.dataclass(frozen=True)
class Settings(SharedSettings):
    measures: str = "procrustes,wreath_procrustes,cka,channel_normalized_cka,wreath_cka,svcca"
    """Similarity measures, names of symjax.similarity.MEASURES with commas between. channel_normalized_cka is what
    Godfrey et al. 2022 call orthogonal CKA."""
    pairs: str = "all"
    """How many pairs of different members to draw, or all."""
    pair_seed: int = 0
    """Of the draw of pairs."""
    layers: str = "all"
    """Stitch points by name, as in relu1,relu3, or all."""
    examples: int = 500
    """How many test images to compare the layers on; all where there are fewer."""
    maps: Literal["default", "pool", "flatten", "pixels"] = "default"
    """What measures that leave it open compare of a convolutional layer: pool, the mean over pixels of each channel;
    flatten, each channel of a pixel a neuron; pixels, each pixel a sample, whereby the CCA family and CKA compare
    layers of one map size alone, so equal layers where sizes differ; default, each measure's own way: pixels for the
    CCA family and Procrustes, flatten for CKA."""
    zoo: Annotated[Path | None, optional("DIR", "as python -m experiments.zoo has it")] = None
    """The folder of the zoo; trained there where it is missing."""
    out: Annotated[Path | None, optional("DIR", "runs/align/ and a name made from the settings")] = None
    """The folder of the results."""


def main(settings: Settings) -> Summary:
    config, seeds = settings.zoo_config(), settings.parse_seeds()
    measures = parse_measures(settings.measures)
    pairs, seeds = settings.part_of_pairs(draw_pairs(seeds, settings.pairs, settings.pair_seed, ordered=False), seeds)
    if settings.examples < 4:
        raise InputError(f"examples: got {settings.examples}, expected 4 or more")
    dataset = settings.load_dataset()
    network = config.network(dataset)
    layers = [network.points[point].name for point in network.parse_points(settings.layers)]
    document = {"zoo": config.identity(dataset), "layers": layers}
    document |= {name: getattr(settings, name) for name in ("examples", "maps", "test_size")}
    out = run_folder("align", zoo_folder(config).name, document, dataset, settings.out, settings.part_folder)
    zoo_path, limit = settings.zoo or zoo_folder(config), settings.memory_limit

    def phases() -> list[dry_run.Phase]:
        missing = missing_pairs(ResultTable(out.path, ROWS), measures, pairs)
        needed, to_do = needed_seeds(missing), sum(map(len, missing.values()))
        counts = {"to_do": len(needed), "there": len(seeds) - len(needed), "together": len(needed)}
        counts |= {"images": min(settings.examples, len(dataset.test)), "pool": False, "limit": limit}
        return [
            dry_run.zoo_phase(config, dataset, seeds, zoo_path, limit),
            dry_run.layers_phase("members to look at", config, dataset, layers, **counts),
            dry_run.Phase("pairs to compare", to_do, len(measures) * len(pairs) - to_do),
        ]

    dry_run.stop(settings, config, dataset, out.path, phases)
    trained = settings.train_zoo(config, dataset, zoo_path, seeds=seeds)
    with out.open() as folder:
        results = ResultTable(folder, ROWS)
        missing = hosts.all_agree("missing rows", lambda: missing_pairs(results, measures, pairs))
        missing = {measure: hosts.local_shard(of_measure) for measure, of_measure in missing.items()}
        images = dataset.test.images[: settings.examples]
        if needed := needed_seeds(missing):
            compared, options = only(trained, needed), {"layers": ",".join(layers), "max_device_memory": limit}
            features = as_maps(representations(compared, images, dataset.mean, dataset.std, **options))
            if (report := degenerate(features)) and hosts.is_first():
                print(report, file=sys.stderr)
            total = sum(map(len, missing.values()))
            with progress_bar(desc="align", total=total, unit="pair") as bar:
                for measure, of_measure in missing.items():
                    bar.set_postfix_str(measure)
                    for group in in_blocks(pairs, sorted(trained.seeds), of_measure):
                        results.add(compare(features, measure, group, compared.seeds, settings.maps))
                        bar.update(len(group))
                    results.assemble()
        hosts.check_complete("pairs are compared", lambda: missing_pairs(results, measures, pairs))
        hosts.continue_on_first("rows")
        results.assemble()  # a run may have been stopped just before
        table = results.select(requested(measures, pairs))
        figures = ["heatmaps"] * (plots.heatmaps(table, folder / "heatmaps") is not None) + ["layers"]
        plots.by_layer(table, folder / "layers")
        accuracy = clean_accuracy(folder, trained, dataset, limit).mean()
        maps = "" if settings.maps == "default" else f", maps: {settings.maps}"
        over = f"mean ± deviation over {len(pairs)} pairs" if len(pairs) > 1 else "one pair"
        return Summary(
            folder,
            f"{trained.network.name} on {dataset.name}: clean accuracy {accuracy:.2f} %",
            conclusion(table, layers),
            {f"equal layers on {len(images)} test images{maps}, {over}": summary(table, layers)},
            tuple(figures),
        )


def needed_seeds(missing: dict[str, list[tuple[int, int]]]) -> list[int]:
    """Of the members that are in one of these pairs."""
    return sorted({seed for pairs in missing.values() for pair in pairs for seed in pair})


def only(trained: zoo.Zoo, seeds: list[int]) -> zoo.Zoo:
    """The members of these seeds."""
    members = parallel.take(trained.members, [trained.seeds.index(seed) for seed in seeds])
    metrics = trained.metrics[trained.metrics.seed.isin(seeds)]
    return dataclasses.replace(trained, seeds=tuple(seeds), members=members, metrics=metrics)


def degenerate(features: dict[str, np.ndarray]) -> str:
    """A line that names layers with dead or duplicate channels, and how many all members have of these; or nothing."""
    reports = []
    for layer, members in features.items():
        counts = np.zeros(2, int)
        for one in members:
            # What is zero, or alike, on all images is so on the first few.
            if any(number_of_faults(one[:16])):
                counts += number_of_faults(one)
        faults = zip(counts, ("dead", "duplicate"), strict=True)
        if text := ", ".join(f"{count} {what}" for count, what in faults if count):
            reports.append(f"{layer} ({text})")
    return f"dead or duplicate channels, of {len(members)} networks: {', '.join(reports)}" if reports else ""


def number_of_faults(features: np.ndarray) -> tuple[int, int]:
    """Dead and duplicate channels."""
    result = diagnose(features)
    return int(result.num_dead), int(result.num_duplicate)


def compare(
    features: dict[str, np.ndarray], measure: str, pairs: list[tuple[int, int]], seeds, maps: str = "default"
) -> pd.DataFrame:
    """The measure for these pairs: all layers with all layers, or where the measure cannot, equal layers."""
    layers = which_layers(measure, maps, (representation.shape for representation in features.values()))
    features, seeds = only_those(features, seeds, pairs)
    options = {"pairs": pairs, "layers": layers, "models": seeds, **maps_option(measure, maps)}
    result: Pairwise = pairwise(features, measure, **options)
    rows = result.to_frame()
    orders = pd.MultiIndex.from_frame(requested([measure], pairs))
    return rows[pd.MultiIndex.from_frame(rows[orders.names]).isin(orders)][list(ROWS.required)]


def requested(measures: list[str], pairs: list[tuple[int, int]]) -> pd.DataFrame:
    """The measures and pairs that have rows; of a measure that is not symmetric, pairs in both orders."""
    keys = []
    for measure in measures:
        orders = pairs if MEASURES[measure].symmetric else [*pairs, *((b, a) for a, b in pairs)]
        keys += [(measure, *pair) for pair in sorted(orders)]
    return pd.DataFrame(keys, columns=["measure", "model_a", "model_b"])


def missing_pairs(
    results: ResultTable, measures: list[str], pairs: list[tuple[int, int]]
) -> dict[str, list[tuple[int, int]]]:
    """Return the pairs that have no rows, by measure, of measures that lack any."""
    keys = pd.DataFrame([(m, *pair) for m in measures for pair in pairs], columns=["measure", "model_a", "model_b"])
    missing = results.missing(keys)
    return {m: list(zip(rows.model_a, rows.model_b, strict=True)) for m, rows in missing.groupby("measure", sort=False)}


def summary(table: pd.DataFrame, layers: list[str]) -> pd.DataFrame:
    """Measures down, layers across: mean and standard deviation (n - 1) over pairs."""
    grouped = plots.equal_layers(table).groupby(["measure", "layer"], sort=False).value
    text = mean_and_deviation(grouped, 3).unstack("layer")[layers].loc[list(table.measure.unique())]
    return text.rename_axis(index=None, columns=None)


def conclusion(table: pd.DataFrame, layers: list[str]) -> str:
    """How alike the first and the last layers are by each measure."""
    means = plots.equal_layers(table).groupby(["measure", "layer"]).value.agg(mean)
    first, last = layers[0], layers[-1]
    values = [f"{name} {means[name, first]:.3f} and {means[name, last]:.3f}" for name in table.measure.unique()]
    return f"Between networks, equal layers have at {first} and at {last}: {', '.join(values)}."


if __name__ == "__main__":
    run_command(main, Settings)
