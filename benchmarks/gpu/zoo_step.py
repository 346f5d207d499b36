"""Training steps of zoos in every arrangement, beside PyTorch, which trains one model at a time.

A program is an epoch of few steps on random images, as `symjax.training.train_epoch` has it, augmentation and optimizer
included. Several programs compile side by side before they are timed.
"""

import functools
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic, perf_counter

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.environment import torch_device
from benchmarks.gpu.report import Report
from benchmarks.gpu.timing import matmul_peak, seconds
from benchmarks.operations import member_step_flops
from symjax.data import Split
from symjax.flops import step_flops
from symjax.models import create
from symjax.ops.compiler import compiler_options
from symjax.ops.parallel import FORMS, Execution, each
from symjax.training import Recipe, create_state, train_epoch
from symjax.training.loop import TrainData

BATCH = 32
PEAK = {"bfloat16": "bfloat16", "float32": "tf32"}  # what products of these are done in, unasked
PATIENCE = 0.4  # the share of the time left for which compilation is waited for
EXECUTIONS = [Execution(members, conv) for conv in FORMS for members in ("vmap", "map")]


@dataclass(frozen=True)
class Case:
    model: str
    width: int | None
    members: int
    execution: Execution
    dtype: str
    steps: int

    @property
    def name(self) -> str:
        how = f"{self.execution.members} {self.execution.conv} {self.dtype}"
        return f"{self.model}{self.width or ''}, {self.members} members, {how}"

    @property
    def network(self):
        return create(self.model, width=self.width, dtype=jnp.dtype(self.dtype)).with_form(self.execution.conv)

    @property
    def images(self) -> int:
        return BATCH * self.steps


def run(report: Report) -> None:
    width, many, others, steps = 64, 32, (128, 8, 1), 16
    models, size = [("resnet20", None), ("cct7", None)], 8192
    # What is likely the best first: matrix products batch over members, and a loop needs no batch. Grouped
    # convolutions, which `vmap` makes of native ones, may take long to compile, so they come last.
    likely = [Execution("vmap", "matmul"), Execution("map", "native")]
    last = [Execution("vmap", "native")]
    between = [execution for execution in EXECUTIONS if execution not in likely + last]
    batches = [list(itertools.product(of, PEAK)) for of in (likely, between, last)]
    if report.rehearse:
        width, many, others, steps, models, size = 4, 2, (), 2, [], 128
        batches = [[(Execution("map", "mixed"), "float32")]]
    peaks = {dtype: matmul_peak(kind, size) for dtype, kind in PEAK.items()}
    speeds: dict[Case, float] = {}
    torch: dict[str, float] = {}

    def cases(members, arrangements, model="mcnn", width=width):
        return [Case(model, width, members, *how, steps if members <= 32 else steps // 2) for how in arrangements]

    for arrangements in batches:
        measure(report, cases(many, arrangements), peaks, speeds)
        torch = torch or torch_rows(report, width, BATCH * steps, peaks)
        ranked = sorted(speeds, key=speeds.get, reverse=True)
        for dtype in PEAK:
            for case in [case for case in ranked if case.dtype == dtype][:1]:
                report.row(f"best arrangement of {many} members in {dtype}", speeds[case], "images/s", case.name)
        for case in ranked[:1]:
            for name, speed in torch.items():
                report.row(f"{many} members against {name}", speeds[case] / speed, "times the throughput")
    best = [(case.execution, case.dtype) for case in ranked]
    for model, own in models:
        measure(report, cases(many, best[:2], model, own), peaks, speeds)
    for ways in (best[:2], best[2:]):
        measure(report, [case for members in others for case in cases(members, ways)], peaks, speeds)


def measure(report: Report, cases: Sequence[Case], peaks: dict[str, float], speeds: dict[Case, float]) -> None:
    """A row for each case; images per second of all members together into `speeds`."""
    for model, width in {(case.model, case.width) for case in cases}:
        with report.case(f"{model} as drawn"):
            one_state(model, width)  # once, not in every thread
    pool = ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 1) // 2)))
    compiling = {case: pool.submit(compiled, case) for case in cases}
    end, programs = monotonic() + PATIENCE * report.left(), {}
    for case, future in compiling.items():
        with report.case(case.name):
            programs[case] = future.result(timeout=max(1.0, end - monotonic()))
    pool.shutdown(wait=False, cancel_futures=True)
    for case, (program, compile_s) in programs.items():
        with report.case(case.name):
            arguments = states(case), train_data(case.images)
            run = functools.partial(program, *arguments)
            jax.block_until_ready(run())
            spent = seconds(run, repeats=5, most=4)
            speeds[case] = case.members * case.images / spent
            share = speeds[case] * flops_per_image(case.model, case.width) / peaks[case.dtype]
            comment = (
                f"{speeds[case] / case.members:,.0f} for each member; {1e3 * spent / case.steps:.2f} ms a step; "
                f"{share:.1%} of the {PEAK[case.dtype]} peak; compiled in {compile_s:.1f} s beside others"
            )
            report.row(case.name, speeds[case], "images/s", comment)


def compiled(case: Case):
    """The program, and the seconds that tracing and compiling it took."""
    recipe, network, began = Recipe(batch_size=BATCH, flip=True, translate=2), case.network, perf_counter()

    def epoch(states, data):
        return each(lambda state: train_epoch(network, recipe, state, data), case.execution)(states)

    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), train_data(case.images))
    members = jax.eval_shape(lambda one: _stacked(one, case.members), one_state(case.model, case.width))
    program = jax.jit(epoch, compiler_options=compiler_options()).lower(members, shapes).compile()
    return program, perf_counter() - began


def _stacked(one, members: int):
    """States of so many members; alike, which the time does not depend on, and quicker to make."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (members, *leaf.shape)), one)


def states(case: Case):
    return jax.jit(_stacked, static_argnums=1)(one_state(case.model, case.width), case.members)


@functools.lru_cache
def one_state(model: str, width: int | None):
    """Of one member; the same for all ways to compute."""
    return jax.jit(
        lambda: create_state(
            create(model, width=width), Recipe(batch_size=BATCH, flip=True, translate=2), 1, jnp.int32(0)
        )
    )()


@functools.lru_cache
def train_data(images: int) -> TrainData:
    split = random_images(images)
    mean, std = np.full(3, 127.5, np.float32), np.full(3, 74.0, np.float32)
    return TrainData(*map(jnp.asarray, (split.images, split.labels, mean, std)), None)


def random_images(count: int) -> Split:
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count).astype(np.int32))


@functools.lru_cache
def flops_per_image(model: str, width: int | None) -> float:
    """Of a training step with plain convolutions."""
    if model == "mcnn":
        return member_step_flops(width)
    return step_flops(create(model, width=width), (32, 32, 3), Recipe(batch_size=BATCH, flip=True, translate=2)) / BATCH


def torch_rows(report: Report, width: int, images: int, peaks: dict[str, float]) -> dict[str, float]:
    """Images per second of PyTorch's forms, by name."""
    speeds = {}
    forms = {
        "PyTorch eager, float32": {},
        "PyTorch eager, bfloat16 autocast": {"autocast": True},
        "PyTorch CUDA graphs, bfloat16 autocast": {"autocast": True, "graphs": True},
    }
    for name, options in forms.items():
        with report.case(name):
            import torch

            from benchmarks import published

            device = torch_device(torch)
            if options.get("graphs") and device != "cuda":
                report.row(name, None, "left out", "needs CUDA")
                continue
            split = random_images(images)
            common = {"width": width, "batch_size": BATCH, "seed": 0, "device": device, **options}
            few, many = (1, 2) if report.rehearse else (2, 32)
            spent = {}
            for epochs in (
                few,
                few,
                many,
            ):  # the first time kernels are chosen; what is left in `few` begins a training
                clock = published.Seconds()
                published.train_member(split.images, split.labels, epochs=epochs, seconds=clock, **common)
                spent[epochs] = clock.training
            epochs, training = many - few, spent[many] - spent[few]  # without what begins a training
            if training <= 0:  # lost in noise
                epochs, training = many, spent[many]
            speeds[name] = epochs * images / training
            share = speeds[name] * member_step_flops(width) / peaks["bfloat16" if options else "float32"]
            milliseconds = 1e3 * training / (epochs * images // BATCH)
            comment = f"one model at a time, channels last; {milliseconds:.2f} ms a step; {share:.1%} of the peak"
            report.row(name, speeds[name], "images/s", comment)
    return speeds
