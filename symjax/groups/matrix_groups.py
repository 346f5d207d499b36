"""The groups of matrices that commute with activations, as data."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import numpy_array
from symjax.errors import InputError


@dataclass(frozen=True)
class MatrixGroup:
    """A group of real n x n matrices, for every n. Elements are arrays (n, n) that act on channels as y = A x.

    Products and inverses are exact for monomial groups (one nonzero entry in each row and column), up to one rounding
    of each entry.

    Attributes:
      name: its name in `GROUPS`.
      description: formula of its elements.
      sample_entries: sample_entries(key, size, dtype) returns the nonzero entries of a random element; None for the
        orthogonal and the general linear group.
      is_allowed: is_allowed(entries, tolerance) returns which nonzero entries an element can have; for a group without
        `sample_entries`, is_allowed(matrix, tolerance) returns whether the matrix is an element.
    """

    name: str
    description: str
    sample_entries: Callable | None
    is_allowed: Callable

    @property
    def monomial(self) -> bool:
        """Whether elements have one nonzero entry in each row and column."""
        return self.sample_entries is not None

    def identity(self, size: int) -> jax.Array:
        """Return the identity (size, size)."""
        return jnp.eye(size, dtype=jnp.result_type(float))

    def sample(self, key: jax.Array, size: int) -> jax.Array:
        """Return a random element (size, size) of the default float: a uniform permutation with random nonzero entries.

        Positive entries are exp(z) / exp(1/2) with z standard normal, of mean 1 (Godfrey et al. 2022, section 4). Signs
        have equal probability. An element of the general linear group is O_1 diag(u) O_2 with Haar orthogonal O and u
        uniform in [1/2, 2], so its condition number is at most 4. An element of the orthogonal group is Haar
        distributed.
        """
        dtype = jnp.result_type(float)
        first, second, third = jax.random.split(key, 3)
        if self.sample_entries is None:
            if self.name == "orthogonal":
                return jax.random.orthogonal(first, size, dtype=dtype)
            spectrum = jax.random.uniform(third, (size,), dtype, 0.5, 2.0)
            left, right = (jax.random.orthogonal(key, size, dtype=dtype) for key in (first, second))
            return jnp.matmul(left * spectrum, right, precision="highest")
        order = jax.random.permutation(first, size)
        return jnp.zeros((size, size), dtype).at[jnp.arange(size), order].set(self.sample_entries(second, size, dtype))

    def contains(self, matrix, *, tolerance: float = 1e-6) -> bool:
        """Return whether a matrix (n, n) is in the group, up to `tolerance` times the largest entry.

        For the general linear group, the condition number must be below 1 / tolerance.

        Raises:
          InputError: the matrix is not square or not real, or has entries that are not finite.
        """
        matrix = real_matrix(matrix)
        if not self.monomial:
            return bool(self.is_allowed(matrix, tolerance))
        largest = np.abs(matrix).max(initial=0)
        nonzero = np.abs(matrix) > tolerance * largest
        if not (nonzero.sum(axis=0) == 1).all() or not (nonzero.sum(axis=1) == 1).all():
            return False
        return bool(self.is_allowed(matrix[nonzero], tolerance).all())

    def compose(self, first, second) -> jax.Array:
        """Return the element that acts as `first` and then as `second`: the product second @ first."""
        return jnp.matmul(second, first, precision="highest")

    def inverse(self, matrix) -> jax.Array:
        """Return the inverse of an element.

        For a monomial element it is the transpose of `reciprocal`. Small entries that `contains` tolerates in place of
        zeros become zeros.
        """
        matrix = jnp.asarray(matrix)
        return reciprocal(matrix).T if self.monomial else jnp.linalg.inv(matrix)


def real_matrix(matrix) -> np.ndarray:
    """Return a square, finite real matrix as a float64 NumPy array, or raise an `InputError`."""
    matrix = numpy_array("matrix", matrix).astype(np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise InputError(f"matrix: got shape {matrix.shape}, expected (n, n) with n from 1")
    if not np.isfinite(matrix).all():
        raise InputError("matrix: got NaN or infinite entries, expected finite entries")
    return matrix


def monomial_part(matrix: jax.Array) -> jax.Array:
    """Return the largest entry of each row with zeros elsewhere: a monomial matrix (n, n) without its rounding errors.

    `contains` tolerates small entries in place of zeros; they must be neither inverted nor counted as entries.
    """
    largest = jnp.argmax(jnp.abs(matrix), axis=-1, keepdims=True)
    return jnp.where(jnp.arange(matrix.shape[-1]) == largest, matrix, 0)


def reciprocal(matrix: jax.Array) -> jax.Array:
    """Return 1 / a for the largest entry a of each row, zeros elsewhere and in rows of zeros."""
    matrix = monomial_part(matrix)
    nonzero = matrix != 0
    return jnp.where(nonzero, 1 / jnp.where(nonzero, matrix, 1), 0)


def _ones(key, size, dtype):
    return jnp.ones((size,), dtype)


def _signs(key, size, dtype):
    return jax.random.rademacher(key, (size,), dtype)


def _positive(key, size, dtype):
    return jnp.exp(jax.random.normal(key, (size,), dtype) - 0.5)


def _nonzero(key, size, dtype):
    first, second = jax.random.split(key)
    return _signs(first, size, dtype) * _positive(second, size, dtype)


GROUPS = {
    group.name: group
    for group in (
        MatrixGroup("permutation", "P", _ones, lambda d, tol: np.abs(d - 1) <= tol),
        MatrixGroup("signed_permutation", "P D, D = ±1", _signs, lambda d, tol: np.abs(np.abs(d) - 1) <= tol),
        MatrixGroup("positive_monomial", "P D, D > 0", _positive, lambda d, tol: d > 0),
        MatrixGroup("monomial", "P D, D ≠ 0", _nonzero, lambda d, tol: d != 0),
        MatrixGroup("orthogonal", "O(n)", None, lambda a, tol: np.abs(a @ a.T - np.eye(len(a))).max() <= tol),
        MatrixGroup("general_linear", "GL(n)", None, lambda a, tol: np.linalg.cond(a) < 1 / tol),
    )
}
"""Every group by name. All contain the permutations and are contained in the general linear group."""
