"""Resize uint8 images with NumPy."""

import functools
import os
from collections.abc import Iterable

import numpy as np

from symjax.data.dataset import Split, are_images
from symjax.errors import InputError

_CHUNK = 1024  # images of up to 127 pixels resized at a time, which bounds the memory of float copies


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize images to size x size bilinearly, with antialiasing when shrinking. The aspect ratio is not kept.

    Args:
        images: (n, height, width, channels), uint8.
        size: the new height and width, in pixels.

    Returns:
        (n, size, size, channels), uint8, rounded; the given array if it already has this size. Agrees with
        `jax.image.resize(..., method="linear")`.

    Raises:
        InputError: the result exceeds the memory of the machine.
    """
    _, height, width, _ = images.shape
    if height == width == size:
        return images
    needed, memory = len(images) * size**2 * images.shape[3], os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise InputError(
            f"image_size: got {size}, with which {len(images)} images take {needed / 1e9:.0f} GB, expected at most "
            f"the {memory / 1e9:.0f} GB of memory"
        )
    rows, columns = _weights(height, size), _weights(width, size)
    out = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    chunk = max(1, _CHUNK // max(1, size // 64) ** 2)
    for start in range(0, len(images), chunk):
        block = images[start : start + chunk].astype(np.float32)
        block = np.einsum("ih,nhwc->niwc", rows, block, optimize=True)
        block = np.einsum("jw,niwc->nijc", columns, block, optimize=True)
        out[start : start + chunk] = np.clip(np.rint(block), 0, 255)
    return out


def resize_split(split: Split, size: int | None) -> Split:
    """Return the split with images resized to size x size; unchanged if `size` is None.

    Raises:
        InputError: the inputs are not uint8 images.
    """
    if size is None or (split.images.ndim == 4 and split.images.shape[1:3] == (size, size)):
        return split
    if not are_images(split.images):
        given = f"got {size} for inputs {split.images.dtype}{list(split.images.shape)}"
        raise InputError(f"image_size: {given}, expected uint8 images (n, height, width, channels)")
    return Split(resize(split.images, size), split.labels)


def stack(images: Iterable[np.ndarray], count: int, size: int | None, what: str) -> np.ndarray:
    """Stack images (height, width, channels) to (count, height, width, channels), resized if `size` is given.

    Raises:
        InputError: images differ in size; `what` names the images in the message.
    """
    stacked = np.empty((0, 0, 0, 0), np.uint8)
    for i, image in enumerate(images):
        image = image if size is None else resize(image[None], size)[0]
        if not i:
            stacked = np.empty((count, *image.shape), np.uint8)
        if image.shape != stacked.shape[1:]:
            raise InputError(
                f"image_size: got none for {what}, with images of {stacked.shape[1:3]} and {image.shape[:2]} pixels, "
                "expected a size to which all are resized"
            )
        stacked[i] = image
    return stacked


@functools.lru_cache(maxsize=256)
def _weights(old: int, new: int) -> np.ndarray:
    """Return interpolation weights (new, old), float32; rows sum to 1."""
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    reach = max(old / new, 1.0)
    weights = np.maximum(0.0, 1.0 - np.abs(centers[:, None] - np.arange(old)) / reach)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
