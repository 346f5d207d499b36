"""Load CIFAR-10, or random images of its shapes if it is not available."""

import dataclasses
import os

from benchmarks.gpu.report import Report
from benchmarks.sweep import Settings, make_dataset
from symjax import data
from symjax.data import Dataset
from symjax.errors import InputError

VARIABLE = "SYMJAX_GPU_DATASET"


def load(settings: Settings, report: Report) -> tuple[Dataset, str]:
    """Return a data set with at most the numbers of images in `settings`, and its name.

    The environment variable `VARIABLE` names the data set; the default is cifar10. If it is not available, images are
    random, and a row says so.
    """
    name = "random" if report.rehearse else os.environ.get(VARIABLE, "cifar10")
    try:
        if name != "random":
            whole = data.load(name)
            splits = {"images": whole.train, "validation_images": whole.validation, "test_images": whole.test}
            sizes = {size: min(getattr(settings, size), len(split)) for size, split in splits.items()}
            settings = dataclasses.replace(settings, **sizes)
        return make_dataset(dataclasses.replace(settings, dataset=name)), os.path.basename(name)
    except (InputError, ModuleNotFoundError) as error:
        report.row("images", None, "not available", f"random images instead: {str(error)[:120]}")
        return make_dataset(dataclasses.replace(settings, dataset="random")), "random"
