"""The matrices: a table by name. A new kind is one function and one line."""

import jax
import jax.numpy as jnp

from symjax.checks import integer, one_of
from symjax.errors import InputError
from symjax.groups import GROUPS


def identity(key, channels: int) -> jax.Array:
    """No rotation: what retraining alone does."""
    return jnp.eye(channels, dtype=jnp.float32)


def permutation(key, channels: int) -> jax.Array:
    """A uniformly random permutation matrix: in the intertwiner group of every elementwise activation."""
    return GROUPS["permutation"].sample(key, channels).astype(jnp.float32)


def g_relu(key, channels: int) -> jax.Array:
    """A random element of ReLU's intertwiner group: a permutation times positive scales exp(N(0, 1)) / exp(1/2).

    The scales have mean 1. relu(A x) = A relu(x), so the layers behind can undo A.
    """
    return GROUPS["positive_monomial"].sample(key, channels).astype(jnp.float32)


def orthogonal(key, channels: int) -> jax.Array:
    """An orthogonal matrix from the Haar measure: of no use to any activation that is not linear."""
    return jax.random.orthogonal(key, channels, dtype=jnp.float32)


KINDS = {"none": identity, "permutation": permutation, "g_relu": g_relu, "orthogonal": orthogonal}


def sample_rotation(key, kind: str, channels: int) -> jax.Array:
    """A random matrix A (channels, channels), float32, that takes pre-activations x to A x.

    Args:
      key: of `jax.random`.
      kind: a name in `KINDS`: none (the identity), permutation, g_relu, or orthogonal.
      channels: 1 or more.

    Raises:
      InputError: an unknown kind, or no channels.

    Source: Godfrey et al. 2022 (arXiv 2205.14258).
    """
    return KINDS[one_of("kind", kind, KINDS)](key, integer("channels", channels, 1, 2**15))


def parse_kinds(text: str) -> tuple[str, ...]:
    """Kinds from names with commas between, each once, in the order of `KINDS`."""
    if not isinstance(text, str):
        raise InputError(f"kinds: got {text!r}, wanted names with commas between")
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - set(KINDS))
    if unknown or not names:
        wrong = f"{', '.join(map(repr, unknown))} not known" if unknown else "none given"
        raise InputError(f"kinds: {wrong}; choose from {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in names)
