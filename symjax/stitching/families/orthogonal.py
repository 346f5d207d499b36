"""Orthogonal matrices."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.stitching.families.base import Family
from symjax.stitching.families.registry import register_family

TOLERANCE = 1e-3  # of entries of W'W - 1; one more Newton-Schulz iteration reduces them to rounding errors
MAX_ITERATIONS = 40  # enough for singular values from 1e-6


def polar(matrix):
    """Return the nearest orthogonal matrix, U V' of the singular value decomposition."""
    left, _, right = jnp.linalg.svd(matrix, full_matrices=False)
    return matmul(left, right)


def newton_schulz(matrix):
    """Return the nearest orthogonal matrix by iterations W (3 - W'W) / 2, two matrix products each.

    The iterations converge quadratically if all singular values are in (0, sqrt(3)). Therefore W is first scaled by an
    upper bound b on the largest one, with b^2 = |G^4|_F^(1/4) and G = W'W; b^2 is too large by a factor of at most
    d^(1/8). A singular value of zero stays zero; then W'W is not 1, see `Orthogonal.residual`.
    """
    identity = jnp.eye(matrix.shape[1], dtype=matrix.dtype)
    gram = matmul(matrix.T, matrix)
    size = jnp.maximum(jnp.linalg.norm(gram), jnp.finfo(matrix.dtype).tiny)
    square = matmul(gram / size, gram / size)
    largest = jnp.sqrt(size) * jnp.linalg.norm(matmul(square, square)) ** 0.125
    scale = jnp.maximum(1, largest / 1.5)

    def newton_step(matrix, gram):
        return 1.5 * matrix - 0.5 * matmul(matrix, gram)

    def iterate(carry):
        matrix, gram, count = carry
        matrix = newton_step(matrix, gram)
        return matrix, matmul(matrix.T, matrix), count + 1

    def not_converged(carry):
        _, gram, count = carry
        return (jnp.abs(gram - identity).max() > TOLERANCE) & (count < MAX_ITERATIONS)

    matrix, gram, _ = lax.while_loop(not_converged, iterate, (matrix / scale, gram / scale**2, 0))
    return newton_step(matrix, gram)


@register_family("orthogonal", "orthogonal matrices", color="#6a51a3")
@dataclass(frozen=True)
class Orthogonal(Family):
    """W'W = 1: projected to the nearest orthogonal matrix after every step; rounding takes the exact polar factor."""

    square: ClassVar[bool] = True

    def random(self, key, shape):
        return polar(super().random(key, shape))

    def init(self, start):
        return {"matrix": polar(start)}

    def project(self, params, previous, progress, length=0.0):
        return {"matrix": newton_schulz(params["matrix"])}

    def residual(self, params):
        matrix = params["matrix"]
        return jnp.abs(matmul(matrix.T, matrix) - jnp.eye(len(matrix), dtype=matrix.dtype)).max()

    def round(self, params):
        return polar(params["matrix"])
