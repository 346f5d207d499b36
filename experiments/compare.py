"""Compare networks of any framework by files of their activations on the same examples.

Each argument is a network: a file .npy, .npz, .safetensors or .h5, or a folder of such files with one layer in each, of
arrays (examples, ..., channels). The entry or file "ids" holds IDs of the examples. All layers of all pairs of networks
are compared by several measures. Running the same command again recomputes nothing; more networks or measures extend
the results in the same folder (--out).
"""

import dataclasses
import hashlib
import itertools
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import tyro

from experiments.command import run_command
from experiments.defaults import optional
from experiments.features import layers_option, parse_measures, samples_option
from experiments.registry import Experiment
from experiments.settings import split
from experiments.summary import Summary
from symjax import activations, plots
from symjax.activation_files import FORMATS
from symjax.checks import integer_fields
from symjax.comparison import COLUMNS, compare
from symjax.errors import InputError, renamed
from symjax.ops import files, runs
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.similarity import MEASURES
from symjax.tables import mean, spell_interval

PAIR = ("model_a", "digest_a", "model_b", "digest_b")
KEY = {name: str for name in (*PAIR, "measure", "layer_a", "layer_b")}
ROWS = Schema("results", KEY, tuple(name for name in COLUMNS if name not in KEY), order=PAIR, part=PAIR)
EXPERIMENT = Experiment(place=160)
MAX_PAIRS = 10  # largest number of pairs of networks with heat maps of their own; more have one of their means
SAMPLES, SAMPLE = 64, 2**16  # parts of a file that its digest reads, and their bytes


@dataclasses.dataclass(frozen=True)
class Settings:
    networks: tyro.conf.Positional[tuple[Path, ...]]
    """Files or folders of activations, one for each network."""
    measures: str = "cka,svcca,procrustes_distance"
    """Comma-separated names of symjax.similarity.MEASURES. The first distance places the networks in a plane."""
    layers: Literal["all", "same"] = "all"
    """Whether all layers are compared with each other, or only those of equal names."""
    select: Annotated[str | None, optional("NAMES", "all")] = None
    """Comma-separated names of the layers that are read."""
    samples: Literal["default", "positions", "flatten", "pool"] = "default"
    """How feature maps become samples: each pixel, the whole map, or the mean over pixels."""
    layout: Literal["nhwc", "nchw"] = "nhwc"
    """Layout of feature maps: channels last, or channels first as in PyTorch."""
    join: Literal["equal", "inner"] = "equal"
    """equal requires the same IDs of examples in all networks; inner compares the examples that all have."""
    examples: Annotated[int | None, optional("INT", "all")] = None
    """Number of examples that are compared, the first ones; all if there are fewer."""
    resamples: int = 0
    """Number of random halves of the examples for 95 % intervals of all values; 0 for none."""
    permutations: int = 0
    """Number of permutations of the examples for p values of all values; 0 for none."""
    seed: int = 0
    """Seed of halves and permutations."""
    out: Annotated[Path | None, optional("DIR", "runs/compare/ and a name made from files and settings")] = None
    """The folder of the results."""


def main(settings: Settings) -> Summary:
    measures = parse_measures(settings.measures)
    check(settings)
    if len(settings.networks) < 2:
        raise InputError(f"networks: got {len(settings.networks)}, expected two or more files or folders")
    networks = read(settings)
    digests = dict(zip(networks, map(digest, settings.networks), strict=True))
    names = ("layers", "select", "samples", "layout", "join", "examples", "resamples", "permutations", "seed")
    document = {name: getattr(settings, name) for name in names}
    if settings.join == "inner":  # the examples depend on all networks
        document["networks"] = digests
    path = settings.out or Path("runs", "compare", files.fingerprint({**document, "networks": digests}))
    with runs.open_folder(path, "compare", document) as folder:
        table = compute(folder, networks, digests, measures, settings)
        distances = {measure: between(table[table.measure == measure], list(networks)) for measure in measures}
        figures = draw(folder, table, distances, list(networks))
        counts = ", ".join(f"{name} ({len(layers)} layers)" for name, layers in networks.items())
        return Summary(
            folder,
            f"{len(networks)} networks: {counts}",
            conclusion(table, distances),
            tables(table, distances),
            figures,
        )


def check(settings: Settings) -> None:
    """Raise an InputError for a setting out of its range."""
    integer_fields(settings, **dict.fromkeys(("resamples", "permutations", "seed"), (0, 2**31 - 1)))
    if settings.examples is not None and settings.examples < 2:
        raise InputError(f"examples: got {settings.examples}, expected two or more")
    if settings.select is not None and not split(settings.select):
        raise InputError(f"select: got {settings.select!r}, expected names of layers, separated by commas")


def read(settings: Settings) -> dict[str, activations.Activations]:
    """Return the activations of each network with the same examples."""
    layers = None if settings.select is None else split(settings.select)
    paths = dict(zip(names_of(settings.networks), settings.networks, strict=True))
    with renamed(layers="select", path="networks"):
        opened = {name: activations.load(path, layers=layers) for name, path in paths.items()}
    opened = activations.align(opened, join=settings.join)
    if settings.examples is None:
        return opened
    counts = {name: min(settings.examples, len(next(iter(sets.values())))) for name, sets in opened.items()}
    return {name: sets.take(range(counts[name])) for name, sets in opened.items()}


def names_of(paths: tuple[Path, ...]) -> list[str]:
    """Return a name for each path: its last parts, as many as make the names different."""
    parts = [(*path.resolve().parent.parts, path.resolve().stem) for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"networks: got {', '.join(map(str, paths))}, expected different ones")


def digest(path: Path) -> str:
    """Return a digest of the names and sizes of the files of a network and of parts of their contents."""
    result = hashlib.blake2b(digest_size=8)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.suffix.lower() not in FORMATS:
            continue
        size = file.stat().st_size
        result.update(f"{file.name} {size} ".encode())
        with file.open("rb") as opened:
            for start in np.unique(np.linspace(0, max(0, size - SAMPLE), SAMPLES, dtype=np.int64)):
                opened.seek(start)
                result.update(opened.read(SAMPLE))
    return result.hexdigest()


def compute(
    folder: Path,
    networks: dict[str, activations.Activations],
    digests: dict[str, str],
    measures: list[str],
    settings: Settings,
) -> pd.DataFrame:
    """Return the rows of all pairs; compute the measures of each pair that the folder lacks."""
    results, pairs = ResultTable(folder, ROWS), list(itertools.combinations(networks, 2))
    keys = [(a, digests[a], b, digests[b], measure) for a, b in pairs for measure in measures]
    requested = pd.DataFrame(keys, columns=[*PAIR, "measure"])
    missing = results.missing(requested)
    options = {"num_resamples": settings.resamples, "num_permutations": settings.permutations}
    options |= {"seed": settings.seed, "layout": settings.layout}
    groups = missing.groupby(list(PAIR), sort=False)
    with progress_bar(desc="pairs", unit="pair", total=groups.ngroups, disable=missing.empty) as bar:
        for pair, rows in groups:
            a, _, b, _ = pair
            sides = [dict(networks[name]) for name in (a, b)]
            shapes = [models_first(np.shape(array), settings.layout) for side in sides for array in side.values()]
            parts = []
            for measure in rows.measure:
                layers = layers_option(measure, settings.samples, shapes) if settings.layers == "all" else "same"
                samples = samples_option(measure, settings.samples)
                parts.append(compare(*sides, measure, names=(a, b), layers=layers, **samples, **options).table)
            results.add(pd.concat(parts).reindex(columns=COLUMNS).assign(**dict(zip(PAIR, pair, strict=True))))
            bar.update()
    results.assemble()
    return results.select(requested)


def models_first(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Return the shape with a leading axis of models and channels last."""
    return (1, shape[0], *shape[2:], shape[1]) if layout == "nchw" and len(shape) == 4 else (1, *shape)


def between(table: pd.DataFrame, networks: list[str]) -> pd.DataFrame:
    """Return a measure between networks: its mean over layers of equal names, or that of the only pair of layers.

    NaN for networks without such layers and on the diagonal.
    """
    values = pd.DataFrame(np.nan, networks, networks)
    for (a, b), rows in table.groupby(["model_a", "model_b"], sort=False):
        same = rows if len(rows) == 1 else rows[rows.layer_a == rows.layer_b]
        values.loc[a, b] = values.loc[b, a] = mean(same.value)
    return values


def draw(folder: Path, table: pd.DataFrame, means: dict[str, pd.DataFrame], networks: list[str]) -> tuple[str, ...]:
    """Write the figures and return their names."""
    pairs = [rows for _, rows in table.groupby(["model_a", "model_b"], sort=False)]
    maps = (
        {f"heatmaps-{i}": rows for i, rows in enumerate(pairs, 1)} if len(pairs) <= MAX_PAIRS else {"heatmaps": table}
    )
    figures = [name for name, rows in maps.items() if plots.heatmaps(rows, folder / name) is not None]
    if (table.layer_a == table.layer_b).any():
        plots.by_layer(table, folder / "layers")
        figures.append("layers")
    for measure, values in means.items():
        off_diagonal = ~np.eye(len(networks), dtype=bool)
        usable = MEASURES[measure].kind == "distance" and MEASURES[measure].symmetric
        if len(networks) > 2 and usable and np.isfinite(values.to_numpy()[off_diagonal]).all():
            distances = values.where(off_diagonal, 0.0).rename_axis(columns=measure)
            plots.embedding(distances, folder / "embedding")
            plots.dendrogram(distances, folder / "dendrogram")
            return *figures, "embedding", "dendrogram"
    return tuple(figures)


def tables(table: pd.DataFrame, means: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return a table for each measure: between layers for two networks, otherwise between networks."""
    result = {}
    for measure, values in means.items():
        rows = table[table.measure == measure]
        if len(values) == 2:
            a, b = values.index
            text = rows.assign(text=[entry(row) for row in rows.itertuples()])
            text = text.pivot(index="layer_a", columns="layer_b", values="text").fillna("")
            text = text.loc[rows.layer_a.unique(), rows.layer_b.unique()].rename_axis(index=None, columns=None)
            result[f"{measure}, layers of {a} (rows) and of {b} (columns)"] = text
        elif values.notna().any(axis=None):
            text = values.map(lambda value: "" if np.isnan(value) else f"{value:.3f}")
            result[f"{measure} between networks, mean over layers of equal names"] = text
    return result


def entry(row) -> str:
    """Return the value of a row with its interval and p value where they were computed."""
    return spell_interval(row.value, row.low, row.high, 3) + ("" if np.isnan(row.p) else f", p = {row.p:.3g}")


def conclusion(table: pd.DataFrame, means: dict[str, pd.DataFrame]) -> str:
    """Return the most similar layers of two networks, or the most similar pair of networks, by each measure."""
    parts = []
    for measure, values in means.items():
        rows, sign = table[table.measure == measure], -1 if MEASURES[measure].kind == "distance" else 1
        if len(values) == 2 and rows.value.notna().any():
            best = rows.loc[(sign * rows.value).idxmax()]
            parts.append(f"{measure} {best.value:.3f} ({best.layer_a} and {best.layer_b})")
        elif len(values) > 2 and values.notna().any(axis=None):
            a, b = (sign * values).stack().idxmax()
            parts.append(f"{measure} {values.loc[a, b]:.3f} ({a} and {b})")
    if not parts:
        return "The networks have no layers of equal names, so that no distance between networks is defined."
    return f"Most alike are, by measure: {'; '.join(parts)}."


if __name__ == "__main__":
    run_command(main, Settings)
