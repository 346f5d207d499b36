"""The stitched forward pass: features of A at a point, a matrix on their channels, the tail of B."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import real
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.network.adapters import Mode
from symjax.network.low_rank import LowRankFeatures, materialize
from symjax.spelling import one_line

PyTree = Any
Array = jax.Array | np.ndarray


class Pair(NamedTuple):
    """An ordered pair of members: stitches connect the front of `a` to the tail of `b`. Both stay unchanged.

    `controls` has the members of other fronts by the name of their control, and the raw key of the noise
    (`symjax.stitching.controls`).
    """

    a: Member
    b: Member
    controls: dict[str, Any] = {}  # noqa: RUF012 (nothing writes to it)

    def __repr__(self):
        return one_line(self)


class Stitch(NamedTuple):
    """An affine map of channels, y_i = sum_j matrix_ij x_j + bias_i.

    A stitch of low rank can have factors, whose product is the matrix. Then the factors are applied instead, at
    r (d_a + d_b) / (d_a d_b) of the cost; a convolution that follows directly works on r channels. Set the factors to
    None when you replace the matrix.
    """

    matrix: Array  # (d_b, d_a)
    bias: Array | None = None  # (d_b,)
    factors: tuple[Array, Array] | None = None  # (d_b, r) and (r, d_a)

    def __repr__(self):
        return one_line(self)


def low_rank(factors: tuple[Array, Array] | None) -> tuple[Array, Array] | None:
    """Return the factors of a stitch if applying them costs at most half as much as the matrix; else None."""
    if factors is None:
        return None
    (d_b, rank), d_a = factors[0].shape[-2:], factors[1].shape[-1]
    return factors if 2 * rank * (d_a + d_b) <= d_a * d_b else None


def pad_factors(stitches: Sequence[Stitch]) -> list[Stitch]:
    """Return stacks of stitches of one point, with factors zero-padded to the largest rank, to run in one program.

    A program for each rank would save operations, but loops with a single iteration are slower on a CPU.
    """
    largest = max((stitch.factors[0].shape[-1] for stitch in stitches if stitch.factors is not None), default=0)

    def padded(stitch):
        if stitch.factors is None:
            return stitch
        left, right = stitch.factors
        fill, keep = (0, largest - left.shape[-1]), (0, 0)
        left, right = jnp.pad(left, (keep, keep, fill)), jnp.pad(right, (keep, fill, keep))
        return stitch._replace(factors=(left, right))

    return [padded(stitch) for stitch in stitches]


def apply_stitch(stitch: Stitch, x: jax.Array) -> jax.Array:
    """Return the stitched features y_i = sum_j matrix_ij x_j + bias_i.

    Args:
      stitch: with a matrix (d_b, d_a).
      x: features (..., d_a), floats.

    Returns:
      Features (..., d_b) of the dtype of `x`.

    Raises:
      InputError: `x` has another number of channels.

    Example:
        >>> import jax.numpy as jnp
        >>> from symjax.stitching import Stitch, apply_stitch
        >>> apply_stitch(Stitch(jnp.array([[0.0, 2.0]])), jnp.array([[1.0, 3.0]])).tolist()
        [[6.0]]
    """
    x, channels = real("x", x), np.shape(stitch.matrix)[-1]
    if x.shape[-1:] != (channels,):
        raise InputError(f"x: got shape {x.shape}, expected (..., {channels}), the channels that the stitch takes")
    return materialize(stitched_features(stitch, x))


def stitched_features(stitch: Stitch, x) -> jax.Array | LowRankFeatures:
    """Return the stitched features; those of a stitch with factors are not multiplied out."""
    bias = None if stitch.bias is None else stitch.bias.astype(x.dtype)
    if stitch.factors is not None:
        left, right = (factor.astype(x.dtype) for factor in stitch.factors)
        return LowRankFeatures(x @ right.T, left, bias)
    stitched = x @ stitch.matrix.T.astype(x.dtype)
    return stitched if bias is None else stitched + bias


def stitched_output(network: Network, b: Member, carried, stitch: Stitch, point: int, mode: Mode, *, key=None):
    """Return (the output of B's tail on A's stitched features, the state of B after a pass in `mode`).

    `carried` is the result of `Network.front`. The values after the features enter the tail unchanged.
    """
    features, *others = carried
    return network.tail(b, (stitched_features(stitch, features), *others), point, mode=mode, key=key, with_state=True)
