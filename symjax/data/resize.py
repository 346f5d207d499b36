"""Resizing of uint8 images, in NumPy."""

import functools
import os
from collections.abc import Iterable

import numpy as np

from symjax.data.dataset import Split, are_images
from symjax.errors import InputError

_CHUNK = 1024  # images at a time, of up to 127 pixels: bounds the float copies


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Bilinear resizing to size x size, averaging over the source pixels when shrinking. The aspect ratio is not kept.

    Args:
        images: (n, height, width, channels), uint8.
        size: the new height and width, in pixels.

    Returns:
        (n, size, size, channels), uint8, rounded. The same array when it has that size already. Agrees with
        `jax.image.resize(..., method="linear")`.

    Raises:
        InputError: the machine's memory does not hold the result.
    """
    _, height, width, _ = images.shape
    if height == width == size:
        return images
    needed, memory = len(images) * size**2 * images.shape[3], os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise InputError(
            f"image_size: {len(images)} images of {size} x {size} pixels take {needed / 1e9:.0f} GB; wanted what fits "
            f"into {memory / 1e9:.0f} GB of memory."
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
    """The split with images of size x size; as it is where that is None or its inputs have that size.

    Raises:
        InputError: its inputs are not uint8 images.
    """
    if size is None or (split.images.ndim == 4 and split.images.shape[1:3] == (size, size)):
        return split
    if not are_images(split.images):
        given = f"got {size}, and the inputs are {split.images.dtype}{list(split.images.shape)}"
        raise InputError(f"image_size: {given}; wanted it for images (n, height, width, channels) of uint8 alone")
    return Split(resize(split.images, size), split.labels)


def stack(images: Iterable[np.ndarray], count: int, size: int | None, what: str) -> np.ndarray:
    """All images (height, width, channels) in one array, (count, height, width, channels), resized where size is given.

    Raises:
        InputError: they have several sizes; `what` says which images.
    """
    stacked = None
    for i, image in enumerate(images):
        image = image if size is None else resize(image[None], size)[0]
        if stacked is None:
            stacked = np.empty((count, *image.shape), np.uint8)
        if image.shape != stacked.shape[1:]:
            raise InputError(
                f"image_size: not given, and {what} has images of {stacked.shape[1:3]} and {image.shape[:2]} pixels; "
                "wanted a size to bring them all to."
            )
        stacked[i] = image
    return stacked


@functools.lru_cache(maxsize=256)
def _weights(old: int, new: int) -> np.ndarray:
    """(new, old) float32: the share of each old pixel in each new one; rows sum to 1."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    reach = max(old / new, 1.0)
    weights = np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(old)) / reach)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
