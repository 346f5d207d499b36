"""Measure peak memory and time of `pairwise_batches` on synthetic activations larger than memory.

    python -m benchmarks.batches                     # 1 GB of activations, generated batch by batch
    python -m benchmarks.batches --gigabytes 20      # the bar: under 3 GB resident

Activations of all layers of all models are generated on the fly from one hidden signal, once for all measures. Printed
are the peak resident memory of the process, and CPU seconds: in all, of the generator, and of one product X'X of all
features of each batch, which is the least that second moments take.
"""

import dataclasses
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import symjax


@dataclasses.dataclass(frozen=True)
class Settings:
    gigabytes: float = 1.0
    """Size of the activations, float32."""
    models: int = 3
    layers: int = 4
    width: int = 64
    """Features of the first layer; each next layer has as many, or half as many in every second one."""
    batch: int = 8192
    """Examples in a batch."""
    measures: tuple[str, ...] = ("cka", "svcca")
    seed: int = 0


def batches(settings: Settings):
    """Yield {model: {layer: (n, width)}}, a random function of one signal with noise."""
    rng = np.random.default_rng(settings.seed)
    widths = [settings.width // (1 + layer % 2) for layer in range(settings.layers)]
    maps = [[rng.standard_normal((16, width), np.float32) for width in widths] for _ in range(settings.models)]
    for _ in range(num_batches(settings)):
        signal = rng.standard_normal((settings.batch, 16), np.float32)
        yield {
            f"model{i}": {
                f"layer{j}": np.tanh(signal @ weights) + 0.1 * rng.standard_normal((1, weights.shape[1]), np.float32)
                for j, weights in enumerate(of_model)
            }
            for i, of_model in enumerate(maps)
        }


def bytes_of_batch(settings: Settings) -> int:
    widths = sum(settings.width // (1 + layer % 2) for layer in range(settings.layers))
    return 4 * settings.batch * settings.models * widths


def num_batches(settings: Settings) -> int:
    return max(2, round(settings.gigabytes * 1e9 / bytes_of_batch(settings)))


def peak() -> float:
    """Return the peak resident memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def product_seconds(settings: Settings) -> float:
    """Return CPU seconds of X'X for all features of all batches, from three batches."""
    joint = jnp.ones((settings.batch, bytes_of_batch(settings) // 4 // settings.batch))
    product = jax.jit(lambda x: x.T @ x)
    product(joint).block_until_ready()
    start = time.process_time()
    for _ in range(3):
        product(joint).block_until_ready()
    return (time.process_time() - start) / 3 * num_batches(settings)


def main(settings: Settings) -> None:
    size = num_batches(settings) * bytes_of_batch(settings) / 1e9
    print(f"{size:.2f} GB in {num_batches(settings)} batches, {settings.models} models of {settings.layers} layers")
    generated = 0.0

    def timed():
        nonlocal generated
        iterator, end = batches(settings), object()
        while True:
            start = time.process_time()
            batch = next(iterator, end)
            generated += time.process_time() - start
            if batch is end:
                return
            yield batch

    cpu, wall = time.process_time(), time.perf_counter()
    results = symjax.pairwise_batches(timed(), settings.measures)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"peak {peak():.2f} GB, {wall:.0f} s")
    print(f"CPU {cpu:.1f} s, of which generation {generated:.1f} s; one product: {product_seconds(settings):.1f} s")
    for name, result in results.items():
        print(f"{name:24}{np.nanmin(result.values):.3f} to {np.nanmax(result.values):.3f}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
