"""Free matrices: full, low rank, lasso."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from symjax.stitching.families.base import Family


@dataclass(frozen=True)
class Full(Family):
    """Any matrix."""

    label: ClassVar[str] = "full"


@dataclass(frozen=True)
class LowRank(Family):
    """U V with U (d, r) and V (r, d); starts at the truncated singular value decomposition of its start matrix."""

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
        return params["left"] @ params["right"]


@dataclass(frozen=True)
class Lasso(Family):
    """Any matrix, with weight * sum |W_ij| added to the loss; entries under 1e-4 are cut before evaluation."""

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
