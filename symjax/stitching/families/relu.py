"""G_ReLU, the symmetries of ReLU: permutations with positive scaling, over the Birkhoff polytope or by SoftSort."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff import nearest_permutation, permutation_matrix, projection_birkhoff, sinkhorn, softsort
from symjax.stitching.families.base import Family

HALF, NEVER = 0.5, 2.0  # shares of a run


def split_scaling(start):
    """A nonnegative matrix as (doubly stochastic P, scaling s) with P diag(s) near it; exact where it is in G_ReLU.

    Columns and rows of zeros have scaling 0 and are joined by equal parts in P.
    """
    nonnegative = jnp.maximum(start, 0)
    scaling = jnp.sum(nonnegative, axis=0)
    permutation = sinkhorn(nonnegative / jnp.where(scaling > 0, scaling, 1))
    lacking = jnp.maximum(1 - jnp.sum(permutation, axis=1), 0)[:, None] * (scaling == 0)
    return permutation + lacking / jnp.maximum(jnp.sum(lacking, axis=0), 1), scaling


@dataclass(frozen=True)
class Birkhoff(Family):
    """P diag(s): P doubly stochastic, s >= 0; -alpha |P|_F is added to the loss and drives P to a permutation.

    P trains alone in the first half; in the second, P is rounded to a permutation and kept, and s trains, so that
    rounding costs nothing afterwards. After every step P is projected onto the Birkhoff polytope (Euclidean, warm
    started) and s onto the nonnegative numbers.

    Class attributes:
      scaling_trains, permutation_rests: from which share of the run on.
    """

    start: ClassVar[str] = "matched"
    square: ClassVar[bool] = True
    scaling_trains: ClassVar[float] = HALF
    permutation_rests: ClassVar[float] = HALF
    alpha: float = 0.1

    @property
    def label(self):
        return f"birkhoff:{self.alpha:g}" if self.alpha != 0.1 else "birkhoff"

    @property
    def hyperparameter(self):
        return self.alpha

    def random(self, key, shape):
        return sinkhorn(jax.random.uniform(key, shape, jnp.float32, 0.5, 1.5))

    def init(self, start):
        permutation, scaling = split_scaling(start)
        duals = jnp.zeros_like(scaling)
        return {"permutation": permutation, "scaling": scaling, "duals": (duals, duals)}

    def matrix(self, params, progress):
        permutation, scaling = params["permutation"], params["scaling"]
        permutation = jnp.where(progress >= self.permutation_rests, lax.stop_gradient(permutation), permutation)
        return permutation * jnp.where(progress >= self.scaling_trains, scaling, lax.stop_gradient(scaling))

    def penalty(self, params, progress):
        return -self.alpha * jnp.linalg.norm(params["permutation"])

    def project(self, params, previous, progress, length=0.0):
        permutation, duals = self.projected(params["permutation"], previous["duals"])
        rests, trains = progress >= self.permutation_rests, progress >= self.scaling_trains
        return {
            "permutation": jnp.where(rests, previous["permutation"], permutation),
            "scaling": jnp.where(trains, jnp.maximum(params["scaling"], 0), previous["scaling"]),
            "duals": duals,
        }

    def projected(self, permutation, duals):
        """P brought back to the Birkhoff polytope, and the duals to begin with after the next step."""
        permutation, info = projection_birkhoff(
            permutation, method="sweeps", init=duals, max_iters=200, full_output=True
        )
        return permutation, info.duals

    def residual(self, params):
        sums = jnp.stack([params["permutation"].sum(axis) for axis in (0, 1)])
        return jnp.maximum(jnp.abs(sums - 1).max(), -params["permutation"].min())

    def halfway(self, params):
        if self.permutation_rests != HALF:
            return params
        return {**params, "permutation": permutation_matrix(nearest_permutation(params["permutation"]))}

    def round(self, params):
        return permutation_matrix(nearest_permutation(params["permutation"])) * params["scaling"]


@dataclass(frozen=True)
class PublishedBirkhoff(Birkhoff):
    """As published: from a random start, P goes through ReLU and 16 Sinkhorn sweeps instead of a projection.

    P trains alone in the first half, P and s together in the second, and P is rounded only at the end.
    """

    start: ClassVar[str] = "random"
    permutation_rests: ClassVar[float] = NEVER

    @property
    def label(self):
        return f"birkhoff_published:{self.alpha:g}" if self.alpha != 0.1 else "birkhoff_published"

    def projected(self, permutation, duals):
        return sinkhorn(jnp.maximum(permutation, 0)), duals


@dataclass(frozen=True)
class SoftSort(Family):
    """SoftSort_tau(v) diag(exp(t)); rounded to a permutation by the rows' largest entries."""

    start: ClassVar[str] = "matched"
    square: ClassVar[bool] = True
    tau: float = 1.0

    @property
    def label(self):
        return f"softsort:{self.tau:g}" if self.tau != 1.0 else "softsort"

    @property
    def hyperparameter(self):
        return self.tau

    def init(self, start):
        doubly_stochastic, scaling = split_scaling(start)
        permutation = nearest_permutation(doubly_stochastic)
        channels = start.shape[-1]
        # Row i of SoftSort picks the i-th largest score: descending scores, 2 tau apart, put it on permutation[i].
        descending = 2 * self.tau * jnp.arange(channels, 0, -1, dtype=jnp.float32)
        scores = jnp.zeros((channels,), jnp.float32).at[permutation].set(descending)
        return {"scores": scores, "log_scaling": jnp.log(jnp.maximum(scaling, 1e-6))}

    def matrix(self, params, progress):
        return softsort(params["scores"], self.tau) * jnp.exp(params["log_scaling"])

    def round(self, params):
        largest = jnp.argsort(-params["scores"]).astype(jnp.int32)
        return permutation_matrix(largest) * jnp.exp(params["log_scaling"])
