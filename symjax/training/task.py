"""The default loss and metric: those of classification."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of logits (examples, classes) and integer classes (examples,)."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


def accuracy_scores(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return 1 for each example whose largest logit is at its class, else 0: (examples,), float32."""
    return (jnp.argmax(outputs, axis=-1) == targets).astype(jnp.float32)
