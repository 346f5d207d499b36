"""Compare the speed of similarity measures with published implementations.

    python -m benchmarks.similarity                   # on all cores
    taskset -c 0 python -m benchmarks.similarity      # on one core

Wreath CKA is compared with the published loop over rows of the kernel in PyTorch; CCA and its gradient with QR and SVD
in NumPy; linear CKA of 8 x 8 pairs of layers with `pytorch-cka` and `torch-cka` from PyPI, including peak memory, each
in a separate process. Packages that are not installed are reported and left out. Compilation is excluded.
Implementations run alternately, and the shortest time is printed: CPU time of all threads on a CPU, which depends
little on other work of the machine, and wall time on other devices.
"""

import dataclasses
import importlib
import json
import os
import resource
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from symjax.similarity import cca_similarity, pairwise, wreath_cka

SHAPES = ((16, 16, 32), (16, 16, 32), (8, 8, 64), (8, 8, 64), (4, 4, 128), (4, 4, 128), (512,), (10,))
PACKAGES = {"symjax": "symjax", "pytorch-cka": "cka", "torch-cka": "torch_cka"}


@dataclasses.dataclass(frozen=True)
class Settings:
    examples: int = 500
    """Number of examples for wreath CKA, with feature maps of 32x32x64."""
    samples: int = 10_000
    """Number of samples for CCA."""
    neurons: int = 512
    """Number of neurons of each side for CCA."""
    pair_examples: int = 1_000
    """Number of examples for linear CKA of pairs of layers."""
    turns: int = 5
    slow_turns: int = 1
    """Number of runs of the loop over rows."""
    only: str = ""
    """Internal: the package whose linear CKA this process measures; it prints a line of JSON."""


def main(settings: Settings) -> None:
    if settings.only:
        return print(json.dumps(linear_cka(settings.only, settings)))
    device, cores = jax.devices()[0].device_kind, len(os.sched_getaffinity(0))
    print(f"jax {jax.__version__}, {device}, {cores} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    compare_linear_cka(settings)  # first, because child processes inherit the peak memory
    peak = matmul_peak(settings.turns)
    print(f"matrix-product peak {peak / 1e9:.0f} GFLOP/s\n", flush=True)
    compare_wreath_cka(settings, peak)
    compare_cca(settings)


def best_seconds(thunks: dict, turns: dict) -> dict:
    """Return the shortest time of each function in seconds; functions run alternately, `turns[name]` times."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    best = dict.fromkeys(thunks, float("inf"))
    for turn in range(max(turns.values())):
        for name, thunk in thunks.items():
            if turn < turns[name]:
                start = clock()
                jax.block_until_ready(thunk())
                best[name] = min(best[name], clock() - start)
    return best


def matmul_peak(turns: int, size: int = 2048) -> float:
    a = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    return 2 * size**3 / best_seconds({"": lambda: product(a)}, {"": turns})[""]


def torch_or_none():
    try:
        import torch
    except ModuleNotFoundError:
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch


def rectified(rng, common, shape):
    """Return random rectified features of a layer: common signals (n, k), mixed, plus noise."""
    noise = rng.standard_normal((len(common), *shape), np.float32)
    mixed = common @ rng.standard_normal((common.shape[1], noise[0].size), np.float32) / common.shape[1] ** 0.5
    return np.maximum(mixed.reshape(noise.shape) + noise, 0)


def compare_wreath_cka(settings: Settings, peak: float) -> None:
    """Compare wreath CKA. Of a symmetric kernel symjax computes 5/8, the loops over rows a half, which is counted."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal((settings.examples, 16), np.float32)
    x, y = (rectified(rng, common, (32, 32, 64)) for _ in range(2))
    operations = 2 * 2 * settings.examples**2 * x[0].size
    arrays = jnp.asarray(x), jnp.asarray(y)
    thunks, turns = {"symjax": lambda: wreath_cka(*arrays)}, {"symjax": settings.turns}
    values = {"symjax": float(wreath_cka(*arrays))}
    torch = torch_or_none()
    if torch is None:
        print("torch is not installed; wreath CKA is measured for symjax only")
    else:
        tensors = [torch.from_numpy(np.ascontiguousarray(np.moveaxis(z, -1, 1))) for z in (x, y)]
        for name, row in ROWS.items():
            thunks[name] = lambda name=name, row=row: values.update({name: wreath_cka_by_rows(torch, row, *tensors)})
            turns[name] = settings.slow_turns
    best = best_seconds(thunks, turns)
    print(f"wreath CKA, {settings.examples} examples of 32x32x64 on both sides")
    for name, seconds in best.items():
        computed = operations * (5 / 8 if name == "symjax" else 1 / 2)
        share, ratio = computed / seconds / peak, seconds / best["symjax"]
        print(f"  {name:<28}{seconds:8.2f} s{share:7.0%} of peak{ratio:8.1f} times symjax   value {values[name]:.5f}")


def published_row(torch, examples, one):
    """Return the inner products of the maps of all examples with those of `one`, for each channel."""
    return (examples * one).sum((-2, -1))


def einsum_row(torch, examples, one):
    """Return `published_row` without its large intermediate; the other order of operands is six times slower."""
    return torch.einsum("cp,ncp->nc", one.flatten(1), examples.flatten(2))


ROWS = {"PyTorch, rows as published": published_row, "PyTorch, rows by einsum": einsum_row}


def wreath_cka_by_rows(torch, row, x, y) -> float:
    """Return wreath CKA by the published algorithm, which computes one row of half of the kernel at a time.

    HSIC is the unbiased estimator of Song et al.
    """
    kernels = []
    for z in (x, y):
        z = z - z.mean((0, 2, 3), keepdim=True)
        z = z / z.square().sum((0, 2, 3), keepdim=True).sqrt()
        kernel = torch.zeros(len(z), len(z))
        for i in range(1, len(z)):
            kernel[i, :i] = row(torch, z[:i], z[i]).amax(1)
        kernels.append((kernel + kernel.T).double())
    k, l = kernels  # noqa: E741
    return float(hsic(k, l) / (hsic(k, k) * hsic(l, l)) ** 0.5)


def hsic(k, l):  # noqa: E741
    n = len(k)
    ends = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) * l.sum(0)).sum()
    return ((k * l).sum() + ends) / (n * (n - 3))


def compare_cca(settings: Settings) -> None:
    rng = np.random.default_rng(0)
    common = rng.standard_normal((settings.samples, settings.neurons), np.float32)
    x, y = (
        common @ rng.standard_normal((settings.neurons, settings.neurons), np.float32) / settings.neurons**0.5
        + rng.standard_normal(common.shape, np.float32)
        for _ in range(2)
    )
    arrays = jnp.asarray(x), jnp.asarray(y)
    similarity = jax.jit(cca_similarity)
    gradient = jax.jit(jax.value_and_grad(cca_similarity, argnums=(0, 1)))
    jax.block_until_ready((similarity(*arrays), gradient(*arrays)))
    float64 = np.float64(x), np.float64(y)
    exact = numpy_cca(*float64)
    thunks = {
        "NumPy": lambda: numpy_cca(x, y),
        "NumPy, float64": lambda: numpy_cca(*float64),
        "symjax": lambda: similarity(*arrays),
        "symjax, with the gradient": lambda: gradient(*arrays),
    }
    best = best_seconds(thunks, dict.fromkeys(thunks, settings.turns))
    print(f"\nCCA, {settings.neurons} + {settings.neurons} neurons, {settings.samples} samples")
    for name, thunk in thunks.items():
        value = thunk()
        error = abs(float(value[0] if isinstance(value, tuple) else value) - exact)
        ratio = best["NumPy"] / best[name]
        print(f"  {name:<28}{best[name]:8.2f} s{ratio:6.2f} times as fast as NumPy   error {error:.0e}", flush=True)


def numpy_cca(x, y):
    """Return the mean canonical correlation by QR of both sides and an SVD, as published."""
    x, y = (np.linalg.qr(side - side.mean(0))[0] for side in (x, y))
    return np.linalg.svd(x.T @ y, compute_uv=False).clip(0, 1).mean()


def compare_linear_cka(settings: Settings) -> None:
    print(f"\nlinear CKA of 8 x 8 pairs of layers, {settings.pair_examples} examples, unbiased")
    arguments = ["--pair-examples", str(settings.pair_examples), "--turns", str(settings.turns)]
    results = {}
    for package in PACKAGES:
        command = [sys.executable, "-m", "benchmarks.similarity", "--only", package, *arguments]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            print(f"  {package} failed: {process.stderr.strip().splitlines()[-1]}", flush=True)
        else:
            results[package] = json.loads(process.stdout.splitlines()[-1])
    for package, row in results.items():
        ratio = row["seconds"] / results["symjax"]["seconds"] if "symjax" in results else float("nan")
        print(
            f"  {package:<16}{row['seconds']:8.2f} s{ratio:8.2f} times symjax   peak {row['peak']:5.0f} MB, of which "
            f"{row['peak'] - row['before']:5.0f} above that of features and imports   error {row['error']:.0e}",
            flush=True,
        )


def linear_cka(package: str, settings: Settings) -> dict:
    """Return seconds, peak memory in MB before and after, and the largest error of a package, in this process."""
    importlib.import_module(PACKAGES[package])
    rng = np.random.default_rng(0)
    common = rng.standard_normal((settings.pair_examples, 16), np.float32)
    sides = [[rectified(rng, common, shape) for shape in SHAPES] for _ in range(2)]
    compute = {"symjax": by_symjax, "pytorch-cka": by_pytorch_cka, "torch-cka": by_torch_cka}[package](*sides)
    before = peak_memory()
    values = np.asarray(compute())
    after = peak_memory()
    seconds = best_seconds({package: compute}, {package: settings.turns})[package]
    kernels = [[np.float64(z.reshape(len(z), -1)) for z in side] for side in sides]
    kernels = [[z @ z.T * (1 - np.eye(len(z))) for z in side] for side in kernels]
    powers = [[hsic(k, k) for k in side] for side in kernels]
    exact = np.array([[hsic(k, l) for l in kernels[1]] for k in kernels[0]])  # noqa: E741
    exact /= np.sqrt(np.outer(*powers))
    return {"seconds": seconds, "before": before, "peak": after, "error": float(np.abs(values - exact).max())}


def peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def by_symjax(a, b):
    a, b = ({str(k): z[None] for k, z in enumerate(side)} for side in (a, b))
    return lambda: pairwise(a, "cka", against=b).values[:, 0, :, 0]


def by_pytorch_cka(a, b):
    from cka import cka_from_features

    torch = torch_or_none()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = ([torch.from_numpy(z.reshape(len(z), -1)).to(device) for z in side] for side in (a, b))
    return lambda: cka_from_features(a, b).cpu().numpy()


def by_torch_cka(a, b):
    from torch_cka import CKA

    torch = torch_or_none()

    class Recorded(torch.nn.Module):
        """A network whose layers return precomputed features."""

        def __init__(self, features):
            super().__init__()
            self.features = [torch.from_numpy(z.reshape(len(z), -1)) for z in features]
            self.layers = torch.nn.ModuleList(torch.nn.Identity() for _ in features)

        def forward(self, _):
            for layer, features in zip(self.layers, self.features, strict=True):
                layer(features)

    names = [f"layers.{k}" for k in range(len(a))]
    one_batch = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(len(a[0]))), len(a[0]))
    comparison = CKA(Recorded(a), Recorded(b), "a", "b", names, names)

    def compute():
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            comparison.compare(one_batch, one_batch)
        return comparison.export()["CKA"].numpy()

    return compute


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Settings, description=__doc__))
