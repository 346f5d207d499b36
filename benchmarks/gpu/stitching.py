"""Time the command `experiments.stitch` on digits, and stitch sweeps against the published procedure in PyTorch."""

import importlib
import re
import subprocess
import sys
import tempfile
import time

from benchmarks import sweep
from benchmarks.gpu.images import load
from benchmarks.gpu.report import Report
from benchmarks.gpu.timing import matmul_peak

GOAL = 25  # seconds of the main job, experiments.stitch on digits
SHORT = "--seeds 2 --pairs 1 --epochs 1 --stitch-epochs 1 --train-size 96 --families identity --layers relu4"


def run(report: Report) -> None:
    with report.case("main job"):
        main_job(report)
    with report.case("sweeps"):
        sweeps(report)


def main_job(report: Report) -> None:
    """Run the command twice in new folders; the second run takes all programs from the cache."""
    importlib.import_module("tyro")
    for name in ("main job, compiling", "main job, programs cached")[: 1 if report.rehearse else None]:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "experiments.stitch", "--out", f"{folder}/run", "--zoo", f"{folder}/zoo"]
            began = time.perf_counter()
            process = subprocess.run(
                [*command, *(SHORT.split() if report.rehearse else [])], capture_output=True, text=True, check=False
            )
            spent = time.perf_counter() - began
        print(process.stdout, process.stderr[-4000:], sep="\n", flush=True)
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}: {(process.stderr.strip().splitlines() or [''])[-1]}")
        compiling = re.search(r"tracing and compiling took (\d+) s", process.stderr)
        part = f"{compiling[1]} s of it tracing and compiling; " if compiling else ""
        report.row(name, spent, "s", f"{part}goal: under {GOAL} s")


def sweeps(report: Report) -> None:
    """Report seconds per pair, and the ratio to PyTorch."""
    settings = sweep.Settings(width=64, pairs=(4, 1, 16), repeats=1, precision="bfloat16")
    if report.rehearse:
        sizes = {
            "images": 32,
            "test_images": 32,
            "validation_images": 32,
            "pairs": (2,),
            "families": ("full",),
            "layers": (4,),
        }
        settings = sweep.Settings(width=4, repeats=1, **sizes)
    published = None
    with report.case("PyTorch, published procedure"):
        from benchmarks import published

        if published.torch.cuda.is_available():
            settings = sweep.dataclasses.replace(settings, device="cuda")
    dataset, images = load(settings, report)
    peak = matmul_peak("bfloat16", 128 if report.rehearse else 8192)
    for row in sweep.sweep_rows(settings, dataset, published):
        share = row["flops"] / row["symjax_s"] / peak
        comment = f"mCNN c={settings.width}, {settings.precision}, {settings.images} {images} images; "
        comment += f"{share:.1%} of the peak; compiling took {row['compile_s']:.0f} s"
        report.row(row["what"], row["symjax_s"], "s", comment)
        if published is not None:
            report.row("PyTorch, published procedure, a pair", row["torch_s"], "s", "autocast, channels last, eager")
            report.row(f"{row['what']}, against PyTorch", row["torch_s"] / row["symjax_s"], "times as fast")
