"""Validation of the arguments of all similarity measures, and conversion of maps to matrices.

Representations are (n, d), tokens (n, t, c) or maps (n, h, w, c): examples first, features or channels last (with
layout="nchw", channels second). Tokens are maps of height 1; of more axes, all but the last two are flattened.

Wrong shapes or dtypes raise an `InputError` before compilation. So do NaN and infinite entries, but only
in concrete arrays: under `jit`, `vmap` or `grad` they make the result NaN. The result is also NaN where a comparison is
0 / 0, for example with a constant representation. Numbers at the ends of the floating type's range raise an
`InputError` too; see `number_range`.
"""

import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import any_array, is_concrete, is_real, one_of, real
from symjax.errors import InputError
from symjax.similarity.number_range import require_in_range, subtract_large_offset
from symjax.similarity.position_mask import without_masked

SAMPLES = ("positions", "pool", "flatten", "first", "last")
LAYOUTS = ("nhwc", "nchw")


class FewExamplesWarning(UserWarning):
    """There are so few examples that a part of the result depends on shapes alone, not on the data."""


class NumericalWarning(UserWarning):
    """A part of the result depends on values close to those where the result jumps or is not defined."""


class LayoutWarning(UserWarning):
    """An array of maps looks as if channels came first, and `layout` is not given."""


def representation(x, name="x", *, layout=None, min_examples=2, translation_invariant=False):
    """Return `x` as a finite floating array (n, d) or (n, h, w, c), tokens as (n, 1, t, c).

    Integers become the default float and half precisions float32. For NumPy arrays of more bits than JAX uses, the
    common offset of a channel is subtracted where conversion would lose the differences within it.

    Args:
        x: array of real numbers.
        name: name of the argument in messages.
        layout: layout of maps, "nhwc" or "nchw". None means "nhwc", with a warning where x looks like "nchw": (n, c, s,
            s).
        min_examples: smallest allowed number of examples.
        translation_invariant: whether adding a constant to a channel does not change the measure.

    Raises:
        InputError: not real, other rank, an empty axis, fewer than `min_examples` examples; unknown layout; concrete
            and not finite, or at the ends of the range; differences would be lost, and the measure is not
            `translation_invariant`.
    """
    check_layout(layout)
    original = any_array(name, x)
    if original.ndim > 2:
        original = as_map_axes(channels_last(name, original, layout, 1), 1)
    if original.ndim >= 2 and original.size and is_concrete(original) and is_real(original.dtype):
        original = subtract_large_offset(name, original, translation_invariant)
    x = real(name, original)
    if x.dtype.itemsize < 4:
        x = x.astype(jnp.float32)
    if x.ndim < 2:
        raise InputError(f"{name}: got shape {x.shape}, expected (n, d), (n, t, c) or (n, h, w, c), examples first")
    if x.size == 0:
        raise InputError(f"{name}: got shape {x.shape}, expected a nonempty array")
    if x.shape[0] < min_examples:
        raise InputError(f"{name}: got shape {x.shape}, expected at least {min_examples} examples")
    require_in_range(name, x, original)
    return x


def channels_last(name, x, layout, axis):
    """Move the channels of maps to the last axis: with layout "nchw" they are at `axis`."""
    if layout == "nchw":
        return (np if isinstance(x, np.ndarray) else jnp).moveaxis(x, axis, -1)
    first, *size = x.shape[axis:]
    if layout is None and len(size) == 2 and size[0] == size[1] != first:
        warn_user(
            f"{name}: got shape {x.shape}, which looks like {first} channels first, but is read as maps of "
            f"{first} x {size[0]} pixels with {size[1]} channels; specify layout='nchw' or 'nhwc'",
            LayoutWarning,
        )
    return x


def as_map_axes(x, leading):
    """Return an array with exactly two axes of positions between `leading` axes and the channels."""
    return x if x.ndim == leading + 3 else x.reshape(*x.shape[:leading], -1, *x.shape[-2:])


def as_matrix(x, name="x", samples="positions", mask=None, layout=None, **options):
    """Return `x` as a matrix of samples by features; (n, d) is unchanged.

    Tokens (n, t, c) and maps (n, h, w, c) become, by `samples`: "positions", each token or pixel a sample, (n h w, c);
    "pool", the mean over positions, (n, c); "flatten", (n, h w c); "first" or "last", one position, (n, c). `mask`, (n,
    t) or (n, h, w), is false for positions that are left out, such as padding; they may contain anything.

    Raises:
        InputError: as `representation`, which takes the same options; unknown `samples`; a mask of another shape, with
            "flatten", or without a position of an example (with "positions": of any).
    """
    check_samples(samples)
    (x,), mask = without_masked({name: x}, samples, mask, check_layout(layout))
    return matrix_of(representation(x, name, layout=layout, **options), samples, mask)


def as_pair(x, y, samples="positions", mask=None, *, layout=None, enlarging=False, **options):
    """Return `x` and `y` as matrices (`as_matrix`) of one dtype and equally many rows.

    Raises:
        InputError: as `as_matrix`; different numbers of examples; for "positions" a matrix and maps, or different map
            sizes unless the smaller map is enlarged.
    """
    check_samples(samples)
    (x, y), mask = without_masked({"x": x, "y": y}, samples, mask, check_layout(layout))
    given = [tuple(getattr(z, "shape", ())) for z in (x, y)]
    x, y = paired_representations(x, y, layout=layout, **options)
    if samples == "positions" and _map_size(x) != _map_size(y):
        if not (enlarging and x.ndim == y.ndim):
            raise InputError(
                f"y: got shape {given[1]}, expected the map size of x, {given[0]}, for samples='positions'; use "
                "samples='pool' (mean over positions) or samples='flatten' for other shapes"
            )
        size = tuple(map(max, _map_size(x), _map_size(y)))
        x, y = enlarge(x, size), enlarge(y, size)
    return matrix_of(x, samples, mask), matrix_of(y, samples, mask)


def enlarge(x, size, axes=(1, 2)):
    """Enlarge maps along `axes` to `size` by nearest neighbor, as in `alignment.paired_samples`."""
    for axis, length in zip(axes, size, strict=True):
        if x.shape[axis] != length:
            x = jnp.take(x, jnp.arange(length) * x.shape[axis] // length, axis)
    return x


def as_maps(x, **options):
    """Return `x` as maps (n, h, w, c); a matrix (n, d) becomes maps of one pixel, (n, 1, 1, d).

    Raises:
        InputError: as `representation`, which takes the same options.
    """
    return _one_pixel(representation(x, **options))


def as_map_pair(x, y, **options):
    """Return `x` and `y` as maps (`as_maps`) of one dtype; map sizes and channels may differ.

    Raises:
        InputError: as `representation`; different numbers of examples.
    """
    x, y = paired_representations(x, y, **options)
    return _one_pixel(x), _one_pixel(y)


def paired_representations(x, y, **options):
    """Return both as `representation`s of one dtype with equally many examples.

    Raises:
        InputError: as `representation`, which takes the same options; different numbers of examples.
    """
    x, y = representation(x, "x", **options), representation(y, "y", **options)
    if x.shape[0] != y.shape[0]:
        raise InputError(f"y: got {y.shape[0]} examples, expected as many as in x, {x.shape[0]}")
    dtype = jnp.promote_types(x.dtype, y.dtype)
    return x.astype(dtype), on_device_of(x, y.astype(dtype))


def on_device_of(x, y):
    """Return `y` on the device of `x`, if each is on a single device."""
    if not (is_concrete(x) and is_concrete(y)) or x.devices() == y.devices() or len(x.devices() | y.devices()) != 2:
        return y
    return jax.device_put(y, x.sharding) if len(x.devices()) == len(y.devices()) else y


def warn_user(message, category):
    """Issue a warning that points to the first line outside of this package and of JAX."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("symjax.", "jax.")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def check_layout(layout):
    if layout is not None:
        one_of("layout", layout, LAYOUTS)
    return layout


def check_samples(samples):
    one_of("samples", samples, SAMPLES)
    return samples


def matrix_of(x, samples, mask=None):
    """Return `as_matrix` of an (n, d) or (n, h, w, c) that is checked."""
    if x.ndim == 2:
        return x
    if samples == "pool" and mask is None:
        return x.mean((1, 2))
    if samples == "flatten":
        return x.reshape(len(x), -1)
    positions = x.reshape(len(x), -1, x.shape[-1])
    mask = None if mask is None else mask.reshape(positions.shape[:2])
    if samples == "positions":
        rows = positions.reshape(-1, x.shape[-1])
        return rows if mask is None else rows[np.flatnonzero(mask)]
    if samples == "pool":
        return jnp.where(mask[..., None], positions, 0).sum(1) / mask.sum(1, keepdims=True)
    if mask is None:
        return positions[:, 0 if samples == "first" else -1]
    place = mask.argmax(1) if samples == "first" else mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
    return jnp.take_along_axis(positions, place[:, None, None], 1)[:, 0]


def matrix_shape(shape, samples):
    """Return the shape of `as_matrix` of a representation of `shape`."""
    return jax.eval_shape(lambda x: matrix_of(x, samples), jax.ShapeDtypeStruct(shape, jnp.float32)).shape


def _map_size(x):
    return x.shape[1:-1]


def _one_pixel(x):
    return x if x.ndim == 4 else x[:, None, None, :]
