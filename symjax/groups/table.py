"""Intertwiner groups of activations (Godfrey et al. 2022, section 3), as a table.

The intertwiner group of an activation s is G_s = {A invertible : s(A x) = B s(x) for all x, with an invertible B}, and
phi(A) = B is a homomorphism. A network computes the same function with W -> A W, b -> A b before the activation and
W -> W phi(A)^-1 after it.
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
    """Return the entrywise power: for P D, the permutation stays and the entries of D are raised to the power."""
    return lambda matrix: matrix**degree


def _sigmoid_offset(matrix):
    """Return c for s(-x) = 1 - s(x): 1 for each negative entry of a signed permutation."""
    return (jnp.sum(jnp.asarray(matrix), axis=-1) < 0).astype(jnp.asarray(matrix).dtype)


@dataclass(frozen=True)
class Intertwiner:
    """A row of the table: an activation, its group and phi.

    Attributes:
      name: unique name in `INTERTWINERS`.
      activation: the function, of arrays of any shape.
      group: the group of matrices A.
      phi: phi(A) = B, both (n, n).
      formula: phi as text.
      offset: None, or offset(A) = c (n,) with s(A x) = B s(x) + c, if the next layer has a bias to absorb it.
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
    """Return the row of the activation x^degree, whose group is that of monomial matrices.

    Args:
        degree: 2 or more; x^1 is the identity, which has a larger group.

    Raises:
        InputError: `degree` is not an integer from 2.

    Example:
        >>> from symjax.groups import polynomial
        >>> polynomial(3).group.name
        'monomial'
    """
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
"""Every row by name. A new activation is one line here; `is_intertwiner` tests it."""
