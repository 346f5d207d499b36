"""Align networks by their symmetries and measure the barrier between them (Ainsworth et al. 2023, Jordan et al. 2022).

Networks that differ in their seed are matched pair by pair, by permutations of units and by permutations with positive
scales. Loss and accuracy are computed on the line between each two, before and after matching, without correction and
with the statistics of units repaired. Then all networks are merged into one. By default the networks are 4 multilayer
perceptrons on scikit-learn's digits. Running the same command again recomputes nothing; more pairs, methods or groups
extend the results.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import pandas as pd

from experiments import dry_run
from experiments.command import run_command
from experiments.defaults import optional
from experiments.folders import run_folder
from experiments.rebasin_summary import PUBLISHED, conclusion, curves, merged_table, table_of
from experiments.registry import Experiment
from experiments.settings import ZooSettings, short_name, zoo_folder
from experiments.summary import Summary
from symjax import alignment, plots, zoo
from symjax.alignment.api import METHODS, SEARCHED_GROUPS
from symjax.alignment.features import held_points
from symjax.alignment.inputs import aligned_paths, symmetry_of
from symjax.alignment.merging import METHODS as MERGES
from symjax.alignment.merging import mean_leaf
from symjax.alignment.spaces import blocks_of
from symjax.alignment.task import LEARNED
from symjax.checks import integer, one_of
from symjax.data import Dataset, normalize
from symjax.errors import InputError, renamed
from symjax.groups import Symmetry
from symjax.network import Member, Network
from symjax.ops import files, parallel
from symjax.ops.result_table import ResultTable, Schema
from symjax.pairs import draw_pairs

EXPERIMENT = Experiment(place=65, published=PUBLISHED)
ALIGNED = {"method": str, "group": str, "model_a": int, "model_b": int}
KEY = {**ALIGNED, "statistics": str, "t": float}
SCORES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
ROWS = Schema("results", KEY, SCORES)
SWEEPS = Schema("sweeps", {**ALIGNED, "sweep": int}, ("objective", "converged"))
GAINS = Schema("gains", {**ALIGNED, "space": str}, ("place", "gain"))
MERGED = Schema(
    "merged",
    {"method": str, "group": str, "seeds": str},
    ("test_accuracy", "repaired_accuracy", "objective", "cycle_error", "pairwise_cycle_error"),
)
NAIVE = ("none", "none")
WITHOUT_FEATURES = (
    " Matching by activations and merging by CCA do not apply, since no stitch point holds channels that can be "
    "permuted on their own."
)


@dataclasses.dataclass(frozen=True)
class Settings(ZooSettings):
    model: str = "mlp"
    """A name of symjax.models.MODELS, or package.module:build. The published figures are of mlp, vgg11, vgg11_bn,
    resnet20, resnet20_ln and gpt."""
    methods: Annotated[str | None, optional("NAMES", "weights, and activations if stitch points hold channels")] = None
    """Comma-separated methods of matching: weights, activations, both, straight_through, sinkhorn."""
    groups: str = "permutation,scaled_permutation"
    """Comma-separated groups of the elements: permutation, scaled_permutation, largest."""
    pairs: str = "all"
    """Number of pairs of networks to draw, or all."""
    pair_seed: int = 0
    """Seed of the random choice of pairs."""
    ts: int = 25
    """Number of positions on the line between two networks, with its ends; an odd number includes the midpoint."""
    examples: Annotated[int | None, optional("INT", "all")] = None
    """Number of training images for matching by activations, statistics of units, and the training loss on the line."""
    restarts: int = 1
    """Number of starts of each matching, of which the best is taken."""
    zoo: Annotated[Path | None, optional("DIR", "as for python -m experiments.zoo")] = None
    """Folder of the zoo; missing members are trained."""
    out: Annotated[Path | None, optional("DIR", "runs/rebasin/ and a name made from the settings")] = None
    """The folder of the results."""

    def alignments(self, has_features: bool = True) -> list[tuple[str, str]]:
        """Return (method, group) of all requested alignments; by default those that the network's features allow."""
        methods = self.methods if self.methods is not None else "weights,activations" if has_features else "weights"
        chosen = {
            name: [word.strip() for word in words.split(",") if word.strip()]
            for name, words in {"methods": methods, "groups": self.groups}.items()
        }
        for name, known in {"methods": METHODS, "groups": SEARCHED_GROUPS}.items():
            for word in chosen[name] or [""]:
                one_of(name, word, known)
        lines = [
            (method, group) for method in dict.fromkeys(chosen["methods"]) for group in dict.fromkeys(chosen["groups"])
        ]
        if any(method in LEARNED and group == "largest" for method, group in lines):
            raise InputError(f"groups: got largest for one of {', '.join(LEARNED)}, expected the other groups")
        return lines


def main(settings: Settings) -> Summary:
    alignments, seeds = settings.alignments(), settings.parse_seeds()
    pairs = draw_pairs(seeds, settings.pairs, settings.pair_seed, ordered=False)
    integer("ts", settings.ts, 3, 10**4), integer("restarts", settings.restarts, 1, 10**6)
    if settings.examples is not None:
        integer("examples", settings.examples, 1, 2**31 - 1)
    config = settings.zoo_config()
    dataset = settings.load_dataset()
    document = {"zoo": config.identity(dataset)}
    document |= {name: getattr(settings, name) for name in ("ts", "examples", "restarts", "test_size")}
    name = f"{short_name(settings.dataset)}-{settings.model.replace(':', '-')}"
    out = run_folder("rebasin", name, document, dataset, settings.out)
    folder_of_zoo = settings.zoo or zoo_folder(config)

    def phases() -> list[dry_run.Phase]:
        network = config.network(dataset)
        with_features = settings.methods is not None or has_features(network, network.init(jax.random.key(0)), dataset)
        requested = requested_alignments(settings.alignments(with_features), pairs)
        missing = len(ResultTable(out.path, ROWS).missing(requested))
        return [
            dry_run.zoo_phase(config, dataset, seeds, folder_of_zoo, settings.memory_limit),
            dry_run.Phase("lines to evaluate", missing, len(requested) - missing),
        ]

    dry_run.stop(settings, config, dataset, out.path, phases)
    trained = settings.train_zoo(config, dataset, folder_of_zoo)
    with_features = has_features(trained.network, trained.member(trained.seeds[0]), dataset)
    alignments = settings.alignments(with_features)
    with out.open() as folder:
        compute(folder, trained, dataset, alignments, pairs, settings)
        requested = requested_alignments(alignments, pairs)
        rows, aligned = ResultTable(folder, ROWS).select(requested), requested[requested.method != "none"]
        merged = merge_all(folder, trained, dataset, settings, merges(alignments, with_features))
        means = table_of(rows)
        files.write_csv(folder / "means.csv", means.reset_index())
        for score, label in {"test_accuracy": "test accuracy (%)", "test_loss": "test loss"}.items():
            options = {"x": "t", "y": "mean", "line": "alignment", "panel": "panel", "interval": ("low", "high")}
            plots.mean_curves(
                curves(rows, score), folder / score, xlabel="position on the line", ylabel=label, **options
            )
        sweeps = ResultTable(folder, SWEEPS).select(aligned)
        sweeps = sweeps.assign(share=sweeps.objective / sweeps.groupby(list(ALIGNED)).objective.transform("first"))
        options = {"line": "group", "panel": "method"}
        plots.mean_curves(
            sweeps,
            folder / "objective",
            x="sweep",
            y="share",
            xlabel="sweep",
            ylabel="objective / its first value",
            sharey=False,
            **options,
        )
        plots.mean_curves(
            ResultTable(folder, GAINS).select(aligned),
            folder / "gains",
            x="place",
            y="gain",
            xlabel="space, in network order",
            ylabel="gain of cosine",
            **options,
        )
        return Summary(
            folder,
            f"{trained.network.name} on {dataset.name}: {len(pairs)} pairs of {len(seeds)} networks",
            conclusion(rows) + ("" if with_features else WITHOUT_FEATURES),
            {
                f"the middle of the line, mean over {len(pairs)} pairs and 95 % interval over networks": means,
                f"test accuracy (%) of all {len(seeds)} networks merged": merged_table(merged),
            },
            ("test_accuracy", "test_loss", "objective", "gains"),
        )


def requested_alignments(alignments: list[tuple[str, str]], pairs: list[tuple[int, int]]) -> pd.DataFrame:
    """Return method, group and pair of all lines, those without alignment first."""
    lines = [(*how, *pair) for how in (NAIVE, *alignments) for pair in pairs]
    return pd.DataFrame(lines, columns=list(ALIGNED))


def compute(folder: Path, trained: zoo.Zoo, dataset: Dataset, alignments, pairs, settings: Settings) -> None:
    """Add the rows of the lines that the tables lack."""
    results, sweeps, gains = (ResultTable(folder, schema) for schema in (ROWS, SWEEPS, GAINS))
    missing = results.missing(requested_alignments(alignments, pairs))
    for (method, group), lines in missing.groupby(["method", "group"], sort=False):
        ends = [
            parallel.take(trained.members, [trained.seeds.index(seed) for seed in lines[side]])
            for side in ("model_a", "model_b")
        ]
        if method != "none":
            symmetry = symmetry_for(trained.network, trained.member(trained.seeds[0]), dataset)
            element, info = match_all(trained, dataset, *ends, method, group, settings)
            ends[1] = act_all(symmetry, ends[1], element)
            for i, line in enumerate(lines.to_dict("records")):
                objective = info.objective[i]
                rows = pd.DataFrame({"sweep": range(len(objective)), "objective": objective})
                sweeps.add(rows.assign(converged=bool(info.converged[i]), **line))
                rows = [(name, place, values[i]) for place, (name, values) in enumerate(info.gain.items())]
                gains.add(pd.DataFrame(rows, columns=["space", "place", "gain"]).assign(**line))
        frames = []
        for statistics in ("interpolated", "repair"):
            options = {"examples": settings.examples, "max_device_memory": settings.memory_limit}
            barrier = alignment.barrier(trained.network, *ends, dataset, settings.ts, statistics=statistics, **options)
            for i, line in enumerate(lines.to_dict("records")):
                scores = {name: getattr(barrier, name)[i] for name in SCORES}
                frames.append(pd.DataFrame({"t": barrier.ts, **scores}).assign(statistics=statistics, **line))
        results.add(pd.concat(frames))


def symmetry_for(network: Network, member: Member, dataset: Dataset) -> Symmetry:
    """Return the symmetry of a network, which is discovered once; inputs can be tokens."""
    return symmetry_of(network, member, normalize(dataset.train.images[:2], dataset.mean, dataset.std))


def has_features(network: Network, member: Member, dataset: Dataset) -> bool:
    """Return whether a stitch point holds channels of the symmetry, so that features can be compared."""
    symmetry = symmetry_for(network, member, dataset)
    try:
        held_points(network, symmetry, blocks_of(symmetry, "permutation", aligned_paths(symmetry)))
    except InputError:
        return False
    return True


def match_all(trained: zoo.Zoo, dataset: Dataset, a: Member, b: Member, method: str, group: str, settings: Settings):
    """Return the elements and the info of `match` for stacked pairs."""
    data = None if method == "weights" else features_data(dataset, settings)
    if method in LEARNED:
        data = (data, dataset.train.labels[: settings.examples])
    options = {"method": method, "group": group, "data": data, "restarts": settings.restarts}
    with renamed(method="methods"):
        return alignment.match(trained.network, a, b, **options)


def features_data(dataset: Dataset, settings: Settings) -> np.ndarray:
    """Return the normalized training inputs on which features are compared."""
    return np.asarray(normalize(dataset.train.images[: settings.examples], dataset.mean, dataset.std))


def act_all(symmetry: Symmetry, members: Member, element: dict) -> Member:
    """Return stacked members after the elements of a stacked element."""
    element = jax.device_get(element)
    moved = [
        symmetry.act(parallel.take(members, i), parallel.take(element, i))
        for i in range(parallel.count_members(members))
    ]
    return parallel.stack(moved)


def merges(alignments: list[tuple[str, str]], with_features: bool) -> list[tuple[str, str]]:
    """Return (method, group) of all merges; that by CCA requires features."""
    groups = dict.fromkeys(group for _, group in alignments if group in SEARCHED_GROUPS[:2])
    of_groups = [NAIVE, *((method, group) for method in MERGES[:2] for group in groups)]
    return [*of_groups, ("cca", "permutation")] if with_features else of_groups


def merge_all(folder: Path, trained: zoo.Zoo, dataset: Dataset, settings: Settings, lines: list[tuple]) -> pd.DataFrame:
    """Return scores of all members merged into one, by method and group; compute those that the table lacks."""
    table, seeds = ResultTable(folder, MERGED), ",".join(map(str, trained.seeds))
    requested = pd.DataFrame([(*line, seeds) for line in lines], columns=list(MERGED.key))
    network, members, cycles = trained.network, trained.members, {}
    for line in table.missing(requested).to_dict("records"):
        ends, merged = members, jax.tree.map(mean_leaf, members)
        row = dict.fromkeys(("objective", "cycle_error", "pairwise_cycle_error"), np.nan)
        if line["method"] != "none":
            symmetry = symmetry_for(network, trained.member(trained.seeds[0]), dataset)
            data = features_data(dataset, settings) if line["method"] == "cca" else None
            merged, info = alignment.merge(network, members, method=line["method"], group=line["group"], data=data)
            ends = act_all(info.action, members, info.elements)
            row = {"objective": info.objective[-1], "cycle_error": info.cycle_error}
            if line["group"] not in cycles:
                cycles[line["group"]] = pairwise_cycle_error(trained, symmetry, line["group"])
            row["pairwise_cycle_error"] = cycles[line["group"]]
        options = {"examples": settings.examples, "max_device_memory": settings.memory_limit}
        repaired = alignment.repair(network, merged, ends, dataset, **options)
        for name, member in {"test_accuracy": merged, "repaired_accuracy": repaired}.items():
            stacked = parallel.stack([member])
            row[name] = float(zoo.evaluate(network, stacked, dataset.test, dataset.mean, dataset.std)[0])
        table.add(pd.DataFrame([{**line, **row}]))
    return table.select(requested)


def pairwise_cycle_error(trained: zoo.Zoo, symmetry: Symmetry, group: str) -> float:
    """Return the cycle error if each pair is matched by weights on its own."""
    seeds = range(len(trained.seeds))
    pairs = [(i, j) for i in seeds for j in seeds if i < j]
    a, b = (parallel.take(trained.members, [pair[side] for pair in pairs]) for side in (0, 1))
    element, _ = alignment.match(trained.network, a, b, group=group)
    maps = {}
    for row, (i, j) in enumerate(pairs):
        maps[i, j] = {name: matrices[row] for name, matrices in element.items()}
        maps[j, i] = symmetry.inverse(maps[i, j])
    return alignment.cycle_error(symmetry, maps)


if __name__ == "__main__":
    run_command(main, Settings)
