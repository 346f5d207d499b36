"""Floating-point operations of networks, as the compiler counts them before it begins; nothing is compiled or run."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from symjax.models import Network


def segment_flops(network: Network, image: Sequence[int]) -> list[float]:
    """Operations of each segment for one image (h, w, c), forward.

    They are those of the network's own method of convolution; `method="native"` gives a convolution's plain count.
    Where the compiler does not count, each segment counts as one.
    """
    member = jax.eval_shape(network.init, jax.random.key(0))
    travelling = jax.ShapeDtypeStruct((1, *image), "float32")
    found = []
    for i in range(len(network.points) + 1):
        run = jax.jit(partial(_segment, network, i))
        found.append(_count(run, member, travelling))
        travelling = jax.eval_shape(run, member, travelling)
    return found


def training_flops(network: Network, image: Sequence[int]) -> float:
    """Operations of a training step for one image: forward and backward, without the optimizer."""
    member = jax.eval_shape(network.init, jax.random.key(0))

    def loss(params, images):
        logits, _ = network.logits(member._replace(params=params, stats=stats_of(member)), images, mode="train")
        return logits.sum()

    def stats_of(member):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), member.stats)

    # Two images: batch norm over a single value would be folded away.
    return _count(jax.jit(jax.grad(loss)), member.params, jax.ShapeDtypeStruct((2, *image), "float32")) / 2


def _segment(network, i, member, travelling):
    return network.run(member, travelling, start=i, stop=i + 1)[0]


def _count(run, *arguments) -> float:
    analysis = run.lower(*arguments).cost_analysis()
    return float((analysis or {}).get("flops", 1.0))
