"""The sweep over pairs, layers and families of the commands that stitch, with its run folder."""

import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from experiments import dry_run
from experiments.controls import NOTHING, Comparison, control_fronts, other_labels
from experiments.folders import ACCURACY, ACCURACY_B, clean_accuracy, diverged, run_folder
from experiments.settings import zoo_folder
from experiments.stitch_settings import StitchSettings
from experiments.summary import Summary
from symjax import zoo
from symjax.data import Dataset
from symjax.errors import InputError, renamed
from symjax.flops import segment_flops
from symjax.network import Network
from symjax.ops import hosts, parallel, runs
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import Schema
from symjax.stitching import FitConfig, PairResult, Plan, Sweep, check_plan, memory_budget
from symjax.stitching.families import Family
from symjax.stitching.junction import parse_point_pairs
from symjax.stitching.partition import cost, count_images
from symjax.stitching.results import StitchResults, numerical_warnings
from symjax.tables import mean, with_both_layers
from symjax.zoo import Zoo, ZooConfig


class SweepResult(NamedTuple):
    """The results of a sweep.

    Attributes:
      folder: the run folder; it is locked until the context ends.
      name: the stitched networks.
      dataset: the images.
      pairs: ordered pairs (front seed, tail seed).
      table: the rows of results.csv of the requested pairs, layers and families, in the order of the request.
      curves: the rows of curves.csv of the same pairs, layers and families.
      remarks: sentences on families and points that cannot be stitched or trained as requested; "" if there are none.
    """

    folder: Path
    name: str
    dataset: Dataset
    pairs: list[tuple[int, int]]
    table: pd.DataFrame
    curves: pd.DataFrame
    remarks: str = ""

    @property
    def over_pairs(self) -> str:
        """A description of the numbers in a table over pairs."""
        return f"mean ± deviation over {len(self.pairs)} pairs" if len(self.pairs) > 1 else "one pair"

    def summary(self, text: str, tables: dict[str, pd.DataFrame], figures: Sequence[str]) -> Summary:
        """Return the summary; the remarks, and warnings about losses and projections, follow the text."""
        columns = [name for name in ("clean_accuracy_a", "clean_accuracy_b") if name in self.table]
        clean = " and ".join(f"{mean(self.table[name]):.2f} %" for name in columns or ["clean_accuracy"])
        title = f"{self.name} on {self.dataset.name}: clean accuracy {clean}"
        text = " ".join(part for part in (text, self.remarks, numerical_warnings(self.curves)) if part)
        return Summary(self.folder, title, text, tables, tuple(figures))


class Side(NamedTuple):
    """The zoo of the fronts or of the tails."""

    config: ZooConfig
    network: Network
    seeds: tuple[int, ...]
    folder: Path

    @property
    def name(self) -> str:
        """The model with its width and options."""
        options = {"width": self.config.width, **dict(self.config.model_options)}
        text = ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)
        return f"{self.config.model_name}({text})" if text else self.config.model_name


@contextlib.contextmanager
def sweep(
    settings: StitchSettings, families: tuple[Family, ...], kind: str, comparison: Comparison = NOTHING
) -> Iterator[SweepResult]:
    """Train missing members of the zoo, and then the requested stitches that the run folder lacks.

    All flags are checked before anything is trained.

    Args:
      settings: settings of the command.
      families: families of stitches, which train together.
      kind: name of the command, and kind of its run folder.
      comparison: controls and losses. If they are not the defaults, results have another run folder, with agreement.

    Raises:
      InputError: invalid settings, or a folder of another configuration.
    """
    config, config_b, seeds = settings.zoo_config(), settings.zoo_config_b(), settings.parse_seeds()
    fit_config = dataclasses.replace(settings.fit_config(config.recipe), agreement=not comparison.is_default)
    between = config_b is not None
    pairs, seeds = settings.part_of_pairs(settings.draw_pairs(seeds, between), seeds)
    dataset, limit = settings.load_dataset(), settings.memory_limit
    fronts = Side(config, config.network(dataset), seeds, settings.zoo_path())
    sides = [fronts]
    if between:
        sides = _two_sides(fronts, config_b, settings, dataset, pairs)
    plan, left_out = _plan(sides[0].network, sides[-1].network, settings.layers, families, fit_config)
    check_plan(plan, dataset)
    comparison.check(dataset)
    plan, remarks = comparison.add_to(plan, left_out)
    remarks = " ".join(filter(None, (remarks, plan.epochs_warning)))
    for part in plan.parts():
        check_plan(part, dataset)
    permuted = []
    if comparison.controls:
        other_config, other_folder = other_labels(config, fronts.folder)
        front_seeds = tuple(sorted({a for a, _ in pairs}))
        permuted = [fronts._replace(config=other_config, seeds=front_seeds, folder=other_folder)]
        runs.check_folder(other_folder, "zoo", other_config.document(dataset))

    document = {"zoo": config.identity(dataset), "fit": fit_config.to_json(), "pair_seed": settings.pair_seed}
    document |= {"zoo_b": config_b.identity(dataset)} if between else {}
    document["test_size"] = settings.test_size
    name = "-to-".join(zoo_folder(side.config).name for side in sides)
    out = run_folder(kind, name, document, dataset, settings.out, settings.part_folder)
    model = " to ".join(side.config.model_name for side in sides)

    def phases() -> list[dry_run.Phase]:
        names = [*("members to train", "members of B to train")[: len(sides)], "members on permuted labels to train"]
        training = [
            dry_run.zoo_phase(side.config, dataset, side.seeds, side.folder, limit, name=name)
            for side, name in zip(sides + permuted, names, strict=False)
        ]
        return [*training, stitch_phase(sides, dataset, plan, pairs, out.path, limit)]

    dry_run.stop(settings, config, dataset, out.path, phases, model)
    if remarks and hosts.is_first():
        print(remarks, file=sys.stderr)
    zoos = [settings.train_zoo(side.config, dataset, side.folder, seeds=side.seeds) for side in sides]
    controls = {}
    for side in permuted:
        other = settings.train_zoo(side.config, dataset, side.folder, seeds=side.seeds)
        _require_finite(other, other.validation_accuracy, side.folder)
        controls = {"controls": partial(control_fronts, fronts.network, other)}
    with out.open() as folder:
        results = StitchResults(folder)
        if hosts.is_first():
            layers = list(dict.fromkeys(":".join(junction.layers) for junction in plan.junctions))
            results.record(seeds=seeds, pairs=pairs, layers=layers, families=[f.label for f in plan.families])
        clean = [
            _clean_accuracies(folder, members, dataset, limit, side.folder, schema)
            for members, side, schema in zip(zoos, sides, (ACCURACY, ACCURACY_B), strict=False)
        ]
        missing = hosts.all_agree("missing stitches", lambda: results.missing(pairs, plan), _to_json)
        # A pair in several plans belongs to one process, because the files of a pair must have one writer.
        shard = set(hosts.local_shard(dict.fromkeys(pair for plan_pairs in missing.values() for pair in plan_pairs)))
        names = tuple(side.name for side in sides)
        for missing_plan, plan_pairs in missing.items():
            if not (local_pairs := [pair for pair in plan_pairs if pair in shard]):
                continue
            parts = [missing_plan]
            if limit is not None:
                parts, _ = memory_budget.split_to_fit(missing_plan, dataset, limit)
            for part in parts:
                part_sweep = Sweep(part, dataset, num_pairs=len(local_pairs))
                for result in _run(kind, part_sweep, zoos, local_pairs, settings.pair_seed, **controls):
                    results.add(result, *clean, **({"networks": names} if between else {}))
        hosts.check_complete("stitches are done", lambda: results.missing(pairs, plan), _to_json)
        hosts.continue_on_first("stitches")
        results.assemble()  # an earlier run may have stopped before this
        # The column `layer` names both points, as in "relu2 to block3".
        both = [with_both_layers(rows) for rows in (results.table(pairs, plan), results.curves(pairs, plan))]
        table, curves = (rows.drop(columns="layer_b", errors="ignore") for rows in both)
        name = " to ".join(names) if between else fronts.network.name
        yield SweepResult(folder, name, dataset, pairs, table, curves, remarks)


def _two_sides(
    fronts: Side, config_b: ZooConfig, settings: StitchSettings, dataset: Dataset, pairs: Sequence[tuple[int, int]]
) -> list[Side]:
    """Return the sides of stitches between two models; raise an InputError if the zoo of tails cannot be trained."""
    with renamed(network="model_b", model="model_b", model_options="model_b_options"):
        zoo.check(config_b, dataset, parallel.default_execution())
    folder = settings.zoo_b or zoo_folder(config_b)
    if folder.absolute() == fronts.folder.absolute():
        raise InputError(f"zoo_b: got {folder} for both zoos, expected a folder for each")
    runs.check_folder(folder, "zoo", config_b.document(dataset))
    sides = [fronts, Side(config_b, config_b.network(dataset), fronts.seeds, folder)]
    if settings.task is None:
        return sides
    side_seeds = ({pair[i] for pair in pairs} for i in range(2))
    return [
        side._replace(seeds=tuple(seed for seed in side.seeds if seed in needed))
        for side, needed in zip(sides, side_seeds, strict=True)
    ]


def _plan(
    network: Network, network_b: Network, layers: str, families: Sequence[Family], config: FitConfig
) -> tuple[Plan, list[str]]:
    """Return the plan of what can be stitched, and what is left out.

    Families of square matrices are left out if widths differ at some point. With `layers="all"`, points that cannot be
    stitched are left out.
    """
    with renamed(points="layers"):
        points = parse_point_pairs(network, network_b, layers)
        plan = Plan(network, points, tuple(families), config, parallel.default_execution(), network_b)
    left_out = []
    unequal = next((junction for junction in plan.junctions if len(set(junction.shape)) > 1), None)
    square = [family for family in plan.families if family.square]
    if unequal is not None and 0 < len(square) < len(plan.families):
        plan = dataclasses.replace(plan, families=tuple(family for family in plan.families if not family.square))
        labels = ", ".join(family.label for family in square)
        widths = f"{unequal.front.channels} channels at {unequal.front.name}, {unequal.tail.channels} in the tail's"
        left_out.append(f"{labels}, which need equal widths ({widths} {unequal.tail.name})")
    names_b = {point.name for point in network_b.points}
    stitched = {junction.front.name for junction in plan.junctions}
    if layers == "all" and (rest := [p.name for p in network.points if p.name in names_b and p.name not in stitched]):
        left_out.append(f"{', '.join(rest)}, where the values across the split differ")
    return plan, left_out


def _clean_accuracies(
    folder: Path, members: Zoo, dataset: Dataset, limit: float | None, zoo_path: Path, schema: Schema
) -> dict[int, float]:
    """Return the accuracy in percent of members without a stitch, by seed; raise an InputError if one has diverged."""
    _require_finite(members, members.validation_accuracy, zoo_path)
    accuracy = hosts.from_first(schema.name, lambda: clean_accuracy(folder, members, dataset, limit, schema).tolist())
    _require_finite(members, accuracy, zoo_path)
    return dict(zip(members.seeds, accuracy, strict=True))


def _require_finite(members: Zoo, accuracy: Sequence[float], path: Path) -> None:
    if seeds := diverged(members, accuracy):
        raise InputError(
            f"seeds: got {seeds}, which have diverged in {path}, expected finite weights and logits; leave them out, "
            "or train a zoo with other settings (--learning-rate)"
        )


def stitch_phase(
    sides: Sequence[Side],
    dataset: Dataset,
    plan: Plan,
    pairs: Sequence[tuple[int, int]],
    folder: Path,
    limit: float | None,
) -> dry_run.Phase:
    """Return the phase of a dry run in which missing stitches are trained."""
    missing = StitchResults(folder).missing(pairs, plan)
    # Operations are counted on unmodified convolutions, as those of the zoo are.
    segments = [segment_flops(side.network, dataset.train.images.shape[1:]) for side in (sides[0], sides[-1])]
    flops = sum(
        len(part_pairs) * cost(part, segments[0], count_images(part, dataset), segments[1])
        for part, part_pairs in missing.items()
    )
    to_do = len({pair for part_pairs in missing.values() for pair in part_pairs})
    if not to_do:
        return dry_run.Phase("pairs to stitch", 0, len(pairs), 0.0)
    limit = math.inf if limit is None else limit
    estimates = [memory_budget.split_to_fit(part, dataset, limit)[1] for part in plan.parts()]
    memory = max(estimates, key=lambda one: one.bytes_for(1))
    return dry_run.Phase("pairs to stitch", to_do, len(pairs) - to_do, flops, memory, 1, divisible=True)


def _to_json(missing: dict[Plan, list[tuple[int, int]]]) -> list:
    """Return the missing stitches in a form that processes can compare."""
    return [[part.points, [family.label for family in part.families], pairs] for part, pairs in missing.items()]


def _run(kind: str, sweep: Sweep, zoos: Sequence[Zoo], pairs, seed: int, **controls) -> Iterator[PairResult]:
    """Run a sweep with progress bars."""
    groups = -(-len(pairs) // sweep.group_size)
    epochs = sweep.plan.config.epochs if sweep.plan.trained else 0
    with (
        progress_bar(
            desc=kind, unit="epoch", total=groups * epochs, disable=not epochs, postfix="compiling"
        ) as training,
        progress_bar(desc="evaluate", unit="batch", total=groups * sweep.evaluation_steps) as evaluation,
    ):

        def update(bar, metrics):
            if metrics is not None:
                bar.set_postfix({name: f"{value:.3f}" for name, value in metrics.items()}, refresh=False)
            bar.update()

        options = {"on_epoch": partial(update, training), "on_evaluation": partial(update, evaluation), **controls}
        yield from sweep.run(zoos[0].member, pairs, member_b=zoos[-1].member, seed=seed, **options)
