"""Centering and scaling of channels, for matrices (n, d) and maps (n, h, w, c): channels are the last axis."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.checks import is_concrete

_SECONDS_TO_COMPILE = 0.3  # of a program of `pairwise`, on one core of a CPU
_OPERATIONS_PER_SECOND = 2e10


def common_width(width):
    """Return the next width of a coarse grid, so that few compiled programs serve many widths.

    The grid is 16, 32, 64, 128, 160, 192, 224, 256, 320, ...: above 128 it adds at most a quarter.
    """
    if width <= 128:
        return max(16, 2 ** math.ceil(math.log2(width)))
    step = 2 ** (math.ceil(math.log2(width)) - 3)
    return -(-width // step) * step


def one_width_is_cheaper(widths, rows):
    """Return whether padding all representations (rows, width) to one width costs less time than compiling for several.

    Several take a program for each `common_width`, and one for each pair of these. The cost of a pair of widths p and q
    is that of a product and a decomposition, 2 n p q + 10 p q min(p, q) operations, with p and q at most n.
    """
    padded = [common_width(width) for width in widths]
    num_widths = len(set(padded))
    saved = _SECONDS_TO_COMPILE * (num_widths * (num_widths + 3) / 2 - 2)
    sizes = np.minimum(padded, rows).astype(float)
    narrower = np.minimum(sizes[:, None], sizes)
    operations = np.outer(sizes, sizes) * (2 * rows + 10 * narrower)
    return (operations.max() - operations).sum() / 2 / _OPERATIONS_PER_SECOND < saved


def pad_channels(x, width):
    """Append zero channels to `x` up to `width`."""
    module = jnp if isinstance(x, jax.Array) else np
    return module.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])


def pad_to_common_width(*arrays):
    """Append zero columns to matrices up to their `common_width`, for measures that do not depend on zero columns.

    Traced arrays are returned unchanged. Arrays on a CPU are padded by NumPy, which compiles nothing.
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
    """Return the largest power of two up to the largest absolute value along `axes`, and 1 for zeros.

    It is a constant to derivatives.

    Division by it is exact, and squares of the quotient neither overflow nor vanish.
    """
    largest = lax.stop_gradient(jnp.abs(x).max(axes, keepdims=keepdims))
    power = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1)
    return jnp.where((largest > 0) & jnp.isfinite(largest), power, 1)


def subtract_mean(x, axes=None):
    """Return `x` minus its mean over `axes`, and the mean; by default over all axes except that of channels.

    All measures center by this function. Deviations that are no larger than rounding become exactly 0, so that they are
    never scaled up to unit norm. `x` may be complex.
    """
    axes = tuple(range(x.ndim - 1)) if axes is None else axes
    size = magnitude(x, axes, keepdims=True).astype(x.dtype)
    x = x / size
    mean = x.mean(axes, keepdims=True)
    centered = x - mean
    # A second time, to remove the rounding error of a mean that is large compared to the deviations.
    residual_mean = centered.mean(axes, keepdims=True)
    centered, mean = centered - residual_mean, mean + residual_mean
    samples = math.prod(x.shape[axis] for axis in axes)
    squares, noise = lax.stop_gradient((_squares(centered, axes), samples * (_noise(x) * jnp.abs(mean)) ** 2))
    return size * jnp.where(squares <= noise, 0, centered), (size * mean).squeeze(axes)  # NaN passes through


def centered(x):
    """Return `x` minus the mean of each channel over all other axes.

    Channels constant up to rounding become exactly zero.
    """
    return subtract_mean(x)[0]


def zero_rounding(x, size):
    """Set channels of `x` to 0 whose norm over axis 0 is at the rounding level of data of norm `size` (1, ...)."""
    return jnp.where(norms(lax.stop_gradient(x)) <= _noise(x) * lax.stop_gradient(size), 0, x)


def norms(x, axes=(0,)):
    """Return Euclidean norms over `axes`, which are kept with length 1."""
    size = magnitude(x, axes, keepdims=True)
    x = x / size.astype(x.dtype)
    return size * jnp.sqrt(_squares(x, axes))


def _squares(x, axes):
    return (x * x.conj()).real.sum(axes, keepdims=True)


def _noise(x):
    """Return the relative rounding error of the norm of data of this dtype."""
    return 4 * float(jnp.finfo(x.dtype).eps)


def subtract_ninther(x):
    """Return `x` minus the `ninther` of each channel; constant channels become exactly zero.

    For measures that are invariant to translation: unlike the mean, the ninther hardly depends on single huge examples.
    """
    return x - ninther(x.reshape(-1, x.shape[-1])).reshape((1,) * (x.ndim - 1) + (-1,))


def ninther(x, count=None):
    """Return Tukey's ninther of each column, a value from its bulk, as a constant to derivatives.

    It is the median of three medians of three rows, which are spread evenly over all rows or over the first `count`.
    The mean would leave rounding errors of a constant channel, which later are scaled up to unit norm. Any single row
    could be one huge example, and then all other rows lose their digits.
    """
    rows = jnp.linspace(0, 1, 9, dtype=x.dtype) * (jnp.asarray(len(x) if count is None else count, x.dtype) - 1)
    chosen = x[jnp.rint(rows).astype(jnp.int32)].reshape(3, 3, -1)
    return lax.stop_gradient(_median_of_three(*_median_of_three(*chosen.swapaxes(0, 1))))


def _median_of_three(a, b, c):
    return jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))


def unit_channels(x):
    """Scale each channel to unit Euclidean norm over all other axes; return it with the norms.

    Zero channels stay zero.
    """
    return _unit_norm(x, tuple(range(x.ndim - 1)))


def unit_norm(x):
    """Scale `x` to unit Frobenius norm; return it with the norm. Zero stays zero."""
    return _unit_norm(x, None)


def _unit_norm(x, axes):
    largest = lax.stop_gradient(jnp.abs(x).max(axes, keepdims=True))  # squares of numbers near 1 do not overflow
    largest = jnp.where(largest == 0, 1, largest)
    x = x / largest
    norm = safe_sqrt((x * x).sum(axes, keepdims=True))
    return x / jnp.where(norm == 0, 1, norm), (largest * norm).squeeze(axes)


def zero_if_equal(distance, x, y):
    """Return the distance of x and y, exactly 0 where they are equal; NaN stays NaN."""
    if x.shape != y.shape:
        return distance
    return jnp.where((x == y).all() & (distance == distance), 0, distance)


def safe_sqrt(squares):
    """Return the square root, and 0 for rounding errors below zero; NaN stays NaN. The derivative at zero is zero."""
    positive = ~(squares <= 0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
