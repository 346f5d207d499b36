"""What networks are trained for and judged by where nothing else is asked: classification."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of logits (examples, classes) and integer classes (examples,)."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


def accuracy_scores(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return for each example whether its largest logit is at its class: (examples,), float32, 0 or 1."""
    return (jnp.argmax(outputs, axis=-1) == targets).astype(jnp.float32)
