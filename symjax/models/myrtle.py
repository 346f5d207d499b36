"""The Myrtle CNN and its relatives: plain chains of convolutions, described as data.

Godfrey et al. 2022 (arXiv 2205.14258), appendix on architectures; after D. Page's "How to train your ResNet".
"""

from dataclasses import dataclass

import jax
from flax import nnx

from symjax.models.layers import BatchNorm, Conv, Dense, global_max_pool, glorot, he, max_pool
from symjax.models.segmented import Keys, Segmented, StitchPoint


@dataclass(frozen=True)
class PlainSpec:
    """A plain chain: conv i has `multiples[i]` times the width and is followed by a pool of `pools[i]` (1: none)."""

    width: int
    multiples: tuple[int, ...] = (1, 2, 4, 8)
    pools: tuple[int, ...] = (1, 2, 2, 2)
    norm: bool = True
    activation: str = "relu"


SPECS = {
    "mcnn": PlainSpec(64),
    "mcnn_k": PlainSpec(64, norm=False),
    "mcnn_sigmoid": PlainSpec(64, activation="sigmoid"),
    "mcnn_k_sigmoid": PlainSpec(64, norm=False, activation="sigmoid"),
    "cwcnn": PlainSpec(512, multiples=(1, 1, 1, 1)),
    "cwcnn_k": PlainSpec(512, multiples=(1, 1, 1, 1), norm=False),
    "scnn": PlainSpec(64, multiples=(1, 2, 2, 4), pools=(1, 2, 4, 2)),
}

ACTIVATIONS = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}
# A sigmoid network needs inputs of unit scale to its sigmoids, not the doubled variance that He's start gives a ReLU.
VARIANCES = {"relu": he, "sigmoid": glorot}


class ConvSegment(nnx.Module):
    """[pool of the previous conv] - conv - [batch norm] - activation."""

    def __init__(self, features_in, features_out, pool_before, spec: PlainSpec, *, method, rngs):
        self.conv = Conv(
            features_in, features_out, bias=not spec.norm, variance=VARIANCES[spec.activation], method=method, rngs=rngs
        )
        self.norm = BatchNorm(features_out) if spec.norm else None
        self.features, self.pool_before, self.activation = features_out, pool_before, spec.activation
        self.takes_low_rank = pool_before == 1

    def __call__(self, x, mode):
        return self.activate(self.before_activation(x, mode))

    def before_activation(self, x, mode):
        x = self.conv(max_pool(x, self.pool_before))
        return x if self.norm is None else self.norm(x, mode)

    def activate(self, x):
        return ACTIVATIONS[self.activation](x)

    def wire(self, wires, incoming):
        outgoing = wires.space(self.features, self.activation)
        wires.linear("conv", self.conv, incoming, outgoing, normed=self.norm is not None)
        wires.norm("norm", outgoing)
        return outgoing


class Head(nnx.Module):
    """pool - global max pool - dense."""

    def __init__(self, features_in, classes, pool_before, *, rngs):
        self.dense = Dense(features_in, classes, rngs=rngs)
        self.pool_before = pool_before

    def __call__(self, x, mode):
        return self.dense(global_max_pool(max_pool(x, self.pool_before)))

    def wire(self, wires, incoming):
        wires.linear("dense", self.dense, incoming, None)


def build(rngs: Keys, *, spec: PlainSpec, width: int, channels: int, classes: int, method: str) -> Segmented:
    """The chain of `spec` at `width`; stitch points after every activation, before its pool."""
    widths = [multiple * width for multiple in spec.multiples]
    pools = (1, *spec.pools)
    segments = [
        ConvSegment(before, after, pool, spec, method=method, rngs=rngs)
        for before, after, pool in zip((channels, *widths), widths, pools, strict=False)
    ]
    points = [StitchPoint(f"{spec.activation}{i + 1}", features) for i, features in enumerate(widths)]
    return Segmented([*segments, Head(widths[-1], classes, pools[-1], rngs=rngs)], points)
