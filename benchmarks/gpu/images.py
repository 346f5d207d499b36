"""CIFAR-10, or what has its shapes where it is not on this machine."""

import dataclasses
import os

from benchmarks.gpu.report import Report
from benchmarks.sweep import Settings, make_dataset
from symjax import data
from symjax.data import Dataset
from symjax.errors import InputError

VARIABLE = "SYMJAX_GPU_DATASET"


def load(settings: Settings, report: Report) -> tuple[Dataset, str]:
    """As many images as `settings` ask for, or as there are, and what they are.

    They are of the data set that the environment variable names, by default cifar10; random ones in its place.
    """
    name = "random" if report.rehearse else os.environ.get(VARIABLE, "cifar10")
    try:
        if name != "random":
            whole = data.load(name)
            there = {"images": whole.train, "validation_images": whole.validation, "test_images": whole.test}
            sizes = {size: min(getattr(settings, size), len(split)) for size, split in there.items()}
            settings = dataclasses.replace(settings, **sizes)
        return make_dataset(dataclasses.replace(settings, dataset=name)), os.path.basename(name)
    except (InputError, ModuleNotFoundError) as error:
        report.row("images", None, "not here", f"random ones instead: {str(error)[:120]}")
        return make_dataset(dataclasses.replace(settings, dataset="random")), "random"
