"""Random matrices by kind. A new kind is one function and one entry of `KINDS`."""

import jax
import jax.numpy as jnp

from symjax.checks import integer, one_of
from symjax.errors import InputError
from symjax.groups import GROUPS


def identity(key, channels: int) -> jax.Array:
    """Return the identity: retraining without a rotation."""
    return jnp.eye(channels, dtype=jnp.float32)


def permutation(key, channels: int) -> jax.Array:
    """Return a uniformly random permutation, an element of the intertwiner group of every elementwise activation."""
    return GROUPS["permutation"].sample(key, channels).astype(jnp.float32)


def g_relu(key, channels: int) -> jax.Array:
    """Return a random element of ReLU's intertwiner group: a permutation times scales exp(N(0, 1)) / exp(1/2).

    The scales have mean 1. relu(A x) = A relu(x), so the following layers can undo A.
    """
    return GROUPS["positive_monomial"].sample(key, channels).astype(jnp.float32)


def orthogonal(key, channels: int) -> jax.Array:
    """Return an orthogonal matrix from the Haar measure; it commutes with no nonlinear elementwise activation."""
    return jax.random.orthogonal(key, channels, dtype=jnp.float32)


KINDS = {"none": identity, "permutation": permutation, "g_relu": g_relu, "orthogonal": orthogonal}
"""Every kind of random matrix by name: a function of a key and the number of channels, which draws one."""


def sample_rotation(key, kind: str, channels: int) -> jax.Array:
    """Return a random matrix A (channels, channels), float32, that maps pre-activations x to A x.

    Args:
      key: a JAX random key.
      kind: a name in `KINDS`: none (the identity), permutation, g_relu, or orthogonal.
      channels: 1 or more.

    Raises:
      InputError: the kind is unknown, or `channels` is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from symjax.rotation import sample_rotation
      >>> matrix = sample_rotation(jax.random.key(0), "orthogonal", 3)
      >>> bool(jnp.allclose(matrix @ matrix.T, jnp.eye(3), atol=1e-5))
      True

    Reference: Godfrey et al. 2022 (arXiv 2205.14258).
    """
    return KINDS[one_of("kind", kind, KINDS)](key, integer("channels", channels, 1, 2**15))


def parse_kinds(text: str) -> tuple[str, ...]:
    """Return the kinds named in a text, each once, in the order of `KINDS`.

    Args:
      text: names of kinds, separated by commas.

    Raises:
      InputError: no kind is named, or a name is unknown.

    Example:
      >>> from symjax.rotation import parse_kinds
      >>> parse_kinds("orthogonal, none")
      ('none', 'orthogonal')
    """
    names = {name.strip() for name in text.split(",") if name.strip()} if isinstance(text, str) else set()
    if not names or names - set(KINDS):
        raise InputError(f"kinds: got {text!r}, expected comma-separated names of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in names)
