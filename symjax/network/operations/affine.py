"""Scales and shifts of channels, collected while a jaxpr is evaluated."""

from functools import cached_property

import jax


class ChannelAffine:
    """The value x * gain + offset, not computed before an operation needs it; gain and offset (1, ..., 1, c) or None.

    Batch normalization, (x - mean) * factor + bias, becomes one scale and one shift, whose gradients need two sums over
    examples and pixels where the three steps need three.
    """

    def __init__(self, x: jax.Array, gain: jax.Array | None = None, offset: jax.Array | None = None):
        self.x, self.gain, self.offset = x, gain, offset

    def add(self, v: jax.Array) -> "ChannelAffine":
        return ChannelAffine(self.x, self.gain, v if self.offset is None else self.offset + v)

    def mul(self, v: jax.Array) -> "ChannelAffine":
        offset = None if self.offset is None else self.offset * v
        return ChannelAffine(self.x, v if self.gain is None else self.gain * v, offset)

    @cached_property
    def value(self) -> jax.Array:
        x = self.x if self.gain is None else self.x * self.gain
        return x if self.offset is None else x + self.offset
