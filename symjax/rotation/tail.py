"""What trains: the tail behind the rotation, on the features before it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from symjax.network import Member, Network
from symjax.spelling import one_line


@dataclass(frozen=True, eq=False)
class RotatedTail:
    """A network's tail behind a rotated pre-activation: of features z before the activation s at `point`, the output

        tail(s(A z))

    The matrix acts on the channels of each pixel, before the activation. There it matters which matrix it is: behind
    the activation, the next linear layer could undo any invertible one. An A with s(A z) = A s(z), as ReLU has for
    permutations times positive scales, can be undone there as well; a random orthogonal A cannot.

    To `symjax.training.train_epoch` it is a network whose images are features, and whose members are tails:
    `Network.tail_of` a member. A is fixed.
    """

    network: Network
    point: int
    matrix: jax.Array  # (channels, channels)

    __repr__ = one_line

    def apply(self, tail: Member, x, *, mode="inference", key=None, with_state: bool = False):
        """The network's output, with the tail's state after the call where `with_state` is set."""
        rotated = jnp.einsum("...c,dc->...d", x, self.matrix.astype(x.dtype))
        carried = (self.network.activation(self.point)(rotated),)
        return self.network.tail(tail, carried, self.point, mode=mode, key=key, with_state=with_state)
