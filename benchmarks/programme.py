"""What the published programme costs: operations, device memory, and hours on 1, 8 and 64 accelerators.

    python -m benchmarks.programme
    python -m benchmarks.programme --teraflops 40 --models mcnn

Zoos of 100 members of 50 epochs, then stitches of 32 pairs at all layers, 20 epochs each: full, rank 1, 2 and 4, lasso
with 4 weights, G_ReLU with 5 alphas and by softsort (Godfrey et al. 2022). Operations are the compiler's count of plain
convolutions; memory is its analysis of the programs in the form for accelerators (`vmap` and matrix products), compiled
here. Only `--teraflops`, what an accelerator sustains, is assumed: `python -m experiments.stitch ... --dry-run`
measures it on the machine that it runs on.
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
    """That an accelerator sustains (10**12 operations a second): an assumption."""
    memory: bool = True
    """Compile programs to see what memory they need; takes minutes."""


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
    if settings.memory:  # of one stitch at a time, to which --max-device-memory can come down
        one = dataclasses.replace(plan, points=points[:1], families=plan.families[:1])
        memory = memory_budget.estimate(one, dataset)
    stitches = len(points) * len(plan.families)
    what = f"{model}: {settings.pairs} pairs of {stitches} stitches"
    return row(settings, what, settings.pairs, flops, memory, "stitch")


def row(settings: Settings, what: str, count: int, each: float, memory: MemoryEstimate | None, unit: str) -> dict:
    seconds = each / (settings.teraflops * 1e12)
    times = {n: -(-count // n) for n in DEVICES}  # on a process for each device, so that none share a pair's stitches
    text = "" if memory is None else f"{spell_bytes(memory.fixed)} + {spell_bytes(memory.per_member)} for each {unit}"
    return {
        "what": what,
        "operations": f"{count * each:.1e}",
        "device memory": text,
        **{f"{n} device{'s' * (n > 1)}": spell_seconds(rounds * seconds) for n, rounds in times.items()},
    }


def cifar10() -> Dataset:
    """Its shapes."""

    def split(n):
        return Split(np.zeros((n, 32, 32, 3), np.uint8), np.zeros(n, np.int32))

    names = tuple(str(i) for i in range(10))
    ones = np.ones(3, np.float32)
    return Dataset("cifar10", split(45_000), split(5_000), split(10_000), names, ones, ones)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
