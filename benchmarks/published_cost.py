"""Estimate the cost of the published experiments: operations, device memory, and time on 1, 8 and 64 accelerators.

    python -m benchmarks.published_cost
    python -m benchmarks.published_cost --teraflops 40 --models mcnn

The experiments are zoos of 100 members trained for 50 epochs, and stitches of 32 pairs at all layers for 20 epochs:
full, rank 1, 2 and 4, lasso with 4 weights, G_ReLU with 5 alphas, and softsort (Godfrey et al. 2022). Operations are
counted by the compiler for plain convolutions. Memory is the compiler's analysis of the programs for accelerators
(`vmap` and matrix products). The speed of an accelerator, `--teraflops`, is an assumption; `python -m
experiments.stitch ... --dry-run` measures it.
"""

import dataclasses

import numpy as np
import pandas as pd
import tyro

from experiments.dry_run import DEVICES, spell_seconds
from symjax.data import Dataset, Split
from symjax.flops import segment_flops
from symjax.ops.memory import MemoryEstimate, spell_bytes
from symjax.ops.parallel import Execution
from symjax.stitching import FitConfig, Plan, memory_budget, parse_families
from symjax.stitching.partition import cost, count_images
from symjax.training import Recipe
from symjax.zoo import ZooConfig, estimate, jobs

FAMILIES = ",".join(
    [
        "full,rank1,rank2,rank4",
        *(f"lasso:{weight}" for weight in ("1e-4", "1e-3", "1e-2", "1e-1")),
        *(f"birkhoff:{alpha}" for alpha in ("1e-3", "1e-2", "1e-1", "1", "10")),
        "softsort",
    ]
)
ACCELERATOR = Execution(members="vmap", conv="matmul")


@dataclasses.dataclass(frozen=True)
class Settings:
    models: tuple[str, ...] = ("mcnn", "mcnn_k", "resnet20", "resnet18")
    members: int = 100
    epochs: int = 50
    pairs: int = 32
    stitch_epochs: int = 20
    teraflops: float = 10.0
    """Assumed speed of an accelerator, in 10**12 operations per second."""
    memory: bool = True
    """Compile the programs to estimate their memory; this takes minutes."""


def main(settings: Settings) -> None:
    dataset, rows = cifar10(), []
    for model in settings.models:
        rows += [zoo_row(settings, model, dataset), stitch_row(settings, model, dataset)]
        print(model, "done", flush=True)
    table = pd.DataFrame(rows)
    print(f"\nat {settings.teraflops:g} TFLOP/s for each accelerator\n\n{table.to_string(index=False)}")


def zoo_row(settings: Settings, model: str, dataset: Dataset) -> dict:
    config = ZooConfig("cifar10", model, recipe=Recipe(epochs=settings.epochs, flip=True, translate=2))
    flops = settings.epochs * estimate.epoch_flops(config, dataset)
    memory = None
    if settings.memory:
        memory = jobs.training_program(config, dataset, ACCELERATOR).memory
    return row(settings, f"{model}: {settings.members} members", settings.members, flops, memory, "member")


def stitch_row(settings: Settings, model: str, dataset: Dataset) -> dict:
    config = ZooConfig("cifar10", model)
    fit = FitConfig(epochs=settings.stitch_epochs, flip=True, translate=2)
    networks = {method: config.network(dataset).with_form(method) for method in ("native", ACCELERATOR.conv)}
    points = tuple(range(len(networks["native"].points)))
    plan = Plan(networks[ACCELERATOR.conv], points, parse_families(FAMILIES), fit, ACCELERATOR)
    flops = cost(plan, segment_flops(networks["native"], dataset.train.images.shape[1:]), count_images(plan, dataset))
    memory = None
    if settings.memory:  # of a single stitch, the least that --max-device-memory allows
        one = dataclasses.replace(plan, points=points[:1], families=plan.families[:1])
        memory = memory_budget.estimate(one, dataset)
    stitches = len(points) * len(plan.families)
    what = f"{model}: {settings.pairs} pairs of {stitches} stitches"
    return row(settings, what, settings.pairs, flops, memory, "stitch")


def row(settings: Settings, what: str, count: int, each: float, memory: MemoryEstimate | None, unit: str) -> dict:
    seconds = each / (settings.teraflops * 1e12)
    times = {n: -(-count // n) for n in DEVICES}  # one process for each device, so that a pair is not shared
    text = "" if memory is None else f"{spell_bytes(memory.fixed)} + {spell_bytes(memory.per_member)} for each {unit}"
    return {
        "what": what,
        "operations": f"{count * each:.1e}",
        "device memory": text,
        **{f"{n} device{'s' * (n > 1)}": spell_seconds(rounds * seconds) for n, rounds in times.items()},
    }


def cifar10() -> Dataset:
    """Return a data set of zeros with the shapes of CIFAR-10."""

    def split(n):
        return Split(np.zeros((n, 32, 32, 3), np.uint8), np.zeros(n, np.int32))

    names = tuple(str(i) for i in range(10))
    ones = np.ones(3, np.float32)
    return Dataset("cifar10", split(45_000), split(5_000), split(10_000), names, ones, ones)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
