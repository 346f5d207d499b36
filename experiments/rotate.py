"""Puts a fixed random matrix before an activation, freezes all up to it, and retrains the rest: what is lost?

With no argument: narrow Myrtle CNNs without batch norm on scikit-learn's digits, with ReLU and with sigmoid, and after
each of their convolutions an element of ReLU's intertwiner group, an orthogonal matrix, and none. All matrices of
a network train together, those of all layers. The networks are trained where they are missing. The same command again
recomputes nothing; more models, layers, kinds, seeds or repeats extend what is there.
"""

import dataclasses
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import jax
import pandas as pd
from tqdm import tqdm

from experiments import dry_run
from experiments.folders import run_folder, test_percent
from experiments.settings import optional, run_command, short_name, zoo_folder
from experiments.sharing import SharedSettings
from symjax import hosts, models, parallel, plots
from symjax.errors import InputError
from symjax.network import Network
from symjax.progress import progress_bar
from symjax.rotation import Case, Plan, Retraining, parse_kinds
from symjax.rotation.cost import retraining_flops
from symjax.rotation.division import Unit, divided, side_by_side
from symjax.rotation.finding import finding, uses_batch_norm, uses_relu
from symjax.rotation.results import RotationResults, layer_name
from symjax.summary import Summary, mean, mean_and_deviation
from symjax.training import Recipe
from symjax.zoo import ZooConfig


@dataclasses.dataclass(frozen=True)
class Defaults:
    """Settings that depend on the data set; a flag of the same name overrides each."""

    epochs: int | None = None  # None: as every zoo of that data set has it
    learning_rate: float | None = None
    retrain_epochs: int = 50
    retrain_learning_rate: float = 1e-3
    repeats: int = 10


# A sigmoid network without batch norm learns slowly: on digits both networks get the time and the step size it needs.
DEFAULTS = {"digits": Defaults(epochs=20, learning_rate=1e-2, retrain_epochs=10, retrain_learning_rate=1e-2, repeats=3)}


@dataclasses.dataclass(frozen=True)
class Settings(SharedSettings):
    model: str = "mcnn_k,mcnn_k_sigmoid"
    """Names of symjax.models.MODELS, or package.module:build, with commas between: plain chains of convolutions; as
    published without batch norm (..._k), which behind a matrix would undo part of what it does."""
    seeds: str = "1"
    """A number of seeds, 4 for 0,1,2,3, or the seeds themselves, as in 3,7,9 (one alone: 3,)."""
    epochs: Annotated[int | None, optional("INT", "digits 20, otherwise 50")] = None
    """Passes over the training images for the baselines."""
    learning_rate: Annotated[float | None, optional("FLOAT", "digits 0.01, otherwise 0.001")] = None
    """Adam's for the baselines, at first; it is halved after each quarter of the run."""
    layers: str = "all"
    """Convolutions by their number from 1, as in 1,3, or all."""
    kinds: str = "none,g_relu,orthogonal"
    """Kinds of matrices: none (retraining alone), permutation, g_relu, orthogonal."""
    repeats: Annotated[int | None, optional("INT", "digits 3, otherwise 10")] = None
    """Matrices of each kind for each layer of each member."""
    rotation_seed: int = 0
    """Of the matrices and the retraining."""
    retrain_epochs: Annotated[int | None, optional("INT", "digits 10, otherwise 50")] = None
    """Passes over the training images for what is retrained."""
    retrain_learning_rate: Annotated[float | None, optional("FLOAT", "digits 0.01, otherwise 0.001")] = None
    """Adam's, at first; it is halved after each quarter of the retraining."""
    start: Literal["continue", "fresh"] = "continue"
    """Whether what is retrained starts from its trained weights or from new ones."""
    augment: bool = False
    """Retrain on images that are flipped and moved as the baseline's were. The frozen layers' features are then
    computed once an epoch, for all matrices at once (with --max-device-memory: of a group), instead of once."""
    cache_gb: float = 2.0
    """Gigabytes that features of frozen layers may take on each device. Layers train together whose features fit; those
    of a layer that do not fit alone are computed anew, block by block, in each epoch, likewise."""
    zoo: Annotated[Path | None, optional("DIR", "as python -m experiments.zoo has it")] = None
    """The folder of the zoo, of one model; trained there where it is missing."""
    out: Annotated[Path | None, optional("DIR", "runs/rotate/ and a name made from the settings")] = None
    """The folder of the results."""

    def configs(self) -> dict[str, ZooConfig]:
        """The zoo of each model."""
        names = list(dict.fromkeys(name.strip() for name in self.model.split(",") if name.strip()))
        if not names:
            raise InputError(f"model: none given; known: {', '.join(models.MODELS)}")
        configs = {name: self._of_model(name).zoo_config() for name in names}
        widths = {name: config.width for name, config in configs.items()}
        if len(set(widths.values())) > 1:
            listed = ", ".join(f"{name} {width}" for name, width in widths.items())
            raise InputError(f"width: the models' own differ ({listed}); give one width, or run them apart")
        if self.zoo is not None and len(names) > 1:
            raise InputError(f"zoo: one folder for {len(names)} models; leave it out, or run them apart")
        return configs

    def _of_model(self, model: str) -> "Settings":
        """The settings of one model, with this experiment's own defaults for its zoo."""
        defaults = DEFAULTS.get(self.dataset, Defaults())
        epochs = defaults.epochs if self.epochs is None else self.epochs
        rate = defaults.learning_rate if self.learning_rate is None else self.learning_rate
        return dataclasses.replace(self, model=model, epochs=epochs, learning_rate=rate)

    def retraining(self, recipe: Recipe) -> Recipe:
        """How what follows a matrix is retrained."""
        defaults = DEFAULTS.get(self.dataset, Defaults())
        epochs, rate = self.retrain_epochs, self.retrain_learning_rate
        chosen = {
            "retrain_epochs": defaults.retrain_epochs if epochs is None else epochs,
            "retrain_learning_rate": defaults.retrain_learning_rate if rate is None else rate,
        }
        for name, value in chosen.items():
            if not 0 < value < (10**6 if name == "retrain_epochs" else float("inf")):
                raise InputError(f"{name}: got {value}, wanted a positive number, of epochs under a million")
        return dataclasses.replace(
            recipe,
            epochs=chosen["retrain_epochs"],
            learning_rate=chosen["retrain_learning_rate"],
            flip=recipe.flip and self.augment,
            translate=recipe.translate if self.augment else 0,
        )


def main(settings: Settings) -> Summary:
    # Everything that can be wrong with the flags is found before anything is trained.
    configs, seeds = settings.configs(), settings.parse_seeds()
    config = next(iter(configs.values()))
    recipe = settings.retraining(config.recipe)
    repeats = DEFAULTS.get(settings.dataset, Defaults()).repeats if settings.repeats is None else settings.repeats
    if not 1 <= repeats < 10**6:
        raise InputError(f"repeats: got {repeats}, wanted a number from 1 and under a million")
    cases = [Case(kind, repeat) for kind in parse_kinds(settings.kinds) for repeat in range(repeats)]
    if not 0 <= settings.rotation_seed < 2**32:
        raise InputError(f"rotation_seed: got {settings.rotation_seed}, wanted an integer from 0 to 2**32 - 1")
    if not 0 < settings.cache_gb < float("inf"):
        raise InputError(f"cache_gb: got {settings.cache_gb}, wanted a positive number")
    dataset = config.load_dataset(test_size=settings.test_size)
    plans = {name: make_plan(settings, one, recipe, dataset) for name, one in configs.items()}
    layers = list(dict.fromkeys(layer_name(point) for plan in plans.values() for point in plan.points))
    units = [(name, layer_name(point), seed, cases) for name in plans for point in plans[name].points for seed in seeds]
    if task := settings.parse_task():
        units = settings.part(divided(units, task[1]), "sets of matrices")
        seeds = tuple(seed for seed in seeds if any(seed == unit[2] for unit in units))
        configs = {name: one for name, one in configs.items() if any(name == unit[0] for unit in units)}

    document = {"zoo": {key: value for key, value in config.to_json().items() if key != "model"}}
    document |= {"retraining": recipe.to_json(), "start": settings.start, "augment": settings.augment}
    document |= {"cache_gb": settings.cache_gb, "rotation_seed": settings.rotation_seed}
    document["test_size"] = settings.test_size
    name = f"{short_name(config.dataset)}-width{config.width}"
    out = run_folder("rotate", name, document, dataset, settings.out, settings.part_folder)
    structures = {name: one.identity(dataset)["structure"] for name, one in configs.items()}
    RotationResults(out.path).check(structures)
    dry_run.stop(
        settings, config, dataset, out.path, lambda: phases(settings, configs, plans, dataset, seeds, units, out.path)
    )
    zoos = {
        name: settings.train_zoo(one, dataset, settings.zoo or zoo_folder(one), seeds=seeds)
        for name, one in configs.items()
    }
    with out.open() as folder:
        results = RotationResults(folder)
        results.keep(structures)
        lacking = hosts.all_agree("missing rows", lambda: results.missing(units))
        mine = hosts.local_shard(divided(lacking, hosts.count()))
        limit = settings.memory_limit
        baselines = {name: test_percent(zoos[name], dataset, limit) for name in (zoos if lacking else ())}
        runs = side_by_side(mine)
        total = recipe.epochs * sum(map(len, runs.values()))
        with progress_bar(desc="rotate", unit="epoch", total=total, disable=not mine) as bar:
            for (name, theirs), members in runs.items():
                program = Retraining(at_layers(plans[name], theirs), dataset, max_device_memory=limit)
                of = zoos[name], baselines[name]
                retrain(program, name, of, members, results, settings.rotation_seed, bar)
        hosts.check_complete("retraining is done", lambda: results.missing(units))
        hosts.continue_on_first("rows")
        results.assemble()  # a run may have been stopped just before
        wanted = (list(plans), layers, seeds, cases)
        table = results.table(*wanted)
        plots.rotations(table, folder / "penalties")
        plots.rotation_curves(results.curves(*wanted), folder / "curves")
        tables = {caption(table): summary(table)}
        networks = {name: plans[name].network for name in table.model.unique()}  # of a task, not of all models
        relu, normed = ([name for name in networks if uses(networks[name])] for uses in (uses_relu, uses_batch_norm))
        told = finding(table, relu, normed, 100 / dataset.num_classes)
        return Summary(folder, title(table, dataset.name), told, tables, ("penalties", "curves"))


def phases(
    settings: Settings, configs: dict[str, ZooConfig], plans: dict[str, Plan], dataset, seeds, units, folder
) -> list[dry_run.Phase]:
    """What a dry run tells: for each model the training of its zoo, and its matrices."""
    limit, results = settings.memory_limit, RotationResults(folder)
    training, matrices = ["members to train"], ["matrices"]
    if len(configs) > 1:
        training, matrices = ([f"{name} {what}" for name in configs] for what in ("to train", "matrices"))
    found = []
    for called, one in zip(training, configs.values(), strict=True):
        path = settings.zoo or zoo_folder(one)
        found.append(dry_run.zoo_phase(one, dataset, seeds, path, limit, name=called))
    for called, (name, one) in zip(matrices, configs.items(), strict=True):
        theirs = [unit for unit in units if unit[0] == name]
        lacking = results.missing(theirs)
        to_do = sum(len(cases) for *_, cases in lacking)
        phase = dry_run.Phase(called, to_do, sum(len(cases) for *_, cases in theirs) - to_do, 0.0)
        if to_do:
            phase = phase._replace(**costs(plans[name], one.network(dataset), dataset, lacking, limit))
        found.append(phase)
    return found


def costs(plan: Plan, plain: Network, dataset, lacking: list[Unit], limit: float | None) -> dict:
    """Operations and device memory of what is lacking of one model."""
    flops, most = 0.0, {}
    counted = dataclasses.replace(plan, network=plain)
    for (_, layers), members in side_by_side(lacking).items():
        for program in Retraining(at_layers(plan, layers), dataset, max_device_memory=limit).programs:
            for point in program.points:
                flops += sum(retraining_flops(counted, point, dataset, len(own), program.blocks) for _, own in members)
            need, together = program.need, len(program.points)
            at_once = dry_run.on_a_device(max(len(own) for _, own in members), need, limit, "matrix")
            share = need._replace(member=-(-need.member // together))  # of the matrix at one layer
            most[need.of(at_once)] = {"need": share, "at_once": together * at_once, "together": together}
    return {"flops": flops, **most[max(most)]}


def make_plan(settings: Settings, config: ZooConfig, recipe: Recipe, dataset) -> Plan:
    """What is retrained of a model."""
    network = config.network(dataset)
    points = parse_layers(settings.layers, len(network.points))
    execution, budget = parallel.default_execution(), settings.cache_gb * 1e9
    return Plan(network, tuple(points), recipe, execution, settings.start, settings.augment, budget)


def at_layers(plan: Plan, layers: Collection[str]) -> Plan:
    """The same at some of its layers."""
    return dataclasses.replace(plan, points=tuple(point for point in plan.points if layer_name(point) in layers))


def parse_layers(text: str, count: int) -> list[int]:
    """Points from numbers of convolutions."""
    if text == "all":
        return list(range(count))
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and 1 <= int(part) <= count for part in parts):
        raise InputError(f"layers: got {text!r}, wanted numbers from 1 to {count} with commas between, or all")
    return sorted({int(part) - 1 for part in parts})


def retrain(
    program: Retraining, name: str, of, members, results: RotationResults, rotation_seed: int, bar: tqdm
) -> None:
    """Layers of one model: member after member, all matrices of each at once that memory is to hold."""
    trained, baselines = of
    what = f"{name} {','.join(map(layer_name, program.plan.points))}"
    bar.set_postfix_str(f"{what}, compiling")
    bar.total += program.plan.recipe.epochs * sum(program.rounds(len(cases)) - 1 for _, cases in members)

    def on_epoch(metrics):
        shown = ", ".join(f"{key}={value:.3f}" for key, value in metrics.items())
        bar.set_postfix_str(f"{what}, {shown}", refresh=False)
        bar.update()

    for seed, cases in members:
        key = jax.random.fold_in(jax.random.key(rotation_seed), seed)
        add = partial(results.add, name, seed, float(baselines[trained.seeds.index(seed)]))
        program.run(trained.member(seed), cases, key=key, on_epoch=on_epoch, on_found=add)


def title(table: pd.DataFrame, dataset: str) -> str:
    """The models and how good they are."""
    baselines = table.drop_duplicates(["model", "seed"]).groupby("model", sort=False).baseline.agg(mean)
    return f"Baselines on {dataset}: " + ", ".join(f"{model} {value:.2f} %" for model, value in baselines.items())


def caption(table: pd.DataFrame) -> str:
    """What the numbers of the table are."""
    over, several = plots.draws(table)
    return "rotation penalty in percentage points" + (f", mean ± deviation over {over}" if several else "")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Models and kinds down, layers across: mean and standard deviation (n - 1) of the penalty."""
    grouped = table.groupby(["model", "kind", "layer"], sort=False).penalty
    text = mean_and_deviation(grouped, 1).unstack("layer")[list(table.layer.unique())]
    rows = list(table[["model", "kind"]].drop_duplicates().itertuples(index=False, name=None))
    text = text.loc[rows]
    text.index = [", ".join(row) if table.model.nunique() > 1 else row[1] for row in rows]
    return text.rename_axis(index=None, columns=None)


if __name__ == "__main__":
    run_command(main, Settings)
