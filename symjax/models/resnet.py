"""Residual networks for small images: the CIFAR ResNets of He et al. 2016, and ResNet-18 with a 3x3 stem."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from symjax.checks import flag, integers, one_of
from symjax.errors import InputError
from symjax.models.common import BatchNorm, LayerNorm, at_least_float32, he, images, lecun
from symjax.models.registry import register
from symjax.network.naming import stitch_point

NORMS: dict[str, Any] = {"batch": BatchNorm, "layer": LayerNorm}


class ConvNorm(nnx.Module):
    """A convolution without bias followed by a norm, one of `NORMS`."""

    def __init__(self, before: int, after: int, *, kernel: int = 3, stride: int = 1, norm: str, dtype, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            before, after, (kernel, kernel), stride, padding=kernel // 2, use_bias=False, kernel_init=he, dtype=dtype,
            rngs=rngs,
        )  # fmt: skip
        self.norm = NORMS[norm](after, rngs=rngs)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x)).astype(self.dtype)


class PadShortcut(nnx.Module):
    """Option A: every `stride`-th pixel, with channels padded by zeros on both sides."""

    def __init__(self, before: int, after: int, *, stride: int, norm: str, dtype, rngs: nnx.Rngs):
        self.stride, self.padding = stride, ((after - before) // 2, (after - before + 1) // 2)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), self.padding))


class ProjectionShortcut(ConvNorm):
    """Option B: a 1x1 convolution with the stride of the block, then a norm."""

    def __init__(self, before: int, after: int, *, stride: int, norm: str, dtype, rngs: nnx.Rngs):
        super().__init__(before, after, kernel=1, stride=stride, norm=norm, dtype=dtype, rngs=rngs)


SHORTCUTS = {"pad": PadShortcut, "projection": ProjectionShortcut}


class Block(nnx.Module):
    """Two convolutions and a shortcut, with stitch points `name` + "*" (after the first ReLU) and `name` (output)."""

    def __init__(
        self,
        before: int,
        after: int,
        *,
        stride: int,
        shortcut: str,
        residual_relu: bool,
        norm: str,
        name: str,
        dtype,
        rngs: nnx.Rngs,
    ):
        changes = before != after or stride != 1
        options = {"norm": norm, "dtype": dtype, "rngs": rngs}
        self.shortcut = SHORTCUTS[shortcut](before, after, stride=stride, **options) if changes else None
        self.first = ConvNorm(before, after, stride=stride, **options)
        self.second = ConvNorm(after, after, **options)
        self.name, self.residual_relu = name, residual_relu

    def __call__(self, x: jax.Array) -> jax.Array:
        # The shortcut is computed first, so that it belongs to the front of a split inside the branch.
        skip = x if self.shortcut is None else self.shortcut(x)
        branch = stitch_point(nnx.relu(self.first(x)), f"{self.name}*")
        output = self.second(branch) + skip
        return stitch_point(nnx.relu(output) if self.residual_relu else output, self.name)


@register(
    {
        **{f"resnet{6 * n + 2}": {"blocks": (n, n, n)} for n in (3, 5, 7, 9, 18, 200)},
        "resnet20_ln": {"norm": "layer"},
        "resnet18": {"width": 64, "blocks": (2, 2, 2, 2), "shortcut": "projection"},
    }
)
class ResNet(nnx.Module):
    """A 3x3 stem, stages of residual blocks, global mean pool and a dense layer.

    Each later stage has twice the channels and half the height and width of the stage before.
    Stitch points are "stem" and, for block j of stage i, "blocki.j*" (the branch after its first ReLU) and "blocki.j"
    (the output).

    Args:
        width: channels of the first stage.
        blocks: number of blocks of each stage.
        shortcut: shortcut of blocks that change shape: "pad" (option A, without parameters) or "projection" (option B).
        residual_relu: whether blocks end with a ReLU, as published; otherwise only the stem and the branches have one
            (Godfrey et al. 2022, section 6).
        norm: the norm after each convolution: "batch", or "layer" (over channels), as in Ainsworth et al. 2023.
        channels: channels of the images.
        classes: number of logits.
        dtype: dtype of computations; parameters are float32; logits are float32 or wider.
        rngs: random state for initial parameters.
    """

    def __init__(
        self,
        *,
        width: int = 16,
        blocks: tuple[int, ...] = (3, 3, 3),
        shortcut: str = "pad",
        residual_relu: bool = True,
        norm: str = "batch",
        channels: int = 3,
        classes: int = 10,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        one_of("shortcut", shortcut, SHORTCUTS)
        one_of("norm", norm, NORMS)
        flag("residual_relu", residual_relu)
        counts = integers("blocks", blocks, 1)
        if not counts:
            raise InputError("blocks: got none, expected a number for each stage")
        self.stem = ConvNorm(channels, width, norm=norm, dtype=dtype, rngs=rngs)
        self.blocks, before = nnx.List[Block](), width
        for stage, count in enumerate(counts):
            for number in range(count):
                after, stride = width * 2**stage, 2 if stage and not number else 1
                name = f"block{stage + 1}.{number + 1}"
                options: dict[str, Any] = {
                    "shortcut": shortcut,
                    "residual_relu": residual_relu,
                    "norm": norm,
                    "name": name,
                }
                self.blocks.append(Block(before, after, stride=stride, **options, dtype=dtype, rngs=rngs))
                before = after
        self.dense = nnx.Linear(before, classes, kernel_init=lecun, dtype=dtype, rngs=rngs)
        self.channels, self.dtype = channels, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = stitch_point(nnx.relu(self.stem(images(x, self.channels, self.dtype))), "stem")
        for block in self.blocks:
            x = block(x)
        return self.dense(jnp.mean(x, axis=(1, 2))).astype(at_least_float32(self.dtype))
