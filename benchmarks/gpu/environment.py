"""Report the device and versions, and measure memory bandwidth and the peaks of matrix products."""

import importlib
import os
import platform
from importlib import metadata

import jax
import jax.numpy as jnp

from benchmarks.gpu.report import Report
from benchmarks.gpu.timing import first_and_then, matmul_peak, torch_seconds

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "torch", "jaxopt", "pytorch-cka")
PACKAGES += ("tyro", "tensorflow-datasets", "importlib_resources")


def run(report: Report) -> None:
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit")
    report.row("device", None, "", f"{device.device_kind} ({device.platform})")
    if memory:
        report.row("device memory that JAX may use", memory / 2**30, "GiB")
    cores = len(os.sched_getaffinity(0))
    report.row("host", cores, "cores", f"Python {platform.python_version()}, {platform.platform()}")
    for package in PACKAGES:
        with report.case(package):
            report.row(package, None, "version", version(package))
    with report.case("memory bandwidth"):
        bandwidth(report)
    size = 128 if report.rehearse else 8192
    for kind in ("bfloat16", "tf32", "float32"):
        with report.case(f"matmul {kind}"):
            report.row(f"matmul {kind}", matmul_peak(kind, size) / 1e12, "TFLOP/s", f"JAX, {size} x {size}")
    with report.case("matmul bfloat16, PyTorch"):
        torch = importlib.import_module("torch")
        a = torch.randn(size, size, device=torch_device(torch), dtype=torch.bfloat16)
        speed = 2 * size**3 / torch_seconds(torch, lambda: a @ a, repeats=9, most=1)
        report.row("matmul bfloat16, PyTorch", speed / 1e12, "TFLOP/s", f"{size} x {size}")


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(package, name="required by some cases only") from error


def torch_device(torch) -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def bandwidth(report: Report) -> None:
    """Measure the memory bandwidth by an addition with an operand that is much larger than any cache."""
    count = 2**14 if report.rehearse else 2**29
    x = jnp.ones(count, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    _, spent = first_and_then(lambda: add(x), repeats=9, most=1)
    report.row("memory bandwidth", 8 * count / spent / 1e12, "TB/s", f"{4 * count / 2**20:.2g} MiB read and written")
