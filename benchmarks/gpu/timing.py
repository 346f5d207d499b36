"""Time programs on a device, and measure the peak of matrix products."""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def seconds(run: Callable, *, repeats: int = 5, most: float = 5.0) -> float:
    """Return the median time of `repeats` runs, or fewer if these take more than `most` seconds; `run` is compiled."""
    times: list[float] = []
    while len(times) < repeats and (not times or sum(times) < most):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def first_and_then(run: Callable, **options) -> tuple[float, float]:
    """Return the time of the first run, which compiles, and the median of later runs in seconds."""
    begin = time.perf_counter()
    jax.block_until_ready(run())
    first = time.perf_counter() - begin
    return first, seconds(run, **options)


def matmul_peak(kind: str, size: int) -> float:
    """Return FLOP/s of a large matrix product: in full "float32" precision, in "tf32" or in "bfloat16"."""
    dtype, precision = {"float32": ("float32", "highest"), "tf32": ("float32", None), "bfloat16": ("bfloat16", None)}[
        kind
    ]
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.standard_normal((size, size), np.float32), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    return 2 * size**3 / first_and_then(lambda: product(a), repeats=9, most=1)[1]


def torch_seconds(torch, run: Callable, *, repeats: int = 5, most: float = 5.0) -> float:
    """Return the median time of a PyTorch function, as `seconds`."""

    def synchronized():
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    synchronized()
    return seconds(synchronized, repeats=repeats, most=most)
