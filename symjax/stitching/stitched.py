"""The stitched forward: features of A at a point, a matrix on their channels, the tail of B."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from symjax.models import Member, Network, branch, replace_branch
from symjax.models.layers import NormMode
from symjax.network.low_rank import LowRankFeatures, materialize
from symjax.spelling import one_line

PyTree = Any


class Pair(NamedTuple):
    """An ordered pair of members: the front of `a` goes into the tail of `b`. Neither is ever changed."""

    a: Member
    b: Member

    __repr__ = one_line


class Stitch(NamedTuple):
    """What acts on channels: y_i = sum_j matrix_ij x_j + bias_i.

    A stitch of low rank may come with factors, whose product the matrix is: then they act in its place, which costs
    2 r / d as much, and a convolution that follows at once works on r channels. To act by another matrix, replace them
    by None with it.
    """

    matrix: jax.Array  # (d, d)
    bias: jax.Array | None = None  # (d,); None: none
    factors: tuple[jax.Array, jax.Array] | None = None  # (d, r) and (r, d)

    __repr__ = one_line


def low_rank(factors: tuple[jax.Array, jax.Array] | None) -> tuple[jax.Array, jax.Array] | None:
    """The factors of a stitch where its rank is so low that they cost less than the matrix; else None."""
    return factors if factors is not None and 4 * factors[0].shape[-1] <= factors[0].shape[-2] else None


def aligned(stitches: Sequence[Stitch]) -> list[Stitch]:
    """Stacks of stitches of one point, their factors filled up with zeros to the largest rank, so that they run as one.

    A program for each rank would save operations, but loops of one round are the slower ones on a CPU.
    """
    most = max((stitch.factors[0].shape[-1] for stitch in stitches if stitch.factors is not None), default=0)

    def filled(stitch):
        if stitch.factors is None:
            return stitch
        left, right = stitch.factors
        fill, keep = (0, most - left.shape[-1]), (0, 0)
        left, right = jnp.pad(left, (keep, keep, fill)), jnp.pad(right, (keep, fill, keep))
        return stitch._replace(factors=(left, right))

    return [filled(stitch) for stitch in stitches]


def apply_stitch(stitch: Stitch, travelling):
    """What travels through a joint, stitched; inside a residual block the branch alone."""
    return replace_branch(travelling, materialize(_stitched(stitch, branch(travelling))))


def _stitched(stitch: Stitch, x) -> jax.Array | LowRankFeatures:
    bias = None if stitch.bias is None else stitch.bias.astype(x.dtype)
    if stitch.factors is not None:
        left, right = (factor.astype(x.dtype) for factor in stitch.factors)
        return LowRankFeatures(x @ right.T, left, bias)
    stitched = x @ stitch.matrix.T.astype(x.dtype)
    return stitched if bias is None else stitched + bias


def stitched_logits(network: Network, b: Member, travelling, stitch: Stitch, point: int, mode: NormMode):
    """Logits (n, classes) of B's tail on A's stitched features, and B's statistics as `mode` leaves them."""
    stitched = replace_branch(travelling, _stitched(stitch, branch(travelling)))
    return network.tail(b, stitched, point, mode=mode)
