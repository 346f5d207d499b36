"""What a stitch family is: a way to make a matrix from parameters, and what is done to those parameters."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

PyTree = Any


@dataclass(frozen=True)
class Family:
    """A family of stitch matrices W, acting on channels as y_i = sum_j W_ij x_j. A subclass overrides what differs.

    Matrices are (d_b, d_a): from the channels of the front's features to those that the tail reads.

    Families are static descriptions (hashable, no arrays); parameters are pytrees that go in and come out. All
    methods are pure and see one stitch.

    Class attributes:
      start: which start matrix suits the family best: "identity", "random", "matched" or "least_squares".
      trains: whether there is anything to train; a family that does not takes its start matrix as it is.
      square: whether d_a and d_b must be equal.
    """

    start: ClassVar[str] = "least_squares"
    trains: ClassVar[bool] = True
    square: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """How the family is named in results and on the command line."""
        raise NotImplementedError

    @property
    def hyperparameter(self) -> float | None:
        """The number that tells the family from its siblings: a rank, a penalty's weight, a temperature."""
        return None

    def random(self, key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """A random start matrix of this shape, (d_b, d_a)."""
        return jax.random.normal(key, shape, jnp.float32) / shape[1] ** 0.5

    def init(self, start: jax.Array) -> PyTree:
        """Parameters whose matrix is, or is nearest to, the start matrix (d_b, d_a)."""
        return {"matrix": start}

    def matrix(self, params: PyTree, progress: jax.Array) -> jax.Array:
        """The matrix (d_b, d_a); `progress` in [0, 1) is the share of training done."""
        return params["matrix"]

    def factors(self, params: PyTree) -> tuple[jax.Array, jax.Array] | None:
        """Left (d_b, r) and right (r, d_a) whose product the matrix is, rounded or not, where it is held as such."""
        return None

    def penalty(self, params: PyTree, progress: jax.Array) -> jax.Array:
        """What is added to the loss."""
        return jnp.float32(0)

    def project(self, params: PyTree, previous: PyTree, progress: jax.Array, length: jax.Array | float = 0.0) -> PyTree:
        """Parameters brought back to where they may be, after an optimizer step of `length` from `previous`."""
        return params

    def residual(self, params: PyTree) -> jax.Array:
        """By how much, at most, the matrix misses what `project` brings it to; told at the end of each epoch."""
        return jnp.float32(0)

    def halfway(self, params: PyTree) -> PyTree:
        """What happens to the parameters once, when half of the epochs are done (from then on `progress` is >= 1/2)."""
        return params

    def round(self, params: PyTree) -> jax.Array:
        """The matrix that is evaluated and saved."""
        return self.matrix(params, jnp.float32(1))
