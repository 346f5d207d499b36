"""Compare the layers of networks that differ in their seed, by similarity measures.

By default all layers of each network are compared with all layers of each other one, for the 6 pairs of a zoo of 4
narrow Myrtle CNNs on scikit-learn's digits. Missing members of the zoo are trained first. Running the same command
again recomputes nothing; more pairs or measures extend the results.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from experiments import dry_run
from experiments.command import run_command
from experiments.features import (
    in_blocks,
    layers_option,
    parse_measures,
    samples_option,
    select_members,
    select_models,
)
from experiments.folders import RunSettings, clean_accuracy
from experiments.registry import Experiment, PublishedTable
from experiments.sharing import SharedSettings
from experiments.summary import Summary
from symjax import plots
from symjax.errors import InputError
from symjax.ops import hosts
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
        "CKA with normalized channels (orthogonal CKA in the paper), layers by layers": PublishedTable(
            LAYERS,
            {
                "relu1": (0.98, 0.91, 0.53, 0.37),
                "relu2": (0.90, 0.97, 0.66, 0.49),
                "relu3": (0.52, 0.66, 0.92, 0.83),
                "relu4": (0.37, 0.49, 0.83, 0.93),
            },
        ),
    },
)


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings, SharedSettings):
    measures: str = "procrustes,wreath_procrustes,cka,channel_normalized_cka,wreath_cka,svcca"
    """Comma-separated names of symjax.similarity.MEASURES. channel_normalized_cka is the orthogonal CKA of Godfrey et
    al. 2022."""
    pairs: str = "all"
    """Number of pairs of different members to draw, or all."""
    pair_seed: int = 0
    """Seed of the random choice of pairs."""
    layers: str = "all"
    """Comma-separated names of stitch points, as in relu1,relu3, or all."""
    examples: int = 500
    """Number of test images on which layers are compared; all if there are fewer."""
    samples: Literal["default", "pool", "flatten", "positions", "first", "last"] = "default"
    """Features of a convolutional layer, for measures that support several: pool, the mean of each channel over
    pixels; flatten, each channel of each pixel as a neuron; positions, each pixel as a sample; first or last, one
    position; default, the default of each measure: positions for the CCA family and Procrustes, flatten for CKA.
    With positions, the CCA family and CKA need equal map sizes; if sizes differ, only equal layers are compared."""


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
    document |= {name: getattr(settings, name) for name in ("examples", "samples", "test_size")}
    limit = settings.memory_limit

    def phases(folder: Path) -> list[dry_run.Phase]:
        missing = missing_pairs(ResultTable(folder, ROWS), measures, pairs)
        needed, to_do = needed_seeds(missing), sum(map(len, missing.values()))
        counts = {"to_do": len(needed), "done": len(seeds) - len(needed), "together": len(needed)}
        counts |= {"images": min(settings.examples, len(dataset.test)), "samples": "positions", "limit": limit}
        return [
            dry_run.layers_phase("members to evaluate", config, dataset, layers, **counts),
            dry_run.Phase("pairs to compare", to_do, len(measures) * len(pairs) - to_do),
        ]

    with settings.run("align", dataset, document, phases, seeds=seeds) as (folder, trained):
        results = ResultTable(folder, ROWS)
        missing = hosts.all_agree("missing rows", lambda: missing_pairs(results, measures, pairs))
        missing = {measure: hosts.local_shard(measure_pairs) for measure, measure_pairs in missing.items()}
        images = dataset.test.images[: settings.examples]
        if needed := needed_seeds(missing):
            compared, options = (
                select_members(trained, needed),
                {"layers": ",".join(layers), "max_device_memory": limit},
            )
            features = as_maps(representations(compared, images, dataset.mean, dataset.std, **options))
            if (report := degenerate(features)) and hosts.is_first():
                print(report, file=sys.stderr)
            total = sum(map(len, missing.values()))
            with progress_bar(desc="align", total=total, unit="pair") as bar:
                for measure, local_pairs in missing.items():
                    bar.set_postfix_str(measure)
                    for group in in_blocks(pairs, sorted(trained.seeds), local_pairs):
                        results.add(compare(features, measure, group, compared.seeds, settings.samples))
                        bar.update(len(group))
                    results.assemble()
        hosts.check_complete("pairs are compared", lambda: missing_pairs(results, measures, pairs))
        hosts.continue_on_first("rows")
        results.assemble()  # an earlier run may have stopped before this
        table = results.select(requested(measures, pairs))
        figures = ["heatmaps"] * (plots.heatmaps(table, folder / "heatmaps") is not None) + ["layers"]
        plots.by_layer(table, folder / "layers")
        accuracy = clean_accuracy(folder, trained, dataset, limit).mean()
        samples = "" if settings.samples == "default" else f", samples: {settings.samples}"
        over = f"mean ± deviation over {len(pairs)} pairs" if len(pairs) > 1 else "one pair"
        return Summary(
            folder,
            f"{trained.network.name} on {dataset.name}: clean accuracy {accuracy:.2f} %",
            conclusion(table, layers),
            {f"equal layers on {len(images)} test images{samples}, {over}": summary(table, layers)},
            tuple(figures),
        )


def needed_seeds(missing: dict[str, list[tuple[int, int]]]) -> list[int]:
    """Return the seeds of the members that are in any of the pairs."""
    return sorted({seed for pairs in missing.values() for pair in pairs for seed in pair})


def degenerate(features: dict[str, np.ndarray]) -> str:
    """Return a line that names layers with dead or duplicate channels and counts these over all members; or ""."""
    reports = []
    for layer, members in features.items():
        counts = np.zeros(2, int)
        for member in members:
            # Channels that are zero or equal on all images are so on the first ones, which are tested first for speed.
            if any(count_degenerate(member[:16])):
                counts += count_degenerate(member)
        named = zip(counts, ("dead", "duplicate"), strict=True)
        if text := ", ".join(f"{count} {what}" for count, what in named if count):
            reports.append(f"{layer} ({text})")
    return f"dead or duplicate channels, of {len(members)} networks: {', '.join(reports)}" if reports else ""


def count_degenerate(features: np.ndarray) -> tuple[int, int]:
    """Return the numbers of dead and of duplicate channels."""
    result = diagnose(features)
    return int(result.num_dead), int(result.num_duplicate)


def compare(
    features: dict[str, np.ndarray], measure: str, pairs: list[tuple[int, int]], seeds, samples: str = "default"
) -> pd.DataFrame:
    """Return rows of the measure for these pairs, of all pairs of layers or of equal layers (`layers_option`)."""
    layers = layers_option(measure, samples, (representation.shape for representation in features.values()))
    features, seeds = select_models(features, seeds, pairs)
    options = {"pairs": pairs, "layers": layers, "models": seeds, **samples_option(measure, samples)}
    result: Pairwise = pairwise(features, measure, **options)
    rows = result.to_frame()
    orders = pd.MultiIndex.from_frame(requested([measure], pairs))
    return rows[pd.MultiIndex.from_frame(rows[orders.names]).isin(orders)][list(ROWS.required)]


def requested(measures: list[str], pairs: list[tuple[int, int]]) -> pd.DataFrame:
    """Return the keys of the requested rows; measures that are not symmetric have pairs in both orders."""
    keys = []
    for measure in measures:
        orders = pairs if MEASURES[measure].symmetric else [*pairs, *((b, a) for a, b in pairs)]
        keys += [(measure, *pair) for pair in sorted(orders)]
    return pd.DataFrame(keys, columns=["measure", "model_a", "model_b"])


def missing_pairs(
    results: ResultTable, measures: list[str], pairs: list[tuple[int, int]]
) -> dict[str, list[tuple[int, int]]]:
    """Return the pairs that have no rows, by measure; complete measures are omitted."""
    keys = pd.DataFrame([(m, *pair) for m in measures for pair in pairs], columns=["measure", "model_a", "model_b"])
    missing = results.missing(keys)
    return {m: list(zip(rows.model_a, rows.model_b, strict=True)) for m, rows in missing.groupby("measure", sort=False)}


def summary(table: pd.DataFrame, layers: list[str]) -> pd.DataFrame:
    """Return mean and standard deviation (n - 1) over pairs, by measure (rows) and layer (columns)."""
    grouped = plots.equal_layers(table).groupby(["measure", "layer"], sort=False).value
    return mean_and_deviation(grouped, 3).unstack(sort=False)[layers].rename_axis(index=None, columns=None)


def conclusion(table: pd.DataFrame, layers: list[str]) -> str:
    """Return the similarity of the first and of the last layers by each measure."""
    means = plots.equal_layers(table).groupby(["measure", "layer"]).value.agg(mean)
    first, last = layers[0], layers[-1]
    values = [f"{name} {means[name, first]:.3f} and {means[name, last]:.3f}" for name in table.measure.unique()]
    return f"Between networks, equal layers have at {first} and at {last}: {', '.join(values)}."


if __name__ == "__main__":
    run_command(main, Settings)
