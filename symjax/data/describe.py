"""What results depend on in a data set: shapes, types and a digest."""

import hashlib
from typing import Any

import numpy as np

from symjax.data.dataset import Dataset, are_images


def describe_shapes(dataset: Dataset) -> dict[str, Any]:
    """What a network's shapes depend on in a data set, JSON-able.

    Of square uint8 images `image_size` and `channels`, of other inputs `example_shape`, `input_dtype` and whether
    they are `normalized`; `classes`, or where targets are not classes None, and then `target_shape` and `target_dtype`
    as well.
    """
    shapes = {"image_size": dataset.image_size, "channels": dataset.channels}
    if not are_images(dataset.train.images) or dataset.image_size is None:
        shapes = {"example_shape": list(dataset.example_shape), "input_dtype": str(dataset.input_dtype)}
        shapes["normalized"] = dataset.mean is not None
    shapes["classes"] = dataset.num_classes
    if dataset.num_classes is None:
        targets = dataset.train.labels
        shapes |= {"target_shape": list(targets.shape[1:]), "target_dtype": str(targets.dtype)}
    return shapes


def describe(dataset: Dataset) -> dict[str, Any]:
    """What training depends on in a data set, JSON-able: `describe_shapes`, its name, numbers of examples, a digest.

    The digest is of training and validation examples and of mean and std.
    """
    digest = hashlib.blake2b(digest_size=8)
    arrays = [] if dataset.mean is None else [dataset.mean, dataset.std]
    for split in (dataset.train, dataset.validation):
        arrays += [split.images, split.labels]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # some types have no buffer
    return {
        "name": dataset.name,
        **describe_shapes(dataset),
        "train_images": len(dataset.train),
        "validation_images": len(dataset.validation),
        "digest": digest.hexdigest(),
    }
