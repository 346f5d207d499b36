"""Shifts and scales of channels, collected while a jaxpr is evaluated."""

from functools import cached_property

import jax
import jax.numpy as jnp


class ChannelAffine:
    """The value (x + shift) * gain + offset, which is computed when an operation needs it.

    An example is batch normalization, (x - mean) * factor + bias. Its gradients need two sums over examples and pixels;
    those of three separate steps need three. The shift is not multiplied by the gain: for x far from zero,
    x * factor - mean * factor loses digits that x - mean keeps (for x near 1e5 that varies by 1, all but two).

    Args:
      x: (..., c).
      shift, gain, offset: (1, ..., 1, c), or None.
    """

    def __init__(self, x: jax.Array, shift=None, gain=None, offset=None):
        self.x, self.shift, self.gain, self.offset = x, shift, gain, offset

    def add(self, v: jax.Array) -> "ChannelAffine":
        if self.gain is None:
            return ChannelAffine(self.x, _sum(self.shift, v))
        return ChannelAffine(self.x, self.shift, self.gain, _sum(self.offset, v))

    def mul(self, v: jax.Array) -> "ChannelAffine":
        gain = v if self.gain is None else self.gain * v
        return ChannelAffine(self.x, self.shift, gain, None if self.offset is None else self.offset * v)

    @cached_property
    def value(self) -> jax.Array:
        if self.gain is None:
            return _sum(self.x, self.shift)
        if self.shift is None:
            return _sum(self.x * self.gain, self.offset)
        return _affine(self.x, self.shift, self.gain, jnp.zeros_like(self.gain) if self.offset is None else self.offset)


def _sum(a, b):
    return b if a is None else a if b is None else a + b


@jax.custom_vjp
def _affine(x, shift, gain, offset):
    return (x + shift) * gain + offset


def _affine_forward(x, shift, gain, offset):
    return _affine(x, shift, gain, offset), (x, shift, gain)  # storing x + shift takes longer


def _affine_backward(saved, g):
    x, shift, gain = saved

    def over_pixels(values):
        return jnp.sum(values, tuple(range(values.ndim - 1)), keepdims=True)

    by_offset = over_pixels(g)
    return g * gain, by_offset * gain, over_pixels(g * (x + shift)), by_offset


_affine.defvjp(_affine_forward, _affine_backward)
