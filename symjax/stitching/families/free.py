"""Unconstrained matrices: full, low rank, lasso as published and by a proximal step."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from symjax.birkhoff.dual import matmul
from symjax.stitching.families.base import Family


@dataclass(frozen=True)
class Full(Family):
    """Any matrix."""

    label: ClassVar[str] = "full"


@dataclass(frozen=True)
class LowRank(Family):
    """U V with U (d_b, r) and V (r, d_a), initialized by the truncated SVD of the start matrix."""

    rank: int = 1

    @property
    def label(self):
        return f"rank{self.rank}"

    @property
    def hyperparameter(self):
        return self.rank

    def init(self, start):
        left, values, right = jnp.linalg.svd(start, full_matrices=False)
        root = jnp.sqrt(values[: self.rank])
        return {"left": left[:, : self.rank] * root, "right": root[:, None] * right[: self.rank]}

    def matrix(self, params, progress):
        return matmul(params["left"], params["right"])

    def factors(self, params):
        return params["left"], params["right"]


@dataclass(frozen=True)
class Lasso(Family):
    """Any matrix, with the penalty weight * sum |W_ij|; rounding sets entries under 1e-4 to zero."""

    CUT: ClassVar[float] = 1e-4
    weight: float = 1e-3

    @property
    def label(self):
        return f"lasso:{self.weight:g}"

    @property
    def hyperparameter(self):
        return self.weight

    def penalty(self, params, progress):
        return self.weight * jnp.sum(jnp.abs(params["matrix"]))

    def round(self, params):
        matrix = params["matrix"]
        return jnp.where(jnp.abs(matrix) < self.CUT, 0, matrix)


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
        return f"lasso_proximal:{self.weight:g}"

    @property
    def hyperparameter(self):
        return self.weight

    def project(self, params, previous, progress, length=0.0):
        matrix = params["matrix"]
        return {"matrix": jnp.sign(matrix) * jnp.maximum(jnp.abs(matrix) - length * self.weight, 0)}
