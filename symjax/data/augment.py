"""What is done to images on the device: normalisation and random augmentation, as pure functions."""

import jax
import jax.numpy as jnp
from jax import lax

from symjax.errors import InputError


def normalize(images, mean, std, dtype=jnp.float32) -> jax.Array:
    """(images - mean) / std per channel, computed in float32 and returned in `dtype`.

    Args:
        images: (..., channels), uint8 or any real type, in units of 0..255.
        mean, std: (channels,) or scalars, in the same units; std is positive.
        dtype: a floating type.
    """
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return ((jnp.asarray(images).astype(jnp.float32) - mean) / std).astype(dtype)


def augment(key, images, *, flip: bool = True, translate: int = 2, fill=0.0) -> jax.Array:
    """Moves each image by a random whole number of pixels and mirrors it left to right with probability 1/2.

    Both shifts are uniform on -translate..translate, and independent over images and axes. Pixels that come from
    outside the image take the value `fill`. A pure function of its arguments; works under jit, vmap and scan.

    Args:
        key: a JAX random key.
        images: (n, height, width, channels), any type.
        flip, translate: Python values, fixed at tracing time. False and 0 give the images back unchanged.
        fill: a scalar or (channels,), in the units of `images`: 0, the mean, for normalised images, and the set's
            mean for images in 0..255.

    Returns:
        The augmented images; shape and dtype of `images`.

    Raises:
        InputError: `images` is not 4-dimensional, or `translate` is not a non-negative int.

    Source: the augmentation of Godfrey et al. 2022.
    """
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise InputError(f"images: got shape {images.shape}, wanted (n, height, width, channels).")
    if isinstance(translate, bool) or not isinstance(translate, int) or translate < 0:
        raise InputError(f"translate: got {translate!r}, wanted an integer of pixels, 0 or more.")
    if not flip and not translate:
        return images
    n, height, width, channels = images.shape
    # One draw for everything: generating random numbers is most of this function's compilation.
    bits = jax.random.bits(key, (n, 3), jnp.uint32)
    rows = jnp.broadcast_to(jnp.arange(height, dtype=jnp.int32), (n, height))
    columns = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (n, width))
    if flip:
        columns = jnp.where(bits[:, :1] % 2 == 0, columns[:, ::-1], columns)
    if translate:
        offsets = (bits[:, 1:] % (2 * translate + 1)).astype(jnp.int32)  # uniform to within (2 * translate + 1) / 2**32
        rows, columns = rows + offsets[:, :1], columns + offsets[:, 1:]
        frame = (n, height + 2 * translate, width + 2 * translate, channels)
        filled = jnp.broadcast_to(jnp.asarray(fill).astype(images.dtype), frame)
        images = lax.dynamic_update_slice(filled, images, (0, translate, translate, 0))
        # Whole rows, then pixels: on a CPU two to four times as fast as one gather, matmuls or sliced windows.
        images = jax.vmap(lambda image, index: image.at[index].get(mode="promise_in_bounds"))(images, rows)
    return jax.vmap(lambda image, index: image.at[:, index].get(mode="promise_in_bounds"))(images, columns)
