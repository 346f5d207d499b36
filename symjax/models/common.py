"""What the built-in models share."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from symjax.checks import short
from symjax.errors import InputError

# Normal distributions that are cut at two deviations; the variances hold after the cut.
he = nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")  # before a ReLU
glorot = nnx.initializers.variance_scaling(1.0, "fan_avg", "truncated_normal")  # before a sigmoid
lecun = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")  # keeps the variance of the input


def truncated_normal(deviation: float):
    """Return an initializer of normal numbers that are cut at two deviations, with `deviation` after the cut."""
    return nnx.initializers.truncated_normal(deviation / 0.87962566103423978)


# No dtype: a norm computes and returns float32 at least, whatever the dtype of its input.
BatchNorm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5, use_fast_variance=False)
LayerNorm = partial(nnx.LayerNorm, epsilon=1e-5, use_fast_variance=False)


def images(x: jax.Array, channels: int, dtype) -> jax.Array:
    """Return images (examples, height, width, channels) in `dtype`; raise an InputError for another shape."""
    shape = getattr(x, "shape", None)
    if shape is None or len(shape) != 4 or shape[-1] != channels:
        given = short(x) if shape is None else f"{x.dtype}{list(shape)}"
        raise InputError(f"x: got {given}, wanted images (examples, height, width, {channels})")
    return x.astype(dtype)


def at_least_float32(dtype):
    """Return `dtype`, or float32 where it is narrower."""
    return jnp.promote_types(dtype, jnp.float32)
