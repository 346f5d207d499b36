"""Measure which matrices commute with which activations, and transform trained networks by random symmetries.

The results are a table of intertwiner groups with measured defects, GELU's lack of homogeneity, and the penalties of
stitching each network to its transformed copy: the matched stitch undoes the symmetry. By default the networks are a
zoo of 4 narrow Myrtle CNNs on scikit-learn's digits. Missing members of the zoo are trained first. Running the same
command again recomputes nothing; more seeds or layers extend the results.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments import dry_run
from experiments.command import run_command
from experiments.features import select_members
from experiments.folders import RunSettings
from experiments.registry import Experiment, PublishedTable
from experiments.summary import Summary
from symjax import plots, zoo
from symjax.checks import integer_fields
from symjax.flops import segment_flops
from symjax.groups import GELU_SLOPE, GROUPS, INTERTWINERS, homogeneity_defect, is_intertwiner
from symjax.network import Network
from symjax.ops import files
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.stitching.transformed import KINDS, check_points, moments_program, stitch_to_transformed, transformed_flops
from symjax.tables import mean

DEFECTS = ("activation", "matrix", "draw", "member", "verdict", "defect", "condition", "warning")
VERDICTS = {True: "member", False: "no member", None: "undecided"}
SCALES = np.concatenate([np.linspace(0.1, 10, 100), [30.0, 100.0, 1000.0]])
CURVES = ("gelu", "relu")
ROWS = Schema(
    "results",
    {"seed": int, "layer_index": int, "family": str},
    ("layer", "starred", "clean_accuracy", "stitched_accuracy", "penalty", "difference"),
    order=("layer_index", "seed"),
)

EXPERIMENT = Experiment(
    place=60,
    published={
        "lack of homogeneity, xi(l) = RMS(s(l X) - l s(X)) with X standard normal": PublishedTable(
            ("xi(l) / l for large l",), {"GELU": (0.1267,)}
        )
    },
    published_on=None,
)


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings):
    channels: int = 8
    """Size of the matrices that are tested on activations."""
    draws: int = 5
    """Number of random matrices of each group that are tested."""
    element_seed: int = 0
    """Seed of the random matrices and symmetries."""
    layers: str = "all"
    """Comma-separated names of stitch points, as in relu1,relu3, or all."""


def main(settings: Settings) -> Summary:
    config = settings.zoo_config()
    integer_fields(settings, channels=(2, 1024), draws=(1, 10**6), element_seed=(0, 2**31 - 1))
    dataset = settings.load_dataset()
    network = config.network(dataset)
    points = network.parse_points(settings.layers)
    check_points(network, points)
    document = {"zoo": config.identity(dataset), "test_size": settings.test_size}
    document |= {name: getattr(settings, name) for name in ("channels", "draws", "element_seed")}
    own_phases = partial(phases, settings, network, dataset, points)
    with settings.run("symmetry", dataset, document, own_phases) as (folder, trained):
        key = jax.random.key(settings.element_seed)
        defects = read_or_write(
            folder / "defects.csv", DEFECTS, lambda: measure_defects(settings.channels, settings.draws, key)
        )
        curves = read_or_write(folder / "homogeneity.csv", ("activation", "scale", "xi"), homogeneity)
        stitched = stitch(folder, trained, dataset, points, key, settings.memory_limit)
        plots.defects(defects, folder / "defects")
        plots.homogeneity(curves[curves.scale <= 10], GELU_SLOPE, folder / "homogeneity")
        plots.symmetry_penalties(stitched, folder / "undone")
        slope = pd.DataFrame({f"xi(l) / l at l = {SCALES[-1]:g}": last_slopes(curves)}).map("{:.6f}".format)
        disagreements = defects[defects.verdict != defects.member.map(VERDICTS)]
        matched, identity = (stitched[stitched.family == kind].penalty for kind in ("matched", "identity"))
        text = (
            f"Measured defects and the table of groups disagree on {len(disagreements)} of {len(defects)} matrices. "
            f"GELU's xi(l) / l is {slope.iloc[0, 0]} at l = {SCALES[-1]:g}, its limit {GELU_SLOPE:.6f}. After a random "
            f"symmetry the matched stitch costs {matched.max(skipna=False):.2f} percentage points at most, no stitch "
            f"{mean(identity):.2f} on average."
        )
        tables = {DEFECTS_CAPTION: grid(defects), XI_CAPTION: slope, PENALTY_CAPTION: summary(stitched)}
        title = f"{trained.network.name} on {dataset.name}: clean accuracy {mean(stitched.clean_accuracy):.2f} %"
        return Summary(folder, title, text, tables, ("defects", "homogeneity", "undone"))


DEFECTS_CAPTION = "defects |s(A x) - B s(x)| / |s(A x)| with the best B, * where A is in the group of the activation"
XI_CAPTION = "lack of homogeneity, xi(l) = RMS(s(l X) - l s(X)) with X standard normal"
PENALTY_CAPTION = "mean penalty of stitching a network to its copy transformed by a random symmetry, percentage points"


def phases(settings: Settings, network: Network, dataset, points, folder: Path) -> list[dry_run.Phase]:
    """Return the phases of a dry run after the training."""
    seeds, count = settings.parse_seeds(), len(GROUPS) * settings.draws
    name = "members to transform"
    point_sets = [missing_points for missing_points in missing(folder, seeds, points).values() if missing_points]
    exists = (folder / "defects.csv").exists()
    matrices = dry_run.Phase("matrices to test", 0 if exists else count, count if exists else 0)
    if not point_sets:
        return [dry_run.Phase(name, 0, len(seeds), 0.0), matrices]
    segments = segment_flops(network, dataset.train.images.shape[1:])
    flops = sum(transformed_flops(network, segments, dataset, missing_points) for missing_points in point_sets)
    # Points inside residual blocks are stitched separately from the others, as in `stitch_to_transformed`.
    groups = {
        tuple(point for point in missing_points if network.points[point].starred == starred)
        for missing_points in point_sets
        for starred in (0, 1)
    }
    programs = (
        zoo.evaluation_program(network, dataset.test),
        *(moments_program(network, dataset, g) for g in groups if g),
    )
    estimates = [program.memory for program in programs]
    to_do = len(point_sets)
    at_once = min(dry_run.on_a_device(to_do, estimate, settings.memory_limit) for estimate in estimates)
    memory = max(estimates, key=lambda estimate: estimate.bytes_for(at_once))
    return [dry_run.Phase(name, to_do, len(seeds) - to_do, flops, memory, at_once), matrices]


def missing(folder: Path, seeds, points: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """Return the points that have no rows in results.csv, by seed."""
    rows = ResultTable(folder, ROWS).missing(requested(seeds, points))
    return {seed: tuple(rows.layer_index[rows.seed == seed].tolist()) for seed in seeds}


def requested(seeds, points: tuple[int, ...]) -> pd.DataFrame:
    """Return all combinations of points and seeds, in this order."""
    return pd.MultiIndex.from_product([points, sorted(seeds)], names=["layer_index", "seed"]).to_frame(index=False)


def read_or_write(path: Path, columns: tuple[str, ...], compute) -> pd.DataFrame:
    """Return the table in the file; compute and write it first if the file is missing."""
    if not path.exists():
        files.write_csv(path, compute()[list(columns)])
    return files.read_csv(path, columns)


def measure_defects(channels: int, draws: int, key: jax.Array) -> pd.DataFrame:
    """Return the defects of every activation with random matrices of every group."""
    rows = []
    for g, group in enumerate(GROUPS.values()):
        for draw in range(draws):
            with jax.enable_x64(True):
                matrix = np.asarray(group.sample(jax.random.fold_in(jax.random.fold_in(key, g), draw), channels))
            for row in INTERTWINERS.values():
                decision = is_intertwiner(row.activation, matrix, offset=row.offset is not None)
                member = row.group.contains(matrix)
                values = (
                    row.name,
                    group.name,
                    draw,
                    member,
                    VERDICTS[decision.verdict],
                    decision.defect,
                    decision.condition,
                )
                rows.append(dict(zip(DEFECTS, (*values, decision.warning or "none"), strict=True)))
    table = pd.DataFrame(rows)
    return table.sort_values("activation", key=lambda names: names.map(list(INTERTWINERS).index), kind="stable")


def homogeneity() -> pd.DataFrame:
    """Return xi of the activations `CURVES` at all scales."""
    parts = [
        pd.DataFrame(
            {"activation": name, "scale": SCALES, "xi": homogeneity_defect(INTERTWINERS[name].activation, SCALES)}
        )
        for name in CURVES
    ]
    return pd.concat(parts, ignore_index=True)


def last_slopes(curves: pd.DataFrame) -> pd.Series:
    """Return xi(l) / l of each activation at the largest scale; GELU is first."""
    last = curves[curves.scale == SCALES[-1]].set_index("activation")
    return (last.xi / last.scale)[list(CURVES)].rename(index={"gelu": "GELU", "relu": "ReLU"}).rename_axis(None)


def stitch(
    folder: Path, trained: zoo.Zoo, dataset, points: tuple[int, ...], key: jax.Array, limit: float | None
) -> pd.DataFrame:
    """Return the results of stitching members to their transformed copies; missing rows are computed."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for seed, missing_points in missing(folder, trained.seeds, points).items():
        groups.setdefault(missing_points, []).append(seed)

    results = ResultTable(folder, ROWS)

    def save(rows: list[dict]) -> None:  # called for each member, so that an interrupted run loses one at most
        results.add(pd.DataFrame(rows))

    total = sum(len(missing_points) * len(seeds) * len(KINDS) for missing_points, seeds in groups.items())
    with progress_bar(desc="symmetry", unit="stitch", total=total, disable=not total) as bar:
        for missing_points, seeds in groups.items():
            if missing_points:
                keys = jnp.stack([jax.random.fold_in(key, seed) for seed in seeds])
                options = {"on_row": bar.update, "on_member": save, "max_device_memory": limit}
                stitch_to_transformed(select_members(trained, seeds), dataset, keys, missing_points, **options)
    return results.select(requested(trained.seeds, points))


def grid(defects: pd.DataFrame) -> pd.DataFrame:
    """Return the largest defects as text, by activation (rows) and group of matrices (columns)."""
    worst = plots.worst_defects(defects)
    text = worst.defect.map("{:.0e}".format) + worst.member.map({True: "*", False: " "})
    table = text.unstack("matrix").loc[defects.activation.unique(), list(GROUPS)]
    table.columns.name = table.index.name = None
    table.insert(0, "group", [INTERTWINERS[name].group.description for name in table.index])
    table.insert(1, "phi", [INTERTWINERS[name].formula for name in table.index])
    return table


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean penalties, and the difference of stitch and symmetry, by family (rows) and layer (columns)."""
    grouped = table.groupby(["family", "layer"], sort=False)
    penalty = grouped.penalty.agg(mean).unstack(sort=False)
    difference = grouped.difference.agg(lambda d: d.max(skipna=False)).unstack(sort=False)
    rows = {
        "matched": penalty.loc["matched"].map("{:.2f}".format),
        "identity": penalty.loc["identity"].map("{:.2f}".format),
        "|matched - phi(A)| / |phi(A)|": difference.loc["matched"].map("{:.0e}".format),
    }
    return pd.DataFrame(rows).T


if __name__ == "__main__":
    run_command(main, Settings)
