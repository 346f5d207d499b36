"""Orthogonal matrices."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.stitching.families.base import Family

NEARLY = 1e-3  # entries of W'W - 1, of which one more Newton-Schulz iteration leaves rounding errors
MAX_ITERATIONS = 40  # singular values down to 1e-6 grow to 1 in these


def polar(matrix):
    """The nearest orthogonal matrix, U V' of the singular value decomposition."""
    left, _, right = jnp.linalg.svd(matrix, full_matrices=False)
    return matmul(left, right)


def newton_schulz(matrix):
    """The nearest orthogonal matrix by iterations W (3 - W'W) / 2, two matrix products each.

    They converge, in the end quadratically, where all singular values are in (0, sqrt(3)). So W is divided first by a
    bound on the largest one, with G = W'W: its square is at most |G^4|^(1/4) in the Frobenius norm, which exceeds it
    by at most d^(1/8). A singular value of zero stays; then W'W is not 1, which `Orthogonal.residual` tells.
    """
    identity = jnp.eye(matrix.shape[1], dtype=matrix.dtype)
    gram = matmul(matrix.T, matrix)
    size = jnp.maximum(jnp.linalg.norm(gram), jnp.finfo(matrix.dtype).tiny)
    square = matmul(gram / size, gram / size)
    largest = jnp.sqrt(size) * jnp.linalg.norm(matmul(square, square)) ** 0.125
    scale = jnp.maximum(1, largest / 1.5)

    def improved(matrix, gram):
        return 1.5 * matrix - 0.5 * matmul(matrix, gram)

    def iterate(carry):
        matrix, gram, count = carry
        matrix = improved(matrix, gram)
        return matrix, matmul(matrix.T, matrix), count + 1

    def far(carry):
        _, gram, count = carry
        return (jnp.abs(gram - identity).max() > NEARLY) & (count < MAX_ITERATIONS)

    matrix, gram, _ = lax.while_loop(far, iterate, (matrix / scale, gram / scale**2, 0))
    return improved(matrix, gram)


@dataclass(frozen=True)
class Orthogonal(Family):
    """W'W = 1: projected to the nearest orthogonal matrix after every step; rounding takes the exact polar factor."""

    label: ClassVar[str] = "orthogonal"
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
