"""Which matrices commute with which activations, and what acting with them on trained networks does.

With no argument: the table of intertwiner groups with measured defects, GELU's lack of homogeneity, and a zoo of 4
narrow Myrtle CNNs on scikit-learn's digits, each acted on by a random symmetry and stitched to what it became: the
matched stitch undoes it. The zoo is trained where it is missing. The same command again recomputes nothing; more seeds
or layers extend what is there.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments import dry_run
from experiments.folders import run_folder
from experiments.registry import Experiment, PublishedTable
from experiments.settings import ZooSettings, optional, run_command, zoo_folder
from experiments.summary import Summary
from symjax import plots, zoo
from symjax.errors import InputError
from symjax.flops import segment_flops
from symjax.groups import GELU_SLOPE, GROUPS, INTERTWINERS, homogeneity_defect, is_intertwiner
from symjax.ops import files, parallel
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.stitching.transformed import KINDS, check_points, moments_memory, stitch_to_transformed, transformed_flops
from symjax.tables import mean

DEFECTS = ("activation", "matrix", "draw", "member", "verdict", "defect", "condition", "trouble")
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
class Settings(ZooSettings):
    channels: int = 8
    """The size of the matrices that are tried on activations."""
    draws: int = 5
    """How many random matrices of each kind are tried."""
    element_seed: int = 0
    """Of the random matrices and symmetries."""
    layers: str = "all"
    """Stitch points by name, as in relu1,relu3, or all."""
    zoo: Annotated[Path | None, optional("DIR", "as python -m experiments.zoo has it")] = None
    """The folder of the zoo; trained there where it is missing."""
    out: Annotated[Path | None, optional("DIR", "runs/symmetry/ and a name made from the settings")] = None
    """The folder of the results."""


def main(settings: Settings) -> Summary:
    config = settings.zoo_config()
    seeds = settings.parse_seeds()
    for name, (least, most) in {"channels": (2, 1024), "draws": (1, 10**6), "element_seed": (0, 2**31 - 1)}.items():
        if not least <= (value := getattr(settings, name)) <= most:
            raise InputError(f"{name}: got {value}, expected an integer from {least} to {most}")
    dataset = settings.load_dataset()
    network = config.network(dataset)
    points = network.parse_points(settings.layers)
    check_points(network, points)
    document = {"zoo": config.identity(dataset), "test_size": settings.test_size}
    document |= {name: getattr(settings, name) for name in ("channels", "draws", "element_seed")}
    out = run_folder("symmetry", zoo_folder(config).name, document, dataset, settings.out)
    zoo_path = settings.zoo or zoo_folder(config)
    dry_run.stop(
        settings,
        config,
        dataset,
        out.path,
        lambda: [
            dry_run.zoo_phase(config, dataset, seeds, zoo_path, settings.memory_limit),
            *phases(settings, config, dataset, points, out.path),
        ],
    )
    trained = settings.train_zoo(config, dataset, zoo_path)
    with out.open() as folder:
        key = jax.random.key(settings.element_seed)
        defects = kept(folder / "defects.csv", DEFECTS, lambda: measure(settings.channels, settings.draws, key))
        curves = kept(folder / "homogeneity.csv", ("activation", "scale", "xi"), homogeneity)
        stitched = stitch(folder, trained, dataset, points, key, settings.memory_limit)
        plots.defects(defects, folder / "defects")
        plots.homogeneity(curves[curves.scale <= 10], GELU_SLOPE, folder / "homogeneity")
        plots.symmetry_penalties(stitched, folder / "undone")
        slope = pd.DataFrame({f"xi(l) / l at l = {SCALES[-1]:g}": last_slopes(curves)}).map("{:.6f}".format)
        wrong = defects[defects.verdict != defects.member.map(VERDICTS)]
        matched, identity = (stitched[stitched.family == kind].penalty for kind in ("matched", "identity"))
        return Summary(
            folder,
            f"{trained.network.name} on {dataset.name}: clean accuracy {mean(stitched.clean_accuracy):.2f} %",
            f"Numbers and table disagree on {len(wrong)} of {len(defects)} matrices. GELU's xi(l) / l is "
            f"{slope.iloc[0, 0]} at l = {SCALES[-1]:g}, its limit {GELU_SLOPE:.6f}. After a random symmetry "
            f"the matched stitch costs {matched.max(skipna=False):.2f} percentage points at most, no stitch "
            f"{mean(identity):.2f} on average.",
            {
                "defects |s(A x) - B s(x)| / |s(A x)| with the best B, * where A is of the activation's group": grid(
                    defects
                ),
                "lack of homogeneity, xi(l) = RMS(s(l X) - l s(X)) with X standard normal": slope,
                "mean penalty of stitching a network to what a random symmetry made of it, percentage points": summary(
                    stitched
                ),
            },
            ("defects", "homogeneity", "undone"),
        )


def phases(settings: Settings, config: zoo.ZooConfig, dataset, points, folder: Path) -> list[dry_run.Phase]:
    """What a dry run tells of what comes after the training."""
    seeds, tried = settings.parse_seeds(), len(GROUPS) * settings.draws
    name, left = "members to act on", [left for left in missing(folder, seeds, points).values() if left]
    there = (folder / "defects.csv").exists()
    matrices = dry_run.Phase("matrices to try", 0 if there else tried, tried if there else 0)
    if not left:
        return [dry_run.Phase(name, 0, len(seeds), 0.0), matrices]
    network = config.network(dataset)
    plain = segment_flops(config.network(dataset), dataset.train.images.shape[1:])
    flops = sum(transformed_flops(network, plain, dataset, points) for points in left)
    # Points inside of residual blocks and others go apart, as in `stitch_to_transformed`.
    sets = {tuple(p for p in points if network.points[p].starred == starred) for points in left for starred in (0, 1)}
    needs = [zoo.evaluation_need(network, dataset.test), *(moments_memory(network, dataset, p) for p in sets if p)]
    at_once = min(dry_run.on_a_device(len(left), need, settings.memory_limit) for need in needs)
    needed = max(needs, key=lambda need: need.bytes_for(at_once))
    return [dry_run.Phase(name, len(left), len(seeds) - len(left), flops, needed, at_once), matrices]


def missing(folder: Path, seeds, points: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """By seed, the points of which results.csv has no rows."""
    rows = ResultTable(folder, ROWS).missing(requested(seeds, points))
    return {seed: tuple(rows.layer_index[rows.seed == seed].tolist()) for seed in seeds}


def requested(seeds, points: tuple[int, ...]) -> pd.DataFrame:
    """All combinations of points and seeds, in this order."""
    return pd.MultiIndex.from_product([points, sorted(seeds)], names=["layer_index", "seed"]).to_frame(index=False)


def kept(path: Path, columns: tuple[str, ...], make) -> pd.DataFrame:
    """The table in the file, made and written first where it is missing."""
    if not path.exists():
        files.write_csv(path, make()[list(columns)])
    return files.read_csv(path, columns)


def measure(channels: int, draws: int, key: jax.Array) -> pd.DataFrame:
    """Every activation with random matrices of every group."""
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
    """xi of a few activations at many scales."""
    parts = [
        pd.DataFrame(
            {"activation": name, "scale": SCALES, "xi": homogeneity_defect(INTERTWINERS[name].activation, SCALES)}
        )
        for name in CURVES
    ]
    return pd.concat(parts, ignore_index=True)


def last_slopes(curves: pd.DataFrame) -> pd.Series:
    """xi(l) / l at the largest scale, GELU's first."""
    last = curves[curves.scale == SCALES[-1]].set_index("activation")
    return (last.xi / last.scale)[list(CURVES)].rename(index={"gelu": "GELU", "relu": "ReLU"}).rename_axis(None)


def stitch(
    folder: Path, trained: zoo.Zoo, dataset, points: tuple[int, ...], key: jax.Array, limit: float | None
) -> pd.DataFrame:
    """Members stitched to what symmetries make of them; those that results.csv has not got are computed."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for seed, missing_points in missing(folder, trained.seeds, points).items():
        groups.setdefault(missing_points, []).append(seed)

    results = ResultTable(folder, ROWS)

    def keep(rows: list[dict]) -> None:  # member by member, so that a run that is stopped loses one at most
        results.add(pd.DataFrame(rows))

    total = sum(len(missing_points) * len(seeds) * len(KINDS) for missing_points, seeds in groups.items())
    with progress_bar(desc="symmetry", unit="stitch", total=total, disable=not total) as bar:
        for missing_points, seeds in groups.items():
            if missing_points:
                where = np.array([trained.seeds.index(seed) for seed in seeds])
                members = dataclasses.replace(
                    trained, seeds=tuple(seeds), members=parallel.take(trained.members, where)
                )
                keys = jnp.stack([jax.random.fold_in(key, seed) for seed in seeds])
                options = {"on_row": bar.update, "on_member": keep, "max_device_memory": limit}
                stitch_to_transformed(members, dataset, keys, missing_points, **options)
    return results.select(requested(trained.seeds, points))


def grid(defects: pd.DataFrame) -> pd.DataFrame:
    """Activations down, kinds of matrices across."""
    worst = plots.worst_defects(defects)
    text = worst.defect.map("{:.0e}".format) + worst.member.map({True: "*", False: " "})
    table = text.unstack("matrix").loc[defects.activation.unique(), list(GROUPS)]
    table.columns.name = table.index.name = None
    table.insert(0, "group", [INTERTWINERS[name].group.description for name in table.index])
    table.insert(1, "phi", [INTERTWINERS[name].formula for name in table.index])
    return table


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Stitches down, layers across: mean penalty, and by how much the stitch differs from the symmetry."""
    penalty = table.groupby(["family", "layer"], sort=False).penalty.agg(mean).unstack("layer")
    off = table.groupby(["family", "layer"], sort=False).difference.agg(lambda d: d.max(skipna=False)).unstack("layer")
    both = {
        "matched": penalty.loc["matched"].map("{:.2f}".format),
        "identity": penalty.loc["identity"].map("{:.2f}".format),
        "|matched - phi(A)| / |phi(A)|": off.loc["matched"].map("{:.0e}".format),
    }
    return pd.DataFrame(both).T[list(table.layer.unique())]


if __name__ == "__main__":
    run_command(main, Settings)
