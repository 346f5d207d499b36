"""Orthogonal matrices."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from symjax.stitching.families.base import Family

NEWTON_SCHULZ_STEPS = 3


def polar(matrix):
    """The nearest orthogonal matrix, U V' of the singular value decomposition."""
    left, _, right = jnp.linalg.svd(matrix, full_matrices=False)
    return left @ right


@dataclass(frozen=True)
class Orthogonal(Family):
    """W'W = 1: projected to the nearest orthogonal matrix after every step.

    Steps are short, so W stays within reach of Newton-Schulz iterations W (3 - W'W) / 2, which are two matrix products
    each and converge quadratically; rounding takes the exact polar factor.
    """

    label: ClassVar[str] = "orthogonal"

    def random(self, key, channels):
        return polar(super().random(key, channels))

    def init(self, start):
        return {"matrix": polar(start)}

    def project(self, params, previous, progress, length=0.0):
        matrix = params["matrix"]
        for _ in range(NEWTON_SCHULZ_STEPS):
            matrix = 1.5 * matrix - 0.5 * matrix @ (matrix.T @ matrix)
        return {"matrix": matrix}

    def residual(self, params):
        matrix = params["matrix"]
        return jnp.abs(matrix.T @ matrix - jnp.eye(len(matrix), dtype=matrix.dtype)).max()

    def round(self, params):
        return polar(params["matrix"])
