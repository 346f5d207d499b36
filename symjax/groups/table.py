"""Intertwiner groups of activations (Godfrey et al. 2022, section 3), as a table.

The intertwiner group of an activation s is G_s = {A invertible : there is an invertible B with s(A x) = B s(x) for all
x}, and phi(A) = B is a homomorphism. A network's weights may change by W -> A W, b -> A b before the activation and by
W -> W phi(A)^-1 after it, and its function stays.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from symjax.checks import integer
from symjax.groups.matrix_groups import GROUPS, MatrixGroup

SECTION = "Godfrey et al. 2022, section 3"


def _same(matrix):
    return matrix


def _power(degree: int) -> Callable:
    """Entrywise: of P D the permutation stays and entries of D go to their power."""
    return lambda matrix: matrix**degree


def _sigmoid_offset(matrix):
    """s(-x) = 1 - s(x): each negative entry of a signed permutation leaves a 1."""
    return (jnp.sum(jnp.asarray(matrix), axis=-1) < 0).astype(jnp.asarray(matrix).dtype)


@dataclass(frozen=True)
class Intertwiner:
    """A row of the table: an activation, its group and phi.

    Attributes:
      name: unique, in `INTERTWINERS`.
      activation: the function, of arrays of any shape.
      group: the matrices A.
      phi: from A (n, n) to B (n, n).
      formula: phi in a few words.
      offset: None, or from A to the c (n,) of s(A x) = B s(x) + c: where the next layer has a bias that takes it up.
      reference: where it is stated.
    """

    name: str
    activation: Callable
    group: MatrixGroup
    phi: Callable
    formula: str = "A"
    offset: Callable | None = None
    reference: str = SECTION


def polynomial(degree: int) -> Intertwiner:
    """The row of x^degree, degree from 2: of degree 1 it is the identity, which has a larger group."""
    degree = integer("degree", degree, 2)
    return Intertwiner(
        f"power{degree}", lambda x: x**degree, GROUPS["monomial"], _power(degree), f"entries of A to the {degree}"
    )


INTERTWINERS: dict[str, Intertwiner] = {
    row.name: row
    for row in (
        Intertwiner("relu", jax.nn.relu, GROUPS["positive_monomial"], _same),
        Intertwiner("identity", lambda x: x, GROUPS["general_linear"], _same),
        Intertwiner("leaky_relu", jax.nn.leaky_relu, GROUPS["positive_monomial"], _same),
        Intertwiner("sigmoid", jax.nn.sigmoid, GROUPS["permutation"], _same),
        Intertwiner("sigmoid_bias", jax.nn.sigmoid, GROUPS["signed_permutation"], _same, offset=_sigmoid_offset),
        Intertwiner("gelu", lambda x: jax.nn.gelu(x, approximate=False), GROUPS["permutation"], _same),
        polynomial(2),
        polynomial(3),
        Intertwiner("rbf", lambda x: jnp.exp(-(x**2)), GROUPS["signed_permutation"], jnp.abs, "|A|"),
    )
}
"""Every row by name. A new activation is one line here; `is_intertwiner` says whether it holds."""
