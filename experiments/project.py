"""Measure the accuracy of networks of which one layer is projected onto its top k directions (Raghu et al. 2017).

Directions are principal components, those of CCA, SVCCA and PLS with the same layer of another network, neurons of the
largest norm, or random. A layer needs few directions if the accuracy survives with small k. By default every layer of a
zoo of 4 narrow Myrtle CNNs on scikit-learn's digits is projected. Missing members are trained first. Running the same
command again recomputes nothing; more seeds, layers, methods or directions extend the results.
"""

import dataclasses
from pathlib import Path

import jax
import pandas as pd

from experiments import dry_run
from experiments.command import run_command
from experiments.folders import RunSettings, clean_accuracy
from experiments.registry import Experiment, PublishedTable
from experiments.settings import split
from experiments.summary import Summary
from symjax import plots, zoo
from symjax.checks import integer, integers
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.flops import segment_flops
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.projections import METHODS, PAIRED, project, projected_accuracy
from symjax.representations import as_maps, representations
from symjax.tables import interval_text, mean
from symjax.training import percent

KEY = {"seed": int, "partner": int, "layer_index": int, "method": str, "directions": int}
ROWS = Schema("results", KEY, ("layer", "channels", "accuracy", "clean_accuracy"), order=("layer_index", "seed"))
EXPERIMENT = Experiment(
    place=120,
    published={
        "accuracy on the first directions of a layer (figures without numbers in the text)": PublishedTable(
            ("published",),
            {
                "Raghu et al. 2017, figure 2, CIFAR-10": ("few SVCCA directions keep the accuracy",),
                "tutorial 003 of google/svcca, MNIST": ("PLS performed best, of PLS, PCA and CCA",),
            },
        )
    },
    published_on=None,
)


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings):
    methods: str = ",".join(METHODS)
    """Comma-separated methods that choose directions: pca, cca, svcca, pls, neurons, random."""
    directions: str = "0,1,2,3,4,6,8,12,16,24,32,48,64,96,128,192,256,384,512"
    """Comma-separated numbers of directions; those above the channels of a layer are left out, and all channels are
    added."""
    layers: str = "all"
    """Comma-separated names of stitch points, as in relu1,relu3, or all."""
    examples: int = 1000
    """Number of training images from which directions are computed; all if there are fewer."""
    direction_seed: int = 0
    """Seed of random directions."""


def main(settings: Settings) -> Summary:
    config, seeds, methods = settings.zoo_config(), settings.parse_seeds(), parse_methods(settings.methods)
    directions = parse_directions(settings.directions)
    if len(seeds) < 2 and (paired := [method for method in methods if method in PAIRED]):
        raise InputError(f"seeds: got one, expected two or more for {', '.join(paired)}, which compare two networks")
    if settings.examples < 4:
        raise InputError(f"examples: got {settings.examples}, expected 4 or more")
    integer("direction_seed", settings.direction_seed)
    dataset = settings.load_dataset()
    network = config.network(dataset)
    points = network.parse_points(settings.layers)
    document = {"zoo": config.identity(dataset), "test_size": settings.test_size}
    document |= {name: getattr(settings, name) for name in ("examples", "direction_seed")}
    requested = {p: request(seeds, p, methods, directions, network.points[p].channels) for p in points}

    def phases(folder: Path) -> list[dry_run.Phase]:
        table = ResultTable(folder, ROWS)
        missing = {p: len(table.missing(rows)) for p, rows in requested.items()}
        plain = segment_flops(network, dataset.example_shape)
        flops = sum(count * len(dataset.test) * sum(plain[p + 1 :]) for p, count in missing.items())
        total, existing = sum(missing.values()), sum(map(len, requested.values()))
        return [dry_run.Phase("projections to evaluate", total, existing - total, flops)]

    with settings.run("project", dataset, document, phases) as (folder, trained):
        table = compute(folder, trained, dataset, requested, settings)
        accuracy = clean_accuracy(folder, trained, dataset, settings.memory_limit).mean()
        plots.mean_curves(
            table.assign(panel=table.layer + " (" + table.channels.astype(str) + " channels)"),
            folder / "accuracy",
            x="directions",
            y="accuracy",
            line="method",
            panel="panel",
            ylabel="accuracy (%)",
        )
        rows = about_a_quarter(table)
        return Summary(
            folder,
            f"{trained.network.name} on {dataset.name}: clean accuracy {accuracy:.2f} %",
            conclusion(rows),
            {
                "accuracy (%) on the first directions, of the numbers tried the one nearest to a quarter of the "
                f"channels, mean and 95 % interval over {len(seeds)} networks": grid(rows)
            },
            ("accuracy",),
        )


def parse_methods(text: str) -> list[str]:
    """Return the methods of a comma-separated list, each once."""
    names = split(text)
    if not names or set(names) - set(METHODS):
        raise InputError(f"methods: got {text!r}, expected names of {', '.join(METHODS)}, separated by commas")
    return names


def parse_directions(text: str) -> list[int]:
    """Return the ascending numbers of a comma-separated list, each once."""
    parts = split(text)
    if not parts or not all(part.isdecimal() and len(part) < 8 for part in parts):
        raise InputError(f"directions: got {text!r}, expected integers from 0, separated by commas")
    return sorted(set(integers("directions", map(int, parts))))


def request(seeds, point: int, methods: list[str], directions: list[int], channels: int) -> pd.DataFrame:
    """Return the keys of the rows of one layer; all channels are always among the directions.

    Methods that compare two networks have the network of the next seed as partner; for others the partner is -1.
    """
    ks = [*(k for k in directions if k < channels), channels]
    next_seed = partners(seeds)
    rows = [
        (seed, next_seed[seed] if method in PAIRED else -1, point, method, k)
        for seed in sorted(seeds)
        for method in methods
        for k in ks
    ]
    return pd.DataFrame(rows, columns=list(KEY))


def partners(seeds) -> dict[int, int]:
    """Return {seed: the next seed in ascending order, after the last one the first}."""
    ordered = sorted(seeds)
    return dict(zip(ordered, [*ordered[1:], ordered[0]], strict=True))


def compute(
    folder: Path, trained: zoo.Zoo, dataset: Dataset, requested: dict[int, pd.DataFrame], settings: Settings
) -> pd.DataFrame:
    """Return the requested rows; compute the missing ones, for each method those of all layers in one program."""
    results, network, count = ResultTable(folder, ROWS), trained.network, dataset.test.labels.size
    missing = pd.concat([results.missing(rows) for rows in requested.values()])
    limit, normalization = settings.memory_limit, (dataset.mean, dataset.std)
    clean, other = clean_accuracy(folder, trained, dataset, limit), partners(trained.seeds)
    layers = missing.groupby("layer_index", sort=False).method.unique()
    methods = missing.groupby("method", sort=False)
    projections: dict[str, dict[int, list]] = {method: {} for method, _ in methods}
    with progress_bar(desc="project", total=len(layers) + len(methods), disable=missing.empty) as bar:
        for point, of_layer in layers.items():
            images = dataset.train.images[: settings.examples]
            options = {"layers": network.points[point].name, "max_device_memory": limit}
            (features,) = as_maps(representations(trained, images, *normalization, **options)).values()
            by_seed = dict(zip(trained.seeds, features, strict=True))
            for method in of_layer:
                projections[method][point] = [
                    [project(method, by_seed[seed], by_seed[other[seed]], key=random_key(settings, point, seed))]
                    for seed in trained.seeds
                ]
            bar.update()
        for method, rows in methods:
            ks = {
                point: sorted(of_point.unique().tolist()) for point, of_point in rows.groupby("layer_index").directions
            }
            accuracies = projected_accuracy(
                network, trained.members, projections[method], ks, dataset.test, *normalization
            )
            tables = []
            for point, accuracy in accuracies.items():
                layer = network.points[point]
                table = pd.DataFrame(percent(accuracy[:, 0], count), columns=ks[point]).assign(
                    seed=trained.seeds,
                    partner=[other[seed] if method in PAIRED else -1 for seed in trained.seeds],
                    clean_accuracy=clean,
                )
                table = table.melt(["seed", "partner", "clean_accuracy"], var_name="directions", value_name="accuracy")
                tables.append(table.assign(layer_index=point, method=method, layer=layer.name, channels=layer.channels))
            results.add(pd.concat(tables).astype(KEY))
            bar.update()
    return results.select(pd.concat(requested.values()))


def random_key(settings: Settings, point: int, seed: int) -> jax.Array:
    """Return the key of the random directions of one member at one layer."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(settings.direction_seed), seed), point)


def about_a_quarter(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each layer with the number of directions that is nearest to a quarter of its channels."""
    numbers = {
        layer: min(rows.directions.unique(), key=lambda k, quarter=rows.channels.iloc[0] / 4: (abs(k - quarter), k))
        for layer, rows in table.groupby("layer")
    }
    return table[table.directions == table.layer.map(numbers)]


def grid(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean accuracy as text: methods down, layers across."""
    headings = rows.layer + " (" + rows.directions.astype(str) + " of " + rows.channels.astype(str) + ")"
    text = rows.groupby(["method", headings], sort=False).accuracy.agg(lambda values: interval_text(values, 1))
    return text.unstack(sort=False).rename_axis(index=None, columns=None)


def conclusion(rows: pd.DataFrame) -> str:
    """Return the mean accuracy of each method over layers, highest first, and that of the networks."""
    accuracy = rows.groupby(["method", "seed"]).accuracy.agg(mean).groupby("method")
    text, order = accuracy.agg(lambda values: interval_text(values, 1)), accuracy.agg(mean).sort_values(ascending=False)
    methods = ", ".join(f"{method} {text[method]}" for method in order.index)
    clean = interval_text(rows.groupby("seed").clean_accuracy.first(), 1)
    return (
        f"Accuracy on the first directions, about a quarter of the channels, mean over layers (%): {methods}. "
        f"Accuracy of the networks {clean}."
    )


if __name__ == "__main__":
    run_command(main, Settings)
