"""Seconds of what runs on a device, and what it can do at best."""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def seconds(run: Callable, *, repeats: int = 5, most: float = 5.0) -> float:
    """The median of repeated runs of what has run before; fewer than `repeats` where these take over `most` seconds."""
    times: list[float] = []
    while len(times) < repeats and (not times or sum(times) < most):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def first_and_then(run: Callable, **options) -> tuple[float, float]:
    """Seconds of the first run, which compiles, and of later ones."""
    begin = time.perf_counter()
    jax.block_until_ready(run())
    first = time.perf_counter() - begin
    return first, seconds(run, **options)


def matmul_peak(kind: str, size: int) -> float:
    """FLOP/s of a large matrix product of random numbers: of "float32" in full, of "tf32", or of "bfloat16"."""
    dtype, precision = {"float32": ("float32", "highest"), "tf32": ("float32", None), "bfloat16": ("bfloat16", None)}[
        kind
    ]
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.standard_normal((size, size), np.float32), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    return 2 * size**3 / first_and_then(lambda: product(a), repeats=9, most=1)[1]


def torch_seconds(torch, run: Callable, *, repeats: int = 5, most: float = 5.0) -> float:
    """As `seconds`, of PyTorch's work."""

    def waited():
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    waited()
    return seconds(waited, repeats=repeats, most=most)
