"""What is done to images on the device: normalisation and random augmentation, as pure functions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.birkhoff.checks import is_concrete, real, require_finite
from symjax.checks import flag, integer, jax_array
from symjax.errors import InputError


def normalize(images, mean, std, dtype=jnp.float32) -> jax.Array:
    """(images - mean) / std per channel, computed in float32 and returned in `dtype`.

    Args:
        images: (..., channels), uint8 or any real type, in units of 0..255.
        mean, std: (channels,) or scalars, in the same units; std is positive. Both None: the inputs, of any shape, are
            returned unchanged and keep their type.
        dtype: a floating type.

    Raises:
        InputError: what is not real or of other shapes; where values can be seen, a mean or std that is not finite, or
            a std that is not positive.
    """
    images = jax_array("images", images)
    if mean is None and std is None:
        return images
    if not images.ndim or not images.shape[-1]:
        raise InputError(f"images: got shape {images.shape}, wanted (..., channels)")
    mean, std = statistics(mean, std, images.shape[-1:])
    return ((images.astype(jnp.float32) - mean) / std).astype(dtype)


def statistics(mean, std, channels: tuple[int, ...]):
    """`mean` and `std` as float32, scalars or of shape `channels`, or both None; or an InputError; see `normalize`."""
    if mean is None and std is None:
        return [None, None]
    found = []
    for name, given in (("mean", mean), ("std", std)):
        value = real(name, given).astype(jnp.float32)
        if value.shape not in ((), channels):
            raise InputError(f"{name}: got shape {value.shape}, wanted a number or one for each channel, {channels}")
        require_finite(name, value)
        found.append(value)
    if is_concrete(found[1]) and not (np.asarray(found[1]) > 0).all():
        raise InputError("std: has entries that are not positive, wanted positive ones")
    return found


def augment(key, images, *, flip: bool = True, translate: int = 2, fill=0.0) -> jax.Array:
    """Moves each image by a random whole number of pixels and mirrors it left to right with probability 1/2.

    Both shifts are uniform on -translate..translate, and independent over images and axes. Pixels that come from
    outside the image take the value `fill`. A pure function of its arguments; works under jit, vmap and scan.

    Args:
        key: a JAX random key.
        images: (n, height, width, channels), any type.
        flip, translate: Python values, fixed at tracing time. False and 0 return inputs of any shape unchanged.
        fill: a scalar or (channels,), in the units of `images`: 0, the mean, for normalised images, and the set's
            mean for images in 0..255.

    Returns:
        The augmented images; shape and dtype of `images`.

    Raises:
        InputError: `images` is not 4-dimensional, `translate` no integer from 0, or `fill` of another shape.

    Source: the augmentation of Godfrey et al. 2022.
    """
    images, fill = jax_array("images", images), real("fill", fill)
    translate = integer("translate", translate, 0, 4096)
    if not flag("flip", flip) and not translate:
        return images
    if images.ndim != 4:
        raise InputError(f"images: got shape {images.shape}, wanted (n, height, width, channels).")
    if fill.shape not in ((), images.shape[-1:]):
        raise InputError(f"fill: got shape {fill.shape}, wanted a number or one for each channel")
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
        filled = jnp.broadcast_to(fill.astype(images.dtype), frame)
        images = lax.dynamic_update_slice(filled, images, (0, translate, translate, 0))
        # Whole rows, then pixels: on a CPU two to four times as fast as one gather, matmuls or sliced windows.
        images = jax.vmap(lambda image, index: image.at[index].get(mode="promise_in_bounds"))(images, rows)
    return jax.vmap(lambda image, index: image.at[:, index].get(mode="promise_in_bounds"))(images, columns)
