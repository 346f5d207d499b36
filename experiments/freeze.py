"""Freezes layers from below while the others go on training: what does it save, and what does it cost?

With no argument: a zoo of 4 narrow Myrtle CNNs on scikit-learn's digits, trained normally and, from the same seeds, on
two schedules: layers frozen one after another at even distances, and each when it has nearly stopped to change (Raghu
et al. 2017). The same command again recomputes nothing; more seeds or schedules extend what is there.
"""

import dataclasses
import itertools
import re
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments.features import FeatureSettings, add_rows, parse_measures, read_rows
from experiments.folders import run_folder
from experiments.settings import optional, run_command, zoo_folder
from symjax import freezing, plots, runs, zoo
from symjax.errors import InputError
from symjax.similarity import pairwise
from symjax.summary import Summary

COLUMNS = ("schedule", "seed", "accuracy", "flops")
SCHEDULES = ("linear", "similarity")


@dataclasses.dataclass(frozen=True)
class Settings(FeatureSettings):
    schedules: str = "linear,similarity"
    """linear: layers freeze one by one at even distances; similarity: a layer freezes when it is nearly what it was an
    epoch before; a list as 2/4/6/8: after so many epochs each, from the lowest layer. With commas between."""
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
    zoos = {"normal": zoo.train(config, dataset, seeds, normal, keep=keep)}
    with out.open() as folder:
        schedules = {"normal": ()} | {
            name: fixed[name] if name in fixed else saturated(folder, settings, zoos["normal"], normal, dataset, layers)
            for name in names
        }
        for name in names:
            frozen = dataclasses.replace(config, freeze=schedules[name])
            beside = normal.with_name(f"{normal.name}-freeze-{'-'.join(map(str, frozen.freeze)) or 'never'}")
            zoos[name] = zoo.train(frozen, dataset, seeds, beside)
        table = evaluate(folder / "results.csv", zoos, schedules, dataset)
        metrics = pd.concat([trained.metrics.assign(schedule=name) for name, trained in zoos.items()])
        plots.freezing(metrics, cost(zoos, dataset), folder / "freezing")
        begins = pd.DataFrame({name: dict(zip(layers, schedules[name], strict=False)) for name in names}, index=layers)
        tables = {
            f"layers are frozen after so many epochs of {epochs}": begins.T.map(
                lambda epoch: "never" if np.isnan(epoch) else f"{epoch:.0f}"
            ),
            f"test accuracy in percent, mean ± deviation over {len(seeds)} networks, operations of one": summary(table),
        }
        title = f"{zoos['normal'].network.name} on {dataset.name}: freeze training beside normal training"
        return Summary(folder, title, finding(table), tables, ("freezing",))


def given(settings: Settings, name: str, layers: int) -> tuple[int, ...]:
    """A schedule that the flags say."""
    if name == "linear":
        return freezing.linear_schedule(layers, settings.zoo_config().recipe.epochs, settings.begin, settings.end)
    freeze = tuple(map(int, name.split("/")))
    if len(freeze) > layers:
        raise InputError(f"schedules: {name} has {len(freeze)} epochs, wanted at most {layers}, one for each layer")
    return freeze


def saturated(folder: Path, settings: Settings, trained, zoo_path: Path, dataset, layers) -> tuple[int, ...]:
    """The schedule of similarity, read off normal training; found once and kept, so that more seeds follow it, too."""
    path = folder / "similarity.csv"
    epochs = list(range(trained.config.recipe.epochs + 1))
    if not path.exists():
        rows = []
        for seed in tqdm(trained.seeds, desc="similarity", unit="network", dynamic_ncols=True, file=sys.stderr):
            found = settings.features(*zoo.load_history(zoo_path, seed, epochs), dataset, layers)
            pairs = list(itertools.pairwise(epochs))
            result = pairwise(found, settings.measure, pairs=pairs, layers="same", models=epochs)
            rows += [
                {"seed": seed, "epoch": b, "layer": layer, "value": result.values[k, a, k, b]}
                for k, layer in enumerate(layers)
                for a, b in pairs
            ]
        runs.write_csv(path, pd.DataFrame(rows))
    mean = runs.read_csv(path).groupby(["epoch", "layer"]).value.mean().unstack()[layers]
    return freezing.saturation_schedule(epochs, mean.to_numpy(), settings.threshold)


def evaluate(path: Path, zoos, schedules, dataset) -> pd.DataFrame:
    """Rows of schedule, seed, accuracy (percent), flops; those that `path` lacks are computed."""
    for name, trained in zoos.items():
        there = read_rows(path, COLUMNS)
        missing = set(trained.seeds) - set(there.seed[there.schedule == name])
        if missing:
            accuracy = 100 * np.asarray(zoo.test_accuracy(trained, dataset), np.float64)
            flops = freezing.training_flops(
                counted(trained, dataset),
                dataset.train.images.shape[1:],
                len(dataset.train),
                trained.config.recipe,
                schedules[name],
            )
            rows = pd.DataFrame({"schedule": name, "seed": trained.seeds, "accuracy": accuracy, "flops": flops})
            add_rows(path, rows[rows.seed.isin(missing)], COLUMNS)
    table = read_rows(path, COLUMNS)
    table = table[table.schedule.isin(list(zoos)) & table.seed.isin(zoos["normal"].seeds)]
    order = list(zoos)
    return table.sort_values("schedule", key=lambda column: column.map(order.index), kind="stable")


def counted(trained, dataset):
    """The network with convolutions as such, whatever runs here, to count operations by."""
    return trained.config.network(dataset, method="native")


def cost(zoos, dataset) -> pd.DataFrame:
    """schedule, epoch, share: the operations of a step beside those of normal training."""
    rows = []
    for name, trained in zoos.items():
        network, config = counted(trained, dataset), trained.config
        shape, size = dataset.train.images.shape[1:], config.recipe.batch_size
        whole = freezing.step_flops(network, shape, size)
        for epoch in range(config.recipe.epochs):
            share = freezing.step_flops(network, shape, size, config.frozen(epoch)) / whole
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


def finding(table: pd.DataFrame) -> str:
    """What each schedule saves and costs, a line each."""
    whole = table[table.schedule == "normal"].set_index("seed").accuracy
    lines = []
    for name, group in table.groupby("schedule", sort=False):
        if name != "normal":
            difference = spread(group.set_index("seed").accuracy - whole, "+")
            lines.append(f"{name}: saves {100 * saved(table, name):.1f} % of the operations at {difference} points")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main, Settings)
