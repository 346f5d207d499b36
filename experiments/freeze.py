"""Freezes layers from below while the others go on training: what does it save, and what does it cost?

With no argument: a zoo of 4 narrow Myrtle CNNs on scikit-learn's digits, trained normally and, from the same seeds, on
two schedules: layers frozen one after another at even distances, and each when it has nearly stopped to change (Raghu
et al. 2017). The same command again recomputes nothing; more seeds or schedules extend what is there.
"""

import dataclasses
import itertools
import os
import re
from pathlib import Path
from typing import Annotated

import pandas as pd

from experiments import dry_run
from experiments.features import FeatureSettings, add_rows, parse_measures, read_rows
from experiments.folders import run_folder, test_percent
from experiments.settings import optional, run_command, zoo_folder
from symjax import freezing, plots, runs, zoo
from symjax.errors import InputError
from symjax.flops import step_flops, training_flops
from symjax.progress import progress_bar
from symjax.similarity import MEASURES, pairwise
from symjax.summary import Summary, over_networks
from symjax.zoo import estimate

COLUMNS = ("schedule", "seed", "accuracy", "flops")
SIMILARITIES = ("seed", "epoch", "layer", "value")
SCHEDULES = ("linear", "similarity")


@dataclasses.dataclass(frozen=True)
class Settings(FeatureSettings):
    schedules: str = "linear,similarity"
    """linear: layers freeze one by one at even distances; similarity: a layer freezes when it is nearly what it was an
    epoch before; a list as 2/4/6/8: after so many epochs each, from the lowest layer; those above the end of a list, as
    of 2/4, are never frozen. With commas between."""
    begin: float = 0.2
    """Of linear: when the lowest layer is frozen, a share of the run."""
    end: float = 0.8
    """Of linear: when the last layer before the logits is frozen, a share of the run."""
    measure: str = "svcca"
    """Of similarity: a name of symjax.similarity.MEASURES, no distance."""
    threshold: float = 0.98
    """Of similarity: how alike two checkpoints of a layer are when it is frozen, in the mean over the networks of
    normal training."""
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
                f"schedules: got {self.schedules!r}, wanted {', '.join(SCHEDULES)} or epochs as 2/4/6/8, commas between"
            )
        return names


def main(settings: Settings) -> Summary:
    config, seeds, names = settings.zoo_config(), settings.parse_seeds(), settings.parse_schedules()
    if parse_measures(settings.measure, "similarity", "measure") != [settings.measure]:
        raise InputError(f"measure: got {settings.measure!r}, wanted one")
    low, high = MEASURES[settings.measure].range
    if not low <= settings.threshold <= high:
        raise InputError(f"threshold: got {settings.threshold}, wanted a number from {low:g} to {high:g}")
    dataset = settings.load_dataset()
    layers = settings.parse_layers(dataset)
    if settings.layers != "all":
        raise InputError("layers: schedules are for all layers; leave --layers out")
    epochs = config.recipe.epochs
    fixed = {name: given(settings, name, len(layers)) for name in names if name != "similarity"}
    for freeze in fixed.values():
        dataclasses.replace(config, freeze=freeze)
    document = {"zoo": config.to_json(), "test_size": settings.test_size, "linear": [settings.begin, settings.end]}
    document["similarity"] = {
        name: getattr(settings, name) for name in ("measure", "threshold", "images", "examples", "maps")
    }
    out = run_folder("freeze", zoo_folder(config).name, document, dataset, settings.out)
    normal = settings.zoo or zoo_folder(config)
    keep = range(epochs + 1) if "similarity" in names else ()
    dry_run.stop(
        settings, config, dataset, out.path, lambda: phases(settings, dataset, layers, out.path, normal, keep, fixed)
    )
    zoos = {"normal": settings.train_zoo(config, dataset, normal, keep=keep)}
    with out.open() as folder:
        schedules = {"normal": ()} | {
            name: fixed[name] if name in fixed else saturated(folder, settings, zoos["normal"], normal, dataset, layers)
            for name in names
        }
        write_schedules(folder / "schedules.csv", schedules, seeds)
        for name in names:
            if not schedules[name]:  # nothing is ever frozen
                zoos[name] = zoos["normal"]
                continue
            frozen = dataclasses.replace(config, freeze=schedules[name])
            zoos[name] = settings.train_zoo(frozen, dataset, beside(normal, frozen.freeze))
        table = evaluate(folder / "results.csv", zoos, schedules, dataset, settings.memory_limit)
        metrics = pd.concat([trained.metrics.assign(schedule=name) for name, trained in zoos.items()])
        plots.freezing(metrics, cost(zoos, dataset), folder / "freezing")
        tables = {
            f"layers are frozen after so many epochs of {epochs}": begins({n: schedules[n] for n in names}, layers),
            f"test accuracy in percent, {over_networks(len(seeds))}; operations of one training": summary(table),
        }
        title = f"{zoos['normal'].network.name} on {dataset.name}: freeze training beside normal training"
        return Summary(folder, title, finding(table), tables, ("freezing",))


def phases(
    settings: Settings, dataset, layers: list[str], folder: Path, normal: Path, keep, fixed: dict[str, tuple[int, ...]]
) -> list[dry_run.Phase]:
    """What a dry run tells: normal training, then each schedule's; `fixed` are those that flags say."""
    config, seeds, limit = settings.zoo_config(), settings.parse_seeds(), settings.memory_limit
    found = [dry_run.zoo_phase(config, dataset, seeds, normal, limit, keep=keep, name="normal training")]

    def frozen(name: str, freeze: tuple[int, ...]) -> dry_run.Phase:
        theirs = dataclasses.replace(config, freeze=freeze)
        return dry_run.zoo_phase(theirs, dataset, seeds, beside(normal, freeze), limit, name=name)

    every = {name: freeze for name, freeze in fixed.items() if freeze}
    if len(keep):
        moments = len(keep) * len(missing := not_looked_at(folder, seeds))
        counts = {"to_do": moments, "there": len(keep) * len(seeds) - moments, "together": len(keep) if moments else 0}
        found += [
            settings.layers_phase("moments to look at", dataset, layers, **counts),
            dry_run.Phase(
                "moments to compare", (len(keep) - 1) * len(missing), (len(keep) - 1) * (len(seeds) - len(missing))
            ),
        ]
        if missing:
            # Which schedule it will be is not known before, but none costs more than normal training.
            flops = len(seeds) * estimate.training_flops(config, dataset, range(config.recipe.epochs))
            found.append(dry_run.Phase("similarity", len(seeds), 0, flops, at_most=True))
        elif freeze := schedule_of_similarity(folder, settings, seeds, layers):
            every["similarity"] = freeze
    # Two names may stand for one schedule, which is trained once.
    once = {freeze: name for name, freeze in reversed(every.items())}
    return found + [frozen(name, freeze) for name, freeze in every.items() if once[freeze] == name]


def beside(normal: Path, freeze: tuple[int, ...]) -> Path:
    """The folder of the zoo of a schedule."""
    own = Path(os.path.abspath(normal))  # with a name, which "." has not
    return own.with_name(f"{own.name}-freeze-{spelt(freeze, '-')}")


def begins(schedules: dict[str, tuple[int, ...]], layers: list[str]) -> pd.DataFrame:
    """Schedules down, layers across: when each is frozen; never, where it lies above the end of a schedule."""
    padded = {name: [*map(str, freeze), *["never"] * (len(layers) - len(freeze))] for name, freeze in schedules.items()}
    return pd.DataFrame.from_dict(padded, orient="index", columns=layers)


def given(settings: Settings, name: str, layers: int) -> tuple[int, ...]:
    """A schedule that the flags say."""
    if name == "linear":
        return freezing.linear_schedule(layers, settings.zoo_config().recipe.epochs, settings.begin, settings.end)
    freeze = tuple(map(int, name.split("/")))
    if len(freeze) > layers:
        raise InputError(f"schedules: {name} has {len(freeze)} epochs, wanted at most {layers}, one for each layer")
    return freeze


def saturated(folder: Path, settings: Settings, trained, zoo_path: Path, dataset, layers) -> tuple[int, ...]:
    """The schedule of similarity, read off the normal training of these networks, whichever were looked at before."""
    path = folder / "similarity.csv"
    epochs = list(range(trained.config.recipe.epochs + 1))
    for seed in progress_bar(iterable=not_looked_at(folder, trained.seeds), desc="similarity", unit="network"):
        found = settings.features(*zoo.load_history(zoo_path, seed, epochs), dataset, layers)
        pairs = list(itertools.pairwise(epochs))
        result = pairwise(found, settings.measure, pairs=pairs, layers="same", models=epochs)
        rows = [(seed, b, layer, result.values[k, a, k, b]) for k, layer in enumerate(layers) for a, b in pairs]
        add_rows(path, pd.DataFrame(rows, columns=list(SIMILARITIES)), SIMILARITIES)
    return schedule_of_similarity(folder, settings, trained.seeds, layers)


def not_looked_at(folder: Path, seeds) -> list[int]:
    """Those of the networks whose similarities are not there."""
    there = set(read_rows(folder / "similarity.csv", SIMILARITIES).seed)
    return [seed for seed in seeds if seed not in there]


def schedule_of_similarity(folder: Path, settings: Settings, seeds, layers: list[str]) -> tuple[int, ...]:
    """The schedule that the similarities of these networks say."""
    rows = read_rows(folder / "similarity.csv", SIMILARITIES)
    mean = rows[rows.seed.isin(seeds)].groupby(["epoch", "layer"]).value.mean().unstack()[layers]
    return freezing.saturation_schedule([0, *mean.index], mean.to_numpy(), settings.threshold)


def spelt(freeze: tuple[int, ...], between: str = "/") -> str:
    """A schedule as a flag has it; "normal" where nothing is ever frozen."""
    return between.join(map(str, freeze)) or "normal"


def write_schedules(path: Path, schedules: dict[str, tuple[int, ...]], seeds: tuple[int, ...]) -> None:
    """What each name stood for with these seeds: that of similarity depends on them. Others' rows stay."""
    rows = pd.DataFrame({"name": list(schedules), "schedule": list(map(spelt, schedules.values()))})
    rows["seeds"] = " ".join(map(str, seeds))
    table = pd.concat([read_rows(path, tuple(rows.columns)), rows]).astype(str)
    runs.write_csv(path, table.drop_duplicates(["name", "seeds"], keep="last"))


def evaluate(path: Path, zoos, schedules, dataset, limit: float | None) -> pd.DataFrame:
    """Rows of schedule (its name), seed, accuracy (percent), flops.

    In `path` rows have the schedule itself, such as 2/4/6/8; those that it lacks are computed, zoo by zoo.
    """
    tables = []
    for name, trained in zoos.items():
        key = spelt(schedules[name])
        there = read_rows(path, COLUMNS)
        missing = set(trained.seeds) - set(there.seed[there.schedule == key])
        if missing:
            flops = training_flops(
                counted(trained, dataset),
                dataset.train.images.shape[1:],
                len(dataset.train),
                trained.config.recipe,
                schedules[name],
            )
            accuracy = test_percent(trained, dataset, limit)
            rows = pd.DataFrame({"schedule": key, "seed": trained.seeds, "accuracy": accuracy, "flops": flops})
            there = add_rows(path, rows[rows.seed.isin(missing)], COLUMNS)
        chosen = there[(there.schedule == key) & there.seed.isin(trained.seeds)]
        tables.append(chosen.assign(schedule=name))
    return pd.concat(tables, ignore_index=True)


def counted(trained, dataset):
    """The network with convolutions as such, whatever runs here, to count operations by."""
    return trained.config.network(dataset, method="native")


def cost(zoos, dataset) -> pd.DataFrame:
    """schedule, epoch, share: the operations of a step beside those of normal training."""
    rows = []
    for name, trained in zoos.items():
        network, config = counted(trained, dataset), trained.config
        shape = dataset.train.images.shape[1:]
        whole = step_flops(network, shape, config.recipe)
        for epoch in range(config.recipe.epochs):
            share = step_flops(network, shape, config.recipe, config.frozen(epoch)) / whole
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
    text = format(values.mean(), f"{sign}.2f")
    return f"{text} ± {values.std():.2f}" if len(values) > 1 else text


# Behind what the schedule of similarity saves.
READ_OFF = " (its schedule is read off a full normal training, whose operations are not counted against it)"


def finding(table: pd.DataFrame) -> str:
    """What each schedule saves and costs, a line each."""
    whole = table[table.schedule == "normal"].set_index("seed").accuracy
    lines = []
    for name, group in table.groupby("schedule", sort=False):
        if name != "normal":
            difference = spread(group.set_index("seed").accuracy - whole, "+")
            line = f"{name}: saves {100 * saved(table, name):.1f} % of the operations at {difference} points"
            lines.append(f"{line}{READ_OFF}" if name == "similarity" else line)
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main, Settings)
