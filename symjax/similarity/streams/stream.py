"""The interface of streams, and the number of their samples."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from symjax.checks import any_array, is_concrete
from symjax.errors import InputError
from symjax.similarity.position_mask import as_mask, cleared, positions_shape

_LIMB = 2**30


class Stream(NamedTuple):
    """A similarity measure of data that arrive in batches: pure functions of a state, compatible with `jit` and `vmap`.

    The state is a pytree of arrays whose shapes do not depend on the number of batches.

    Attributes:
        init: init(x, y) -> state without samples. x and y are arrays or `jax.ShapeDtypeStruct`s of a batch; their
            widths, map sizes and dtypes are used, not their numbers of examples.
        update: update(state, x, y, mask=None) -> state with one more batch. Batches may differ in size; each new size
            is compiled. `mask` is false for padding, if the stream supports it: booleans (n,) for examples, or (n, t)
            or (n, h, w) for tokens or pixels.
        merge: merge(a, b) -> state of the samples of a and b together. The order of merges and updates matters only for
            rounding.
        finalize: finalize(state) -> the result, as returned by the function of the same name on the whole data.
        kind: description of the states. Streams of one kind accept each other's states.

    Wrong shapes or dtypes raise an `InputError`; so do NaN and infinite entries of a concrete batch, and a concrete
    state with too few samples. In traced values these make the result NaN.
    """

    init: Callable
    update: Callable
    merge: Callable
    finalize: Callable
    kind: str


def no_samples():
    """Return a count (2,) int32 of zero: the number of multiples of 2^30, and the rest.

    The number of pixels of a large data set can exceed 2^31.
    """
    return jnp.zeros(2, jnp.int32)


def count_of(samples):
    """Return the count for a number below 2^31, an int or int32."""
    samples = jnp.asarray(samples, jnp.int32)
    return jnp.stack([samples // _LIMB, samples % _LIMB])


def add_counts(a, b):
    total = a + b
    return jnp.stack([total[0] + total[1] // _LIMB, total[1] % _LIMB])


def as_float(count, dtype):
    return count[0].astype(dtype) * _LIMB + count[1].astype(dtype)


def require_samples(count, minimum, what):
    """Raise an `InputError` where a concrete count is below `minimum`; return it as an int, or None if traced."""
    if not is_concrete(count):
        return None
    high, low = (int(part) for part in count)
    num_samples = high * _LIMB + low
    if num_samples < minimum:
        raise InputError(f"state: got {num_samples} {what}, expected at least {minimum}")
    return num_samples


def require_same_shapes(a, b):
    """Raise an `InputError` unless both states have equal shapes and dtypes."""
    a_leaves, b_leaves = ([(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)] for state in (a, b))
    if jax.tree.structure(a) != jax.tree.structure(b) or a_leaves != b_leaves:
        raise InputError(f"b: got a state {describe_state(b)}, expected that of a, {describe_state(a)}")


def describe_state(state):
    shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(state))
    return f"{type(state).__name__} of {shapes}"


def samples_of(pair_of, x, y, mask, shifts, unit):
    """Return the samples of a batch of both sides, and the mask of samples or None.

    Args:
        pair_of: partial function of x and y, with keywords `samples` and `layout`, that returns the samples, (m, p) and
            (m, q).
        x, y, mask: the batch, and which of its examples, or of their positions, count; None means all. The others may
            contain anything.
        shifts: arrays (p,) and (q,) of the state, with which the samples must agree.
        unit: the word for columns in messages.

    Raises:
        InputError: other widths or dtypes than those of the state; a mask that does not fit.
    """
    if mask is not None:
        x, y, mask, layout = any_array("x", x), any_array("y", y), as_mask(mask), pair_of.keywords["layout"]
        for z in (x, y):
            if mask.shape not in (z.shape[:1], positions_shape(z, layout)):
                raise InputError(
                    f"mask: got {mask.dtype}{list(mask.shape)}, expected booleans, one for each example of x and y, or "
                    "for each of their positions"
                )
        x, y = cleared(x, mask, layout), cleared(y, mask, layout)
        if mask.ndim > 1 and pair_of.keywords["samples"] != "positions":
            axes = tuple(range(1, mask.ndim))
            examples = mask.any(axes)  # an example without positions is padding, of which any position will do
            pair_of = partial(pair_of, mask=mask | ~examples.reshape(-1, *(1,) * len(axes)))
            mask = examples
    x, y = pair_of(x, y)
    for name, shift, z in (("x", shifts[0], x), ("y", shifts[1], y)):
        if z.shape[1] != len(shift) or z.dtype != shift.dtype:
            raise InputError(f"{name}: got {z.shape[1]} {unit} of {z.dtype}, expected {len(shift)} of {shift.dtype}")
    return x, y, None if mask is None else jnp.repeat(mask.reshape(-1), x.shape[0] // mask.size)
