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
from experiments.folders import clean_accuracy, diverged, run_folder
from experiments.settings import optional, zoo_folder
from experiments.sharing import SharedSettings
from symjax import hosts, parallel, runs
from symjax.data import Dataset
from symjax.errors import InputError, renamed
from symjax.flops import segment_flops
from symjax.network import Network
from symjax.pairs import draw_pairs
from symjax.progress import progress_bar
from symjax.stitching import FitConfig, Plan, Sweep, bounds, check_plan
from symjax.stitching.division import cost, work_of
from symjax.stitching.families import Family
from symjax.stitching.results import Results, trouble
from symjax.summary import mean
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
    """Stitch points by name, as in relu1,relu3, or all."""
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

    def draw(self, seeds: Sequence[int]) -> list[tuple[int, int]]:
        """Ordered pairs of these seeds; of too few for the default number all, which is said on stderr."""
        count, there = self.pairs, len(seeds) * (len(seeds) - 1)
        if count is None:
            count = PAIRS
            if 0 < there < PAIRS:
                count = there
                if hosts.is_first():
                    print(f"pairs: all {there} of {len(seeds)} members, not {PAIRS}, the default", file=sys.stderr)
        return draw_pairs(seeds, count, self.pair_seed)

    def fit_config(self, recipe) -> FitConfig:
        """How stitches are trained."""
        default_epochs = STITCH_EPOCHS.get(self.dataset, 20)
        rates = parse_numbers("stitch_learning_rates", self.stitch_learning_rates)
        if self.stitch_epochs is not None and self.stitch_epochs < 1:
            raise InputError(f"stitch_epochs: got {self.stitch_epochs}, wanted a positive number")
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
      network, dataset: what was stitched, and on what.
      pairs: ordered pairs (front seed, tail seed).
      table: the rows of results.csv of these pairs, layers and families, in the order in which they were asked for.
      curves: likewise of curves.csv.
    """

    folder: Path
    network: Network
    dataset: Dataset
    pairs: list[tuple[int, int]]
    table: pd.DataFrame
    curves: pd.DataFrame

    @property
    def over_pairs(self) -> str:
        """What the numbers of a table are."""
        return f"mean ± deviation over {len(self.pairs)} pairs" if len(self.pairs) > 1 else "one pair"

    def with_warning(self, text: str) -> str:
        """The text, with a warning behind it where training met numerical trouble."""
        return " ".join(part for part in (text, trouble(self.curves)) if part)

    @property
    def title(self) -> str:
        """The network, the data set and how good the members are."""
        return f"{self.network.name} on {self.dataset.name}: clean accuracy {mean(self.table.clean_accuracy):.2f} %"


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
    config, seeds = settings.zoo_config(), settings.parse_seeds()
    fit_config = settings.fit_config(config.recipe)
    pairs, seeds = settings.part_of_pairs(settings.draw(seeds), seeds)
    dataset = settings.load_dataset()
    execution = parallel.default_execution()
    network = config.network(dataset)
    plan = Plan(network, network.parse_points(settings.layers), families, fit_config, execution)
    check_plan(plan, dataset)

    document = {"zoo": config.identity(dataset), "fit": fit_config.to_json(), "pair_seed": settings.pair_seed}
    document["test_size"] = settings.test_size
    out = run_folder(kind, zoo_folder(config).name, document, dataset, settings.out, settings.part_folder)
    zoo_path, limit = settings.zoo or zoo_folder(config), settings.memory_limit

    def phases() -> list[dry_run.Phase]:
        trained = dry_run.zoo_phase(config, dataset, seeds, zoo_path, limit)
        return [trained, stitch_phase(config, dataset, plan, pairs, out.path, limit)]

    dry_run.stop(settings, config, dataset, out.path, phases)
    members = settings.train_zoo(config, dataset, zoo_path, seeds=seeds)
    with out.open() as folder:
        results = Results(folder)
        if hosts.is_first():
            layers = [network.points[p].name for p in plan.points]
            results.record(seeds=seeds, pairs=pairs, layers=layers, families=[f.label for f in families])
        _require_finite(members, members.validation_accuracy, zoo_path)
        accuracy = hosts.from_first("clean accuracy", lambda: clean_accuracy(folder, members, dataset, limit).tolist())
        _require_finite(members, accuracy, zoo_path)
        clean = dict(zip(seeds, accuracy, strict=True))
        missing = hosts.agreed("missing stitches", lambda: results.missing(pairs, plan), _told)
        # A pair is one process's, whatever plans it is in: that one alone writes its files.
        mine = set(hosts.own(dict.fromkeys(pair for theirs in missing.values() for pair in theirs)))
        for lacking, theirs in missing.items():
            theirs = [pair for pair in theirs if pair in mine]
            for part in [lacking] if limit is None else bounds.fitting(lacking, dataset, limit):
                if theirs:
                    part_sweep = Sweep(part, dataset, num_pairs=len(theirs))
                    _run(kind, part_sweep, members, theirs, clean, results, settings.pair_seed)
        hosts.complete("stitches are done", lambda: results.missing(pairs, plan), _told)
        hosts.leave_to_first("stitches")
        results.assemble()  # a run may have been stopped just before
        yield Swept(folder, network, dataset, pairs, results.table(pairs, plan), results.curves(pairs, plan))


def _require_finite(members: Zoo, accuracy: Sequence[float], path: Path) -> None:
    if lost := diverged(members, accuracy):
        raise InputError(
            f"seeds: {lost} have diverged in {path}: weights or logits are not finite, so that nothing can be stitched "
            "to them; leave them out (--seeds), or train a zoo with other settings (--learning-rate)"
        )


def stitch_phase(
    config: ZooConfig, dataset: Dataset, plan: Plan, pairs: Sequence[tuple[int, int]], folder: Path, limit: float | None
) -> dry_run.Phase:
    """Stitching what a run folder lacks."""
    lacking = {plan: list(pairs)}
    if (folder / runs.CONFIG).exists():
        lacking = Results(folder).missing(pairs, plan)
    # Counted on plain convolutions, as the zoo's are.
    plain = segment_flops(config.network(dataset), dataset.train.images.shape[1:])
    flops = sum(len(theirs) * cost(part, plain, work_of(part, dataset)) for part, theirs in lacking.items())
    to_do = len({pair for theirs in lacking.values() for pair in theirs})
    if not to_do:
        return dry_run.Phase("pairs to stitch", 0, len(pairs), 0.0)
    _, needed = bounds.fitted(plan, dataset, math.inf if limit is None else limit)
    return dry_run.Phase("pairs to stitch", to_do, len(pairs) - to_do, flops, needed, 1, divisible=True)


def _told(missing: dict[Plan, list[tuple[int, int]]]) -> list:
    """What is missing, for processes to compare."""
    return [[part.points, [family.label for family in part.families], pairs] for part, pairs in missing.items()]


def _run(kind: str, sweep: Sweep, members, pairs, clean, results: Results, seed: int) -> None:
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
        found = sweep.run(members.member, pairs, seed=seed, **steps)
        for result in found:
            results.add(result, clean)


def parse_numbers(name: str, text: str) -> tuple[float, ...]:
    """The numbers of a comma-separated list, or an InputError that names the flag."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"{name}: got {text!r}, wanted numbers with commas between") from None
