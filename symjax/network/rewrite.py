"""Evaluate a jaxpr with other implementations of the operations that are slow on this backend.

`evaluate` replaces the operations in `TABLE`. Replacements and their gradients equal those of the operations up to
rounding, and work under `grad`, `vmap`, `lax.map`, `scan` and `shard_map`. Most define their gradients by
`jax.custom_vjp`. So forward-mode derivatives need the form "native", and so does `shard_map`, unless `check_vma` is
false, for gradients of operations whose operands are not sharded over the same axes.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from symjax import jaxprs
from symjax.network.low_rank import LowRankFeatures, convolved, materialize
from symjax.network.operations import pool
from symjax.network.operations.affine import ChannelAffine
from symjax.network.operations.conv import Geometry, convolve
from symjax.ops.parallel import Form

LARGE = 2**12  # the smallest number of elements of an array whose scales and shifts are collected
TAPS = 16  # the largest window along an axis; for larger ones, shifted copies are slower than the operation


class Row(NamedTuple):
    """A replacement: the equations and forms for which it applies, the function that replaces them, and the reason."""

    operation: str
    forms: tuple[Form, ...]
    applies: Callable[[JaxprEqn], bool]
    replacement: Callable[..., jax.Array]  # of (equation, form, *values)
    reason: str


def evaluate(closed: ClosedJaxpr, arguments: Sequence[Any], form: Form) -> list[Any]:
    """Evaluate a jaxpr on the leaves of its arguments, with the operations that are fastest in `form`."""
    return [materialize(result) for result in _evaluated(closed, rule(form), *arguments)]


@cache
def rule(form: Form) -> jaxprs.Rule:
    """Return the rule for `jaxprs.evaluate` that replaces operations by those that are fastest in `form`.

    Args:
      form: "native" keeps all operations; "matmul" and "mixed" are described in `symjax.network.operations.conv`.

    The rule accepts `LowRankFeatures`: convolutions and products over channels combine the directions with their
    weights, and other operations run on the materialized features.
    """

    def apply(equation: JaxprEqn, values: Sequence[Any]) -> Sequence[Any] | None:
        name = equation.primitive.name
        if form == "mixed" and name in ("add", "sub", "mul") and _is_channelwise(equation):
            return [_affine(equation, *values)]
        operands, values = values, _computed(values)
        if any(isinstance(value, LowRankFeatures) for value in values):
            if name == "name":
                return values
            if name in LINEAR and isinstance(values[0], LowRankFeatures) and LINEAR[name][0](equation):
                return [LINEAR[name][1](equation, form, *values)]
            values = [materialize(value) for value in values]
        if form != "native":
            if name in BODIES:
                return BODIES[name](equation, values, apply)
            for row in ROWS.get(name, ()):
                if form in row.forms and row.applies(equation):
                    return [row.replacement(equation, form, *values)]
        is_unchanged = all(value is operand for value, operand in zip(values, operands, strict=True))
        return None if is_unchanged else jaxprs.bind(equation, values)

    return apply


def _computed(values: Sequence[Any]) -> list[Any]:
    """Return the values with all collected scales and shifts applied."""
    return [value.value if isinstance(value, ChannelAffine) else value for value in values]


# --- convolutions and products ---------------------------------------------------------------------------------------


def _is_plain_convolution(equation) -> bool:
    """Return whether it has one or two spatial axes, no groups, and no dilation of the input.

    Padding is not negative, and less than a window.
    """
    params, (x, kernel) = equation.params, (atom.aval for atom in equation.invars)
    spatial = [kernel.shape[axis] for axis in params["dimension_numbers"].rhs_spec[2:]]
    extents = [(taps - 1) * dilation for taps, dilation in zip(spatial, params["rhs_dilation"], strict=True)]
    return (
        len(spatial) in (1, 2)
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and set(params["lhs_dilation"]) == {1}
        and jnp.issubdtype(x.dtype, jnp.floating)
        and x.dtype == kernel.dtype == equation.outvars[0].aval.dtype
        and max(spatial) <= TAPS
        and min(*x.shape, *kernel.shape, *equation.outvars[0].aval.shape) > 0
        and all(0 <= size <= e for pads, e in zip(params["padding"], extents, strict=True) for size in pads)
    )


def _convolution(equation, form, x, kernel):
    params = equation.params
    lhs, rhs, out = params["dimension_numbers"]
    kernel = kernel.transpose(*rhs[2:], rhs[1], rhs[0])
    one_axis = kernel.ndim == 3

    def convolution(x, kernel):
        x = x.transpose(lhs[0], *lhs[2:], lhs[1])
        strides, padding, dilation = params["window_strides"], params["padding"], params["rhs_dilation"]
        if one_axis:
            x, kernel = x[:, None], kernel[None]
            strides, padding, dilation = (1, *strides), ((0, 0), *padding), (1, *dilation)
        y = convolve(x, kernel, Geometry(strides, tuple(padding), dilation, params["precision"]), form)
        y = y[:, 0] if one_axis else y
        order = (out[0], *out[2:], out[1])
        return y.transpose(*(order.index(axis) for axis in range(y.ndim)))

    return convolved(convolution, x, kernel)


def _contracts_channels(equation) -> bool:
    """Return whether it is a product over the last axis of the left operand, without batch axes."""
    (left, right), batch = equation.params["dimension_numbers"]
    return tuple(left) == (len(equation.invars[0].aval.shape) - 1,) and len(right) == 1 and not batch[0]


def _product(equation, form, x, weights):
    axis = equation.params["dimension_numbers"][0][1][0]
    kernel = jnp.moveaxis(weights, axis, 0)
    inner = jnp.moveaxis(jnp.tensordot(x.directions.T, kernel, 1), 0, axis)
    out = equation.primitive.bind(x.coordinates, inner, **equation.params)
    return out if x.offset is None else out + jnp.tensordot(x.offset, kernel, 1).astype(out.dtype)


LINEAR = {"conv_general_dilated": (_is_plain_convolution, _convolution), "dot_general": (_contracts_channels, _product)}
"""Operations that take `LowRankFeatures` as their first operand."""


# --- maxima over windows ---------------------------------------------------------------------------------------------


def _is_float(equation) -> bool:
    return jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating)


def _is_window_maximum(equation) -> bool:
    """Return whether its windows have no dilation and few elements along each axis."""
    params = equation.params
    return (
        _is_float(equation)
        and set(params["base_dilation"]) | set(params["window_dilation"]) == {1}
        and max(params["window_dimensions"]) <= TAPS
        and equation.outvars[0].aval.size > 0
        and all(low < size > high for (low, high), size in _windows(params))
    )


def _windows(params):
    return zip(params["padding"], params["window_dimensions"], strict=True)


def _window_maximum(equation, form, x):
    params = equation.params
    sizes, strides = params["window_dimensions"], params["window_strides"]
    if sizes == strides and not any(map(any, params["padding"])):
        return pool.disjoint_max_pool(x, sizes)
    for axis in reversed(range(x.ndim)):
        if (sizes[axis], strides[axis]) != (1, 1):
            x = pool.max_along(x, axis, sizes[axis], strides[axis], tuple(params["padding"][axis]))
    return x


def _is_general_window_maximum(equation) -> bool:
    """Return whether it is a `lax.reduce_window` of a maximum that starts at minus infinity."""
    body = equation.params["jaxpr"]
    start = equation.invars[-1]
    return (
        len(equation.invars) == 2
        and [inner.primitive.name for inner in body.eqns] == ["max"]
        and {*body.eqns[0].invars} == {*body.invars}
        and not jaxprs.is_variable(start)
        and start.val == -jnp.inf
        and _is_window_maximum(equation)
    )


def _general_window_maximum(equation, form, x, start):
    return _window_maximum(equation, form, x)


def _is_global_maximum(equation) -> bool:
    """Return whether it is a maximum over all axes between the first and the last."""
    ndim = len(equation.invars[0].aval.shape)
    return _is_float(equation) and ndim >= 3 and tuple(equation.params["axes"]) == tuple(range(1, ndim - 1))


def _global_maximum(equation, form, x):
    return pool.global_max_pool(x.reshape(x.shape[0], -1, 1, x.shape[-1]))


# --- scales and shifts of channels -----------------------------------------------------------------------------------


def _is_channelwise(equation) -> bool:
    """Return whether it combines a large operand (..., c) with one of shape (1, ..., 1, c).

    Only in float32 or wider, since shifts may cancel.
    """
    out, (a, b) = equation.outvars[0].aval, (atom.aval.shape for atom in equation.invars)
    narrow = (*(1,) * (len(out.shape) - 1), *out.shape[-1:])
    full = (a, b) if equation.primitive.name == "sub" else (b, a) if a == narrow else (a, b)
    wide = _is_float(equation) and out.dtype.itemsize >= 4
    return wide and out.size >= LARGE and out.shape != narrow and full == (out.shape, narrow)


def _affine(equation, *values):
    shape, name = equation.outvars[0].aval.shape, equation.primitive.name
    x, v = values if equation.invars[0].aval.shape == shape else values[::-1]
    x = x if isinstance(x, ChannelAffine) else ChannelAffine(materialize(x))
    return x.mul(v) if name == "mul" else x.add(-v if name == "sub" else v)


FAST: tuple[Form, ...] = ("matmul", "mixed")
TABLE = (
    Row(
        "conv_general_dilated", FAST, _is_plain_convolution, _convolution,
        "forms in `operations.conv`; with gradients, 32 examples: 3 x 3 with stride 2, 16 to 32 channels of 32 x 32, "
        "native 190 ms, matmul 7, space to depth 13; 1 x 1, 16 to 64, native 260, product 6; dilated 3 x 3, 32 to 32 "
        "of 16 x 16, native 165, mixed 6.4, matmul 10",
    ),
    Row(
        "reduce_window_max", FAST, _is_window_maximum, _window_maximum,
        "64 maps of 32 x 32 x 32, gradient of 2 x 2: native 27 ms, elementwise 0.9",
    ),
    Row(
        "reduce_window", FAST, _is_general_window_maximum, _general_window_maximum,
        "the same for a maximum in the user's code, which has no gradient in lax",
    ),
    Row(
        "reduce_max", FAST, _is_global_maximum, _global_maximum,
        "as fast; the native gradient, which recomputes the maximum, is lost if an input is rounded twice",
    ),
)  # fmt: skip
"""The replacements. Times are CPU times inside `lax.scan` on 2 cores; they are not yet measured on a GPU.

The form "mixed" also collects scales and shifts of channels (`operations.affine`): a step of the Myrtle CNN of
`benchmarks.rewrite` takes 53.9 ms instead of 56.9, and 51.7 with nnx.BatchNorm's `use_fast_variance`.

Contractions in place of sums over all axes but the last, and broadcasts of channels whose gradients are such
contractions, were not faster in such a step and are not used.
"""

ROWS: dict[str, list[Row]] = {}
for _row in TABLE:
    ROWS.setdefault(_row.operation, []).append(_row)


# --- operations with bodies ------------------------------------------------------------------------------------------


def _evaluated(body, rule, *values):
    return _computed(jaxprs.evaluate(body, values, rule))


def _rematerialized(equation, values, rule):
    body = jaxprs.closed_body(equation)
    policy, prevent_cse = equation.params["policy"], equation.params["prevent_cse"]
    rewritten = jax.checkpoint(partial(_evaluated, body, rule), policy=policy, prevent_cse=prevent_cse)
    return rewritten(*values)


def _scanned(equation, values, rule):
    params = equation.params
    consts, carried = params["num_consts"], params["num_carry"]
    body = params["jaxpr"]

    def step(carry, x):
        results = _evaluated(body, rule, *values[:consts], *carry, *x)
        return results[:carried], results[carried:]

    carry, stacked = lax.scan(
        step,
        list(values[consts : consts + carried]),
        list(values[consts + carried :]),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *stacked]


BODIES = {name: _rematerialized for name in jaxprs.REMATERIALIZATIONS} | {"scan": _scanned}
"""Operations whose bodies are rewritten. Custom derivatives stay as their authors wrote them."""
