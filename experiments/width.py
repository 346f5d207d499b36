"""Compare networks of equal width, for several widths: wider networks are more alike (Morcos et al. 2018, section 3.2).

For each width a zoo is trained from independent seeds. The PWCCA distance of one layer between two members is computed
on a fixed number of randomly chosen channels, so that widths can be compared, before and after the training. By default
the networks are 4 narrow Myrtle CNNs of each of 4 widths on scikit-learn's digits. Running the same command again
recomputes nothing; more seeds or wider networks extend the results.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import pandas as pd

from experiments.command import run_command
from experiments.defaults import optional
from experiments.folders import run_folder, run_on_zoos, test_percent
from experiments.layer_distances import LayerSettings, pair_distances
from experiments.registry import Experiment, PublishedTable
from experiments.settings import zoo_folder
from experiments.summary import Summary
from symjax import plots, zoo
from symjax.checks import integer_fields
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.ops import files
from symjax.ops.result_table import ResultTable, Schema
from symjax.similarity import mean_over_pairs
from symjax.tables import interval_text, mean, spell_interval, welch_interval
from symjax.training.loop import initial_member
from symjax.zoo import Group, ZooConfig

EXPERIMENT = Experiment(
    place=140,
    published={
        "PWCCA distance of the last convolution, by width, Morcos et al. 2018 (about)": PublishedTable(
            ("narrowest", "widest"), {"trained": (0.47, 0.28), "at initialization": (0.67, 0.63)}
        )
    },
)
STATES = ("trained", "initial")
KEY = {"width": int, "zoo": str, "state": str, "model_a": int, "model_b": int}  # zoo: fingerprint of its configuration
ROWS = Schema("results", KEY, ("value", "layer", "channels"))
ACCURACY = Schema("accuracy", {"width": int, "zoo": str, "seed": int}, ("accuracy",), recomputable=True)


@dataclasses.dataclass(frozen=True)
class Settings(LayerSettings):
    widths: tuple[int, ...] = (2, 4, 8, 16)
    """Widths of the networks, separated by spaces, in place of --width."""
    filters: Annotated[int | None, optional("INT", "all channels of the narrowest network")] = None
    """Randomly chosen channels of each network. Published: 128."""
    filter_seed: int = 0
    """Seed of the choice of channels."""
    out: Annotated[Path | None, optional("DIR", "runs/width/ and a name made from the settings")] = None
    """The folder of the results."""


def main(settings: Settings) -> Summary:
    seeds, configs = settings.parse_seeds(), zoo_configs(settings)
    if len(seeds) < 3:
        raise InputError(f"seeds: got {len(seeds)}, expected three or more, for intervals over networks")
    integer_fields(settings, filter_seed=(0, 2**31 - 1))
    dataset = settings.load_dataset()
    networks = {width: config.network(dataset) for width, config in configs.items()}
    points = {width: settings.point(network) for width, network in networks.items()}
    narrowest = min(networks[width].points[point].channels for width, point in points.items())
    filters = narrowest if settings.filters is None else settings.filters
    if not 1 <= filters <= narrowest:
        raise InputError(f"filters: got {filters}, expected 1 to {narrowest}, the channels of the narrowest network")
    names = {networks[width].points[point].name for width, point in points.items()}
    identities = {width: config.identity(dataset) for width, config in configs.items()}
    document = {"zoo": next(iter(identities.values())), "layer": min(names), "filters": filters}
    document["zoo"] = {name: value for name, value in document["zoo"].items() if name not in ("width", "structure")}
    document |= {name: getattr(settings, name) for name in ("filter_seed", "examples", "samples", "test_size")}
    out = run_folder("width", settings.run_name, document, dataset, settings.out)

    groups = {
        f"members of width {width} to train": Group(config, seeds, zoo_folder(config))
        for width, config in configs.items()
    }
    with run_on_zoos(settings, groups, dataset, out) as (folder, trained):
        zoos = dict(zip(configs, trained, strict=True))
        fingerprints = {width: files.fingerprint(identity) for width, identity in identities.items()}
        table, accuracy = compute(folder, zoos, fingerprints, points, dataset, filters, settings)
        means = summarize(table, accuracy)
        files.write_csv(folder / "means.csv", means)
        plots.mean_curves(
            means.assign(panel=f"{min(names)}, {filters} channels"),
            folder / "distance",
            x="width",
            y="distance",
            line="state",
            panel="panel",
            ylabel="PWCCA distance",
            interval=("low", "high"),
            xscale="log",
        )
        return Summary(
            folder,
            f"{settings.model} of widths {', '.join(map(str, configs))} on {dataset.name}, {len(seeds)} networks each",
            conclusion(means),
            {
                f"PWCCA distance of {min(names)} on {filters} channels, mean and 95 % interval": grid(means),
            },
            ("distance",),
        )


def zoo_configs(settings: Settings) -> dict[int, ZooConfig]:
    """Return the configuration of the zoo of each width, ascending."""
    if settings.width is not None:
        raise InputError(f"width: got {settings.width}, expected --widths")
    widths = settings.widths
    if len(widths) < 2 or len(set(widths)) < len(widths) or min(widths) < 1:
        raise InputError(f"widths: got {widths}, expected two or more different integers from 1")
    return {width: dataclasses.replace(settings, width=width).zoo_config() for width in sorted(widths)}


def compute(
    folder: Path,
    zoos: dict[int, zoo.Zoo],
    fingerprints: dict[int, str],
    points: dict[int, int],
    dataset: Dataset,
    filters: int,
    settings: Settings,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return distances of pairs and accuracies of members; compute the widths that lack any."""
    results, accuracies = ResultTable(folder, ROWS), ResultTable(folder, ACCURACY)
    seeds = sorted(next(iter(zoos.values())).seeds)
    pairs = list(itertools.combinations(seeds, 2))
    requested = pd.DataFrame(
        [(width, fingerprints[width], state, *pair) for width in zoos for state in STATES for pair in pairs],
        columns=list(KEY),
    )
    members = pd.DataFrame(
        [(width, fingerprints[width], seed) for width in zoos for seed in seeds], columns=list(ACCURACY.key)
    )
    for width in accuracies.missing(members).width.unique():
        percent = test_percent(zoos[width], dataset, settings.memory_limit)
        accuracies.add(
            pd.DataFrame({"width": width, "zoo": fingerprints[width], "seed": zoos[width].seeds, "accuracy": percent})
        )
    for width, state in results.missing(requested)[["width", "state"]].drop_duplicates().itertuples(index=False):
        features = layer_features(zoos[width], state, dataset, filters, settings)
        layer = zoos[width].network.points[points[width]]
        rows = pd.DataFrame(pairs, columns=["model_a", "model_b"])
        rows = rows.assign(value=pair_distances(features, zoos[width].seeds, pairs, settings.samples))
        columns = {"width": width, "zoo": fingerprints[width], "state": state}
        results.add(rows.assign(**columns, layer=layer.name, channels=layer.channels))
    return results.select(requested), accuracies.select(members)


def layer_features(trained: zoo.Zoo, state: str, dataset: Dataset, filters: int, settings: Settings) -> np.ndarray:
    """Return the features of a layer of all members, (members, n, ..., filters), with channels chosen by seed."""
    network, members = trained.network, trained.members
    if state == "initial":
        members = jax.jit(jax.vmap(lambda seed: initial_member(network, seed)))(np.asarray(trained.seeds, np.int32))
    features = settings.features(network, members, dataset)
    chosen = [
        np.sort(np.random.default_rng([settings.filter_seed, seed]).permutation(features.shape[-1])[:filters])
        for seed in trained.seeds
    ]
    return np.stack([of_member[..., channels] for of_member, channels in zip(features, chosen, strict=True)])


def summarize(table: pd.DataFrame, accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return the mean distance and its interval over networks by width and state, and the mean accuracy by width."""
    rows = []
    for (width, state), group in table.groupby(["width", "state"], sort=False):
        estimate = mean_over_pairs(group.value.to_numpy(), group[["model_a", "model_b"]].to_numpy())
        means = {"distance": estimate.estimate, "low": estimate.low, "high": estimate.high}
        means |= {"standard_error": estimate.standard_error}
        of_width = accuracy[accuracy.width == width].accuracy
        rows.append(
            {"width": width, "state": state, "channels": group.channels.iloc[0], "networks": len(of_width)}
            | {name: float(value) for name, value in means.items()}
            | {"accuracy": mean(of_width), "accuracy_interval": interval_text(of_width)}
        )
    return pd.DataFrame(rows)


def grid(means: pd.DataFrame) -> pd.DataFrame:
    """Return distances and test accuracy as text, with a row for each width."""
    text = means.apply(lambda row: spell_interval(row.distance, row.low, row.high, 3), axis=1)
    table = means.assign(text=text).pivot(index="width", columns="state", values="text")[list(STATES)]
    return table.assign(**{"test accuracy (%)": means.groupby("width").accuracy_interval.first()}).rename_axis(
        index="width", columns=None
    )


def conclusion(means: pd.DataFrame) -> str:
    """Return how the distance changes from the narrowest to the widest networks, and its relation to the accuracy."""
    lines = []
    for state in STATES:
        rows = means[means.state == state].sort_values("width")
        first, last = rows.iloc[0], rows.iloc[-1]
        change, low, high = welch_interval(
            last.distance - first.distance,
            (first.standard_error, last.standard_error),
            (first.networks - 1, last.networks - 1),
        )
        verdict = "falls" if high < 0 else "rises" if low > 0 else "no change is shown"
        lines.append(
            f"PWCCA distance of two networks, {state}: {first.distance:.3f} at width {first.width}, "
            f"{last.distance:.3f} at width {last.width}, change {spell_interval(change, low, high, 3)} ({verdict})."
        )
    trained = means[means.state == "trained"]
    if len(trained) > 2 and trained[["accuracy", "distance"]].nunique().min() > 1:
        from scipy.stats import pearsonr  # imported here, because it is slow to import

        relation = pearsonr(trained.accuracy, trained.distance)
        lines.append(
            f"Correlation of mean accuracy and distance of trained networks over {len(trained)} widths: "
            f"{relation.statistic:.2f} (p = {relation.pvalue:.2g})."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main, Settings)
