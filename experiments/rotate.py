"""Measure the accuracy lost when layers retrain behind a fixed random matrix before an activation.

By default the networks are narrow Myrtle CNNs without batch norm, with ReLU and with sigmoid, on the digits of
scikit-learn. After each convolution the matrices are an element of the intertwiner group of ReLU, an orthogonal matrix
and the identity. The matrices of all layers of a network are trained together. Missing networks are trained first.
Running the same command again recomputes nothing; more models, layers, kinds, seeds or repeats extend the results.
"""

import dataclasses
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
from tqdm import tqdm

from experiments import dry_run
from experiments.command import run_command
from experiments.defaults import optional
from experiments.folders import RunSettings, run_folder, run_on_zoos, test_percent
from experiments.registry import Experiment, PublishedTable
from experiments.rotation_summary import caption, conclusion, summary, title, uses_batch_norm, uses_relu
from experiments.settings import short_name, split, zoo_folder
from experiments.sharing import SharedSettings
from experiments.summary import Summary
from symjax import models, plots
from symjax.checks import integer
from symjax.errors import InputError
from symjax.network import Network
from symjax.ops import hosts, parallel
from symjax.ops.progress import progress_bar
from symjax.rotation import Retraining, RotationCase, RotationPlan, parse_kinds
from symjax.rotation.cost import retraining_flops
from symjax.rotation.partition import group_units, split_units
from symjax.rotation.results import RotationResults, Unit, layer_name
from symjax.training import Recipe
from symjax.zoo import Group, Zoo, ZooConfig


@dataclasses.dataclass(frozen=True)
class Defaults:
    """Default settings that depend on the data set; a flag of the same name overrides each."""

    epochs: int | None = None  # None: the default of zoos of that data set
    learning_rate: float | None = None
    retrain_epochs: int = 50
    retrain_learning_rate: float = 1e-3
    repeats: int = 10


# Sigmoid networks without batch norm learn slowly; on digits both networks use the epochs and learning rate they need.
DEFAULTS = {"digits": Defaults(epochs=20, learning_rate=1e-2, retrain_epochs=10, retrain_learning_rate=1e-2, repeats=3)}

EXPERIMENT = Experiment(
    place=50,
    published={
        "rotation penalty of mCNN without batch norm on CIFAR-10, percentage points": PublishedTable(
            ("conv1", "conv2", "conv3"), {"G_ReLU": (0, 1.8, 1.4), "orthogonal": (0.8, 4.6, 8.3)}
        )
    },
    results=RotationResults,
)


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings, SharedSettings):
    model: str = "mcnn_k,mcnn_k_sigmoid"
    """Comma-separated names of symjax.models.MODELS, or package.module:build; the models must be plain chains of
    convolutions. The published ones (..._k) have no batch norm, which would undo part of the effect of a matrix."""
    seeds: str = "1"
    """Seeds of the members: a number of seeds, as in 4 for 0,1,2,3, or a list, as in 3,7,9, or 3, for one seed."""
    epochs: Annotated[int | None, optional("INT", "digits 20, otherwise 50")] = None
    """Number of passes over the training images for the baselines."""
    learning_rate: Annotated[float | None, optional("FLOAT", "digits 0.01, otherwise 0.001")] = None
    """Initial learning rate of the baselines; it is halved after each quarter of the run."""
    layers: str = "all"
    """Comma-separated numbers of convolutions, counted from 1, as in 1,3; or all."""
    kinds: str = "none,g_relu,orthogonal"
    """Comma-separated kinds of matrices: none (retraining without a matrix), permutation, g_relu, orthogonal."""
    repeats: Annotated[int | None, optional("INT", "digits 3, otherwise 10")] = None
    """Number of matrices of each kind for each layer of each member."""
    rotation_seed: int = 0
    """Seed of the random matrices and of the retraining."""
    retrain_epochs: Annotated[int | None, optional("INT", "digits 10, otherwise 50")] = None
    """Number of passes over the training images in the retraining."""
    retrain_learning_rate: Annotated[float | None, optional("FLOAT", "digits 0.01, otherwise 0.001")] = None
    """Initial learning rate of the retraining; it is halved after each quarter of the retraining."""
    start: Literal["continue", "fresh"] = "continue"
    """Initial weights of the retraining: continue from the trained weights, or fresh random weights."""
    augment: bool = False
    """Augment the images of the retraining as those of the baseline. Features of the frozen layers are then computed
    in every epoch instead of once, for all matrices together (with --max-device-memory: for each group of matrices)."""
    cache_gb: float = 2.0
    """Limit on the features of frozen layers on each device, in gigabytes. Layers train together if their features fit.
    Features of a single layer that do not fit are computed in blocks in every epoch."""
    zoo: Annotated[Path | None, optional("DIR", "as for python -m experiments.zoo")] = None
    """Folder of the zoo of a single model; missing members are trained."""

    def configs(self) -> dict[str, ZooConfig]:
        """Return the configuration of the zoo of each model, by name."""
        names = split(self.model)
        if not names:
            raise InputError(f"model: got {self.model!r}, expected names of {', '.join(models.MODELS)}")
        configs = {name: self._for_model(name).zoo_config() for name in names}
        widths = {name: config.width for name, config in configs.items()}
        if len(set(widths.values())) > 1:
            listed = ", ".join(f"{name} {width}" for name, width in widths.items())
            raise InputError(f"width: got different default widths ({listed}), expected one width for all models")
        if self.zoo is not None and len(names) > 1:
            raise InputError(f"zoo: got one folder for {len(names)} models, expected one model")
        return configs

    def given_or_default(self, name: str) -> Any:
        """Return a setting, or its default for the data set."""
        value = getattr(self, name)
        return getattr(DEFAULTS.get(self.dataset, Defaults()), name) if value is None else value

    def _for_model(self, model: str) -> "Settings":
        """Return the settings of one model, with the defaults of this experiment for its zoo."""
        values = {name: self.given_or_default(name) for name in ("epochs", "learning_rate")}
        return dataclasses.replace(self, model=model, **values)

    def retraining(self, recipe: Recipe) -> Recipe:
        """Return the recipe of the retraining; `recipe` is that of the zoo."""
        values = {name: self.given_or_default(name) for name in ("retrain_epochs", "retrain_learning_rate")}
        for name, value in values.items():
            if not 0 < value < (10**6 if name == "retrain_epochs" else float("inf")):
                raise InputError(f"{name}: got {value}, expected a positive number, and fewer than a million epochs")
        return dataclasses.replace(
            recipe,
            epochs=values["retrain_epochs"],
            learning_rate=values["retrain_learning_rate"],
            flip=recipe.flip and self.augment,
            translate=recipe.translate if self.augment else 0,
        )


def main(settings: Settings) -> Summary:
    # All flags are checked before anything is trained.
    configs, seeds = settings.configs(), settings.parse_seeds()
    config = next(iter(configs.values()))
    recipe = settings.retraining(config.recipe)
    repeats = settings.given_or_default("repeats")
    integer("repeats", repeats, 1, 999_999)
    cases = [RotationCase(kind, repeat) for kind in parse_kinds(settings.kinds) for repeat in range(repeats)]
    if not 0 <= settings.rotation_seed < 2**32:
        raise InputError(f"rotation_seed: got {settings.rotation_seed}, expected an integer from 0 to 2**32 - 1")
    if not 0 < settings.cache_gb < float("inf"):
        raise InputError(f"cache_gb: got {settings.cache_gb}, expected a positive number")
    dataset = config.load_dataset(test_size=settings.test_size)
    plans = {name: make_plan(settings, model_config, recipe, dataset) for name, model_config in configs.items()}
    layers = list(dict.fromkeys(layer_name(point) for plan in plans.values() for point in plan.points))
    units = [(name, layer_name(point), seed, cases) for name in plans for point in plans[name].points for seed in seeds]
    if task := settings.parse_task():
        units = settings.part(split_units(units, task[1]), "sets of matrices")
        seeds = tuple(seed for seed in seeds if any(seed == unit[2] for unit in units))
        configs = {name: configs[name] for name in configs if any(name == unit[0] for unit in units)}

    document = {"zoo": {key: value for key, value in config.to_json().items() if key != "model"}}
    document |= {"retraining": recipe.to_json(), "start": settings.start, "augment": settings.augment}
    document |= {"cache_gb": settings.cache_gb, "rotation_seed": settings.rotation_seed}
    document["test_size"] = settings.test_size
    name = f"{short_name(config.dataset)}-width{config.width}"
    out = run_folder("rotate", name, document, dataset, settings.out, settings.part_folder)
    structures = {name: configs[name].identity(dataset)["structure"] for name in configs}
    RotationResults(out.path).check_structures(structures)
    groups = {
        f"{name} to train" if len(configs) > 1 else "members to train": Group(c, seeds, settings.zoo or zoo_folder(c))
        for name, c in configs.items()
    }
    own_phases = partial(phases, settings.memory_limit, configs, plans, dataset, units)
    with run_on_zoos(settings, groups, dataset, out, own_phases) as (folder, trained):
        zoos = dict(zip(configs, trained, strict=True))
        results = RotationResults(folder)
        results.add_structures(structures)
        missing = hosts.all_agree("missing rows", lambda: results.missing(units))
        groups = group_units(hosts.local_shard(split_units(missing, hosts.count())))
        limit = settings.memory_limit
        baselines = {name: test_percent(zoos[name], dataset, limit) for name in (zoos if missing else ())}
        total = recipe.epochs * sum(map(len, groups.values()))
        with progress_bar(desc="rotate", unit="epoch", total=total, disable=not groups) as bar:
            for (name, group_layers), members in groups.items():
                program = Retraining(at_layers(plans[name], group_layers), dataset, max_device_memory=limit)
                retrain(program, name, zoos[name], baselines[name], members, results, settings.rotation_seed, bar)
        hosts.check_complete("retraining is done", lambda: results.missing(units))
        hosts.continue_on_first("rows")
        results.assemble()  # an earlier run may have stopped before this
        requested = (list(plans), layers, seeds, cases)
        table = results.table(*requested)
        plots.rotations(table, folder / "penalties")
        plots.rotation_curves(results.curves(*requested), folder / "curves")
        tables = {caption(table): summary(table)}
        networks = {name: plans[name].network for name in table.model.unique()}  # with --task, not all models
        relu, normed = ([name for name in networks if uses(networks[name])] for uses in (uses_relu, uses_batch_norm))
        text = conclusion(table, relu, normed, 100 / dataset.num_classes)
        return Summary(folder, title(table, dataset.name), text, tables, ("penalties", "curves"))


def phases(
    limit: float | None, configs: dict[str, ZooConfig], plans: dict[str, RotationPlan], dataset, units, folder: Path
) -> list[dry_run.Phase]:
    """Return the phase of a dry run in which each model retrains."""
    results, result = RotationResults(folder), []
    for name, config in configs.items():
        phase_name = f"{name} matrices" if len(configs) > 1 else "matrices"
        model_units = [unit for unit in units if unit[0] == name]
        missing = results.missing(model_units)
        to_do = sum(len(cases) for *_, cases in missing)
        phase = dry_run.Phase(phase_name, to_do, sum(len(cases) for *_, cases in model_units) - to_do, 0.0)
        if to_do:
            phase = phase._replace(**costs(plans[name], config.network(dataset), dataset, missing, limit))
        result.append(phase)
    return result


def costs(plan: RotationPlan, network: Network, dataset, missing: list[Unit], limit: float | None) -> dict:
    """Return operations and device memory of the missing units of one model."""
    flops, phases_by_bytes = 0.0, {}
    counted = dataclasses.replace(plan, network=network)
    for (_, layers), members in group_units(missing).items():
        counts = [len(cases) for _, cases in members]
        for program in Retraining(at_layers(plan, layers), dataset, max_device_memory=limit).programs:
            for point in program.points:
                flops += sum(retraining_flops(counted, point, dataset, count, program.blocks) for count in counts)
            memory, points = program.memory, len(program.points)
            at_once = dry_run.on_a_device(max(counts), memory, limit, "matrix")
            share = memory._replace(per_member=-(-memory.per_member // points))  # of the matrix at one point
            phase = {"memory": share, "at_once": points * at_once, "together": points}
            phases_by_bytes[memory.bytes_for(at_once)] = phase
    return {"flops": flops, **phases_by_bytes[max(phases_by_bytes)]}


def make_plan(settings: Settings, config: ZooConfig, recipe: Recipe, dataset) -> RotationPlan:
    """Return the plan of the retraining of a model."""
    network = config.network(dataset)
    points = parse_layers(settings.layers, len(network.points))
    execution, budget = parallel.default_execution(), settings.cache_gb * 1e9
    try:
        return RotationPlan(network, tuple(points), recipe, execution, settings.start, settings.augment, budget)
    except InputError as error:
        raise InputError(f"model: {error}") from None


def at_layers(plan: RotationPlan, layers: Collection[str]) -> RotationPlan:
    """Return the plan with some of its layers."""
    return dataclasses.replace(plan, points=tuple(point for point in plan.points if layer_name(point) in layers))


def parse_layers(text: str, count: int) -> list[int]:
    """Parse comma-separated numbers of convolutions from 1; return indices of points."""
    if text == "all":
        return list(range(count))
    parts = split(text)
    if not parts or not all(part.isdecimal() and 1 <= int(part) <= count for part in parts):
        raise InputError(f"layers: got {text!r}, expected comma-separated numbers from 1 to {count}, or all")
    return sorted({int(part) - 1 for part in parts})


def retrain(
    program: Retraining,
    name: str,
    trained: Zoo,
    baselines,
    members,
    results: RotationResults,
    rotation_seed: int,
    bar: tqdm,
) -> None:
    """Retrain layers of one model, member after member."""
    what = f"{name} {','.join(map(layer_name, program.plan.points))}"
    bar.set_postfix_str(f"{what}, compiling")
    bar.total += program.plan.recipe.epochs * sum(program.rounds(len(cases)) - 1 for _, cases in members)

    def on_epoch(metrics):
        values = ", ".join(f"{key}={value:.3f}" for key, value in metrics.items())
        bar.set_postfix_str(f"{what}, {values}", refresh=False)
        bar.update()

    for seed, cases in members:
        key = jax.random.fold_in(jax.random.key(rotation_seed), seed)
        add = partial(results.add, name, seed, float(baselines[trained.seeds.index(seed)]))
        program.run(trained.member(seed), cases, key=key, on_epoch=on_epoch, on_results=add)


if __name__ == "__main__":
    run_command(main, Settings)
