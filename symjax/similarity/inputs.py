"""What all similarity measures ask of their arguments, and how maps become matrices.

Representations are (n, d) or (n, h, w, c): examples first, features or channels last (by `layout`, channels of maps
second). A mistake that shapes or types show is an `InputError` before anything is compiled. NaN and infinities are one
too, but only where values can be seen: under `jit`, `vmap` or `grad` they make the result NaN. So does a comparison
that is 0 / 0, such as one with a representation that is constant.

So are numbers at the ends of the floating type's range: a largest entry over 2^-24 of the largest number (2e31 in
float32), where sums overflow, or under 2^24 times the least normal number (2e-31), where digits are missing, since
devices take what is not normal for 0. In between no measure overflows nor vanishes, unless its value does.
"""

import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from symjax.birkhoff.checks import is_concrete, real
from symjax.checks import any_array, is_real, one_of
from symjax.errors import InputError

MAPS = ("pixels", "flatten", "pool")
LAYOUTS = ("nhwc", "nchw")
MAX_LOSS = 2.0**-10  # the share of a channel's spread that rounding to fewer bits may take


class FewExamplesWarning(UserWarning):
    """There are so few examples that the shapes alone, not the data, decide a part of the result."""


class NumericalWarning(UserWarning):
    """Values of the data, near those at which the result jumps or is not defined, decide a part of it."""


class LayoutWarning(UserWarning):
    """An array of maps looks as if channels came first, and `layout` does not say."""


def representation(x, name="x", *, layout=None, min_examples=2, translation_invariant=False):
    """`x` as a finite floating array (n, d) or (n, h, w, c).

    Integers become the default float and half precisions float32. NumPy's numbers of more bits than JAX has are made
    less by what all of a channel have in common, where nothing would be left of their differences otherwise.

    Args:
        layout: of maps, "nhwc" or "nchw"; None takes "nhwc", and warns of what looks like the other: (n, c, s, s).
        min_examples: how many there must be.
        translated: whether a constant added to a channel changes nothing.

    Raises:
        InputError: not real, of another rank, an empty axis, fewer than `min_examples` examples; unknown layout;
            concrete and not finite, or at the ends of the range; not `translation_invariant`, and differences that
            would be lost.
    """
    check_layout(layout)
    original = any_array(name, x)
    if original.ndim == 4:
        original = channels_last(name, original, layout, 1)
    if original.ndim in (2, 4) and original.size and is_concrete(original) and is_real(original.dtype):
        original = subtract_large_offset(name, original, translation_invariant)
    x = real(name, original)
    if x.dtype.itemsize < 4:
        x = x.astype(jnp.float32)
    if x.ndim not in (2, 4):
        raise InputError(f"{name}: got shape {x.shape}, expected (n, d) or (n, h, w, c), examples first")
    if x.size == 0:
        raise InputError(f"{name}: got shape {x.shape}, expected a nonempty array")
    if x.shape[0] < min_examples:
        raise InputError(f"{name}: got shape {x.shape}, expected at least {min_examples} examples")
    require_in_range(name, x, original)
    return x


def channels_last(name, x, layout, axis):
    """Maps whose channels lie along the last axis, or by `layout` along `axis`, in the former order."""
    if layout == "nchw":
        return (np if isinstance(x, np.ndarray) else jnp).moveaxis(x, axis, -1)
    first, *size = x.shape[axis:]
    if layout is None and size[0] == size[1] != first:
        warn_user(
            f"{name}: got shape {x.shape}, which looks like {first} channels first, and is taken for maps of "
            f"{first} x {size[0]} pixels and {size[1]} channels; layout='nchw' or 'nhwc' says which",
            LayoutWarning,
        )
    return x


def subtract_large_offset(name, x, translation_invariant):
    """Concrete numbers (..., c) such that JAX's type, where it has fewer bits, keeps what differs within channels.

    Where rounding would take more than `MAX_LOSS` of a channel's spread, its first number is taken off all of them.
    That is an `InputError` unless it changes nothing, being `translation_invariant`. What is constant up to rounding
    stays.
    """
    dtype, whole = np.dtype(jnp.result_type(float)), x.dtype.kind in "iu"
    if not (x.dtype.itemsize >= 4 if whole else x.dtype == np.float64 != dtype):
        return x
    original, x, axes = x, np.asarray(x), tuple(range(x.ndim - 1))
    with np.errstate(invalid="ignore", over="ignore"):  # infinities are refused later
        high, low = x.max(axes), x.min(axes)
        # Differences of integers of 64 bits modulo 2^64, which is what they are.
        spread = (high.astype(np.uint64) - low.astype(np.uint64) if whole else high - low).astype(np.float64)
        largest = np.maximum(np.abs(np.float64(high)), np.abs(np.float64(low)))
        varies = spread > (0 if whole else 16 * np.finfo(np.float64).eps * largest)
        doubtful = np.flatnonzero(varies & (np.finfo(dtype).eps * largest > 2 * MAX_LOSS * spread))
        part, first = x[..., doubtful].astype(np.int64 if whole else np.float64), (slice(1),) * len(axes)
        differences, rounded = (part - part[first]).astype(np.float64), part.astype(dtype).astype(np.float64)
        lost = np.abs(rounded - rounded[first] - differences).max(axes) > MAX_LOSS * spread[doubtful]
    if not lost.any():
        return original
    if not translation_invariant:
        channel = doubtful[lost.argmax()]
        raise InputError(
            f"{name}: channel {channel} has numbers about {largest[channel]:.1e} that differ by up to "
            f"{spread[channel]:.1e}, which {dtype} does not hold; subtract an offset, or enable jax_enable_x64"
        )
    x = x.astype(np.float64)
    x[..., doubtful[lost]] = differences[..., lost]
    return x


def as_matrix(x, name="x", maps="pixels", **options):
    """`x` as a matrix, samples by features; what is (n, d) stays so.

    Maps (n, h, w, c) become, by `maps`: "pixels", each pixel a sample, (n h w, c); "flatten", (n, h w c); "pool", the
    mean over pixels, (n, c).

    Raises:
        InputError: as `representation`, whose options it takes; unknown `maps`.
    """
    return _matrix(representation(x, name, **options), check_maps(maps))


def as_pair(x, y, maps="pixels", **options):
    """`x` and `y` as matrices (`as_matrix`) of one dtype and equally many rows.

    Raises:
        InputError: as `as_matrix`; numbers of examples that differ; "pixels" with map sizes that differ, or of a matrix
            and maps.
    """
    x, y = paired_representations(x, y, **options)
    if check_maps(maps) == "pixels" and _map_size(x) != _map_size(y):
        raise InputError(
            f"y: got shape {y.shape}, expected the map size of x, {x.shape}, where pixels are samples; "
            "maps='flatten' and maps='pool' compare any two sizes"
        )
    return _matrix(x, maps), _matrix(y, maps)


def as_maps(x, name="x", **options):
    """`x` as maps (n, h, w, c); a matrix (n, d) is taken for maps of one pixel, (n, 1, 1, d).

    Raises:
        InputError: as `representation`, whose options it takes.
    """
    return _one_pixel(representation(x, name, **options))


def as_map_pair(x, y, **options):
    """`x` and `y` as maps (`as_maps`) of one dtype; map sizes and channels may differ.

    Raises:
        InputError: as `representation`; numbers of examples that differ.
    """
    x, y = paired_representations(x, y, **options)
    return _one_pixel(x), _one_pixel(y)


def paired_representations(x, y, **options):
    """Both as `representation`s, whose options it takes, of one dtype, equally many examples, or an `InputError`."""
    x, y = representation(x, "x", **options), representation(y, "y", **options)
    if x.shape[0] != y.shape[0]:
        raise InputError(f"y: got {y.shape[0]} examples, expected as many as in x, {x.shape[0]}")
    dtype = jnp.promote_types(x.dtype, y.dtype)
    return x.astype(dtype), _on_device_of(x, y.astype(dtype))


def _on_device_of(x, y):
    """`y` on the device of `x`, where each is on one of its own."""
    if not (is_concrete(x) and is_concrete(y)) or x.devices() == y.devices() or len(x.devices() | y.devices()) != 2:
        return y
    return jax.device_put(y, x.sharding) if len(x.devices()) == len(y.devices()) else y


def warn_user(message, category):
    """A warning that points to the first line outside of this package, and of JAX that calls it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("symjax.", "jax.")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def check_layout(layout):
    if layout is not None:
        one_of("layout", layout, LAYOUTS)
    return layout


def check_maps(maps):
    one_of("maps", maps, MAPS)
    return maps


def require_in_range(name, x, original):
    """Raises an `InputError` where entries of `x`, made of `original`, are seen not to be finite or beyond `range_problem`."""
    with jax.ensure_compile_time_eval():  # a constant inside of jit is concrete, but its test would be traced
        # Inside of jit, conversion has made a tracer of a constant.
        concrete = x if is_concrete(x) else jnp.asarray(original)
        if not is_concrete(concrete):
            return
        largest = float(_largest(concrete))
    # What is not normal may have been read as 0.
    if message := range_problem(largest or float(np.abs(np.asarray(original, np.float64)).max()), x.dtype):
        raise InputError(f"{name}: {message}")


def range_problem(largest, dtype):
    """What is wrong with numbers whose greatest absolute value is `largest`, if computed with in `dtype`, or None."""
    info, margin = jnp.finfo(dtype), 2.0**24
    if not largest <= float(info.max):  # NaN, too
        return f"has NaN or infinite entries in {dtype}, expected finite entries"
    if largest > float(info.max) / margin:
        return f"has entries up to {largest:.1e}, where sums overflow {dtype}; multiply it by a small constant"
    if 0 < largest < float(info.tiny) * margin:
        return f"has no entry over {largest:.1e}, where {dtype} lacks digits; multiply it by a large constant"
    return None


@jax.jit
def _largest(x):
    return jnp.abs(x).max()


def _matrix(x, maps):
    if x.ndim == 2:
        return x
    if maps == "pool":
        return x.mean((1, 2))
    return x.reshape((-1, x.shape[-1]) if maps == "pixels" else (x.shape[0], -1))


def matrix_shape(shape, maps):
    """The shape of `as_matrix` of a representation of `shape`."""
    return jax.eval_shape(lambda x: _matrix(x, maps), jax.ShapeDtypeStruct(shape, jnp.float32)).shape


def _map_size(x):
    return x.shape[1:-1]


def _one_pixel(x):
    return x if x.ndim == 4 else x[:, None, None, :]
