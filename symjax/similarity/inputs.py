"""What all similarity measures ask of their arguments, and how maps become matrices.

Representations are (n, d) or (n, h, w, c): examples first, features or channels last. A mistake that shapes or types
show is an `InputError` before anything is compiled. NaN and infinities are one too, but only where values can be seen:
under `jit`, `vmap` or `grad` they make the result NaN. So does a comparison that is 0 / 0, such as one with a
representation that is constant.

So are numbers at the ends of the floating type's range: a largest entry over 2^-24 of the largest number (2e31 in
float32), where sums overflow, or under 2^24 times the least normal number (2e-31), where digits are missing, since
devices take what is not normal for 0. In between no measure overflows nor vanishes, unless its value does.
"""

import jax
import jax.numpy as jnp
import numpy as np

from symjax.birkhoff.checks import is_concrete, real
from symjax.checks import one_of
from symjax.errors import InputError

MAPS = ("pixels", "flatten", "pool")


class FewExamplesWarning(UserWarning):
    """There are so few examples that the shapes alone, not the data, decide a part of the result."""


def representation(x, name="x", *, min_examples=2):
    """`x` as a finite floating array (n, d) or (n, h, w, c).

    Integers become the default float and half precisions float32.

    Raises:
        InputError: not real, of another rank, an empty axis, fewer than `min_examples` examples; concrete and not
            finite, or at the ends of the range.
    """
    given, x = x, real(name, x)
    if x.dtype.itemsize < 4:
        x = x.astype(jnp.float32)
    if x.ndim not in (2, 4):
        raise InputError(f"{name}: got shape {x.shape}, must be (n, d) or (n, h, w, c), examples first")
    if x.size == 0:
        raise InputError(f"{name}: got shape {x.shape}, must not be empty")
    if x.shape[0] < min_examples:
        raise InputError(f"{name}: got shape {x.shape}, must have at least {min_examples} examples")
    require_in_range(name, x, given)
    return x


def as_matrix(x, name="x", maps="pixels", *, min_examples=2):
    """`x` as a matrix, samples by features; what is (n, d) stays so.

    Maps (n, h, w, c) become, by `maps`: "pixels", each pixel a sample, (n h w, c); "flatten", (n, h w c); "pool", the
    mean over pixels, (n, c).

    Raises:
        InputError: as `representation`; unknown `maps`.
    """
    return _matrix(representation(x, name, min_examples=min_examples), check_maps(maps))


def as_pair(x, y, maps="pixels", *, min_examples=2):
    """`x` and `y` as matrices (`as_matrix`) of one dtype and equally many rows.

    Raises:
        InputError: as `as_matrix`; numbers of examples that differ; "pixels" with map sizes that differ, or of a matrix
            and maps.
    """
    x, y = examples_agree(x, y, min_examples=min_examples)
    if check_maps(maps) == "pixels" and _map_size(x) != _map_size(y):
        raise InputError(
            f"y: got shape {y.shape}, must have the map size of x, {x.shape}, where pixels are samples; "
            "maps='flatten' and maps='pool' compare any two sizes"
        )
    return _matrix(x, maps), _matrix(y, maps)


def as_maps(x, name="x", *, min_examples=2):
    """`x` as maps (n, h, w, c); a matrix (n, d) is taken for maps of one pixel, (n, 1, 1, d).

    Raises:
        InputError: as `representation`.
    """
    return _one_pixel(representation(x, name, min_examples=min_examples))


def as_map_pair(x, y, *, min_examples=2):
    """`x` and `y` as maps (`as_maps`) of one dtype; map sizes and channels may differ.

    Raises:
        InputError: as `representation`; numbers of examples that differ.
    """
    x, y = examples_agree(x, y, min_examples=min_examples)
    return _one_pixel(x), _one_pixel(y)


def examples_agree(x, y, *, min_examples=2):
    """Both as `representation`s of one dtype, equally many examples in each, or an `InputError`."""
    x = representation(x, "x", min_examples=min_examples)
    y = representation(y, "y", min_examples=min_examples)
    if x.shape[0] != y.shape[0]:
        raise InputError(f"y: got {y.shape[0]} examples, must be as many as in x, {x.shape[0]}")
    dtype = jnp.promote_types(x.dtype, y.dtype)
    return x.astype(dtype), _beside(x, y.astype(dtype))


def _beside(x, y):
    """`y` on the device of `x`, where each is on one of its own."""
    if not (is_concrete(x) and is_concrete(y)) or x.devices() == y.devices() or len(x.devices() | y.devices()) != 2:
        return y
    return jax.device_put(y, x.sharding) if len(x.devices()) == len(y.devices()) else y


def check_maps(maps):
    one_of("maps", maps, MAPS)
    return maps


def require_in_range(name, x, given):
    """Raises an `InputError` where entries of `x`, made of `given`, are seen not to be finite or beyond `fault`."""
    with jax.ensure_compile_time_eval():  # a constant inside of jit is concrete, but its test would be traced
        # Inside of jit, conversion has made a tracer of a constant.
        seen = x if is_concrete(x) else jnp.asarray(given)
        if not is_concrete(seen):
            return
        largest = float(_largest(seen))
    # What is not normal may have been read as 0.
    if message := fault(largest or float(np.abs(np.asarray(given, np.float64)).max()), x.dtype):
        raise InputError(f"{name}: {message}")


def fault(largest, dtype):
    """What is wrong with numbers whose greatest absolute value is `largest`, if computed with in `dtype`, or None."""
    info, margin = jnp.finfo(dtype), 2.0**24
    if not largest <= float(info.max):  # NaN, too
        return f"has NaN or infinite entries in {dtype}, must be finite"
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
