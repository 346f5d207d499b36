"""Freezes layers from below while the others go on training: what does it save, and what does it cost?

With no argument: a zoo of 4 narrow Myrtle CNNs on scikit-learn's digits, trained normally and, from the same seeds, on
two schedules: layers frozen one after another at even distances, and each, while the networks train, as soon as it has
nearly stopped to change (Raghu et al. 2017). The same command again recomputes nothing; more schedules extend what is
there, and so do more seeds, but that those train anew whose schedule depends on all of them.
"""

import dataclasses
import os
import re
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd

from experiments import dry_run
from experiments.features import FeatureSettings, parse_measures
from experiments.folders import run_folder, test_percent
from experiments.registry import Experiment
from experiments.settings import optional, run_command, zoo_folder
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
OF_SIMILARITY = ("measure", "threshold", "images", "examples", "maps")  # flags

EXPERIMENT = Experiment(place=90)


@dataclasses.dataclass(frozen=True)
class Settings(FeatureSettings):
    schedules: str = "linear,similarity"
    """linear: layers freeze one by one at even distances; similarity: found while the networks train, a layer freezes
    after an epoch in which it has hardly changed, if all below it are frozen; a list as 2/4/6/8: after so many epochs
    each, from the lowest layer; those above the end of a list, as of 2/4, are never frozen. With commas between."""
    begin: float = 0.2
    """Of linear: when the lowest layer is frozen, a share of the run."""
    end: float = 0.8
    """Of linear: when the last layer before the logits is frozen, a share of the run."""
    measure: str = "svcca"
    """Of similarity: a name of symjax.similarity.MEASURES, no distance."""
    threshold: float = 0.98
    """Of similarity: how alike a layer is to itself an epoch before when it is frozen, in the mean over the networks,
    which share one schedule."""
    images: Literal["train", "validation"] = "train"
    """Of similarity: the images to look at the layers on, as they are stored, without augmentation."""
    zoo: Annotated[Path | None, optional("DIR", "as python -m experiments.zoo has it")] = None
    """The folder of the normal zoo; trained there where it is missing. Beside it lie the others, with their schedules
    behind its name."""
    out: Annotated[Path | None, optional("DIR", "runs/freeze/ and a name made from the settings")] = None
    """The folder of the results."""

    def parse_schedules(self) -> list[str]:
        """Names of schedules, each once."""
        names = list(dict.fromkeys(name.strip() for name in self.schedules.split(",") if name.strip()))
        wrong = [name for name in names if name not in SCHEDULES and not re.fullmatch(r"\d{1,6}(/\d{1,6})*", name)]
        if wrong or not names:
            raise InputError(
                f"schedules: got {self.schedules!r}, expected {', '.join(SCHEDULES)} or 2/4/6/8, separated by commas"
            )
        return names


def main(settings: Settings) -> Summary:
    config, seeds, names = settings.zoo_config(), settings.parse_seeds(), settings.parse_schedules()
    if parse_measures(settings.measure, "similarity", "measure") != [settings.measure]:
        raise InputError(f"measure: got {settings.measure!r}, expected one")
    low, high = MEASURES[settings.measure].range
    if not low <= settings.threshold <= high:
        raise InputError(f"threshold: got {settings.threshold}, expected a number from {low:g} to {high:g}")
    dataset = settings.load_dataset()
    layers = settings.parse_layers(dataset)
    if settings.layers != "all":
        raise InputError("layers: schedules are for all layers; leave --layers out")
    epochs = config.recipe.epochs
    configs = {"normal": config} | {
        name: dataclasses.replace(config, freeze=of_name(settings, name, len(layers))) for name in names
    }
    document = {"zoo": config.identity(dataset), "test_size": settings.test_size}
    document["linear"] = [settings.begin, settings.end]
    document["similarity"] = {name: getattr(settings, name) for name in OF_SIMILARITY}
    out = run_folder("freeze", zoo_folder(config).name, document, dataset, settings.out)
    normal = settings.zoo or zoo_folder(config)
    dry_run.stop(settings, config, dataset, out.path, lambda: phases(settings, dataset, normal, configs))
    zoos = {
        name: settings.train_zoo(config, dataset, beside(normal, config.freeze)) for name, config in configs.items()
    }
    with out.open() as folder:
        schedules = {name: trained.freeze for name, trained in zoos.items()}
        names_table(ResultTable(folder, NAMES), schedules, seeds)
        table = evaluate(ResultTable(folder, ROWS), zoos, dataset, settings.memory_limit)
        metrics = pd.concat([trained.metrics.assign(schedule=name) for name, trained in zoos.items()])
        plots.freezing(metrics, cost(zoos, dataset), folder / "freezing")
        tables = {
            f"layers are frozen after so many epochs of {epochs}": begins({n: schedules[n] for n in names}, layers),
            f"test accuracy in percent, {over_networks(len(seeds))}; operations of one training": summary(table),
        }
        title = f"{zoos['normal'].network.name} on {dataset.name}: freeze training beside normal training"
        return Summary(folder, title, conclusion(table), tables, ("freezing",))


def phases(settings: Settings, dataset, normal: Path, configs: dict[str, ZooConfig]) -> list[dry_run.Phase]:
    """What a dry run tells: the training of each schedule's zoo, by its name."""
    seeds, limit, training, compared = settings.parse_seeds(), settings.memory_limit, {}, []
    for name, config in configs.items():
        # Two names may stand for one schedule, which is trained once.
        if (folder := beside(normal, config.freeze)) in training:
            continue
        name = "normal training" if name == "normal" else name
        training[folder] = dry_run.zoo_phase(config, dataset, seeds, folder, limit, name=name)
        if config.rule is not None:  # the passes are counted with the training, what the measure takes is not
            every, to_do = (config.recipe.epochs - 1) * len(seeds), bool(training[folder].to_do)
            compared.append(dry_run.Phase("moments to compare", every * to_do, every * (not to_do)))
    return [*training.values(), *compared]


def beside(normal: Path, freeze: tuple[int, ...] | Saturation) -> Path:
    """The folder of the zoo of a schedule, given or to be found; the normal one where nothing is frozen."""
    if freeze == ():
        return normal
    own = Path(os.path.abspath(normal))  # with a name, which "." has not
    by_rule = isinstance(freeze, Saturation)
    name = f"similarity-{files.fingerprint(freeze.to_json())}" if by_rule else spelt(freeze, "-")
    return own.with_name(f"{own.name}-freeze-{name}")


def begins(schedules: dict[str, tuple[int, ...]], layers: list[str]) -> pd.DataFrame:
    """Schedules down, layers across: when each is frozen; never, where it lies above the end of a schedule."""
    padded = {name: [*map(str, freeze), *["never"] * (len(layers) - len(freeze))] for name, freeze in schedules.items()}
    return pd.DataFrame.from_dict(padded, orient="index", columns=layers)


def of_name(settings: Settings, name: str, layers: int) -> tuple[int, ...] | Saturation:
    """What a name stands for: a schedule that the flags say, or the rule by which the networks find one."""
    if name == "similarity":
        options = {key: getattr(settings, key) for key in OF_SIMILARITY}
        return Saturation(settings.parse_seeds(), **options)
    if name == "linear":
        return freezing.linear_schedule(layers, settings.zoo_config().recipe.epochs, settings.begin, settings.end)
    freeze = tuple(map(int, name.split("/")))
    if len(freeze) > layers:
        raise InputError(f"schedules: {name} has {len(freeze)} epochs, expected at most {layers}, one for each layer")
    return freeze


def spelt(freeze: tuple[int, ...], between: str = "/") -> str:
    """A schedule as a flag has it; "normal" where nothing is ever frozen."""
    return between.join(map(str, freeze)) or "normal"


def names_table(table: ResultTable, schedules: dict[str, tuple[int, ...]], seeds: tuple[int, ...]) -> None:
    """Write the schedule that each name stood for with these seeds: that of similarity depends on them."""
    rows = pd.DataFrame({"name": list(schedules), "schedule": list(map(spelt, schedules.values()))})
    table.add(rows.assign(seeds=" ".join(map(str, seeds))))


def evaluate(results: ResultTable, zoos: dict[str, Zoo], dataset, limit: float | None) -> pd.DataFrame:
    """Return rows of schedule (its name), seed, accuracy (percent), flops; only missing rows are computed.

    In `results` rows have the schedule itself, such as 2/4/6/8, and of one that was found, the seeds that found it.
    """
    tables = []
    for name, trained in zoos.items():
        key, rule = spelt(trained.freeze), trained.config.rule
        if rule is not None:
            key = f"{key} found by {' '.join(map(str, rule.seeds))}"
        requested = pd.DataFrame({"schedule": key, "seed": trained.seeds})
        if len(missing := results.missing(requested)):
            rows = requested.assign(accuracy=test_percent(trained, dataset, limit), flops=operations(trained, dataset))
            results.add(rows[rows.seed.isin(missing.seed)])
        tables.append(results.select(requested).assign(schedule=name))
    return pd.concat(tables, ignore_index=True)


def operations(trained: Zoo, dataset) -> float:
    """Of one network's training: all steps, and where it has found its schedule, the passes that this took."""
    image, count = dataset.train.images.shape[1:], len(dataset.train)
    steps = training_flops(counted(trained, dataset), image, count, trained.config.recipe, trained.freeze)
    if trained.config.rule is None:
        return steps
    return steps + looks(trained) * estimate.comparison_flops(trained.config, dataset)


def looks(trained: Zoo) -> int:
    """How many passes finding a schedule took: after each epoch that is compared, and before the first.

    Nothing is compared any more when all layers are frozen, nor after the last epoch.
    """
    every = len(trained.freeze) == len(trained.network.points)
    last = trained.freeze[-1] if every else trained.config.recipe.epochs - 1
    return last + 1 if last else 0


def counted(trained, dataset):
    """The network with convolutions as such, whatever runs here, to count operations by."""
    return trained.config.network(dataset)


def cost(zoos, dataset) -> pd.DataFrame:
    """schedule, epoch, share: the operations of a step beside those of normal training."""
    rows = []
    for name, trained in zoos.items():
        network, config = counted(trained, dataset), trained.config
        shape = dataset.train.images.shape[1:]
        whole = step_flops(network, shape, config.recipe)
        for epoch in range(config.recipe.epochs):
            frozen = freezing.num_frozen(trained.freeze, epoch)
            share = step_flops(network, shape, config.recipe, frozen) / whole
            rows.append({"schedule": name, "epoch": epoch, "share": share})
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row per schedule: accuracy, the difference from normal training of the same seeds, operations, those saved."""
    whole = table[table.schedule == "normal"].set_index("seed")
    rows = {}
    for name, group in table.groupby("schedule", sort=False):
        difference = group.set_index("seed").accuracy - whole.accuracy
        rows[name] = {
            "accuracy": spread(group.accuracy),
            "difference": "" if name == "normal" else spread(difference, "+"),
            "operations": f"{group.flops.mean():.3g}",
            "saved": f"{100 * saved(table, name):.1f} %",
        }
    return pd.DataFrame(rows).T


def saved(table: pd.DataFrame, name: str) -> float:
    """The share of normal training's operations that a schedule saves."""
    flops = table.groupby("schedule").flops.mean()
    return 1 - flops[name] / flops["normal"]


def spread(values: pd.Series, sign: str = "") -> str:
    text = format(mean(values), f"{sign}.2f")
    return f"{text} ± {values.std(skipna=False):.2f}" if len(values) > 1 else text


# Behind what the schedule of similarity saves.
FOUND = " (found while the networks trained; the passes that this took are counted)"


def conclusion(table: pd.DataFrame) -> str:
    """What each schedule saves and costs, a line each."""
    whole = table[table.schedule == "normal"].set_index("seed").accuracy
    lines = []
    for name, group in table.groupby("schedule", sort=False):
        if name != "normal":
            difference = spread(group.set_index("seed").accuracy - whole, "+")
            line = f"{name}: saves {100 * saved(table, name):.1f} % of the operations at {difference} points"
            lines.append(f"{line}{FOUND}" if name == "similarity" else line)
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main, Settings)
