"""Other implementations for operations of a jaxpr that are slow on this backend.

`rule(form)` is for `symjax.jaxprs.evaluate`. Each row of `TABLE` says for which operations it is, under which
condition, and what takes their place. An operation that no row takes is evaluated as it is, on
materialized features.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from symjax.jaxprs import bind, inline
from symjax.network.low_rank import LowRankFeatures, materialize
from symjax.network.operations.conv import convolution
from symjax.network.operations.pool import max_pool, overlapping_max_pool

CHANNELS_LAST = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
FORWARD_BYTES = 2**14  # of an operand, from which on a contraction is worth it


class Row(NamedTuple):
    """A replacement.

    Attributes:
      operation: name of the primitive.
      applies: whether an equation with these values is replaced, in a form.
      replacement: the results that take its place, of the equation, its values and the form.
      why: what it gains.
    """

    operation: str
    applies: Callable[[JaxprEqn, Sequence[Any], str], bool]
    replacement: Callable[[JaxprEqn, Sequence[Any], str], Any]
    why: str


@cache
def rule(form: str) -> Callable[[JaxprEqn, Sequence[Any]], Sequence[Any] | None]:
    """Return the rule of a form, one of `symjax.parallel.FORMS`."""

    def replace(equation: JaxprEqn, values: Sequence[Any]) -> Sequence[Any] | None:
        for row in ROWS.get(equation.primitive.name, ()):
            if row.applies(equation, values, form):
                return [row.replacement(equation, values, form)]
        if any(isinstance(value, LowRankFeatures) for value in values):
            return bind(equation, [materialize(value) for value in values])
        if equation.primitive.name in BODIES and form != "native":
            return _with_bodies(equation, values, form)
        return None

    return replace


def _is_plain(equation: JaxprEqn) -> bool:
    """Whether a convolution is of images with channels last, without groups and dilation."""
    p = equation.params
    numbers = p["dimension_numbers"]
    layout = tuple(map(tuple, (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)))
    dilated = any(d != 1 for d in (*(p["lhs_dilation"] or ()), *(p["rhs_dilation"] or ())))
    grouped = p["feature_group_count"] != 1 or p["batch_group_count"] != 1
    cropped = any(side < 0 for sides in p["padding"] for side in sides)
    return layout == CHANNELS_LAST and not (dilated or grouped or cropped)


def _has_fast_convolution(equation, values, form) -> bool:
    x, kernel = values
    wide = isinstance(x, LowRankFeatures) and not isinstance(kernel, LowRankFeatures)
    return _is_plain(equation) and (wide or (form != "native" and not isinstance(x, LowRankFeatures)))


def _convolve(equation, values, form):
    x, kernel = values
    p = equation.params

    def convolve(x, kernel):
        return convolution(x, kernel, strides=p["window_strides"], padding=p["padding"], form=form)

    if not isinstance(x, LowRankFeatures):
        return convolve(x, kernel)
    out = convolve(x.coordinates, jnp.einsum("ijcd,cr->ijrd", kernel, x.directions))
    if x.offset is None:
        return out
    ones = jnp.ones((1, *x.coordinates.shape[1:-1], 1), kernel.dtype)
    return out + convolve(ones, jnp.einsum("ijcd,c->ijd", kernel, x.offset)[:, :, None])


def _pool_size(equation, values) -> int | None:
    """The size of square windows that neither overlap nor are padded."""
    p = equation.params
    window = tuple(p["window_dimensions"])
    disjoint = tuple(p["window_strides"]) == window and not any(map(any, p["padding"]))
    plain = not any(d != 1 for d in (*p["base_dilation"], *p["window_dilation"]))
    square = len(window) == 4 and window[0] == window[3] == 1 and window[1] == window[2]
    return window[1] if disjoint and plain and square and _is_floating(values) else None


def _is_overlapping_pool(equation, values, form) -> bool:
    p = equation.params
    plain = not any(d != 1 for d in (*p["base_dilation"], *p["window_dilation"]))
    shape = (tuple(p["window_dimensions"]), tuple(p["window_strides"]), tuple(map(tuple, p["padding"])))
    return plain and _is_floating(values) and shape == ((1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))


def _is_floating(values) -> bool:
    return not isinstance(values[0], LowRankFeatures) and jnp.issubdtype(values[0].dtype, jnp.floating)


def _is_channel_sum(equation, values, form) -> bool:
    if form == "native" or not _is_floating(values):
        return False
    x = values[0]
    leading = tuple(equation.params["axes"]) == tuple(range(x.ndim - 1))
    return leading and x.ndim > 1 and x.size * x.dtype.itemsize >= FORWARD_BYTES


def _sum_channels(equation, values, form):
    x = values[0]
    flat = x.reshape(-1, x.shape[-1])
    return jnp.einsum("nc,n->c", flat, jnp.ones((flat.shape[0],), x.dtype), precision="highest")


TABLE = (
    Row(
        "conv_general_dilated",
        _has_fast_convolution,
        _convolve,
        "gradients of convolutions in loops, and convolutions with a member axis; features of low rank take the "
        "directions into the kernel (benchmarks.layers, CPU)",
    ),
    Row(
        "reduce_window_max",
        lambda equation, values, form: _pool_size(equation, values) is not None,
        lambda equation, values, form: max_pool(values[0], _pool_size(equation, values)),
        "the gradient of reduce_window scatters; elementwise in both directions (benchmarks.layers, CPU)",
    ),
    Row(
        "reduce_window_max",
        _is_overlapping_pool,
        lambda equation, values, form: overlapping_max_pool(values[0]),
        "as above",
    ),
    Row(
        "reduce_sum",
        _is_channel_sum,
        _sum_channels,
        "XLA's CPU compiler runs contractions several times faster than reductions over leading axes",
    ),
)
ROWS: dict[str, list[Row]] = {row.operation: [r for r in TABLE if r.operation == row.operation] for row in TABLE}

BODIES = {"scan": ("jaxpr",), "while": ("body_jaxpr",), "remat2": ("jaxpr",), "checkpoint": ("jaxpr",)}
"""Operations that evaluate jaxprs of their own, and the parameters that hold these."""


def _with_bodies(equation: JaxprEqn, values: Sequence[Any], form: str) -> Sequence[Any] | None:
    """Evaluate a loop or a rematerialization with its body rewritten; None where the new body has constants."""
    params = dict(equation.params)
    for name in BODIES[equation.primitive.name]:
        body = params[name]
        closed = body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())
        new = inline(closed, rule(form))
        if not isinstance(body, ClosedJaxpr):
            if new.consts:
                return None
            new = new.jaxpr
        params[name] = new
    return bind(equation.replace(params=params), values)
