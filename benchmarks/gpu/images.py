"""CIFAR-10, or what has its shapes where it is not on this machine."""

import dataclasses
import os

from benchmarks.gpu.report import Report
from benchmarks.sweep import Settings, make_dataset
from symjax.data import Dataset
from symjax.errors import InputError

VARIABLE = "SYMJAX_GPU_DATASET"


def load(settings: Settings, report: Report) -> tuple[Dataset, str]:
    """The images of the data set that the environment variable names, by default cifar10, and what they are."""
    name = "random" if report.rehearse else os.environ.get(VARIABLE, "cifar10")
    try:
        return make_dataset(dataclasses.replace(settings, dataset=name)), name.rpartition("/")[-1]
    except (InputError, ModuleNotFoundError) as error:
        report.row("images", None, "not here", f"random ones instead: {str(error)[:120]}")
        return make_dataset(dataclasses.replace(settings, dataset="random")), "random"
