"""Groups of networks whose differences are known: random labels, shortcuts and augmentation (Klabunde et al. 2024)."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.settings import zoo_folder
from symjax.data import Dataset, Split
from symjax.data.dataset import are_images
from symjax.errors import InputError
from symjax.zoo import ZooConfig

SHARES = {"labels": (0.0, 0.5, 1.0), "shortcut": (0.0, 0.8, 1.0)}
SHIFTS = (0, 1, 2)
SEED = 0  # of random labels and shortcuts, which all networks of a group share


class Group(NamedTuple):
    """Networks that are trained alike and differ in their seed.

    Attributes:
      name: a name such as "labels=0.5".
      config: the configuration of the networks.
      dataset: the data on which they are trained, and the images on which they are compared.
      folder: the folder of the zoo.
    """

    name: str
    config: ZooConfig
    dataset: Dataset
    folder: Path


def groups_of(test: str, config: ZooConfig, dataset: Dataset) -> list[Group]:
    """Return the groups of a test.

    seeds, layers: the networks of `config`.
    labels: a share of the training labels is replaced by random classes.
    shortcut: pixels at the border give the class in a share of the training images, and a random class in the others
      and in test images. Images are not shifted, so that these pixels keep their place.
    augmentation: training images are shifted by up to a number of pixels.
    """
    folder = zoo_folder(config)
    if test in ("seeds", "layers"):
        return [Group("seeds", config, dataset, folder)]
    if test == "augmentation":
        configs = {
            shift: dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, translate=shift))
            for shift in SHIFTS
        }
        return [Group(f"shift={shift}", c, dataset, zoo_folder(c)) for shift, c in configs.items()]
    if test == "shortcut":
        config = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, translate=0, flip=False))
        folder = zoo_folder(config)
    change: Callable = {"labels": with_random_labels, "shortcut": with_shortcuts}[test]
    return [
        Group(
            f"{test}={share:g}",
            config,
            dataset if (test, share) == ("labels", 0.0) else change(dataset, share),
            folder if (test, share) == ("labels", 0.0) else folder.with_name(f"{folder.name}-{test}{share:g}"),
        )
        for share in SHARES[test]
    ]


def check_data(tests: tuple[str, ...], dataset: Dataset) -> None:
    """Raise an InputError if the data do not allow a test."""
    if dataset.num_classes is None or dataset.train.labels.ndim != 1:
        raise InputError(f"dataset: got {dataset.name}, expected one with a class for each example")
    for test in {"shortcut", "augmentation"} & {*tests}:
        if not are_images(dataset.train.images):
            raise InputError(f"tests: got {test}, expected others: {dataset.name} has no uint8 images")
    _, height, width = (*dataset.train.images.shape, 0, 0)[:3]
    if "shortcut" in tests and height * width < 4 * dataset.num_classes:
        raise InputError(f"tests: got shortcut, expected others: images of {height} x {width} pixels are too small")


def with_random_labels(dataset: Dataset, share: float) -> Dataset:
    """Replace the labels of a share of the training and validation examples by uniformly random classes."""

    def changed(split: Split, part: int) -> Split:
        generator = np.random.default_rng([SEED, part])
        drawn = generator.integers(dataset.num_classes, size=len(split))
        return Split(split.images, np.where(generator.random(len(split)) < share, drawn, split.labels))

    return dataclasses.replace(dataset, train=changed(dataset.train, 0), validation=changed(dataset.validation, 1))


def with_shortcuts(dataset: Dataset, share: float) -> Dataset:
    """Write a class into the first rows of all images: one white pixel among black ones, at the place of the class.

    It is the class of the image for a `share` of the training and validation images, and otherwise a random one.
    """

    def changed(split: Split, part: int, share: float) -> Split:
        generator = np.random.default_rng([SEED, part])
        drawn = generator.integers(dataset.num_classes, size=len(split))
        classes = np.where(generator.random(len(split)) < share, split.labels, drawn)
        return Split(stamp(split.images, classes, dataset.num_classes), split.labels)

    return dataclasses.replace(
        dataset,
        train=changed(dataset.train, 2, share),
        validation=changed(dataset.validation, 3, share),
        test=changed(dataset.test, 4, 0.0),
    )


def stamp(images: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Return images (n, h, w, c) with black first rows in which one pixel is white, at the place of the class."""
    width = images.shape[2]
    images = images.copy()
    images[:, : -(-count // width)] = 0
    images[np.arange(len(images)), classes // width, classes % width] = 255
    return images
