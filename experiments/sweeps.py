"""What the commands that stitch share: settings, and the sweep over pairs, layers and families with its folder."""

import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import pandas as pd

from experiments import dry_run
from experiments.defaults import optional
from experiments.folders import ACCURACY, ACCURACY_B, clean_accuracy, diverged, run_folder
from experiments.settings import zoo_folder
from experiments.sharing import SharedSettings
from symjax import zoo
from symjax.data import Dataset
from symjax.errors import InputError, renamed
from symjax.flops import segment_flops
from symjax.network import Network
from symjax.ops import files, hosts, parallel, runs
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import Schema
from symjax.pairs import draw_pairs
from symjax.stitching import FitConfig, PairResult, Plan, Sweep, check_plan, memory_budget
from symjax.stitching.families import Family
from symjax.stitching.junction import parse_point_pairs
from symjax.stitching.partition import cost, count_images
from symjax.stitching.results import StitchResults, numerical_warnings
from symjax.tables import mean, with_both_layers
from symjax.zoo import Zoo, ZooConfig

# Passes over the training images that suit a data set; of others, what is published.
STITCH_EPOCHS = {"digits": 6}
PAIRS = 4


@dataclasses.dataclass(frozen=True)
class StitchSettings(SharedSettings):
    """A zoo, which pairs of its members are stitched where, and how stitches are trained."""

    pairs: Annotated[str | None, optional("STR", f"{PAIRS}, or all where there are fewer")] = None
    """How many ordered pairs (front, tail) of different members to draw, or all."""
    pair_seed: int = 0
    """Of the draw of pairs and of the stitches' random starts."""
    layers: str = "all"
    """Stitch points by name, as in relu1,relu3, or all. A pair as relu2:block3 leads from a point to another one, also
    of --model-b; all are then the points that have one name in both models."""
    model_b: Annotated[str | None, optional("STR", "--model")] = None
    """Another model for the tails, as of --model: a zoo of it is trained with the same flags and seeds, and stitches
    lead from members of --model to members of this one."""
    model_b_options: Annotated[str, optional("NAME=VALUE,...", "the model's own")] = ""
    """Of --model-b, as --model-options."""
    width_b: Annotated[int | None, optional("INT", "as --width")] = None
    """Of --model-b, as --width."""
    zoo_b: Annotated[Path | None, optional("DIR", "as python -m experiments.zoo has it")] = None
    """The folder of the zoo of --model-b; trained there where it is missing."""
    stitch_epochs: Annotated[int | None, optional("INT", "digits 6, otherwise 20")] = None
    """Passes over the training images for the stitches."""
    stitch_optimizer: Literal["adam", "sgd"] = "adam"
    """Of the stitches; sgd is the published one."""
    stitch_learning_rates: str = "3e-2"
    """Step sizes to try for every family alike, as in 1e-2,1e-3; the validation split picks."""
    stitch_schedule: Literal["cosine", "constant"] = "cosine"
    """How the step size goes over the run."""
    start: Literal["auto", "identity", "random", "matched", "least_squares"] = "auto"
    """Where stitches that train start; auto is what suits the family best."""
    bias: bool = False
    """Give stitches that train a bias."""
    zoo: Annotated[Path | None, optional("DIR", "as python -m experiments.zoo has it")] = None
    """The folder of the zoo; trained there where it is missing."""
    out: Annotated[Path | None, optional("DIR", "under runs/, by command and settings")] = None
    """The folder of the results."""

    def zoo_config_b(self) -> ZooConfig | None:
        """That of the zoo of tails, as `zoo_config`; None where it is the zoo of fronts."""
        others = ("model_b_options", "width_b", "zoo_b")
        if self.model_b is None:
            if given := [name for name in others if getattr(self, name) not in (None, "")]:
                raise InputError(f"{given[0]}: got {getattr(self, given[0])} without --model-b, to which it belongs")
            return None
        given = {"model": "model_b", "model_options": "model_b_options"}
        given |= {} if self.width_b is None else {"width": "width_b"}
        with renamed(**given):
            config = dataclasses.replace(self, **{name: getattr(self, own) for name, own in given.items()}).zoo_config()
        if config != self.zoo_config():
            return config
        if self.zoo_b is not None:
            raise InputError(f"zoo_b: got {self.zoo_b}, but --model-b is --model, whose zoo is that of --zoo")
        return None

    def draw(self, seeds: Sequence[int], between: bool = False) -> list[tuple[int, int]]:
        """Ordered pairs of these seeds; of too few for the default number all, which is said on stderr.

        Between zoos of different models they may be of equal seeds.
        """
        count, available = self.pairs, len(seeds) * (len(seeds) - (not between))
        if count is None:
            count = PAIRS
            if 0 < available < PAIRS:
                count = available
                if hosts.is_first():
                    print(f"pairs: all {available} of {len(seeds)} members, not {PAIRS}, the default", file=sys.stderr)
        return draw_pairs(seeds, count, self.pair_seed, seeds_b=seeds if between else None)

    def fit_config(self, recipe) -> FitConfig:
        """How stitches are trained."""
        default_epochs = STITCH_EPOCHS.get(self.dataset, 20)
        rates = parse_numbers("stitch_learning_rates", self.stitch_learning_rates)
        if self.stitch_epochs is not None and self.stitch_epochs < 1:
            raise InputError(f"stitch_epochs: got {self.stitch_epochs}, expected a positive number")
        with renamed(learning_rates="stitch_learning_rates"), renamed(epochs="stitch_epochs"):
            return FitConfig(
                epochs=default_epochs if self.stitch_epochs is None else self.stitch_epochs,
                batch_size=self.batch_size,
                optimizer=self.stitch_optimizer,
                learning_rates=rates,
                schedule=self.stitch_schedule,
                start=self.start,
                bias=self.bias,
                flip=recipe.flip,
                translate=recipe.translate,
            )


class Swept(NamedTuple):
    """What a sweep leaves.

    Attributes:
      folder: of the run; held until the context ends.
      name, dataset: of what was stitched, and on what.
      pairs: ordered pairs (front seed, tail seed).
      table: the rows of results.csv of these pairs, layers and families, in the order in which they were asked for.
      curves: likewise of curves.csv.
      left_out: a sentence on what was asked for and cannot be stitched; empty where there is nothing.
    """

    folder: Path
    name: str
    dataset: Dataset
    pairs: list[tuple[int, int]]
    table: pd.DataFrame
    curves: pd.DataFrame
    left_out: str = ""

    @property
    def over_pairs(self) -> str:
        """What the numbers of a table are."""
        return f"mean ± deviation over {len(self.pairs)} pairs" if len(self.pairs) > 1 else "one pair"

    def with_warning(self, text: str) -> str:
        """Return the text, followed by what was left out and by the warnings about losses and projections."""
        return " ".join(part for part in (text, self.left_out, numerical_warnings(self.curves)) if part)

    @property
    def title(self) -> str:
        """The networks, the data set and how good the members are."""
        columns = [name for name in ("clean_accuracy_a", "clean_accuracy_b") if name in self.table]
        clean = " and ".join(f"{mean(self.table[name]):.2f} %" for name in columns or ["clean_accuracy"])
        return f"{self.name} on {self.dataset.name}: clean accuracy {clean}"


class Side(NamedTuple):
    """The fronts, or the tails: a zoo of one model."""

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
def sweep(settings: StitchSettings, families: tuple[Family, ...], kind: str) -> Iterator[Swept]:
    """Stitches what the settings ask for and the folder lacks; the zoo is trained where it is missing.

    Everything that can be wrong with the flags is found before anything is trained.

    Args:
      settings: of the command.
      families: all train together.
      kind: the name of the command, and of its folders.

    Raises:
      InputError: bad settings, or a folder of another configuration.
    """
    config, config_b, seeds = settings.zoo_config(), settings.zoo_config_b(), settings.parse_seeds()
    fit_config = settings.fit_config(config.recipe)
    between = config_b is not None
    pairs, seeds = settings.part_of_pairs(settings.draw(seeds, between), seeds)
    dataset, limit = settings.load_dataset(), settings.memory_limit
    fronts = Side(config, config.network(dataset), seeds, settings.zoo or zoo_folder(config))
    sides = [fronts]
    if between:
        sides = _between(fronts, config_b, settings, dataset, pairs)
    plan, left_out = _plan(sides[0].network, sides[-1].network, settings.layers, families, fit_config)
    check_plan(plan, dataset)

    document = {"zoo": config.identity(dataset), "fit": fit_config.to_json(), "pair_seed": settings.pair_seed}
    document |= {"zoo_b": config_b.identity(dataset)} if between else {}
    document["test_size"] = settings.test_size
    name = "-to-".join(zoo_folder(side.config).name for side in sides)
    out = run_folder(kind, name, document, dataset, settings.out, settings.part_folder)
    model = " to ".join(side.config.model_name for side in sides)

    def phases() -> list[dry_run.Phase]:
        names = ("members to train", "members of B to train")
        trained = [
            dry_run.zoo_phase(side.config, dataset, side.seeds, side.folder, limit, name=name)
            for side, name in zip(sides, names, strict=False)
        ]
        return [*trained, stitch_phase(sides, dataset, plan, pairs, out.path, limit)]

    dry_run.stop(settings, config, dataset, out.path, phases, model)
    if left_out and hosts.is_first():
        print(left_out, file=sys.stderr)
    zoos = [settings.train_zoo(side.config, dataset, side.folder, seeds=side.seeds) for side in sides]
    with out.open() as folder:
        results = StitchResults(folder)
        if hosts.is_first():
            layers = [":".join(at.layers) for at in plan.junctions]
            results.record(seeds=seeds, pairs=pairs, layers=layers, families=[f.label for f in plan.families])
        clean = [
            _clean(folder, members, dataset, limit, side.folder, schema)
            for members, side, schema in zip(zoos, sides, (ACCURACY, ACCURACY_B), strict=False)
        ]
        missing = hosts.all_agree("missing stitches", lambda: results.missing(pairs, plan), _to_json)
        # A pair is one process's, whatever plans it is in: that one alone writes its files.
        own = set(hosts.local_shard(dict.fromkeys(pair for missing_plan in missing.values() for pair in missing_plan)))
        names = tuple(side.name for side in sides)
        for missing_plan, of_plan in missing.items():
            if not (own_pairs := [pair for pair in of_plan if pair in own]):
                continue
            parts = [missing_plan]
            if limit is not None:
                parts, _ = memory_budget.split_to_fit(missing_plan, dataset, limit)
            for part in parts:
                part_sweep = Sweep(part, dataset, num_pairs=len(own_pairs))
                for result in _run(kind, part_sweep, zoos, own_pairs, settings.pair_seed):
                    results.add(result, *clean, **({"networks": names} if between else {}))
        hosts.check_complete("stitches are done", lambda: results.missing(pairs, plan), _to_json)
        hosts.continue_on_first("stitches")
        results.assemble()  # a run may have been stopped just before
        table, curves = (_readable(frame) for frame in (results.table(pairs, plan), results.curves(pairs, plan)))
        name = " to ".join(names) if between else fronts.network.name
        yield Swept(folder, name, dataset, pairs, table, curves, left_out)


def _between(
    fronts: Side, config_b: ZooConfig, settings: StitchSettings, dataset: Dataset, pairs: Sequence[tuple[int, int]]
) -> list[Side]:
    """The sides of stitches between two models; an InputError where the zoo of the tails cannot be trained."""
    with renamed(network="model_b", model="model_b", model_options="model_b_options"):
        zoo.check(config_b, dataset, parallel.default_execution())
    folder = settings.zoo_b or zoo_folder(config_b)
    if folder.absolute() == fronts.folder.absolute():
        raise InputError(f"zoo_b: got {folder} for both zoos, expected a folder for each")
    runs.check_folder(folder, "zoo", config_b.document(dataset))
    sides = [fronts, Side(config_b, config_b.network(dataset), fronts.seeds, folder)]
    if settings.task is None:
        return sides
    needed = ({pair[i] for pair in pairs} for i in range(2))
    return [
        side._replace(seeds=tuple(seed for seed in side.seeds if seed in of_side))
        for side, of_side in zip(sides, needed, strict=True)
    ]


def _plan(
    network: Network, network_b: Network, layers: str, families: Sequence[Family], config: FitConfig
) -> tuple[Plan, str]:
    """What can be stitched of what is asked for, and a sentence on what cannot, which names it.

    Square matrices alone are left out where widths differ, and of all points those that nothing fits.
    """
    with renamed(points="layers"):
        points = parse_point_pairs(network, network_b, layers)
        plan = Plan(network, points, tuple(families), config, parallel.default_execution(), network_b)
    left_out = []
    unequal = next((at for at in plan.junctions if len(set(at.shape)) > 1), None)
    square = [family for family in plan.families if family.square]
    if unequal is not None and 0 < len(square) < len(plan.families):
        plan = dataclasses.replace(plan, families=tuple(family for family in plan.families if not family.square))
        labels = ", ".join(family.label for family in square)
        widths = f"{unequal.front.channels} channels at {unequal.front.name}, {unequal.tail.channels} in the tail's"
        left_out.append(f"{labels}, which need equal widths ({widths} {unequal.tail.name})")
    names_b = {point.name for point in network_b.points}
    chosen = {at.front.name for at in plan.junctions}
    if layers == "all" and (rest := [p.name for p in network.points if p.name in names_b and p.name not in chosen]):
        left_out.append(f"{', '.join(rest)}, where what crosses differs")
    return plan, f"Left out: {'; '.join(left_out)}." if left_out else ""


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    """A table whose `layer` says where a stitch leads, as "relu2 to block3", in place of `layer_b`."""
    return with_both_layers(frame).drop(columns="layer_b", errors="ignore")


def _clean(
    folder: Path, members: Zoo, dataset: Dataset, limit: float | None, zoo_path: Path, schema: Schema
) -> dict[int, float]:
    """Seed to accuracy in percent of members without a stitch; an InputError where one has diverged."""
    _require_finite(members, members.validation_accuracy, zoo_path)
    accuracy = hosts.from_first(schema.name, lambda: clean_accuracy(folder, members, dataset, limit, schema).tolist())
    _require_finite(members, accuracy, zoo_path)
    return dict(zip(members.seeds, accuracy, strict=True))


def _require_finite(members: Zoo, accuracy: Sequence[float], path: Path) -> None:
    if lost := diverged(members, accuracy):
        raise InputError(
            f"seeds: {lost} have diverged in {path}: weights or logits are not finite, so that nothing can be stitched "
            "to them; leave them out (--seeds), or train a zoo with other settings (--learning-rate)"
        )


def stitch_phase(
    sides: Sequence[Side],
    dataset: Dataset,
    plan: Plan,
    pairs: Sequence[tuple[int, int]],
    folder: Path,
    limit: float | None,
) -> dry_run.Phase:
    """Stitching what a run folder lacks."""
    missing_plan = {plan: list(pairs)}
    if (folder / files.CONFIG).exists():
        missing_plan = StitchResults(folder).missing(pairs, plan)
    # Counted on plain convolutions, as the zoo's are.
    plain = [segment_flops(side.network, dataset.train.images.shape[1:]) for side in (sides[0], sides[-1])]
    flops = sum(
        len(of_plan) * cost(part, plain[0], count_images(part, dataset), plain[1])
        for part, of_plan in missing_plan.items()
    )
    to_do = len({pair for of_plan in missing_plan.values() for pair in of_plan})
    if not to_do:
        return dry_run.Phase("pairs to stitch", 0, len(pairs), 0.0)
    _, needed = memory_budget.split_to_fit(plan, dataset, math.inf if limit is None else limit)
    return dry_run.Phase("pairs to stitch", to_do, len(pairs) - to_do, flops, needed, 1, divisible=True)


def _to_json(missing: dict[Plan, list[tuple[int, int]]]) -> list:
    """What is missing, for processes to compare."""
    return [[part.points, [family.label for family in part.families], pairs] for part, pairs in missing.items()]


def _run(kind: str, sweep: Sweep, zoos: Sequence[Zoo], pairs, seed: int) -> Iterator[PairResult]:
    groups = -(-len(pairs) // sweep.group_size)
    epochs = sweep.plan.config.epochs if sweep.plan.trained else 0
    with (
        progress_bar(desc=kind, unit="epoch", total=groups * epochs) as training,
        progress_bar(desc="evaluate", unit="batch", total=groups * sweep.evaluation_steps) as evaluation,
    ):
        training.set_postfix_str("compiling")

        def step(bar, metrics):
            if metrics is not None:
                bar.set_postfix({name: f"{value:.3f}" for name, value in metrics.items()}, refresh=False)
            bar.update()

        steps = {"on_epoch": partial(step, training), "on_evaluation": partial(step, evaluation)}
        yield from sweep.run(zoos[0].member, pairs, member_b=zoos[-1].member, seed=seed, **steps)


def parse_numbers(name: str, text: str) -> tuple[float, ...]:
    """The numbers of a comma-separated list, or an InputError that names the flag."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"{name}: got {text!r}, expected numbers with commas between") from None
