"""Compare the speed of symjax with a PyTorch implementation of the published procedure.

    python -m benchmarks.sweep                        # mCNN c=16, batch 32, 2,048 images, one pair and four pairs
    python -m benchmarks.sweep --width 64 --members 32 --precision bfloat16 --device cuda

The rows of the table are one epoch of zoo training per member, and a stitch sweep per pair (all layers; full, rank 1,
2, 4 and birkhoff), which includes training, batch-norm re-estimation, validation and test in both implementations. The
share of the matrix-product peak of the machine is given, too. Throughput does not depend on the content of the images,
so they are random unless --dataset names a data set. Without PyTorch (`pip install torch`) only symjax is timed.
"""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from benchmarks import operations
from benchmarks.operations import FAMILIES, LAYERS
from symjax import data, models, zoo
from symjax.data import Dataset, Split
from symjax.ops import parallel, runs
from symjax.pairs import all_pairs
from symjax.stitching import FitConfig, Plan, Sweep, parse_families
from symjax.training import Recipe, create_state, pad_batches, train_epoch
from symjax.training.loop import device_data


@dataclasses.dataclass(frozen=True)
class Settings:
    width: int = 16
    """Width of the Myrtle CNN."""
    images: int = 2048
    """Number of training images, all of which batch-norm re-estimation uses."""
    test_images: int = 2048
    validation_images: int = 512
    batch_size: int = 32
    eval_batch_size: int = 32
    """Evaluation batch size of symjax; PyTorch uses a batch size that suits the device."""
    members: int = 4
    """Number of zoo members that train together."""
    pairs: tuple[int, ...] = (1, 4)
    """Numbers of pairs of the sweeps."""
    families: tuple[str, ...] = FAMILIES
    layers: tuple[int, ...] = LAYERS
    """Layers to stitch: numbers of ReLUs, counted from 1."""
    repeats: int = 3
    """Number of timed runs, whose medians are printed."""
    dataset: str = "random"
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    """Device of PyTorch; symjax uses the default device of JAX."""


def main(settings: Settings) -> None:
    parallel.use_cores()
    print(" · ".join(f"{name} {version}" for name, version in runs.versions().items()))
    dataset = make_dataset(settings)
    peak = matmul_peak(settings.precision)
    print(f"matrix-product peak ({settings.precision}): {peak / 1e9:.0f} GFLOP/s\n")
    try:
        from benchmarks import published
    except ModuleNotFoundError as error:
        print(f"{error}; only symjax is timed\n")
        published = None
    rows = [zoo_row(settings, dataset, published), *sweep_rows(settings, dataset, published)]
    table = pd.DataFrame(rows)
    table["GFLOP/s"] = table.flops / table.symjax_s / 1e9
    table["share of peak"] = table.flops / table.symjax_s / peak
    if published is not None:
        table["PyTorch GFLOP/s"] = table.torch_flops / table.torch_s / 1e9
        table["times as fast"] = table.torch_s / table.symjax_s
    print(table.drop(columns=["flops", "torch_flops"]).to_string(index=False, float_format="%.2f"))


def make_dataset(settings: Settings) -> Dataset:
    if settings.dataset != "random":
        dataset = data.load(settings.dataset, train_size=settings.images, test_size=settings.test_images)
        held_out = Split(
            *(a[: settings.validation_images] for a in (dataset.validation.images, dataset.validation.labels))
        )
        return dataclasses.replace(dataset, validation=held_out)
    rng = np.random.default_rng(0)

    def split(n):
        return Split(rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, n).astype(np.int32))

    sizes = (settings.images, settings.validation_images, settings.test_images)
    names = tuple(str(i) for i in range(10))
    return Dataset("random", *map(split, sizes), names, np.full(3, 127.5, np.float32), np.full(3, 74.0, np.float32))


def matmul_peak(precision: str, size: int = 2048) -> float:
    """Return the highest FLOP/s of several runs of a large matrix product."""
    a = jnp.ones((size, size), precision)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    return 2 * size**3 / min(seconds(lambda: jax.block_until_ready(product(a))) for _ in range(8))


def seconds(run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def timed_in_turn(repeats: int, *runs_) -> list[float]:
    """Return the median time of each run in seconds; runs alternate, so that drift affects all equally."""
    all_times = [[] for _ in runs_]
    for _ in range(repeats):
        for times, run in zip(all_times, runs_, strict=True):
            times.append(seconds(run) if run else float("nan"))
    return [statistics.median(times) for times in all_times]


def build(settings: Settings):
    execution = parallel.default_execution()
    dtype = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[settings.precision]
    return models.create("mcnn", width=settings.width, dtype=dtype).with_form(execution.conv), execution


def zoo_row(settings: Settings, dataset: Dataset, published) -> dict:
    network, execution = build(settings)
    recipe = Recipe(batch_size=settings.batch_size, flip=True, translate=2)
    steps = settings.images // settings.batch_size
    create = jax.jit(jax.vmap(lambda seed: create_state(network, recipe, steps, seed)))
    states = create(jnp.arange(settings.members, dtype=jnp.int32))
    shared = device_data(dataset, pad_batches(dataset.validation, settings.eval_batch_size))
    epoch = parallel.over_members(lambda state, d: train_epoch(network, recipe, state, d), execution, effort=1)
    first = seconds(lambda: jax.block_until_ready(epoch(states, shared)))
    arguments = {
        "width": settings.width,
        "batch_size": settings.batch_size,
        "epochs": 1,
        "seed": 0,
        "mean": dataset.mean,
        "deviation": dataset.std,
        "device": settings.device,
        "autocast": settings.precision == "bfloat16",
    }
    torch_run = published and (lambda: torch_member(published, dataset, arguments))
    if torch_run:
        torch_run()  # warm-up: PyTorch selects kernels on first use
    symjax_run = lambda: jax.block_until_ready(epoch(states, shared))  # noqa: E731
    symjax_s, torch_s = timed_in_turn(settings.repeats, symjax_run, torch_run)
    flops = operations.member_step_flops(settings.width) * settings.images
    flops += sum(operations.mcnn_flops(settings.width)) * settings.validation_images
    row = {"what": f"zoo epoch per member, {settings.members} members", "symjax_s": symjax_s / settings.members}
    return {**row, "torch_s": torch_s, "compile_s": first - symjax_s, "flops": flops, "torch_flops": flops}


def torch_member(published, dataset: Dataset, arguments: dict) -> None:
    model = published.train_member(dataset.train.images, dataset.train.labels, **arguments)
    published.evaluate(
        model,
        dataset.validation.images,
        dataset.validation.labels,
        64 if arguments["device"] == "cpu" else 500,
        autocast=arguments["autocast"],
        mean=dataset.mean,
        deviation=dataset.std,
    )


def sweep_rows(settings: Settings, dataset: Dataset, published) -> Iterator[dict]:
    """Yield a row for each number of pairs as soon as it is measured."""
    network, execution = build(settings)
    config = FitConfig(
        epochs=1,
        batch_size=settings.batch_size,
        eval_batch_size=settings.eval_batch_size,
        reestimation_images=settings.images,
        learning_rates=(1e-3,),
        flip=True,
        translate=2,
    )
    points = tuple(layer - 1 for layer in settings.layers)
    plan = Plan(network, points, parse_families(",".join(settings.families)), config, execution)
    count_members = next(n for n in itertools.count(2) if n * (n - 1) >= max(settings.pairs))
    create = jax.jit(network.init)
    members = [create(key) for key in jax.random.split(jax.random.key(0), count_members)]

    def symjax_sweep(sweep, pairs):
        needed = parallel.stack([members[i] for i in sorted({i for pair in pairs for i in pair})])
        zoo.evaluate(
            network, needed, dataset.test, dataset.mean, dataset.std
        )  # clean accuracies, as in the published procedure
        return list(sweep.run(members.__getitem__, pairs))

    torch_run, (flops_torch, flops_symjax) = None, sweep_flops(settings)
    if published:
        models_torch = [published.MyrtleCNN(settings.width).to(settings.device) for _ in range(2)]
        torch_run = torch_sweep(settings, dataset, published, models_torch)
    for count in settings.pairs:
        run = partial(symjax_sweep, Sweep(plan, dataset, num_pairs=count), all_pairs(range(count_members))[:count])
        first = seconds(run)
        # The time of the published procedure is proportional to the number of pairs, so one pair is timed.
        symjax_s, torch_s = timed_in_turn(settings.repeats, run, torch_run)
        row = {"what": f"sweep per pair, {count} pair(s)", "symjax_s": symjax_s / count, "torch_s": torch_s}
        yield {**row, "compile_s": first - symjax_s, "flops": flops_symjax, "torch_flops": flops_torch}


def torch_sweep(settings: Settings, dataset: Dataset, published, models_torch):
    def run():
        published.stitch_sweep(
            *models_torch,
            (dataset.train.images, dataset.train.labels),
            (dataset.test.images, dataset.test.labels),
            validation=(dataset.validation.images, dataset.validation.labels),
            families=settings.families,
            layers=settings.layers,
            epochs=1,
            batch_size=settings.batch_size,
            lr=1e-3,
            autocast=settings.precision == "bfloat16",
            device=settings.device,
            mean=dataset.mean,
            deviation=dataset.std,
        )

    return run


def sweep_flops(settings: Settings) -> tuple[float, float]:
    """Return the operations of the sweep of one pair: as published, and with shared fronts."""
    parts = operations.sweep_flops(
        settings.width,
        train=settings.images,
        test=settings.test_images,
        epochs=1,
        batch_size=settings.batch_size,
        families=settings.families,
        layers=settings.layers,
        validation=settings.validation_images,
    )
    segments = operations.mcnn_flops(settings.width)
    front, tails = sum(segments[: max(settings.layers)]), sum(sum(segments[layer:]) for layer in settings.layers)
    families = len(settings.families)
    trained = settings.images * (front + families * 2 * tails)
    evaluated = (settings.images + settings.validation_images + settings.test_images) * (front + families * tails)
    clean = 2 * settings.test_images * sum(segments)
    return float(sum(parts.values())), float(trained + evaluated + clean)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Settings, description=__doc__))
