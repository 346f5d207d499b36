"""Compact convolutional transformers: convolutional tokenizer, transformer encoder and sequence pooling.

Reference: Hassani et al. 2021, "Escaping the Big Data Paradigm with Compact Transformers" (arXiv 2104.05704).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from symjax.checks import integer, one_of, short
from symjax.errors import InputError
from symjax.models.common import LayerNorm, at_least_float32, dropout_layer, he, images, truncated_normal
from symjax.models.registry import register
from symjax.network.naming import stitch_point

POSITIONS = ("learnable", "sine", "none")
BLOCKS = ("published", "prenorm")

embedding = truncated_normal(0.02)


def sine_positions(height: int, width: int, channels: int) -> np.ndarray:
    """Return sin(t 10000^(-2 floor(c / 2) / channels)) for token t and even channels c, and the cosine for odd c.

    Returns:
        (height, width, channels), float64; tokens are numbered row by row.
    """
    number = np.arange(height * width)[:, None]
    angles = number / 10000 ** (2 * (np.arange(channels)[None] // 2) / channels)
    values = np.where(np.arange(channels) % 2 == 0, np.sin(angles), np.cos(angles))
    return values.reshape(height, width, channels)


def _number(name: str, value: float, low: float, high: float = 2.0**20) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not low <= value <= high:
        raise InputError(f"{name}: got {short(value)}, expected a number from {low:.4g} to {high:.4g}")


class Attention(nnx.Module):
    """Multi-head self-attention of tokens (examples, tokens, channels), with dropout of attention weights."""

    def __init__(self, width: int, heads: int, *, dropout: float, dtype, rngs: nnx.Rngs):
        linear = partial(nnx.LinearGeneral, kernel_init=embedding, dtype=dtype, rngs=rngs)
        shape = (heads, width // heads)
        self.query, self.key, self.value = (linear(width, shape, use_bias=False) for _ in range(3))
        self.out = linear(shape, width, axis=(-2, -1))
        self.dropout = dropout_layer(dropout, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        query, key, value = self.query(x), self.key(x), self.value(x)
        scores = jnp.einsum("nqhc,nkhc->nhqk", query, key) * query.shape[-1] ** -0.5
        weights = jax.nn.softmax(scores.astype(at_least_float32(scores.dtype)), axis=-1).astype(scores.dtype)
        return self.out(jnp.einsum("nhqk,nkhc->nqhc", self.dropout(weights), value))


class Block(nnx.Module):
    """Attention and an MLP with one hidden layer; in training, each example skips each at random (stochastic depth).

    With `kind` "published", y = norm(x + attention(norm(x))) and the output is y + mlp(y), as in the published code.
    With "prenorm", y = x + attention(norm(x)) and the output is y + mlp(norm(y)).
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, kind: str, dropout: float, attention_dropout: float, skip: float,
        dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        linear = partial(nnx.Linear, kernel_init=embedding, dtype=dtype, rngs=rngs)
        self.norm1, self.norm2 = LayerNorm(width, rngs=rngs), LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, dropout=attention_dropout, dtype=dtype, rngs=rngs)
        self.expand, self.contract = linear(width, hidden), linear(hidden, width)
        self.dropout, self.skip = dropout_layer(dropout, rngs), dropout_layer(skip, rngs, broadcast_dims=(1, 2))
        self.kind = kind

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.skip(self.dropout(self.attention(self.norm1(x).astype(x.dtype))))
        normed = self.norm2(x).astype(x.dtype)
        hidden = self.dropout(jax.nn.gelu(self.expand(normed), approximate=False))
        return (normed if self.kind == "published" else x) + self.skip(self.dropout(self.contract(hidden)))


SIZES = {
    2: {"layers": 2, "heads": 2, "mlp_ratio": 1, "width": 128, "conv_ratio": 1 / 2},
    4: {"layers": 4, "heads": 2, "mlp_ratio": 1, "width": 128, "conv_ratio": 1 / 2},
    6: {"layers": 6, "heads": 4, "mlp_ratio": 2, "width": 256, "conv_ratio": 1 / 4},
    7: {"layers": 7, "heads": 4, "mlp_ratio": 2, "width": 256, "conv_ratio": 1 / 4},
    14: {"layers": 14, "heads": 6, "mlp_ratio": 3, "width": 384, "conv_ratio": 1 / 6},
}
TOKENIZERS = {2: ("3x2",), 4: ("3x2",), 6: ("3x1", "3x2"), 7: ("3x1", "3x2", "7x2"), 14: ("7x2",)}
"""The published tokenizers of each size, as kernel x convolutions; names such as cct7 mean the first one."""


def _presets() -> dict[str, dict]:
    presets = {}
    for number, tokenizers in TOKENIZERS.items():
        for name, tokenizer in [("", tokenizers[0]), *((f"_{tokenizer}", tokenizer) for tokenizer in tokenizers)]:
            kernel, conv_layers = map(int, tokenizer.split("x"))
            presets[f"cct{number}{name}"] = {**SIZES[number], "kernel": kernel, "conv_layers": conv_layers}
    return presets


@register(_presets())
class CCT(nnx.Module):
    """A CCT: convolutions, each with ReLU and 3x3 max pool of stride 2; encoder blocks; sequence pooling; dense layer.

    Stitch points are the outputs of the blocks, "block1", ...: maps (examples, height, width, channels) of tokens.

    Args:
        width: channels of a token.
        layers: number of encoder blocks.
        heads: number of attention heads, a divisor of `width`.
        mlp_ratio: hidden units of the MLPs, as a multiple of `width`.
        kernel: kernel size of the convolutions of the tokenizer, odd.
        conv_layers: number of convolutions of the tokenizer.
        conv_ratio: channels between these convolutions, as a multiple of `width`.
        positional_embedding: "learnable", "sine" or "none".
        block: "published" or "prenorm", see `Block`.
        dropout: dropout rate after the positions and in the blocks.
        attention_dropout: dropout rate of attention weights.
        stochastic_depth: rate at which examples skip branches of the last block; it grows linearly from 0 at the first.
        image_size: height and width of the images.
        channels: channels of the images.
        classes: number of logits.
        dtype: dtype of computations; parameters are float32; logits, norms and softmaxes are float32 or wider.
        rngs: random state for initial parameters and dropout.

    Raises:
        InputError: an option has a wrong value.
    """

    def __init__(
        self,
        *,
        width: int = 256,
        layers: int = 7,
        heads: int = 4,
        mlp_ratio: float = 2,
        kernel: int = 3,
        conv_layers: int = 1,
        conv_ratio: float = 1 / 4,
        positional_embedding: str = "learnable",
        block: str = "published",
        dropout: float = 0.0,
        attention_dropout: float = 0.1,
        stochastic_depth: float = 0.1,
        image_size: int = 32,
        channels: int = 3,
        classes: int = 10,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        for name, count in {"layers": layers, "heads": heads, "kernel": kernel, "conv_layers": conv_layers}.items():
            integer(name, count, 1)
        if kernel % 2 == 0:
            raise InputError(f"kernel: got {kernel}, expected an odd number")
        if width % heads:
            raise InputError(f"width: got {width}, expected a multiple of the {heads} attention heads")
        rates = {"dropout": dropout, "attention_dropout": attention_dropout, "stochastic_depth": stochastic_depth}
        for name, rate in rates.items():
            _number(name, rate, 0, 1)
        _number("mlp_ratio", mlp_ratio, 1 / width)
        _number("conv_ratio", conv_ratio, 0)
        one_of("positional_embedding", positional_embedding, POSITIONS)
        one_of("block", block, BLOCKS)

        stride, side = max(1, kernel // 2 - 1), image_size
        between = [max(1, round(conv_ratio * width))] * (conv_layers - 1)
        self.convs = nnx.List[nnx.Conv]()
        for before, after in zip([channels, *between], [*between, width], strict=True):
            self.convs.append(
                nnx.Conv(
                    before, after, (kernel, kernel), stride, padding=kernel // 2, use_bias=False, kernel_init=he,
                    dtype=dtype, rngs=rngs,
                )
            )  # fmt: skip
            side = (side - 1) // (2 * stride) + 1  # strides of the convolution and the pool
        if positional_embedding == "learnable":
            self.positions = nnx.Param(truncated_normal(0.2)(rngs.params(), (side, side, width)))
        self.dropout = dropout_layer(dropout, rngs)
        self.blocks = nnx.List(
            Block(
                width, heads, round(mlp_ratio * width), kind=block, dropout=dropout,
                attention_dropout=attention_dropout, skip=float(skip), dtype=dtype, rngs=rngs,
            )
            for skip in np.linspace(0, stochastic_depth, layers)
        )  # fmt: skip
        self.norm = LayerNorm(width, rngs=rngs)
        self.score = nnx.Linear(width, 1, kernel_init=embedding, dtype=dtype, rngs=rngs)
        self.dense = nnx.Linear(width, classes, kernel_init=embedding, dtype=dtype, rngs=rngs)
        self.positional_embedding, self.side = positional_embedding, side
        self.channels, self.dtype = channels, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = images(x, self.channels, self.dtype)
        for conv in self.convs:
            # Pool before ReLU: the result is the same, and ReLU acts on a quarter of the pixels.
            x = nnx.relu(nnx.max_pool(conv(x), (3, 3), (2, 2), padding=((1, 1), (1, 1))))
        count, height, width, channels = x.shape
        if self.positional_embedding != "none":
            if (height, width) != (self.side, self.side):
                raise InputError(
                    f"x: got {height} x {width} tokens, expected {self.side} x {self.side}: see image_size"
                )
            x = x + self._positions(channels).astype(x.dtype)
        x = self.dropout(x.reshape(count, height * width, channels))
        for i, block in enumerate(self.blocks):
            x = stitch_point(block(x).reshape(count, height, width, channels), f"block{i + 1}")
            x = x.reshape(count, height * width, channels)
        x = self.norm(x).astype(x.dtype)
        weights = jax.nn.softmax(self.score(x).astype(at_least_float32(self.dtype)), axis=1).astype(x.dtype)
        return self.dense(jnp.einsum("ntc,nt->nc", x, weights[..., 0])).astype(at_least_float32(self.dtype))

    def _positions(self, channels: int):
        if self.positional_embedding == "learnable":
            return self.positions[...]
        return sine_positions(self.side, self.side, channels)
