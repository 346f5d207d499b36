"""Decoder-only transformer language models on tokens, as GPT-2.

Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from symjax.checks import flag, integer, scalar
from symjax.errors import InputError
from symjax.models.common import LayerNorm, at_least_float32, dropout_layer, look_up, tokens, vocabulary_size
from symjax.models.registry import register
from symjax.network.naming import stitch_point

normal = nnx.initializers.normal


class Block(nnx.Module):
    """y = x + attention(norm(x)) and y + mlp(norm(y)): causal self-attention, and an MLP with one hidden layer.

    `deviation` is the standard deviation of the initial weights that write to the stream.
    """

    def __init__(self, width: int, heads: int, hidden: int, *, dropout: float, deviation: float, dtype, rngs: nnx.Rngs):
        self.norm1, self.norm2 = LayerNorm(width, rngs=rngs), LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads, width, dropout_rate=dropout, broadcast_dropout=False, deterministic=False, decode=False,
            kernel_init=normal(0.02), out_kernel_init=normal(deviation), dtype=dtype, rngs=rngs,
        )  # fmt: skip
        linear = partial(nnx.Linear, dtype=dtype, rngs=rngs)
        self.expand = linear(width, hidden, kernel_init=normal(0.02))
        self.contract = linear(hidden, width, kernel_init=normal(deviation))
        self.dropout = dropout_layer(dropout, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.dropout(self.attention(self.norm1(x).astype(x.dtype), is_causal=True))
        hidden = nnx.gelu(self.expand(self.norm2(x).astype(x.dtype)))  # approximated by tanh, as published
        return x + self.dropout(self.contract(hidden))


@register({"gpt": {}})
class GPT(nnx.Module):
    """A GPT: tokens (examples, length) to logits (examples, length, classes), which predict the next tokens.

    Embeddings of tokens and positions are added; blocks, a norm and the decoder follow. Logits at a position do not
    depend on later tokens. The stitch points "block1", ... are the outputs of the blocks, (examples, length, width). If
    a token is outside of the vocabulary, all logits of its sequence are NaN.

    Args:
        width: channels of a token.
        layers: number of blocks.
        heads: number of attention heads, a divisor of `width`.
        mlp_ratio: hidden units of the MLPs, as a multiple of `width`.
        length: number of positions, the largest length of a sequence.
        tied: whether the decoder uses the weights of the embedding; otherwise it has its own. It has no bias.
        dropout: dropout rate of embeddings, attention weights and outputs of attention and MLPs; .1 as published.
        classes: size of the vocabulary.
        dtype: dtype of computations; parameters are float32; logits, norms and softmaxes are float32 or wider.
        rngs: random state for initial parameters and dropout.

    Raises:
        InputError: an option has a wrong value, `classes` is missing, or the inputs are not tokens or too long.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from symjax import models
        >>> gpt = models.build("gpt", width=8, layers=1, classes=65, rngs=nnx.Rngs(0))
        >>> gpt(jnp.zeros((2, 16), int)).shape
        (2, 16, 65)
    """

    def __init__(
        self, *, width: int = 256, layers: int = 6, heads: int = 4, mlp_ratio: float = 4, length: int = 256,
        tied: bool = True, dropout: float = 0.0, classes: int | None = None, dtype=jnp.float32, rngs: nnx.Rngs,
    ):  # fmt: skip
        for name, count in {"layers": layers, "heads": heads, "length": length}.items():
            integer(name, count, 1, 2**20)
        if width % heads:
            raise InputError(f"width: got {width}, expected a multiple of the {heads} attention heads")
        scalar("mlp_ratio", mlp_ratio, f"a number from 1 / {width}", lambda ratio: 1 / width <= ratio <= 2**20)
        scalar("dropout", dropout, "a rate from 0 and under 1", lambda rate: 0 <= rate < 1)
        classes = vocabulary_size(classes)
        embed = partial(nnx.Embed, features=width, embedding_init=normal(0.02), dtype=dtype, rngs=rngs)
        self.embedding, self.positions = embed(classes), embed(length)
        self.blocks = nnx.List(
            Block(
                width, heads, round(mlp_ratio * width), dropout=dropout, deviation=0.02 * (2 * layers) ** -0.5,
                dtype=dtype, rngs=rngs,
            )
            for _ in range(layers)
        )  # fmt: skip
        self.norm = LayerNorm(width, rngs=rngs)
        self.decoder = None if flag("tied", tied) else nnx.Linear(
            width, classes, use_bias=False, kernel_init=normal(0.02), dtype=dtype, rngs=rngs
        )  # fmt: skip
        self.dropout, self.length, self.dtype = dropout_layer(dropout, rngs), length, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        length = tokens(x).shape[1]
        if length > self.length:
            raise InputError(f"x: got {length} tokens, expected at most {self.length}: see length")
        embedded = look_up(self.embedding.embedding[...].astype(self.dtype), x)
        x = self.dropout(embedded + self.positions(jnp.arange(length)))
        for i, block in enumerate(self.blocks):
            x = stitch_point(block(x), f"block{i + 1}")
        x = self.norm(x).astype(x.dtype)
        logits = self.embedding.attend(x) if self.decoder is None else self.decoder(x)
        return logits.astype(at_least_float32(self.dtype))
