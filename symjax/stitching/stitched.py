"""The stitched forward: features of A at a point, a matrix on their channels, the tail of B."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax.birkhoff.checks import real
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.network.adapters import Mode
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
    r (d_a + d_b) / (d_a d_b) as much, and a convolution that follows at once works on r channels. To act by another
    matrix, replace them by None with it.
    """

    matrix: jax.Array  # (d_b, d_a)
    bias: jax.Array | None = None  # (d_b,); None: none
    factors: tuple[jax.Array, jax.Array] | None = None  # (d_b, r) and (r, d_a)

    __repr__ = one_line


def low_rank(factors: tuple[jax.Array, jax.Array] | None) -> tuple[jax.Array, jax.Array] | None:
    """The factors of a stitch where its rank is so low that they cost half of the matrix or less; else None."""
    if factors is None:
        return None
    (d_b, rank), d_a = factors[0].shape[-2:], factors[1].shape[-1]
    return factors if 2 * rank * (d_a + d_b) <= d_a * d_b else None


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


def apply_stitch(stitch: Stitch, x: jax.Array) -> jax.Array:
    """Stitched features (..., d_b), of features (..., d_a)."""
    x, channels = real("x", x), np.shape(stitch.matrix)[-1]
    if x.shape[-1:] != (channels,):
        raise InputError(f"x: got shape {x.shape}, expected (..., {channels}), the channels that the stitch takes")
    return materialize(_stitched(stitch, x))


def _stitched(stitch: Stitch, x) -> jax.Array | LowRankFeatures:
    bias = None if stitch.bias is None else stitch.bias.astype(x.dtype)
    if stitch.factors is not None:
        left, right = (factor.astype(x.dtype) for factor in stitch.factors)
        return LowRankFeatures(x @ right.T, left, bias)
    stitched = x @ stitch.matrix.T.astype(x.dtype)
    return stitched if bias is None else stitched + bias


def stitched_output(network: Network, b: Member, carried, stitch: Stitch, point: int, mode: Mode, *, key=None):
    """The output of B's tail on A's stitched features, and B's state as `mode` leaves it.

    What else crosses the split goes into the tail as it is.
    """
    features, *others = carried
    return network.tail(b, (_stitched(stitch, features), *others), point, mode=mode, key=key, with_state=True)
