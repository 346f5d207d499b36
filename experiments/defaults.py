"""Default settings by data set and kind of model, and how --help shows them."""

import dataclasses
import os
import re
from typing import Any

import tyro

from symjax import data
from symjax.data.dataset import AUGMENTATION
from symjax.data.text import is_text
from symjax.imports import is_import_name


@dataclasses.dataclass(frozen=True)
class DatasetDefaults:
    """Settings that depend on the data set and the kind of model; a flag of the same name overrides each."""

    width: int | None = None
    image_size: int | None = None
    epochs: int = 50
    learning_rate: float = 1e-3
    flip: bool = False
    translate: int = 0
    weight_decay: float = 1e-4
    optimizer: str = "adam"
    schedule: str = "halving"
    warmup: float = 0.0


# Data sets that are not listed are not augmented: flips and shifts may change the class of their images.
DATASET_DEFAULTS = {name: DatasetDefaults(**augmentation) for name, augmentation in AUGMENTATION.items()}
DATASET_DEFAULTS["digits"] = dataclasses.replace(
    DATASET_DEFAULTS["digits"], width=8, image_size=16, epochs=10, learning_rate=3e-3
)
DATASET_DEFAULTS["text"] = DatasetDefaults(width=64, epochs=8, learning_rate=1e-2, weight_decay=0.0)
# Settings of transformers that differ from those of convolutional networks: Hassani et al. 2021, for runs of 200
# epochs and more.
TRANSFORMER = {"weight_decay": 3e-2, "optimizer": "adamw", "schedule": "cosine", "warmup": 0.1}
TRANSFORMER_DEFAULTS = {
    "digits": {"width": 32, "epochs": 20, "learning_rate": 3e-3},
    "text": {"learning_rate": 3e-3},
    None: {"learning_rate": 5e-4},
}
MODEL_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("digits", "mlp"): {"width": 128, "image_size": None, "epochs": 30, "learning_rate": 1e-3, "translate": 0},
}


def defaults_of(dataset: str, model: str) -> DatasetDefaults:
    """Return the default settings for a data set and a model; a model that the user provides has no default width."""
    from symjax.models import MODELS  # imported here for a fast --help

    name = data.resolve_name(dataset)
    if is_text(name):
        name = "text"
    elif not (os.path.isabs(name) or is_import_name(name)):
        name = re.split("[/:]", name)[0]  # without a variant or a version
    defaults = DATASET_DEFAULTS.get(name, DatasetDefaults())
    if is_import_name(model):
        return dataclasses.replace(defaults, width=None)
    if model not in MODELS or "heads" not in MODELS[model].defaults:
        return dataclasses.replace(defaults, **MODEL_DEFAULTS.get((name, model), {}))
    transformer = TRANSFORMER_DEFAULTS.get(name, TRANSFORMER_DEFAULTS[None])
    return dataclasses.replace(defaults, **TRANSFORMER, **transformer)


def by_dataset(metavar: str, name: str, otherwise: str | None = None) -> Any:
    """Return the tyro annotation of a flag whose default depends on the data set; --help lists the defaults."""
    value = getattr(DatasetDefaults(), name)
    values = {dataset: getattr(defaults, name) for dataset, defaults in DATASET_DEFAULTS.items()}
    parts = [f"{dataset} {default}" for dataset, default in values.items() if default != value]
    for (dataset, model), settings in MODEL_DEFAULTS.items():
        if (default := settings.get(name, values[dataset])) != values[dataset]:
            parts.append(f"{model} on {dataset} {otherwise if default is None else default}")
    text = ", ".join([*parts, f"{'otherwise ' if parts else ''}{otherwise or value}"])
    if name in TRANSFORMER:
        return optional(metavar, f"{text}; transformers {TRANSFORMER[name]}")
    transformers = {dataset: defaults[name] for dataset, defaults in TRANSFORMER_DEFAULTS.items() if name in defaults}
    parts = [
        f"{default} on {dataset}" if dataset else f"otherwise {default}" for dataset, default in transformers.items()
    ]
    return optional(metavar, f"{text}; transformers: {', '.join(parts)}" if parts else text)


def optional(metavar: str, default: str) -> Any:
    """Return the tyro annotation of an optional flag whose default is described by a text."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")
