"""Initializers, norms and checks of the built-in models."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from symjax.checks import integer, short
from symjax.errors import InputError

# Normal distributions truncated at two standard deviations, with the variances of Flax after truncation.
he = nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")  # before a ReLU
glorot = nnx.initializers.variance_scaling(1.0, "fan_avg", "truncated_normal")  # before a sigmoid
lecun = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")  # keeps the variance of the input


def truncated_normal(deviation: float):
    """Return a normal initializer, truncated at two standard deviations, whose values have this standard deviation."""
    # The divisor is the standard deviation of a standard normal truncated to [-2, 2].
    return nnx.initializers.truncated_normal(deviation / 0.87962566103423978)


def dropout_layer(rate: float, rngs: nnx.Rngs, broadcast_dims: tuple[int, ...] = ()) -> nnx.Dropout:
    """Return a dropout layer; without random state if the rate is 0."""
    return nnx.Dropout(rate, broadcast_dims=broadcast_dims, rngs=rngs if rate else None)


# Without a dtype, norms compute in float32 or wider for inputs of any dtype.
BatchNorm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5, use_fast_variance=False)
LayerNorm = partial(nnx.LayerNorm, epsilon=1e-5, use_fast_variance=False)


def images(x: jax.Array, channels: int, dtype) -> jax.Array:
    """Return images (examples, height, width, channels) in `dtype`; raise an InputError for another shape."""
    shape = getattr(x, "shape", None)
    if shape is None or len(shape) != 4 or shape[-1] != channels:
        given = short(x) if shape is None else f"{x.dtype}{list(shape)}"
        raise InputError(f"x: got {given}, expected images (examples, height, width, {channels})")
    return x.astype(dtype)


def tokens(x: jax.Array) -> jax.Array:
    """Return tokens (examples, length), integers; raise an InputError for anything else."""
    shape, dtype = getattr(x, "shape", ()), getattr(x, "dtype", None)
    if len(shape) != 2 or dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        given = short(x) if dtype is None else f"{dtype}{list(shape)}"
        raise InputError(f"x: got {given}, expected tokens (examples, length), integers")
    return x


def vocabulary_size(classes: int | None) -> int:
    """Return the number of classes of a language model; raise an InputError if the data have no classes."""
    if classes is None:
        raise InputError(
            "classes: got none, expected the size of the vocabulary, from data with a class for each position"
        )
    return integer("classes", classes, 1, 2**20)


def look_up(table: jax.Array, x: jax.Array) -> jax.Array:
    """Return the rows of a table for tokens; NaN for tokens outside of the vocabulary, which indexing would clamp."""
    return table.at[x].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def at_least_float32(dtype):
    """Return the wider of `dtype` and float32."""
    return jnp.promote_types(dtype, jnp.float32)
