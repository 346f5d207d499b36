"""What trains: the segments behind the rotation, on the features before it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from symjax.models import Member, Network
from symjax.spelling import one_line


@dataclass(frozen=True, eq=False)
class RotatedTail:
    """A network's tail behind a rotated pre-activation: of features z before the activation s at `point`, the logits

        tail(s(A z))

    The matrix acts on the channels of each pixel, before the activation. There it matters which matrix it is: behind
    the activation, the next linear layer could undo any invertible one. An A with s(A z) = A s(z), as ReLU has for
    permutations times positive scales, can be undone there as well; a random orthogonal A cannot.

    To `symjax.training.train_epoch` it is a network whose images are features, and whose members are tails: parameters
    and statistics of the segments behind `point` alone. A is fixed.
    """

    network: Network
    point: int
    matrix: jax.Array  # (channels, channels)

    __repr__ = one_line

    def logits(self, tail: Member, features, *, mode="inference", key=None):
        """Logits (n, classes) in float32, and the tail's statistics."""
        features = features.astype(self.network.dtype)
        rotated = jnp.einsum("...c,dc->...d", features, self.matrix.astype(features.dtype))
        travelling = self.network.activate(rotated, self.point)
        logits, stats = self.network.tail(whole(tail, self.point), travelling, self.point, mode=mode, key=key)
        return logits, stats[self.point + 1 :]


def tail_of(member: Member, point: int) -> Member:
    """The part of a member behind `point`."""
    return Member(*(kind[point + 1 :] for kind in member))


def whole(tail: Member, point: int) -> Member:
    """A member that has nothing before `point`, to be run from there."""
    return Member(*((None,) * (point + 1) + tuple(kind) for kind in tail))
