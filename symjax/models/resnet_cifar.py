"""CIFAR ResNets of He et al. 2016 (section 4.2): 6n + 2 layers, widths w, 2w, 4w, shortcuts without parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from symjax.models.layers import BatchNorm, Conv, Dense, global_mean_pool
from symjax.models.segmented import Keys, Segmented, StitchPoint

DEPTHS = (20, 32, 44, 56, 110, 1202)


class Stem(nnx.Module):
    """conv - batch norm - ReLU."""

    def __init__(self, features_in, features_out, *, method, rngs):
        self.conv = Conv(features_in, features_out, method=method, rngs=rngs)
        self.norm = BatchNorm(features_out)
        self.features = features_out

    def __call__(self, x, mode):
        return jax.nn.relu(self.norm(self.conv(x), mode))

    def wire(self, wires, incoming):
        return _wire_conv(wires, self.conv, incoming, wires.space(self.features, "relu"))


class PadShortcut(nnx.Module):
    """Option A: every `stride`-th pixel, and zeros for the channels that are new, half before and half after."""

    def __init__(self, features_in, features_out, stride):
        self.extra, self.stride = features_out - features_in, stride

    def __call__(self, x, mode):
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (self.extra // 2, self.extra - self.extra // 2)))

    def wire(self, wires, incoming):
        # The old channels keep their symmetry among themselves; the new ones, where the skip is 0, get one of theirs.
        new = wires.space(self.extra, "relu", "/new")
        return np.concatenate([new[: self.extra // 2], incoming, new[self.extra // 2 :]])


class BlockEntry(nnx.Module):
    """First half of a block: features to (branch, skip), the branch after its ReLU, the skip after its shortcut."""

    def __init__(self, features_in, features_out, stride, shortcut, *, method, rngs):
        self.conv = Conv(features_in, features_out, stride=stride, method=method, rngs=rngs)
        self.norm = BatchNorm(features_out)
        self.features, self.shortcut = features_out, shortcut

    def __call__(self, x, mode):
        skip = x if self.shortcut is None else self.shortcut(x, mode)
        return jax.nn.relu(self.norm(self.conv(x), mode)), skip

    def wire(self, wires, incoming):
        skip = incoming if self.shortcut is None else self.shortcut.wire(wires.within("shortcut"), incoming)
        return _wire_conv(wires, self.conv, incoming, wires.space(self.features, "relu")), skip


class BlockExit(nnx.Module):
    """Second half of a block: conv and batch norm on the branch, plus the skip, then ReLU."""

    def __init__(self, features, *, method, rngs):
        self.conv = Conv(features, features, method=method, rngs=rngs)
        self.norm = BatchNorm(features)

    def __call__(self, travelling, mode):
        branch, skip = travelling
        return jax.nn.relu(self.norm(self.conv(branch), mode) + skip)

    def wire(self, wires, incoming):
        branch, skip = incoming
        return _wire_conv(wires, self.conv, branch, skip)


def _wire_conv(wires, conv, incoming, outgoing):
    """Channels through the conv and the batch norm that every segment here has."""
    wires.linear("conv", conv, incoming, outgoing, normed=True)
    wires.norm("norm", outgoing)
    return outgoing


class Head(nnx.Module):
    """Global mean pool - dense."""

    def __init__(self, features_in, classes, *, rngs):
        self.dense = Dense(features_in, classes, rngs=rngs)

    def __call__(self, x, mode):
        return self.dense(global_mean_pool(x))

    def wire(self, wires, incoming):
        wires.linear("dense", self.dense, incoming, None)


def residual_chain(rngs, stages, *, shortcut, channels: int, classes: int, method: str) -> Segmented:
    """A stem, then two-conv residual blocks, then a head.

    `stages` lists (features, blocks); every stage but the first halves the map in its first block. `shortcut(features
    in, features out, stride)` makes the shortcut of a block that changes shape.
    """
    features = stages[0][0]
    segments: list[nnx.Module] = [Stem(channels, features, method=method, rngs=rngs)]
    points = [StitchPoint("stem", features)]
    for stage, (features_out, blocks) in enumerate(stages):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            change = shortcut(features, features_out, stride) if (features, stride) != (features_out, 1) else None
            segments.append(BlockEntry(features, features_out, stride, change, method=method, rngs=rngs))
            segments.append(BlockExit(features_out, method=method, rngs=rngs))
            name = f"block{stage + 1}.{block + 1}"
            points += [StitchPoint(f"{name}*", features_out, starred=True), StitchPoint(name, features_out)]
            features = features_out
    return Segmented([*segments, Head(features, classes, rngs=rngs)], points)


def build(rngs: Keys, *, depth: int, width: int, channels: int, classes: int, method: str) -> Segmented:
    """The ResNet of 6n + 2 = `depth` layers."""
    blocks = (depth - 2) // 6
    stages = [(width, blocks), (2 * width, blocks), (4 * width, blocks)]
    return residual_chain(rngs, stages, shortcut=PadShortcut, channels=channels, classes=classes, method=method)
