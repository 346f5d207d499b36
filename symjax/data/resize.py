"""Resizing of uint8 images, in NumPy."""

import functools
import os

import numpy as np

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


@functools.lru_cache(maxsize=256)
def _weights(old: int, new: int) -> np.ndarray:
    """(new, old) float32: the share of each old pixel in each new one; rows sum to 1."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    reach = max(old / new, 1.0)
    weights = np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(old)) / reach)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
