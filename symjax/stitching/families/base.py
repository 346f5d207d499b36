"""The interface of stitch families: from parameters to a matrix, and operations on the parameters."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

PyTree = Any


@dataclass(frozen=True)
class Family:
    """A family of stitch matrices W (d_b, d_a), which act on channels as y_i = sum_j W_ij x_j.

    d_a is the number of channels of the front's features, d_b that of the features that the tail reads. A family is a
    static description: hashable, without arrays. Its methods are pure functions of the parameters of one stitch, a
    pytree. Subclasses override the methods that differ.

    Class attributes:
      start: the default start matrix: "identity", "random", "matched" or "least_squares".
      trains: whether the family has trainable parameters. Otherwise the start matrix is the stitch.
      square: whether d_a and d_b must be equal.
    """

    start: ClassVar[str] = "least_squares"
    trains: ClassVar[bool] = True
    square: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """The name in results and on the command line."""
        raise NotImplementedError

    @property
    def hyperparameter(self) -> float | None:
        """The rank, the weight of a penalty or the temperature; None for a family without one."""
        return None

    def random(self, key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """Return a random start matrix of `shape`, (d_b, d_a)."""
        return jax.random.normal(key, shape, jnp.float32) / shape[1] ** 0.5

    def init(self, start: jax.Array) -> PyTree:
        """Return parameters whose matrix is the start matrix (d_b, d_a), or the nearest one in the family."""
        return {"matrix": start}

    def matrix(self, params: PyTree, progress: jax.Array) -> jax.Array:
        """Return the matrix (d_b, d_a). `progress` in [0, 1) is the completed share of the training."""
        return params["matrix"]

    def factors(self, params: PyTree) -> tuple[jax.Array, jax.Array] | None:
        """Return factors (d_b, r) and (r, d_a) of the matrix, rounded or not; None if the family has none."""
        return None

    def penalty(self, params: PyTree, progress: jax.Array) -> jax.Array:
        """Return the term that is added to the loss."""
        return jnp.float32(0)

    def project(self, params: PyTree, previous: PyTree, progress: jax.Array, length: jax.Array | float = 0.0) -> PyTree:
        """Return parameters that satisfy the constraints, after an optimizer step of `length` from `previous`."""
        return params

    def residual(self, params: PyTree) -> jax.Array:
        """Return the largest violation of the constraint of `project`; reported at the end of each epoch."""
        return jnp.float32(0)

    def halfway(self, params: PyTree) -> PyTree:
        """Return new parameters once half of the epochs are done; from then on `progress` is at least 1/2."""
        return params

    def round(self, params: PyTree) -> jax.Array:
        """Return the matrix that is evaluated and saved."""
        return self.matrix(params, jnp.float32(1))
