"""The stitched forward: features of A at a point, a matrix on their channels, the tail of B."""

from typing import Any, NamedTuple

import jax

from symjax.models import Member, Network, branch, replace_branch
from symjax.models.layers import NormMode

PyTree = Any


class Pair(NamedTuple):
    """An ordered pair of members: the front of `a` goes into the tail of `b`. Neither is ever changed."""

    a: Member
    b: Member


class Stitch(NamedTuple):
    """What acts on channels: y_i = sum_j matrix_ij x_j + bias_i."""

    matrix: jax.Array  # (d, d)
    bias: jax.Array  # (d,)


def apply_stitch(stitch: Stitch, travelling):
    """What travels through a joint, stitched; inside a residual block the branch alone."""
    x = branch(travelling)
    stitched = x @ stitch.matrix.T.astype(x.dtype) + stitch.bias.astype(x.dtype)
    return replace_branch(travelling, stitched)


def stitched_logits(network: Network, b: Member, travelling, stitch: Stitch, point: int, mode: NormMode):
    """Logits (n, classes) of B's tail on A's stitched features, and B's statistics as `mode` leaves them."""
    return network.tail(b, apply_stitch(stitch, travelling), point, mode=mode)
