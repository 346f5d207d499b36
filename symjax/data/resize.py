"""Resizing of uint8 images, in NumPy."""

import functools

import numpy as np

_CHUNK = 1024  # images at a time: bounds the float copies


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Bilinear resizing to size x size, averaging over the source pixels when shrinking. The aspect ratio is not kept.

    Args:
        images: (n, height, width, channels), uint8.
        size: the new height and width, in pixels.

    Returns:
        (n, size, size, channels), uint8, rounded. The same array when it has that size already. Agrees with
        `jax.image.resize(..., method="linear")`.
    """
    _, height, width, _ = images.shape
    if height == width == size:
        return images
    rows, columns = _weights(height, size), _weights(width, size)
    out = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for start in range(0, len(images), _CHUNK):
        block = images[start : start + _CHUNK].astype(np.float32)
        block = np.einsum("ih,nhwc->niwc", rows, block, optimize=True)
        block = np.einsum("jw,niwc->nijc", columns, block, optimize=True)
        out[start : start + _CHUNK] = np.clip(np.rint(block), 0, 255)
    return out


@functools.lru_cache(maxsize=256)
def _weights(old: int, new: int) -> np.ndarray:
    """(new, old) float32: the share of each old pixel in each new one; rows sum to 1."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    reach = max(old / new, 1.0)
    weights = np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(old)) / reach)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
