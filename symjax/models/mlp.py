"""Multilayer perceptrons on the pixels of images."""

import jax
import jax.numpy as jnp
from flax import nnx

from symjax.checks import integers
from symjax.errors import InputError
from symjax.models.common import BatchNorm, at_least_float32, he, images, lecun
from symjax.models.registry import register
from symjax.network.naming import stitch_point


@register({"mlp": {}})
class MLP(nnx.Module):
    """Dense layers with ReLU on flattened images, and a last dense layer. Stitch points are the activations.

    Args:
        width: base number of hidden units.
        multiples: hidden units of each layer as a multiple of `width`; by default three equal layers, as in Ainsworth
            et al. 2023.
        norm: whether batch norm follows each hidden layer, which then has no bias.
        image_size: height and width of the images.
        channels: channels of the images.
        classes: number of logits.
        dtype: dtype of computations; parameters are float32; logits are float32 or wider.
        rngs: random state for initial parameters.
    """

    def __init__(
        self,
        *,
        width: int = 512,
        multiples: tuple[int, ...] = (1, 1, 1),
        norm: bool = False,
        image_size: int = 32,
        channels: int = 3,
        classes: int = 10,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        widths = [width * multiple for multiple in integers("multiples", multiples, 1)]
        if not widths:
            raise InputError("multiples: got none, expected one for each hidden layer")
        self.layers, self.norms, inputs = nnx.List[nnx.Linear](), nnx.List[nnx.BatchNorm](), image_size**2 * channels
        for before, after in zip([inputs, *widths], widths, strict=False):
            self.layers.append(nnx.Linear(before, after, use_bias=not norm, kernel_init=he, dtype=dtype, rngs=rngs))
            if norm:
                self.norms.append(BatchNorm(after, rngs=rngs))
        self.dense = nnx.Linear(widths[-1], classes, kernel_init=lecun, dtype=dtype, rngs=rngs)
        self.image_size, self.channels, self.dtype = image_size, channels, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = images(x, self.channels, self.dtype)
        if x.shape[1:3] != (self.image_size, self.image_size):
            given = " x ".join(map(str, x.shape[1:3]))
            raise InputError(f"x: got images of {given}, expected {self.image_size} x {self.image_size}")
        x = x.reshape(len(x), -1)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.norms:
                x = self.norms[i](x).astype(self.dtype)
            x = stitch_point(nnx.relu(x), f"relu{i + 1}")
        return self.dense(x).astype(at_least_float32(self.dtype))
