"""Descriptions of data sets for fingerprints of results: shapes, dtypes and a digest."""

import hashlib
from typing import Any

import numpy as np

from symjax.data.dataset import Dataset, are_images


def describe_shapes(dataset: Dataset) -> dict[str, Any]:
    """Return the properties of a data set on which the shapes of a network depend, as a dict for JSON.

    For square uint8 images these are `image_size` and `channels`; for other inputs `example_shape`, `input_dtype` and
    `normalized`. `classes` is None if targets are not classes. `target_shape` and `target_dtype` are added if there is
    not one class for each example.
    """
    shapes: dict[str, Any] = {"image_size": dataset.image_size, "channels": dataset.channels}
    if not are_images(dataset.train.images) or dataset.image_size is None:
        shapes = {"example_shape": list(dataset.example_shape), "input_dtype": str(dataset.input_dtype)}
        shapes["normalized"] = dataset.mean is not None
    shapes["classes"] = dataset.num_classes
    targets = dataset.train.labels
    if targets.ndim > 1 or dataset.num_classes is None:
        shapes |= {"target_shape": list(targets.shape[1:]), "target_dtype": str(targets.dtype)}
    return shapes


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return the properties of a data set on which training depends, as a dict for JSON.

    These are `describe_shapes`, the name, the numbers of examples, and a digest of training and validation examples and
    of mean and std.
    """
    digest = hashlib.blake2b(digest_size=8)
    arrays = [] if dataset.mean is None else [dataset.mean, dataset.std]
    for split in (dataset.train, dataset.validation):
        arrays += [split.images, split.labels]
    for array in arrays:
        digest.update(
            np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        )  # some dtypes do not support the buffer protocol
    return {
        "name": dataset.name,
        **describe_shapes(dataset),
        "train_images": len(dataset.train),
        "validation_images": len(dataset.validation),
        "digest": digest.hexdigest(),
    }
