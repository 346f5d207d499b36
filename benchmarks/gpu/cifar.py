"""Train a zoo of 32 Myrtle CNNs of width 64 on CIFAR-10, for as many epochs as time allows, and stitch 8 pairs."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.images import load
from benchmarks.gpu.report import Report
from benchmarks.sweep import Settings
from symjax import models, zoo
from symjax.ops import parallel
from symjax.pairs import all_pairs
from symjax.stitching import FitConfig, Plan, Sweep, parse_families
from symjax.training import Recipe, create_state, pad_batches, train_epoch
from symjax.training.loop import device_data

TRAINING = 0.6  # fraction of the time of the step


def run(report: Report) -> None:
    sizes = {"images": 45_000, "validation_images": 5_000, "test_images": 10_000}
    width, members, pairs, dtype = 64, 32, 8, jnp.bfloat16
    if report.rehearse:
        sizes, width, members, pairs, dtype = dict.fromkeys(sizes, 32), 4, 2, 1, jnp.float32
    dataset, images = load(Settings(**sizes), report)
    execution = parallel.default_execution()
    network = models.create("mcnn", width=width, dtype=dtype).with_form(execution.conv)
    trained = train(report, network, execution, dataset, f"{images}, {jnp.dtype(dtype)}", members)
    with report.case("stitches"):
        stitch(report, network, execution, dataset, trained, pairs)


def train(report, network, execution, dataset, images, members):
    recipe = Recipe(epochs=50, flip=True, translate=2)
    steps, end = len(dataset.train) // recipe.batch_size, report.deadline - (1 - TRAINING) * report.left()
    states = jax.jit(jax.vmap(lambda seed: create_state(network, recipe, steps, seed)))(jnp.arange(members))
    shared = device_data(dataset, pad_batches(dataset.validation, 500))
    epoch = parallel.over_members(lambda state, data: train_epoch(network, recipe, state, data), execution)
    longest, done, most = 0.0, 0, 2 if report.rehearse else recipe.epochs
    while done < most and (done < 2 or time.monotonic() + longest < end):
        began = time.monotonic()
        states, metrics = jax.block_until_ready(epoch(states, shared))
        spent, done = time.monotonic() - began, done + 1
        longest = max(longest, spent) if done > 1 else 0.0  # the first epoch includes compilation
        comment = f"{members} members, {images}, {execution.members} {execution.conv}"
        name = "seconds of the first epoch, compiling" if done == 1 else "seconds of an epoch"
        report.row(name, spent, "s", f"{comment}; {members * len(dataset.train) / spent:,.0f} images/s")
        accuracy = 100 * np.asarray(metrics["validation_accuracy"])
        report.row("validation accuracy", accuracy.mean(), "%", f"after {done} epochs of a schedule of {recipe.epochs}")
    return jax.device_get(states.member)


def stitch(report, network, execution, dataset, members, count):
    config = FitConfig(
        epochs=1, batch_size=32, flip=True, translate=2, reestimation_images=min(2048, len(dataset.train))
    )
    pairs = all_pairs(range(len(next(iter(jax.tree.leaves(members))))))[:count]
    families = "identity" if report.rehearse else "full,rank1,birkhoff"
    plan = Plan(network, tuple(range(len(network.points))), parse_families(families), config, execution)
    began = time.monotonic()
    clean = 100 * zoo.evaluate(network, members, dataset.test, dataset.mean, dataset.std)
    results = list(Sweep(plan, dataset, num_pairs=count).run(lambda seed: parallel.take(members, seed), pairs))
    report.row(f"stitches of {count} pairs", time.monotonic() - began, "s", f"{families}; including compilation")
    rows = [(row, clean[list(result.pair)].mean()) for result in results for row in result.rows]
    for layer, family in dict.fromkeys((row["layer"], row["family"]) for row, _ in rows):
        penalties = [own - r["stitched_accuracy"] for r, own in rows if (r["layer"], r["family"]) == (layer, family)]
        report.row(f"penalty at {layer}, {family}", float(np.mean(penalties)), "points", "one epoch of stitching")
