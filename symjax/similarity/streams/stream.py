"""What a stream is, and the number of samples it has seen."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax.birkhoff.checks import is_concrete
from symjax.checks import any_array, array
from symjax.errors import InputError

_LIMB = 2**30


class Stream(NamedTuple):
    """A similarity measure of data that comes in batches: pure functions of a state, good under `jit` and `vmap`.

    The state is a plain pytree of arrays, of shapes that do not depend on how much has been seen.

    init: init(x, y) -> state of nothing. x and y are arrays or `jax.ShapeDtypeStruct`s of a batch, of which the widths,
        map sizes and dtypes count, not the number of examples.
    update: update(state, x, y, mask=None) -> state with one more batch. Batches may differ in size; a new size is
        compiled anew. `mask`, (n,) booleans, tells examples that count from padding, where the stream allows it.
    merge: merge(a, b) -> state of all that a and b have seen. Like updates, in any order, up to rounding.
    finalize: finalize(state) -> the result, of the form that the function of the same name gives on the whole data.
    kind: what states mean, in words. Streams of one kind take each other's states.

    A mistake that shapes or types show is an `InputError`; so are NaN and infinite entries of a concrete batch, and a
    concrete state that has seen too little. Traced, these make the result NaN.
    """

    init: Callable
    update: Callable
    merge: Callable
    finalize: Callable
    kind: str


def no_samples():
    """A count (2,) int32 of zero. Its parts are 2^30 and 1: pixels of a large data set are more than 2^31."""
    return jnp.zeros(2, jnp.int32)


def count_of(samples):
    """The count of a number under 2^31, an int or int32."""
    samples = jnp.asarray(samples, jnp.int32)
    return jnp.stack([samples // _LIMB, samples % _LIMB])


def add_counts(a, b):
    total = a + b
    return jnp.stack([total[0] + total[1] // _LIMB, total[1] % _LIMB])


def as_float(count, dtype):
    return count[0].astype(dtype) * _LIMB + count[1].astype(dtype)


def require_samples(count, minimum, what):
    """Raises an `InputError` where a concrete count is under `minimum`; returns it as an int, None if traced."""
    if not is_concrete(count):
        return None
    high, low = (int(part) for part in count)
    num_samples = high * _LIMB + low
    if num_samples < minimum:
        raise InputError(f"state: got {num_samples} {what}, expected at least {minimum}")
    return num_samples


def require_same_shapes(a, b):
    """Raises an `InputError` unless both states have the same shapes and dtypes."""
    a_leaves, b_leaves = ([(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)] for state in (a, b))
    if jax.tree.structure(a) != jax.tree.structure(b) or a_leaves != b_leaves:
        raise InputError(f"b: got a state {describe_state(b)}, expected that of a, {describe_state(a)}")


def describe_state(state):
    shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(state))
    return f"{type(state).__name__} of {shapes}"


def clear_padding(x, y, mask):
    """x and y with 0 for examples that do not count, which so may hold anything, and the mask as booleans."""
    x, y, mask = any_array("x", x), any_array("y", y), array("mask", mask)
    if mask.dtype != bool or mask.shape != x.shape[:1] or mask.shape != y.shape[:1]:
        raise InputError(
            f"mask: got {mask.dtype}{list(mask.shape)}, expected booleans, one for each example of x and y"
        )
    if all(isinstance(z, np.ndarray) for z in (x, y, mask)):  # not rounded yet; a copy of the first that counts is safe
        rows = np.where(mask, np.arange(len(mask)), mask.argmax())
        return (x[rows], y[rows], mask) if mask.any() else (np.zeros_like(x), np.zeros_like(y), mask)
    return *(jnp.where(mask.reshape(-1, *(1,) * (z.ndim - 1)), z, 0) for z in (x, y)), mask
