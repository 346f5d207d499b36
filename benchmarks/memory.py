"""Device memory of a zoo and of a sweep: what was predicted, and what was used.

    python -m benchmarks.memory                       # mCNN c=16 on 2,048 random images of CIFAR-10's shape
    python -m benchmarks.memory --execution vmap      # as on a GPU

First members per group, one group: memory grows by a line. Then groups of two, more and more of them: it stays. Then a
sweep, whole and cut into parts. Each measurement is a process of its own with one device. On a CPU it is by how much
the process grows at most while the compiled program runs on data that are placed meanwhile, a page or two apart from
what the allocator keeps; elsewhere it is the device's own account.
"""

import ctypes
import dataclasses
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import pandas as pd
import tyro

from benchmarks.sweep import make_dataset
from symjax import models
from symjax.flops import segment_flops
from symjax.ops import memory, parallel
from symjax.ops.compiler import compiler_options
from symjax.ops.parallel import Execution
from symjax.stitching import FitConfig, Pair, Plan, fit, memory_budget, parse_families
from symjax.stitching.partition import count_images, partition
from symjax.training import Recipe, create_state, pad_batches, train_epoch
from symjax.training.loop import device_data

FAMILIES = "full,rank1,rank2,rank4,birkhoff"


@dataclasses.dataclass(frozen=True)
class Settings:
    execution: Literal["default", "map", "vmap"] = "default"
    width: int = 16
    images: int = 2048
    test_images: int = 512
    validation_images: int = 512
    batch_size: int = 32
    dataset: str = "random"
    members: tuple[int, ...] = (1, 2, 4, 8)
    """In one group."""
    groups: tuple[int, ...] = (1, 2, 4)
    """Of two members each."""
    parts: tuple[int, ...] = (1, 2, 4)
    """Into which a sweep is cut."""
    job: str = ""
    """Measures one of them and prints a line of JSON: what each process of its own does."""


def main(settings: Settings) -> None:
    if settings.job:
        kind, first, second = settings.job.split(",")
        return print(json.dumps({"zoo": measure_zoo, "sweep": measure_sweep}[kind](settings, int(first), int(second))))
    zoo = [(n, 1) for n in settings.members] + [(2, n) for n in settings.groups]
    rows = [{"members in a group": m, "groups": g} | in_a_process(f"zoo,{m},{g}") for m, g in zoo]
    show("training a zoo", rows)
    show("a sweep over one pair", [{"parts": n} | in_a_process(f"sweep,{n},0") for n in settings.parts])


def in_a_process(job: str) -> dict[str, int]:
    """Runs this command for one measurement, on one device."""
    command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], "--job", job]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def show(title: str, rows: list[dict]) -> None:
    table = pd.DataFrame(rows)
    table["predicted / measured"] = (table.predicted / table.measured).map("{:.2f}".format)
    for column in ("predicted", "measured"):
        table[column] = (table[column] / 1e6).map("{:.1f} MB".format)
    print(f"\n{title}\n\n{table.to_string(index=False)}", flush=True)


def measure_zoo(settings: Settings, members: int, groups: int) -> dict[str, int]:
    """An epoch of each group, one after another."""
    dataset, network, execution = build(settings)
    recipe = Recipe(epochs=2, batch_size=settings.batch_size, flip=True, translate=2)
    one = jax.eval_shape(partial(create_state, network, recipe, settings.images // settings.batch_size), 0)
    host = parallel.stack([zeros(one)] * members)
    shared = jax.device_get(device_data(dataset, pad_batches(dataset.validation, 128)))
    epoch = partial(train_epoch, network, recipe)

    def run(program):
        placed = jax.device_put(shared)
        for _ in range(groups):
            states, _ = jax.block_until_ready(program(jax.device_put(host), placed))
            del states

    need = memory.estimate_memory(epoch, execution, one, shared)
    return {"predicted": need.bytes_for(members), "measured": growth(compiled(epoch, execution, host, shared), run)}


def measure_sweep(settings: Settings, parts: int, _: int) -> dict[str, int]:
    """An epoch of each part, one after another."""
    dataset, network, execution = build(settings)
    config = FitConfig(epochs=2, batch_size=settings.batch_size, flip=True, translate=2)
    whole = Plan(network, tuple(range(len(network.points))), parse_families(FAMILIES), config, execution)
    plans = partition(whole, parts, segment_flops(network, (32, 32, 3)), count_images(whole, dataset))
    shared = jax.device_get(device_data(dataset, None))
    member = zeros(network.shapes)
    most, used = 0, 0
    for plan in plans:
        moments = [fit.FeatureMoments(*(np.zeros(s) for s in ((d, d), (d, d), (d,)))) for d in channels(plan)]
        key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        state = jax.eval_shape(partial(fit.initialize, plan), Pair(member, member), key, moments)
        host = parallel.stack([zeros(state)])
        epoch = partial(fit.fit_epoch, plan)

        def run(program, host=host):
            jax.block_until_ready(program(jax.device_put(host), jax.device_put(shared)))

        most = max(most, memory_budget.estimate(plan, dataset).bytes_for(1))
        used = max(used, growth(compiled(epoch, execution, host, shared), run))
    return {"predicted": most, "measured": used}


def channels(plan: Plan) -> list[int]:
    return [plan.network.points[point].channels for point in plan.points]


def build(settings: Settings):
    execution = parallel.default_execution()
    if settings.execution != "default":
        execution = Execution(settings.execution, "matmul" if settings.execution == "vmap" else "mixed")
    network = models.create("mcnn", width=settings.width).with_form(execution.conv)
    return make_dataset(settings), network, execution


def zeros(tree):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)


def compiled(fn, execution: Execution, members, shared):
    """The program as `parallel.over_members` compiles it, before anything is on the device."""

    def lifted(members, shared):
        return parallel.each(lambda member: fn(member, shared), execution)(members)

    return jax.jit(lifted, compiler_options=compiler_options()).lower(members, shared).compile()


def growth(program, run) -> int:
    """Bytes by which memory grows at most while `run(program)` works."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        before = device.memory_stats()["bytes_in_use"]
        run(program)
        return device.memory_stats()["peak_bytes_in_use"] - before
    run(program)  # libraries load code and start threads
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free goes back, so that it is not used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins here
    before = status("VmRSS")
    run(program)
    return status("VmHWM") - before


def status(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
