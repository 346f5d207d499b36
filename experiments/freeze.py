"""Measure what freeze training saves and costs: layers are frozen one after another, from the lowest to the highest.

By default a zoo of 4 narrow Myrtle CNNs is trained on scikit-learn's digits, normally and with two freeze schedules
from the same seeds: linear freezes layers at equal intervals, and similarity freezes a layer when it has almost stopped
changing (Raghu et al. 2017). Running the same command again recomputes nothing. More schedules or seeds extend the
results; with more seeds the schedule similarity is trained again, because it depends on all seeds.
"""

import dataclasses
import os
import re
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd

from experiments import dry_run
from experiments.command import run_command
from experiments.defaults import optional
from experiments.features import FeatureSettings, parse_measures
from experiments.folders import RunSettings, run_folder, test_percent
from experiments.registry import Experiment
from experiments.settings import split, zoo_folder
from experiments.summary import Summary
from symjax import freezing, plots
from symjax.errors import InputError
from symjax.flops import step_flops, training_flops
from symjax.freezing import Saturation
from symjax.ops import files
from symjax.ops.result_table import ResultTable, Schema
from symjax.similarity import MEASURES
from symjax.tables import mean, over_networks
from symjax.zoo import Zoo, ZooConfig, estimate

ROWS = Schema("results", {"schedule": str, "seed": int}, ("accuracy", "flops"), order=())
NAMES = Schema("schedules", {"name": str, "seeds": str}, ("schedule",), order=())
SCHEDULES = ("linear", "similarity")
SIMILARITY_FLAGS = ("measure", "threshold", "images", "examples", "samples")

EXPERIMENT = Experiment(place=90)


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings, FeatureSettings):
    schedules: str = "linear,similarity"
    """Comma-separated schedules. linear: layers are frozen at equal intervals. similarity: a layer is frozen after an
    epoch in which it has hardly changed, once all layers below are frozen; the schedule is determined during training.
    A list such as 2/4/6/8: the epochs after which the layers are frozen, from the lowest one; layers beyond the end of
    the list, as of 2/4, are never frozen."""
    begin: float = 0.2
    """Start of the schedule linear, at which the lowest layer is frozen, as a fraction of the run."""
    end: float = 0.8
    """End of the schedule linear, at which the last layer before the logits is frozen, as a fraction of the run."""
    measure: str = "svcca"
    """Measure of the schedule similarity: a name of symjax.similarity.MEASURES that is not a distance."""
    threshold: float = 0.98
    """Threshold of the schedule similarity: a layer is frozen when its similarity with itself one epoch before, in the
    mean over networks, is at least this. All networks share one schedule."""
    images: Literal["train", "validation"] = "train"
    """Images on which the schedule similarity compares layers, without augmentation."""
    zoo: Annotated[Path | None, optional("DIR", "as for python -m experiments.zoo")] = None
    """Folder of the zoo of normal training; missing members are trained. The zoos of schedules are in folders next to
    it, with the schedule appended to the name."""

    def parse_schedules(self) -> list[str]:
        """Return the names of schedules without repeats."""
        names = split(self.schedules)
        wrong = [name for name in names if name not in SCHEDULES and not re.fullmatch(r"\d{1,6}(/\d{1,6})*", name)]
        if wrong or not names:
            expected = f"{', '.join(SCHEDULES)} or lists such as 2/4/6/8, separated by commas"
            raise InputError(f"schedules: got {self.schedules!r}, expected {expected}")
        return names


def main(settings: Settings) -> Summary:
    config, seeds, names = settings.zoo_config(), settings.parse_seeds(), settings.parse_schedules()
    if parse_measures(settings.measure, "similarity", "measure") != [settings.measure]:
        raise InputError(f"measure: got {settings.measure!r}, expected one measure")
    low, high = MEASURES[settings.measure].range
    if not low <= settings.threshold <= high:
        raise InputError(f"threshold: got {settings.threshold}, expected a number from {low:g} to {high:g}")
    dataset = settings.load_dataset()
    layers = settings.parse_layers(dataset)
    if settings.layers != "all":
        raise InputError(f"layers: got {settings.layers!r}, expected all: schedules freeze all layers")
    epochs = config.recipe.epochs
    configs = {"normal": config} | {
        name: dataclasses.replace(config, freeze=parse_schedule(settings, name, len(layers))) for name in names
    }
    document = {"zoo": config.identity(dataset), "test_size": settings.test_size}
    document["linear"] = [settings.begin, settings.end]
    document["similarity"] = {name: getattr(settings, name) for name in SIMILARITY_FLAGS}
    out = run_folder("freeze", zoo_folder(config).name, document, dataset, settings.out)
    normal = settings.zoo_path()
    dry_run.stop(settings, config, dataset, out.path, lambda: phases(settings, dataset, normal, configs))
    zoos = {
        name: settings.train_zoo(config, dataset, zoo_path(normal, config.freeze)) for name, config in configs.items()
    }
    with out.open() as folder:
        schedules = {name: trained.freeze for name, trained in zoos.items()}
        save_schedules(ResultTable(folder, NAMES), schedules, seeds)
        table = evaluate(ResultTable(folder, ROWS), zoos, dataset, settings.memory_limit)
        metrics = pd.concat([trained.metrics.assign(schedule=name) for name, trained in zoos.items()])
        plots.freezing(metrics, step_costs(zoos, dataset), folder / "freezing")
        named = {name: schedules[name] for name in names}
        tables = {
            f"epochs, of {epochs}, after which layers are frozen": schedule_table(named, layers),
            f"test accuracy in percent, {over_networks(len(seeds))}; operations of one training": summary(table),
        }
        title = f"{zoos['normal'].network.name} on {dataset.name}: freeze training and normal training"
        return Summary(folder, title, conclusion(table), tables, ("freezing",))


def phases(settings: Settings, dataset, normal: Path, configs: dict[str, ZooConfig]) -> list[dry_run.Phase]:
    """Return the phases of a dry run: the training of the zoo of each schedule."""
    seeds, limit, training, comparisons = settings.parse_seeds(), settings.memory_limit, {}, []
    for name, config in configs.items():
        # Two names may mean the same schedule, which is trained once.
        if (folder := zoo_path(normal, config.freeze)) in training:
            continue
        name = "normal training" if name == "normal" else name
        training[folder] = dry_run.zoo_phase(config, dataset, seeds, folder, limit, name=name)
        if config.rule is not None:  # training includes the passes of the comparisons, but not the measure
            count, to_do = (config.recipe.epochs - 1) * len(seeds), bool(training[folder].to_do)
            comparisons.append(dry_run.Phase("epochs to compare", count * to_do, count * (not to_do)))
    return [*training.values(), *comparisons]


def zoo_path(normal: Path, freeze: tuple[int, ...] | Saturation) -> Path:
    """Return the folder of the zoo of a schedule or rule; `normal` if nothing is frozen."""
    if freeze == ():
        return normal
    path = Path(os.path.abspath(normal))  # "." has no name
    if isinstance(freeze, Saturation):
        name = f"similarity-{files.fingerprint(freeze.to_json())}"
    else:
        name = format_schedule(freeze, "-")
    return path.with_name(f"{path.name}-freeze-{name}")


def schedule_table(schedules: dict[str, tuple[int, ...]], layers: list[str]) -> pd.DataFrame:
    """Return the epochs after which layers are frozen, or "never", by schedule (rows) and layer (columns)."""
    padded = {name: [*map(str, freeze), *["never"] * (len(layers) - len(freeze))] for name, freeze in schedules.items()}
    return pd.DataFrame.from_dict(padded, orient="index", columns=layers)


def parse_schedule(settings: Settings, name: str, layers: int) -> tuple[int, ...] | Saturation:
    """Return the schedule of a name, or the rule that determines it during training."""
    if name == "similarity":
        options = {key: getattr(settings, key) for key in SIMILARITY_FLAGS}
        return Saturation(settings.parse_seeds(), **options)
    if name == "linear":
        return freezing.linear_schedule(layers, settings.zoo_config().recipe.epochs, settings.begin, settings.end)
    freeze = tuple(map(int, name.split("/")))
    if len(freeze) > layers:
        raise InputError(f"schedules: got {name}, {len(freeze)} epochs, expected at most {layers}, one for each layer")
    return freeze


def format_schedule(freeze: tuple[int, ...], separator: str = "/") -> str:
    """Return a schedule in the form of the flag; "normal" if nothing is frozen."""
    return separator.join(map(str, freeze)) or "normal"


def save_schedules(table: ResultTable, schedules: dict[str, tuple[int, ...]], seeds: tuple[int, ...]) -> None:
    """Save the schedule of each name with these seeds, on which that of similarity depends."""
    rows = pd.DataFrame({"name": list(schedules), "schedule": list(map(format_schedule, schedules.values()))})
    table.add(rows.assign(seeds=" ".join(map(str, seeds))))


def evaluate(results: ResultTable, zoos: dict[str, Zoo], dataset, limit: float | None) -> pd.DataFrame:
    """Return rows of schedule (its name), seed, accuracy (percent) and flops; only missing rows are computed.

    The key in `results` is the schedule itself, such as 2/4/6/8, followed by the seeds if they determined it.
    """
    tables = []
    for name, trained in zoos.items():
        key, rule = format_schedule(trained.freeze), trained.config.rule
        if rule is not None:
            key = f"{key} found by {' '.join(map(str, rule.seeds))}"
        requested = pd.DataFrame({"schedule": key, "seed": trained.seeds})
        if len(missing := results.missing(requested)):
            rows = requested.assign(accuracy=test_percent(trained, dataset, limit), flops=operations(trained, dataset))
            results.add(rows[rows.seed.isin(missing.seed)])
        tables.append(results.select(requested).assign(schedule=name))
    return pd.concat(tables, ignore_index=True)


def operations(trained: Zoo, dataset) -> float:
    """Return the operations of training one network, including the passes that determine its schedule."""
    image, count = dataset.train.images.shape[1:], len(dataset.train)
    steps = training_flops(trained.config.network(dataset), image, count, trained.config.recipe, trained.freeze)
    if trained.config.rule is None:
        return steps
    return steps + num_comparisons(trained) * estimate.comparison_flops(trained.config, trained.config.rule, dataset)


def num_comparisons(trained: Zoo) -> int:
    """Return the number of passes that determined the schedule: before training and after each compared epoch.

    Layers are not compared after the last epoch, or when all are frozen.
    """
    all_frozen = len(trained.freeze) == len(trained.network.points)
    last = trained.freeze[-1] if all_frozen else trained.config.recipe.epochs - 1
    return last + 1 if last else 0


def step_costs(zoos, dataset) -> pd.DataFrame:
    """Return the operations of a step as a share of normal training, with columns schedule, epoch and share."""
    rows = []
    for name, trained in zoos.items():
        config = trained.config
        network = config.network(dataset)
        shape = dataset.train.images.shape[1:]
        normal = step_flops(network, shape, config.recipe)
        for epoch in range(config.recipe.epochs):
            frozen = freezing.num_frozen(trained.freeze, epoch)
            share = step_flops(network, shape, config.recipe, frozen) / normal
            rows.append({"schedule": name, "epoch": epoch, "share": share})
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy, difference from normal training with the same seeds, operations and savings, by schedule."""
    normal = table[table.schedule == "normal"].set_index("seed")
    rows = {}
    for name, group in table.groupby("schedule", sort=False):
        difference = group.set_index("seed").accuracy - normal.accuracy
        rows[name] = {
            "accuracy": format_mean(group.accuracy),
            "difference": "" if name == "normal" else format_mean(difference, "+"),
            "operations": f"{group.flops.mean():.3g}",
            "saved": f"{100 * saving(table, name):.1f} %",
        }
    return pd.DataFrame(rows).T


def saving(table: pd.DataFrame, name: str) -> float:
    """Return the fraction of the operations of normal training that a schedule saves."""
    flops = table.groupby("schedule").flops.mean()
    return 1 - flops[name] / flops["normal"]


def format_mean(values: pd.Series, sign: str = "") -> str:
    """Return mean ± deviation (n - 1); the mean only for a single value."""
    text = format(mean(values), f"{sign}.2f")
    return f"{text} ± {values.std(skipna=False):.2f}" if len(values) > 1 else text


SIMILARITY_NOTE = " (including the passes that determined the schedule during training)"


def conclusion(table: pd.DataFrame) -> str:
    """Return the saving and the difference of accuracy of each schedule, one per line."""
    normal = table[table.schedule == "normal"].set_index("seed").accuracy
    lines = []
    for name, group in table.groupby("schedule", sort=False):
        if name != "normal":
            difference = format_mean(group.set_index("seed").accuracy - normal, "+")
            line = f"{name}: saves {100 * saving(table, name):.1f} % of the operations at {difference} points"
            lines.append(f"{line}{SIMILARITY_NOTE}" if name == "similarity" else line)
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main, Settings)
