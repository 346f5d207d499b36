"""Descriptions of data sets for fingerprints of results: shapes, dtypes and a digest."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
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


def example_of(shapes: Mapping[str, Any], count: int = 2) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of `count` inputs of a network, given `describe_shapes` of the data."""
    if "image_size" in shapes:
        size = shapes["image_size"]
        return jax.ShapeDtypeStruct((count, size, size, shapes["channels"]), jnp.float32)
    dtype = jax.dtypes.canonicalize_dtype(jnp.float32 if shapes["normalized"] else shapes["input_dtype"])
    return jax.ShapeDtypeStruct((count, *shapes["example_shape"]), dtype)


def targets_of(shapes: Mapping[str, Any], count: int = 2) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of the targets of `count` examples, given `describe_shapes` of the data."""
    dtype = jnp.int32 if shapes["classes"] is not None else jnp.dtype(shapes["target_dtype"])
    return jax.ShapeDtypeStruct((count, *shapes.get("target_shape", ())), dtype)


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return the properties of a data set on which training depends, as a dict for JSON.

    These are `describe_shapes`, the name, the numbers of examples, and a digest of training and validation examples and
    of mean and std.
    """
    arrays = [] if dataset.mean is None else [dataset.mean, dataset.std]
    for split in (dataset.train, dataset.validation):
        arrays += [split.images, split.labels]
    return {
        "name": dataset.name,
        **describe_shapes(dataset),
        "train_images": len(dataset.train),
        "validation_images": len(dataset.validation),
        "digest": digest(*arrays),
    }


def digest(*arrays: Any) -> str:
    """Return a hash of the entries of arrays."""
    result = hashlib.blake2b(digest_size=8)
    for array in arrays:  # as bytes, since some dtypes do not support the buffer protocol
        result.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return result.hexdigest()
