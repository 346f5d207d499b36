"""Linear CKA of all examples of all batches in constant memory, equal to that of the whole data for any order.

The state holds sums over pairs of different examples (`off_diagonal`), relative to a point in the first batch. It may
have any number of sides; all of them are compared with each other.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from symjax.errors import InputError
from symjax.similarity.angles import ratio
from symjax.similarity.channels import magnitude, ninther
from symjax.similarity.hsic import min_examples_of, zero_rounding_products
from symjax.similarity.inputs import as_pair
from symjax.similarity.off_diagonal import (
    OffDiagonalSums,
    centered_products,
    merge_sums,
    scale_sums,
    sums_of,
    translate_sums,
    zero_sums,
)
from symjax.similarity.streams.stream import (
    Stream,
    add_counts,
    as_float,
    count_of,
    no_samples,
    require_same_shapes,
    require_samples,
    samples_of,
)

MAX_FEATURES = 2**14  # of all sides together; the state has the square of this number: 1 GiB in float32


class ExactState(NamedTuple):
    """The state: sums over pairs of different examples."""

    # (2,) int32, number of examples; see `stream.count_of`
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    scales: jax.Array  # (sides,), scales of x, y, ...
    shifts: tuple[jax.Array, ...]  # (p,), (q,), ...
    sums: OffDiagonalSums  # of (x - shift) / scale, ...


def no_sums(widths, dtype):
    """Return the state without examples, for sides of these widths."""
    shifts = tuple(jnp.zeros(width, dtype) for width in widths)
    return ExactState(no_samples(), jnp.zeros(len(widths), dtype), shifts, zero_sums(widths, dtype))


def exact_cka_stream(estimator, samples, layout=None):
    # Not translation invariant: each batch would lose another offset.
    pair_of = partial(as_pair, samples=samples, layout=layout, min_examples=1)

    def init(x, y):
        x, y = jax.eval_shape(pair_of, x, y)
        p, q = x.shape[1], y.shape[1]
        if p + q > MAX_FEATURES:
            raise InputError(
                f"x, y: got {p} and {q} features, expected at most {MAX_FEATURES} in all, since the state holds their "
                "products; use samples='pool', or form='minibatch', which depends on the order of examples"
            )
        return no_sums((p, q), x.dtype)

    def update(state, x, y, mask=None):
        *sides, mask = samples_of(pair_of, x, y, mask, state.shifts, "features")
        return add_sums(state, sides, mask)

    def merge(a, b):
        require_same_shapes(a, b)
        return _merge(a, b)

    def finalize(state):
        require_samples(state.count, min_examples_of(estimator), "examples")
        return values_of(state, estimator)[0, 1]

    return Stream(init, update, merge, finalize, f"cka of the whole ({estimator}, samples: {samples})")


@jax.jit
def add_sums(state, sides, mask=None):
    """Return the state with a batch: a matrix (n, features) of each side, of which `mask` excludes padding."""
    empty = (state.count == 0).all()
    if mask is None:
        rows, samples = slice(None), len(sides[0])
    else:
        samples = mask.sum(dtype=jnp.int32)
        rows = jnp.argsort(~mask)  # unmasked rows first
    shifts, scales, scaled = [], [], []
    for z, shift in zip(sides, state.shifts, strict=True):
        shift = jnp.where(empty, ninther(z[rows], None if mask is None else jnp.maximum(samples, 1)), shift)
        z = z - shift
        z = z if mask is None else jnp.where(mask[:, None], z, 0)
        shifts.append(shift)
        scales.append(magnitude(z))
        scaled.append(z / scales[-1])
    batch = ExactState(count_of(samples), jnp.stack(scales), tuple(shifts), sums_of(*scaled))
    return _merge(state, batch)


@jax.jit
def _merge(a, b):
    widths = tuple(map(len, a.shifts))
    empty = (a.count == 0).all()
    shifts = tuple(jnp.where(empty, new, old) for old, new in zip(a.shifts, b.shifts, strict=True))
    scales = jnp.maximum(a.scales, b.scales)
    unit = jnp.where(scales == 0, 1, scales)
    shift_change = jnp.concatenate([(z - s) / u for z, s, u in zip(b.shifts, shifts, unit, strict=True)])
    a_sums, b_sums = (scale_sums(part.sums, part.scales / unit, widths) for part in (a, b))
    b_sums = translate_sums(b_sums, as_float(b.count, shift_change.dtype), shift_change, widths)
    return ExactState(add_counts(a.count, b.count), scales, shifts, merge_sums(a_sums, b_sums, widths))


@partial(jax.jit, static_argnums=1)
def values_of(state, estimator):
    """Return the CKA of all pairs of sides, (sides, sides)."""
    widths, n = tuple(map(len, state.shifts)), as_float(state.count, state.scales.dtype)
    sums = state.sums if estimator == "song" else translate_sums(state.sums, n, -state.sums.total / n, widths)
    products = zero_rounding_products(centered_products(sums, n, estimator, widths), sums)
    powers = jnp.diagonal(products)
    return jnp.where(n < min_examples_of(estimator), jnp.nan, ratio(products, powers[:, None], powers[None]))
