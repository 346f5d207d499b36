"""Time steps of the width-16 mCNN inside programs: milliseconds, GFLOP/s and fraction of the matrix-product peak.

    python -m benchmarks.layers                      # every method, and PyTorch if it is installed
    taskset -c 0 python -m benchmarks.layers         # on one core

Each step runs in a `lax.scan` or `lax.map` under jit. Methods run alternately, and the shortest time is printed: CPU
time of all threads on a CPU, which depends little on other work of the machine, and wall time on other devices.
Operations are those of direct convolutions, so Winograd convolutions may exceed the peak.
"""

import argparse
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.operations import mcnn_flops
from symjax.models import create
from symjax.network import Member
from symjax.ops.compiler import compiler_options
from symjax.ops.parallel import FORMS

STEPS = 8
SIZES = (32, 32, 16, 8)  # size of the feature maps at the stitch points


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()


def stitch_program(network, member, point, labels):
    """Return a program that trains a full stitch by SGD on fixed front features, with the tail in training mode."""

    def step(stitch, features):
        def loss(stitch):
            matrix, bias = stitch
            return cross_entropy(network.tail(member, (features @ matrix.T + bias,), point, mode="train"), labels)

        value, gradient = jax.value_and_grad(loss)(stitch)
        return jax.tree.map(lambda a, b: a - 0.01 * b, stitch, gradient), value

    return jax.jit(lambda stitch, features: lax.scan(step, stitch, features), compiler_options=compiler_options())


def member_program(network, labels):
    """Return a program that trains all parameters by SGD in "train" mode."""

    def step(member, images):
        def loss(params):
            whole = Member(params, member.state)
            logits, state = network.apply(whole, images, mode="train", with_state=True)
            return cross_entropy(logits, labels), state

        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(member.params)
        return Member(jax.tree.map(lambda a, b: a - 0.01 * b, member.params, gradient), state), value

    return jax.jit(lambda member, images: lax.scan(step, member, images), compiler_options=compiler_options())


def forward_program(network, mode):
    def program(member, images):
        return lax.map(lambda batch: network.apply(member, batch, mode=mode), images)

    return jax.jit(program, compiler_options=compiler_options())


def benchmark_steps(methods, width, batch_size, forward_batches):
    """Return {step: (operations of one step, {method: function that runs STEPS steps})}."""
    flops, labels = np.asarray(mcnn_flops(width)) * batch_size, jnp.arange(batch_size) % 10
    networks = {method: create("mcnn", width=width).with_form(method) for method in methods}
    member = jax.jit(create("mcnn", width=width).init)(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (STEPS, batch_size, 32, 32, 3))
    torch_steps = pytorch(width, batch_size)
    steps = {}

    def add(name, operations, program, *arguments):
        thunks = {method: blocking(program(network), *arguments) for method, network in networks.items()}
        steps[name] = operations, thunks | ({"torch": torch_steps[name]} if name in torch_steps else {})

    for point, size in enumerate(SIZES):
        channels = width * 2**point
        features = jax.random.uniform(jax.random.key(2), (STEPS, batch_size, size, size, channels))
        stitch = jnp.eye(channels), jnp.zeros((channels,))
        operations = 2 * flops[point + 1 :].sum() + 4 * channels**2 * size**2 * batch_size
        add(
            f"stitch at point {point}", operations,
            lambda network, point=point: stitch_program(network, member, point, labels), stitch, features,
        )  # fmt: skip
    add("member", 3 * flops.sum() - flops[0], lambda network: member_program(network, labels), member, images)
    for mode in ("inference", "moments"):
        for size in forward_batches:
            many = images.reshape(-1, 32, 32, 3)
            many = jnp.resize(many, (STEPS * max(size, batch_size) // size, size, 32, 32, 3))
            operations = flops.sum() * many.shape[0] * size / (STEPS * batch_size)
            add(f"{mode}, batch {size}", operations, lambda n, mode=mode: forward_program(n, mode), member, many)
    return steps


def pytorch(width, batch_size):
    """Return the same steps in PyTorch by name; empty if it is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return {}
    from torch import nn
    from torch.nn import functional

    from benchmarks.published import MyrtleCNN

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    channels_last = {"memory_format": torch.channels_last}
    labels = torch.arange(batch_size) % 10
    model = MyrtleCNN(width).to(**channels_last)

    def training(model, trained, batches):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.01, fused=True)

        def run():
            for batch in batches:
                optimizer.zero_grad(set_to_none=True)
                functional.cross_entropy(model(batch), labels).backward()
                optimizer.step()

        return run

    def forward():
        with torch.no_grad():
            for batch in images:
                evaluated(batch)

    images = [torch.randn(batch_size, 3, 32, 32).to(**channels_last) for _ in range(STEPS)]
    evaluated = MyrtleCNN(width).to(**channels_last).eval()
    steps = {"member": training(model.train(), model, images), f"inference, batch {batch_size}": forward}
    frozen = MyrtleCNN(width).to(**channels_last).train().requires_grad_(False)
    for point, size in enumerate(SIZES):
        channels = width * 2**point
        stitch = nn.Conv2d(channels, channels, 1).to(**channels_last)
        features = [torch.rand(batch_size, channels, size, size).to(**channels_last) for _ in range(STEPS)]
        steps[f"stitch at point {point}"] = training(
            nn.Sequential(stitch, frozen.segments[point + 1 :]), stitch, features
        )
    return steps


def blocking(program, *arguments):
    return lambda: jax.block_until_ready(program(*arguments))


def best_seconds(thunks, turns):
    """Return the shortest time of `turns` runs of each function in seconds; functions run alternately."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    best = dict.fromkeys(thunks, float("inf"))
    for thunk in thunks.values():
        thunk()  # compiles
    for _ in range(turns):
        for name, thunk in thunks.items():
            start = clock()
            thunk()
            best[name] = min(best[name], clock() - start)
    return best


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layers", description="Time the layers in loops.")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--forward-batches", type=int, nargs="+", default=[16, 32, 64, 250])
    parser.add_argument("--methods", nargs="+", default=["matmul", "mixed"], choices=FORMS)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()

    square = jnp.ones((1024, 1024))
    product = blocking(jax.jit(lambda a: lax.fori_loop(0, STEPS, lambda _, x: x @ a * 1e-3, a)), square)
    peak = 2 * 1024**3 * STEPS / best_seconds({"matmul": product}, args.turns)["matmul"]
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0))
    print(f"jax {jax.__version__}, {device.device_kind}, {cores} cores, matmul {peak / 1e9:.0f} GFLOP/s")
    for name, (operations, thunks) in benchmark_steps(
        args.methods, args.width, args.batch_size, args.forward_batches
    ).items():
        for method, seconds in best_seconds(thunks, args.turns).items():
            speed = operations * STEPS / seconds
            rate = f"{seconds / STEPS * 1e3:9.2f} ms{speed / 1e9:8.1f} GFLOP/s{speed / peak:7.0%}"
            print(f"{name:<24}{method:<10}{rate}", flush=True)


if __name__ == "__main__":
    main()
