"""Unconstrained matrices: full, low rank, lasso as published and by a proximal step."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from symjax.birkhoff.dual import matmul
from symjax.stitching.families.base import Family
from symjax.stitching.families.registry import register_family


@register_family("full", "any matrix", color="#08306b")
@dataclass(frozen=True)
class Full(Family):
    """Any matrix."""


@register_family(
    "rank",
    "U V of the given rank",
    color={8: "#2171b5", 4: "#4292c6", 2: "#6baed6", 1: "#9ecae1"},
    grid=(1, 2, 4),
)
@dataclass(frozen=True)
class LowRank(Family):
    """U V with U (d_b, r) and V (r, d_a), initialized by the truncated SVD of the start matrix."""

    rank: int = 1

    def misfit(self, junction):
        narrow = min(junction.front, junction.tail, key=lambda point: point.channels)
        expected = f"a rank of at most {narrow.channels}, the channels of {narrow.name}"
        return f"got {self.label}, expected {expected}" if self.rank > narrow.channels else ""

    def init(self, start):
        left, values, right = jnp.linalg.svd(start, full_matrices=False)
        root = jnp.sqrt(values[: self.rank])
        return {"left": left[:, : self.rank] * root, "right": root[:, None] * right[: self.rank]}

    def matrix(self, params, progress):
        return matmul(params["left"], params["right"])

    def factors(self, params):
        return params["left"], params["right"]


@register_family("lasso", "any matrix, L1 penalty of the given weight", color="#2b8c8c", grid=(1e-4, 1e-3, 1e-2, 1e-1))
@dataclass(frozen=True)
class Lasso(Family):
    """Any matrix, with the penalty weight * sum |W_ij|; rounding sets entries under 1e-4 to zero."""

    CUT: ClassVar[float] = 1e-4
    weight: float = 1e-3

    @property
    def label(self):
        return f"{self.name}:{self.weight:g}"

    def penalty(self, params, progress):
        return self.weight * jnp.sum(jnp.abs(params["matrix"]))

    def round(self, params):
        matrix = params["matrix"]
        return jnp.where(jnp.abs(matrix) < self.CUT, 0, matrix)


# The grid gives a range of sparsities on digits at the default learning rate; a weight of 1 makes layers zero.
@register_family(
    "lasso_proximal",
    "any matrix, soft thresholding after each step",
    title="lasso (proximal)",
    color="#2b8c8c",
    grid=(0.1, 0.3, 0.5, 0.7, 0.9),
)
@dataclass(frozen=True)
class ProximalLasso(Family):
    """Any matrix; after each step of length t, W_ij becomes sign(W_ij) max(|W_ij| - t weight, 0).

    With stochastic gradient descent this is the proximal gradient method for the objective of the lasso, which yields
    exact zeros. The length of Adam's steps is independent of the scale of the gradient, so there the weight is relative
    to a step: at 1, soft thresholding cancels a whole step.
    """

    weight: float = 0.1

    @property
    def label(self):
        return f"{self.name}:{self.weight:g}"

    def project(self, params, previous, progress, length=0.0):
        matrix = params["matrix"]
        return {"matrix": jnp.sign(matrix) * jnp.maximum(jnp.abs(matrix) - length * self.weight, 0)}
