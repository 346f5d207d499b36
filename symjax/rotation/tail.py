"""The trained part: the tail after the rotation, as a function of the features before it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from symjax.network import Member, Network
from symjax.spelling import one_line


@dataclass(frozen=True, eq=False)
class RotatedTail:
    """The tail of a network after a rotated pre-activation. For features z before the activation s at `point` it is

        tail(s(A z))

    The matrix acts on the channels of each pixel. It is applied before the activation, since the next linear layer
    could undo any invertible matrix after it. A matrix with s(A z) = A s(z), such as a permutation times positive
    scales for ReLU, can be undone in the same way; a random orthogonal matrix cannot.

    `symjax.training.train_epoch` takes it as a network whose images are features and whose members are tails
    (`Network.tail_of`). A is fixed.

    Attributes:
      network: the whole network.
      point: index of the stitch point.
      matrix: A, (channels, channels).

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, symjax
      >>> def mlp(params, x):
      ...     return symjax.stitch_point(jax.nn.relu(x @ params["hidden"]), "relu1") @ params["out"]
      >>> params = {"hidden": jnp.eye(3), "out": jnp.ones((3, 2))}
      >>> net = symjax.Network.from_function(mlp, params, example=np.zeros((1, 3), np.float32))
      >>> tail = symjax.rotation.RotatedTail(net, 0, -jnp.eye(3))  # tail(relu(-z))
      >>> tail.apply(net.tail_of(net.member(params), 0), jnp.array([[1.0, -2.0, 3.0]])).tolist()
      [[2.0, 2.0]]
    """

    network: Network
    point: int
    matrix: jax.Array

    __repr__ = one_line

    def apply(self, tail: Member, x, *, mode="inference", key=None, with_state: bool = False):
        """Return the output of the network for the features `x` before the activation.

        Args:
          tail: a member of the network, or its part that the tail reads (`Network.tail_of`).
          x: (examples, ..., channels).
          mode, key, with_state: as in `Network.apply`.
        """
        rotated = jnp.einsum("...c,dc->...d", x, self.matrix.astype(x.dtype))
        carried = (self.network.activation(self.point)(rotated),)
        return self.network.tail(tail, carried, self.point, mode=mode, key=key, with_state=with_state)
