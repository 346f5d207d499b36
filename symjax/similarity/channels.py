"""Channels centred and scaled, alike for matrices (n, d) and maps (n, h, w, c): the last axis is that of channels."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.checks import is_concrete


def common_width(width):
    """The next width of a coarse grid, so that a few programs do for many widths: 16, 32, 64, 128, 160, 192, 224, 256,
    320, ...: above 128 at most a quarter more."""
    if width <= 128:
        return max(16, 2 ** math.ceil(math.log2(width)))
    step = 2 ** (math.ceil(math.log2(width)) - 3)
    return -(-width // step) * step


def pad_channels(x, width):
    """`x` with zero channels behind its own."""
    module = jnp if isinstance(x, jax.Array) else np
    return module.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])


def pad_to_common_width(*arrays):
    """Matrices with zero columns up to their `common_width`, for what these do not change; traced ones as they are.

    Those on a CPU are widened by NumPy, which compiles nothing.
    """
    if not all(map(is_concrete, arrays)):
        return arrays
    return tuple(_pad_concrete(x) for x in arrays)


def _pad_concrete(x):
    width = common_width(x.shape[-1])
    if width == x.shape[-1]:
        return x
    on_cpu = len(x.devices()) == 1 and next(iter(x.devices())).platform == "cpu"
    return jnp.asarray(pad_channels(np.asarray(x), width)) if on_cpu else pad_channels(x, width)


def magnitude(x, axes=None, keepdims=False):
    """The power of two next under the largest absolute value along `axes`, 1 for zeros; a constant to derivatives.

    To divide by it costs no digit, and squares of what it leaves neither overflow nor vanish.
    """
    largest = lax.stop_gradient(jnp.abs(x).max(axes, keepdims=keepdims))
    power = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1)
    return jnp.where((largest > 0) & jnp.isfinite(largest), power, 1)


def centre(x, axes=None):
    """`x` less its mean over `axes`, and the mean; by default over all axes but that of channels.

    The one way in which measures centre. What deviates from its mean by no more than rounding becomes exactly 0, so
    that it is never scaled up to unit norm. `x` may be complex.
    """
    axes = tuple(range(x.ndim - 1)) if axes is None else axes
    size = magnitude(x, axes, keepdims=True).astype(x.dtype)
    x = x / size
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    # Once more, for what rounding left of a mean that is large beside the deviations.
    residual_mean = centred.mean(axes, keepdims=True)
    centred, mean = centred - residual_mean, mean + residual_mean
    samples = math.prod(x.shape[axis] for axis in axes)
    squares, noise = lax.stop_gradient((_squares(centred, axes), samples * (_noise(x) * jnp.abs(mean)) ** 2))
    return size * jnp.where(squares <= noise, 0, centred), (size * mean).squeeze(axes)  # a NaN is kept


def centred(x):
    """`x` less the mean of each channel over all other axes; constant up to rounding, it is exactly zero."""
    return centre(x)[0]


def zero_rounding(x, size, axes=(0,)):
    """`x` with 0 where the norm over `axes` is no more than rounding of data of norm `size`, kept axes 1, makes it."""
    return jnp.where(norms(lax.stop_gradient(x), axes) <= _noise(x) * lax.stop_gradient(size), 0, x)


def norms(x, axes=(0,)):
    """Euclidean norms over `axes`, which are kept with length 1."""
    size = magnitude(x, axes, keepdims=True)
    x = x / size.astype(x.dtype)
    return size * jnp.sqrt(_squares(x, axes))


def _squares(x, axes):
    return (x * x.conj()).real.sum(axes, keepdims=True)


def _noise(x):
    """How much of the norm of data of this type may be rounding."""
    return 4 * float(jnp.finfo(x.dtype).eps)


def subtract_ninther(x):
    """`x` less a constant for each channel that lies among its bulk; a constant channel becomes exactly zero.

    For what no translation changes: unlike the mean, the constant hardly follows single examples of huge size.
    """
    return x - ninther(x.reshape(-1, x.shape[-1])).reshape((1,) * (x.ndim - 1) + (-1,))


def ninther(x, count=None):
    """Of each column a value from its bulk, as a constant to derivatives: the ninther of Tukey.

    That is the median of three medians of three rows, which are spread evenly over all, or over the first `count`. With
    the mean for it, what is left of a constant channel would be scaled up to unit norm later; with any single row, all
    others could lose their digits to one example of huge size.
    """
    rows = jnp.linspace(0, 1, 9, dtype=x.dtype) * (jnp.asarray(len(x) if count is None else count, x.dtype) - 1)
    chosen = x[jnp.rint(rows).astype(jnp.int32)].reshape(3, 3, -1)
    return lax.stop_gradient(_median_of_three(*_median_of_three(*chosen.swapaxes(0, 1))))


def _median_of_three(a, b, c):
    return jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))


def unit_channels(x):
    """`x` with each channel at unit Euclidean norm over all other axes, and the norms; zero channels stay zero."""
    return _unit_norm(x, tuple(range(x.ndim - 1)))


def unit_norm(x):
    """`x` at unit Frobenius norm, and the norm; zero stays zero."""
    return _unit_norm(x, None)


def _unit_norm(x, axes):
    largest = lax.stop_gradient(jnp.abs(x).max(axes, keepdims=True))  # squares of numbers near 1 stay in range
    largest = jnp.where(largest == 0, 1, largest)
    x = x / largest
    norm = safe_sqrt((x * x).sum(axes, keepdims=True))
    return x / jnp.where(norm == 0, 1, norm), (largest * norm).squeeze(axes)


def zero_if_equal(distance, x, y):
    """The distance of x and y, without the rounding that would be left of it where they are equal; NaN stays NaN."""
    if x.shape != y.shape:
        return distance
    return jnp.where((x == y).all() & (distance == distance), 0, distance)


def safe_sqrt(squares):
    """The square root, and zero of what rounding left below zero; NaN stays NaN. The derivative at zero is zero."""
    positive = ~(squares <= 0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
