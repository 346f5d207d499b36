"""Stitches the front of one network to the tail of another at every layer, and measures the accuracy lost.

With no argument: a zoo of 4 narrow Myrtle CNNs on scikit-learn's digits, 4 pairs, every family of stitch, every layer.
The zoo is trained where it is missing. The same command again recomputes nothing; more pairs, layers or families extend
what is there.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tqdm import tqdm

from experiments.settings import ZooSettings, optional, run_command, zoo_folder
from symjax import models, parallel, plots, runs, zoo
from symjax.errors import InputError
from symjax.stitching import FitConfig, Plan, Sweep, draw_pairs, parse_families
from symjax.stitching.results import Results

EVERY_FAMILY = (
    "identity,matched,least_squares,full,orthogonal,lasso:1e-3,birkhoff,birkhoff_published,softsort,rank4,rank1"
)
# Passes over the training images that suit a data set; of others, what is published.
STITCH_EPOCHS = {"digits": 6}


@dataclasses.dataclass(frozen=True)
class Settings(ZooSettings):
    pairs: str = "4"
    """How many ordered pairs (front, tail) of different members to draw, or all."""
    pair_seed: int = 0
    """Of the draw of pairs and of the stitches' random starts."""
    layers: str = "all"
    """Stitch points by name, as in relu1,relu3, or all."""
    families: str = EVERY_FAMILY
    """Stitch families: identity, matched, least_squares, full, orthogonal, lasso[:weight], birkhoff[:alpha],
    birkhoff_published[:alpha], softsort[:tau], rank1, rank2, ..."""
    stitch_epochs: Annotated[int | None, optional("INT", "digits 6, otherwise 20")] = None
    """Passes over the training images for the stitches."""
    stitch_optimizer: Literal["adam", "sgd"] = "adam"
    """Of the stitches; sgd is the published one."""
    stitch_learning_rates: str = "1e-2"
    """Step sizes to try for every family alike, as in 1e-2,1e-3; the validation split picks."""
    stitch_schedule: Literal["cosine", "constant"] = "cosine"
    """How the step size goes over the run."""
    start: Literal["auto", "identity", "random", "matched", "least_squares"] = "auto"
    """Where stitches that train start; auto is what suits the family best."""
    bias: bool = False
    """Give stitches that train a bias."""
    zoo: Annotated[Path | None, optional("DIR", "as python -m experiments.zoo has it")] = None
    """The folder of the zoo; trained there where it is missing."""
    out: Annotated[Path | None, optional("DIR", "runs/stitch/ and a name made from the settings")] = None
    """The folder of the results."""

    def fit_config(self, recipe) -> FitConfig:
        """How stitches are trained."""
        default_epochs = STITCH_EPOCHS.get(self.dataset, 20)
        rates = _floats("stitch_learning_rates", self.stitch_learning_rates)
        if self.stitch_epochs is not None and self.stitch_epochs < 1:
            raise InputError(f"stitch_epochs: got {self.stitch_epochs}, wanted a positive number")
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


def main(settings: Settings) -> None:
    # Everything that can be wrong with the flags is found before anything is trained.
    config, seeds = settings.zoo_config(), settings.parse_seeds()
    families = parse_families(settings.families)
    fit_config = settings.fit_config(config.recipe)
    pairs = draw_pairs(seeds, _pair_count(settings.pairs), settings.pair_seed)
    dataset = settings.load_dataset()
    execution = parallel.default_execution()
    network = models.create(
        config.model,
        width=config.width,
        channels=dataset.channels,
        classes=dataset.num_classes,
        method=execution.conv,
        dtype=zoo.PRECISIONS[config.precision],
    )
    plan = Plan(network, network.parse_points(settings.layers), families, fit_config, execution)
    sweep = Sweep(plan, dataset, num_pairs=len(pairs))

    document = {"zoo": config.to_json(), "fit": dataclasses.asdict(fit_config), "pair_seed": settings.pair_seed}
    document["test_size"] = settings.test_size
    name = f"{zoo_folder(config).name}-{runs.fingerprint(document)}"
    out = settings.out or Path("runs", "stitch", name)
    if out.exists():
        with runs.open_folder(out, "stitch", document):
            pass
    members = zoo.train(config, dataset, seeds, settings.zoo or zoo_folder(config))
    with runs.open_folder(out, "stitch", document) as folder:
        results = Results(folder)
        results.record(pairs=pairs, layers=[network.points[p].name for p in plan.points], seeds=seeds)
        clean = dict(zip(seeds, _percent(zoo.test_accuracy(members, dataset), len(dataset.test)), strict=True))
        for part, theirs in results.missing(pairs, plan).items():
            planned = part == plan and len(theirs) == len(pairs)
            part_sweep = sweep if planned else Sweep(part, dataset, num_pairs=len(theirs))
            _run(part_sweep, members, theirs, clean, results, settings.pair_seed)
        results.assemble()  # a run may have been stopped just before
        table = results.table(pairs, plan)
        plots.penalties(table, folder / "penalties")
        plots.curves(results.curves(pairs, plan), folder / "curves")
        print(f"\n{network.name} on {dataset.name}: clean accuracy {table.clean_accuracy.mean():.2f} %")
        print(f"stitching penalty in percentage points, mean ± deviation over {len(pairs)} pairs:\n")
        print(results.summary(table).to_string())
        print(f"\nresults: {folder}")


def _run(sweep: Sweep, members, pairs, clean, results: Results, seed: int) -> None:
    groups = -(-len(pairs) // sweep.group_size)
    quiet = 0.1 if sys.stderr.isatty() else 15
    epochs = sweep.plan.config.epochs if sweep.plan.trained else 0
    bars = {"mininterval": quiet, "dynamic_ncols": True}
    with (
        tqdm(desc="stitch", unit="epoch", total=groups * epochs, **bars) as training,
        tqdm(desc="evaluate", unit="batch", total=groups * sweep.evaluation_steps, **bars) as evaluation,
    ):
        training.set_postfix_str("compiling")

        def on_epoch(metrics):
            training.set_postfix({name: f"{value:.3f}" for name, value in metrics.items()}, refresh=False)
            training.update()

        def on_evaluation(accuracy):
            if accuracy is not None:
                evaluation.set_postfix({"accuracy": f"{accuracy:.3f}"}, refresh=False)
            evaluation.update()

        found = sweep.run(members.member, pairs, seed=seed, on_epoch=on_epoch, on_evaluation=on_evaluation)
        for result in found:
            results.add(result, clean)


def _percent(shares: np.ndarray, count: int) -> np.ndarray:
    """Shares of `count` examples in percent, free of the rounding of float32: accuracies are compared for equality."""
    return 100 * np.rint(np.asarray(shares, np.float64) * count) / count


def _floats(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"{name}: got {text!r}, wanted numbers with commas between") from None


def _pair_count(text: str) -> int | str:
    if text == "all":
        return text
    if not text.isdecimal():
        raise InputError(f"pairs: got {text!r}, wanted a number of pairs, or all")
    return int(text)


if __name__ == "__main__":
    run_command(main, Settings)
