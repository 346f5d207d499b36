"""Linear CKA of all examples that came in batches, in fixed memory: it equals that of the whole data, in any order.

What is kept are sums over pairs of different examples (`off_diagonal`), about a point that the first batch decides.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from symjax.errors import InputError
from symjax.similarity.channels import magnitude, typical
from symjax.similarity.cka import ratio
from symjax.similarity.hsic import least_examples, without_rounding
from symjax.similarity.inputs import as_pair
from symjax.similarity.off_diagonal import Sums, merged, moved, no_sums, products_of_kernels, scaled, sums_of
from symjax.similarity.streams.stream import (
    Stream,
    added,
    as_float,
    count_of,
    no_samples,
    padding_cleared,
    require_same_shapes,
    require_seen,
)

WIDEST = 2**14  # features of both sides, of whose square numbers the state consists: 1 GiB in float32


class Whole(NamedTuple):
    count: jax.Array  # (2,) int32, of examples; see `stream.count_of`
    scales: jax.Array  # (2,), of x and y
    x_shift: jax.Array  # (p,)
    y_shift: jax.Array  # (q,)
    sums: Sums  # of ((x - x_shift) / scale, (y - y_shift) / scale)


def whole_stream(estimator, maps, layout=None):
    pair_of = partial(as_pair, maps=maps, layout=layout, min_examples=1, translated=True)

    def init(x, y):
        x, y = jax.eval_shape(pair_of, x, y)
        p, q = x.shape[1], y.shape[1]
        if p + q > WIDEST:
            raise InputError(
                f"x, y: got {p} and {q} features, must be at most {WIDEST} in all for a state of their products; "
                "maps='pool' makes fewer, form='minibatch' needs none, but depends on the order of examples"
            )
        zeros = (jnp.zeros(shape, x.dtype) for shape in (2, p, q))
        return Whole(no_samples(), *zeros, no_sums(p + q, x.dtype))

    def update(state, x, y, mask=None):
        if mask is not None:
            x, y, mask = padding_cleared(x, y, mask)
        x, y = pair_of(x, y)
        for name, shift, z in (("x", state.x_shift, x), ("y", state.y_shift, y)):
            if z.shape[1] != len(shift) or z.dtype != shift.dtype:
                raise InputError(
                    f"{name}: got {z.shape[1]} features of {z.dtype}, the stream was begun with {len(shift)} of "
                    f"{shift.dtype}"
                )
        return _updated(state, x, y, None if mask is None else jnp.repeat(mask, x.shape[0] // len(mask)))

    def merge(a, b):
        require_same_shapes(a, b)
        return _joined(a, b)

    def finalize(state):
        require_seen(state.count, least_examples(estimator), "examples")
        return _value(state, estimator)

    return Stream(init, update, merge, finalize, f"cka of the whole ({estimator}, maps: {maps})")


@jax.jit
def _updated(state, x, y, counted):
    empty = (state.count == 0).all()
    if counted is None:
        rows, samples = slice(None), len(x)
    else:
        samples = counted.sum(dtype=jnp.int32)
        rows = jnp.argsort(~counted)  # those that count come first
    shifts, sides, scales = [], [], []
    for z, shift in ((x, state.x_shift), (y, state.y_shift)):
        shift = jnp.where(empty, typical(z[rows], None if counted is None else jnp.maximum(samples, 1)), shift)
        z = z - shift
        z = z if counted is None else jnp.where(counted[:, None], z, 0)
        shifts.append(shift)
        scales.append(magnitude(z))
        sides.append(z / scales[-1])
    batch = Whole(count_of(samples), jnp.stack(scales), *shifts, sums_of(*sides))
    return _joined(state, batch)


@jax.jit
def _joined(a, b):
    widths = len(a.x_shift), len(a.y_shift)
    empty = (a.count == 0).all()
    shifts = [jnp.where(empty, new, old) for old, new in zip(a[2:4], b[2:4], strict=True)]
    scales = jnp.maximum(a.scales, b.scales)
    unit = jnp.where(scales == 0, 1, scales)
    by = jnp.concatenate([(z - s) / u for z, s, u in zip(b[2:4], shifts, unit, strict=True)])
    a_sums, b_sums = (scaled(part.sums, part.scales / unit, widths) for part in (a, b))
    b_sums = moved(b_sums, as_float(b.count, by.dtype), by, widths)
    return Whole(added(a.count, b.count), scales, *shifts, merged(a_sums, b_sums, widths))


@partial(jax.jit, static_argnums=1)
def _value(state, estimator):
    widths, n = (len(state.x_shift), len(state.y_shift)), as_float(state.count, state.scales.dtype)
    sums = state.sums if estimator == "song" else moved(state.sums, n, -state.sums.total / n, widths)
    value = ratio(*without_rounding(products_of_kernels(sums, n, estimator, widths), sums))
    return jnp.where(n < least_examples(estimator), jnp.nan, value)
