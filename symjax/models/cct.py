"""Compact convolutional transformers: a convolutional tokenizer, a pre-norm encoder, sequence pooling.

Hassani et al. 2021, "Escaping the Big Data Paradigm with Compact Transformers" (arXiv 2104.05704). Tokens stay on their
map: what travels is (n, height, width, channels), so a stitch, a measure or an alignment sees channels last and tokens
as pixels. What departs from the published code, on purpose: the encoder is pre-norm throughout (there the stream after
attention is replaced by its norm), and attention weights are not dropped.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from symjax.errors import InputError
from symjax.models.layers import Conv, Dense, LayerNorm
from symjax.models.segmented import Keys, Segmented, StitchPoint
from symjax.network.operations.pool import overlapping_max_pool


@dataclass(frozen=True)
class Size:
    """Encoder blocks, attention heads, hidden units of the MLP per channel, and channels of a token."""

    blocks: int
    heads: int
    ratio: int
    width: int
    tokenizers: tuple[str, ...]  # as published: kernel x layers, the customary one first


SIZES = {
    2: Size(2, 2, 1, 128, ("3x2",)),
    4: Size(4, 2, 1, 128, ("3x2",)),
    6: Size(6, 4, 2, 256, ("3x1", "3x2")),
    7: Size(7, 4, 2, 256, ("3x1", "3x2", "7x2")),
    14: Size(14, 6, 3, 384, ("7x2", "3x1", "3x2")),
}

HIDDEN = 64  # channels between the tokenizer's layers, at the published width
DROP = 0.1  # of the last block's branches, in training; it grows linearly from 0 at the first


@dataclass(frozen=True)
class Spec:
    """A size, its tokenizer, its positions, and how often a block's branches are dropped."""

    size: Size
    kernel: int
    layers: int
    positions: str = "learnable"
    drop: float = DROP


def _specs():
    """cct7_3x1 is CCT-7/3x1, cct7 short for it; _sine has fixed positions, _nodrop no stochastic depth."""
    for number, size in SIZES.items():
        for tokenizer in ("", *size.tokenizers):
            kernel, layers = (int(part) for part in (tokenizer or size.tokenizers[0]).split("x"))
            for positions in ("learnable", "sine"):
                for drop in (DROP, 0.0):
                    parts = [f"cct{number}", tokenizer, "sine" * (positions == "sine"), "nodrop" * (not drop)]
                    yield "_".join(filter(None, parts)), Spec(size, kernel, layers, positions, drop)


SPECS = dict(_specs())


def embedding(fan_in: int, fan_out: int) -> float:
    """The variance of a transformer's weights, whatever its width."""
    return 0.02**2


class Tokenizer(nnx.Module):
    """Layers of conv - ReLU - 3x3 max pool of stride 2, then positions are added."""

    def __init__(self, channels, width, image_size, spec: Spec, *, method, rngs):
        hidden = [max(1, HIDDEN * width // spec.size.width)] * (spec.layers - 1)
        stride = max(1, spec.kernel // 2 - 1)
        for i, (before, after) in enumerate(zip((channels, *hidden), (*hidden, width), strict=True)):
            conv = Conv(before, after, kernel=spec.kernel, stride=stride, method=method, rngs=rngs)
            setattr(self, f"conv{i + 1}", conv)
        self.hidden, side = hidden, image_size
        for _ in range(spec.layers):
            side = (side - 1) // stride + 1  # the conv, padded by (kernel - 1) / 2
            side = (side - 1) // 2 + 1  # the pool, padded by 1
        shape = (side, side, width)
        self.side, self.learnable, self.width = side, spec.positions == "learnable", width
        self.positions = nnx.Param(rngs.normal(shape, 0.2**2)) if self.learnable else None

    def __call__(self, x):
        for conv in self._convs().values():
            x = jax.nn.relu(overlapping_max_pool(conv(x)))  # in this order the same, on a quarter of the pixels
        if x.shape[1:3] != (self.side, self.side):
            raise ValueError(f"a map of {x.shape[1:3]} tokens, wanted {self.side} x {self.side}")
        positions = self.positions[...] if self.learnable else sine_positions(self.side, self.side, self.width)
        return x + positions.astype(x.dtype)

    def _convs(self) -> dict[str, Conv]:
        names = [f"conv{i + 1}" for i in range(len(self.hidden) + 1)]
        return {name: getattr(self, name) for name in names}

    def wire(self, wires, incoming):
        between = [wires.space(hidden, "relu", f"/tokens{i + 1}") for i, hidden in enumerate(self.hidden)]
        # Layer norms all along the stream leave it permutations; fixed positions leave it nothing.
        stream = wires.space(self.width, "permutation", "/stream") if self.learnable else None
        joints = [incoming, *between, stream]
        for (name, conv), before, after in zip(self._convs().items(), joints, joints[1:], strict=False):
            wires.linear(name, conv, before, after)
        wires.axis("positions", -1, "out", stream)
        return stream


def sine_positions(height: int, width: int, channels: int) -> np.ndarray:
    """(height, width, channels): sin and cos of a token's number times 10000^(-2 floor(c / 2) / channels)."""
    number = np.arange(height * width)[:, None]
    angles = number / 10000 ** (2 * (np.arange(channels)[None] // 2) / channels)
    values = np.where(np.arange(channels) % 2 == 0, np.sin(angles), np.cos(angles))
    return values.reshape(height, width, channels)


class Attention(nnx.Module):
    """Self-attention of all tokens in several heads."""

    def __init__(self, width, heads, *, rngs):
        self.query, self.key, self.value = (
            Dense(width, width, bias=False, variance=embedding, rngs=rngs) for _ in range(3)
        )
        self.write = Dense(width, width, variance=embedding, rngs=rngs)
        self.heads, self.width = heads, width

    def __call__(self, x):
        n, tokens, width = x.shape
        query, key, value = (
            dense(x).reshape(n, tokens, self.heads, -1) for dense in (self.query, self.key, self.value)
        )
        scores = jnp.einsum("nqhc,nkhc->nhqk", query, key) * (width // self.heads) ** -0.5
        weights = jax.nn.softmax(scores.astype(_wide(x)), axis=-1).astype(x.dtype)
        return self.write(jnp.einsum("nhqk,nkhc->nqhc", weights, value).reshape(n, tokens, width))

    def wire(self, wires, stream):
        # In each head any A will do for values, which pass linearly, and another for queries, with keys times A^-T.
        scores, values = (
            np.concatenate(
                [wires.space(self.width // self.heads, "identity", f"/{name}{i + 1}") for i in range(self.heads)]
            )
            for name in ("scores", "values")
        )
        wires.linear("query", self.query, stream, scores)
        wires.linear("key", self.key, stream, None)
        wires.within("key").axis("kernel", -1, "in", scores)
        wires.linear("value", self.value, stream, values)
        wires.linear("write", self.write, values, stream)


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); in training each example may go past either."""

    takes_key = True

    def __init__(self, width, size: Size, drop: float, *, rngs):
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.attention = Attention(width, size.heads, rngs=rngs)
        self.expand = Dense(width, size.ratio * width, variance=embedding, rngs=rngs)
        self.contract = Dense(size.ratio * width, width, variance=embedding, rngs=rngs)
        self.hidden, self.drop = size.ratio * width, drop

    def __call__(self, x, mode, key=None):
        n, height, width, channels = x.shape
        x = x.reshape(n, height * width, channels)
        kept = self._kept(n, mode, key)
        x = x + kept[0].astype(x.dtype) * self.attention(self.norm1(x))
        hidden = jax.nn.gelu(self.expand(self.norm2(x)), approximate=False)
        x = x + kept[1].astype(x.dtype) * self.contract(hidden)
        return x.reshape(n, height, width, channels)

    def _kept(self, n, mode, key):
        """The factors of the two branches: 1, and in training with a key for each example 0 or 1 / (1 - drop)."""
        if mode != "train" or key is None or not self.drop:
            return np.ones(2, np.float32)
        return jax.random.bernoulli(key, 1 - self.drop, (2, n, 1, 1)).astype(jnp.float32) / (1 - self.drop)

    def wire(self, wires, stream):
        wires.norm("norm1", stream)
        self.attention.wire(wires.within("attention"), stream)
        wires.norm("norm2", stream)
        hidden = wires.space(self.hidden, "gelu", "/mlp")
        wires.linear("expand", self.expand, stream, hidden)
        wires.linear("contract", self.contract, hidden, stream)
        return stream


class Entry(nnx.Module):
    """Tokenizer and first block: between them there is no stitch point."""

    takes_key = True

    def __init__(self, tokenizer: Tokenizer, block: Block):
        self.tokenizer, self.block = tokenizer, block

    def __call__(self, x, mode, key=None):
        return self.block(self.tokenizer(x), mode, key)

    def wire(self, wires, incoming):
        return self.block.wire(wires.within("block"), self.tokenizer.wire(wires.within("tokenizer"), incoming))


class Head(nnx.Module):
    """norm - sequence pooling (a mean of tokens weighted by the softmax of a score) - dense."""

    def __init__(self, width, classes, *, rngs):
        self.norm = LayerNorm(width)
        self.score = Dense(width, 1, variance=embedding, rngs=rngs)
        self.dense = Dense(width, classes, variance=embedding, rngs=rngs)

    def __call__(self, x, mode):
        x = self.norm(x.reshape(len(x), -1, x.shape[-1]))
        weights = jax.nn.softmax(self.score(x).astype(_wide(x)), axis=1).astype(x.dtype)
        return self.dense(jnp.einsum("ntc,nt->nc", x, weights[..., 0]))

    def wire(self, wires, stream):
        wires.norm("norm", stream)
        wires.linear("score", self.score, stream, None)
        wires.linear("dense", self.dense, stream, None)


def _wide(x):
    """Softmaxes are computed in float32 at least."""
    return x.dtype if x.dtype.itemsize >= 4 else jnp.float32


def build(
    rngs: Keys, *, spec: Spec, width: int, channels: int, classes: int, method: str, image_size: int
) -> Segmented:
    """The transformer of `spec` with tokens of `width` channels; stitch points after every block."""
    size = spec.size
    if width % size.heads:
        raise InputError(f"width: {width} channels do not divide among {size.heads} attention heads")
    drops = np.linspace(0, spec.drop, size.blocks)
    tokenizer = Tokenizer(channels, width, image_size, spec, method=method, rngs=rngs)
    blocks = [Block(width, size, float(drop), rngs=rngs) for drop in drops]
    points = [StitchPoint(f"block{i + 1}", width) for i in range(size.blocks)]
    return Segmented([Entry(tokenizer, blocks[0]), *blocks[1:], Head(width, classes, rngs=rngs)], points)
