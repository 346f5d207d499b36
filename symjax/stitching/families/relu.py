"""Stitches in G_ReLU (permutations with positive scaling), relaxed to the Birkhoff polytope or by SoftSort."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff import nearest_permutation, permutation_matrix, projection_birkhoff, sinkhorn, softsort
from symjax.stitching.families.base import Family
from symjax.stitching.families.registry import register_family

HALF, NEVER = 0.5, 2.0  # shares of the training
ALPHAS = (1e-3, 1e-2, 1e-1, 1, 10)  # the published grid


def split_scaling(start):
    """Return (doubly stochastic P, scaling s) such that P diag(s) is near a nonnegative matrix; exact in G_ReLU.

    Columns of zeros have scaling 0; in P they share the rows of zeros equally.
    """
    nonnegative = jnp.maximum(start, 0)
    scaling = jnp.sum(nonnegative, axis=0)
    permutation = sinkhorn(nonnegative / jnp.where(scaling > 0, scaling, 1))
    deficit = jnp.maximum(1 - jnp.sum(permutation, axis=1), 0)[:, None] * (scaling == 0)
    return permutation + deficit / jnp.maximum(jnp.sum(deficit, axis=0), 1), scaling


@register_family(
    "birkhoff",
    "G_ReLU over the Birkhoff polytope, our recipe",
    title="$G_{\\mathrm{ReLU}}$ (Birkhoff)",
    color="#d7301f",
    grid=ALPHAS,
)
@dataclass(frozen=True)
class Birkhoff(Family):
    """P diag(s) with P doubly stochastic and s >= 0; the penalty -alpha |P|_F drives P to a permutation.

    Only P trains in the first half. Then P is rounded to a permutation and fixed, and only s trains, so that the final
    rounding does not change the stitch. After every step P is projected onto the Birkhoff polytope (Euclidean, warm
    started) and s onto the nonnegative numbers.

    Class attributes:
      scaling_trains_from: the share of the training from which on s trains.
      permutation_fixed_from: the share of the training from which on P is fixed.
    """

    start: ClassVar[str] = "matched"
    square: ClassVar[bool] = True
    min_epochs: ClassVar[int] = 2
    scaling_trains_from: ClassVar[float] = HALF
    permutation_fixed_from: ClassVar[float] = HALF
    alpha: float = 0.1

    def random(self, key, shape):
        return sinkhorn(jax.random.uniform(key, shape, jnp.float32, 0.5, 1.5))

    def init(self, start):
        permutation, scaling = split_scaling(start)
        duals = jnp.zeros_like(scaling)
        return {"permutation": permutation, "scaling": scaling, "duals": (duals, duals)}

    def matrix(self, params, progress):
        permutation, scaling = params["permutation"], params["scaling"]
        permutation = jnp.where(progress >= self.permutation_fixed_from, lax.stop_gradient(permutation), permutation)
        return permutation * jnp.where(progress >= self.scaling_trains_from, scaling, lax.stop_gradient(scaling))

    def penalty(self, params, progress):
        return -self.alpha * jnp.linalg.norm(params["permutation"])

    def project(self, params, previous, progress, length=0.0):
        permutation, duals = self.project_permutation(params["permutation"], previous["duals"])
        fixed, trains = progress >= self.permutation_fixed_from, progress >= self.scaling_trains_from
        return {
            "permutation": jnp.where(fixed, previous["permutation"], permutation),
            "scaling": jnp.where(trains, jnp.maximum(params["scaling"], 0), previous["scaling"]),
            "duals": duals,
        }

    def project_permutation(self, permutation, duals):
        """Return the projection of P onto the Birkhoff polytope, and the duals that warm start the next one."""
        permutation, info = projection_birkhoff(
            permutation, method="sweeps", init=duals, max_iters=200, full_output=True
        )
        return permutation, info.duals

    def residual(self, params):
        sums = jnp.stack([params["permutation"].sum(axis) for axis in (0, 1)])
        return jnp.maximum(jnp.abs(sums - 1).max(), -params["permutation"].min())

    def halfway(self, params):
        if self.permutation_fixed_from != HALF:
            return params
        return {**params, "permutation": permutation_matrix(nearest_permutation(params["permutation"]))}

    def round(self, params):
        return permutation_matrix(nearest_permutation(params["permutation"])) * params["scaling"]


@register_family(
    "birkhoff_published",
    "G_ReLU over the Birkhoff polytope, the published recipe",
    title="$G_{\\mathrm{ReLU}}$ (published recipe)",
    color="#fc8d59",
    grid=ALPHAS,
)
@dataclass(frozen=True)
class PublishedBirkhoff(Birkhoff):
    """The published recipe: a random start, and ReLU and 16 Sinkhorn sweeps in place of the projection.

    Only P trains in the first half, P and s train in the second, and P is rounded only at the end.
    """

    start: ClassVar[str] = "random"
    permutation_fixed_from: ClassVar[float] = NEVER

    def project_permutation(self, permutation, duals):
        return sinkhorn(jnp.maximum(permutation, 0)), duals


@register_family(
    "softsort",
    "G_ReLU by SoftSort",
    title="$G_{\\mathrm{ReLU}}$ (SoftSort)",
    color="#fdae8b",
    grid=(1e-2, 1e-1, 1, 10),
)
@dataclass(frozen=True)
class SoftSort(Family):
    """SoftSort_tau(v) diag(exp(t)); rounding takes the largest entry of each row."""

    start: ClassVar[str] = "matched"
    square: ClassVar[bool] = True
    tau: float = 1.0

    def init(self, start):
        doubly_stochastic, scaling = split_scaling(start)
        permutation = nearest_permutation(doubly_stochastic)
        channels = start.shape[-1]
        # Row i of SoftSort selects the i-th largest score; descending scores, 2 tau apart, make it permutation[i].
        descending = 2 * self.tau * jnp.arange(channels, 0, -1, dtype=jnp.float32)
        scores = jnp.zeros((channels,), jnp.float32).at[permutation].set(descending)
        return {"scores": scores, "log_scaling": jnp.log(jnp.maximum(scaling, 1e-6))}

    def matrix(self, params, progress):
        return softsort(params["scores"], self.tau) * jnp.exp(params["log_scaling"])

    def round(self, params):
        largest = jnp.argsort(-params["scores"]).astype(jnp.int32)
        return permutation_matrix(largest) * jnp.exp(params["log_scaling"])
