"""The default loss and metric: classification of examples, or of each position in them."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of logits (examples, ..., classes) and integer classes (examples, ...)."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


def accuracy_scores(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return 1 for each example whose largest logit is that of its class, else 0: (examples,), float32.

    If each position has a class, with targets (examples, ...), the score is the share of such positions.
    """
    correct = (jnp.argmax(outputs, axis=-1) == targets).astype(jnp.float32)
    return correct.mean(axis=tuple(range(1, correct.ndim)))


def log_likelihood_scores(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the mean log-likelihood of the classes of each example: (examples,). exp(-mean) is the perplexity.

    Example:
        >>> import numpy as np
        >>> from symjax.training import log_likelihood_scores
        >>> scores = log_likelihood_scores(np.zeros((2, 5, 10), np.float32), np.ones((2, 5), int))
        >>> round(float(np.exp(-scores.mean())), 3)
        10.0
    """
    scores = -optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
    return scores.mean(axis=tuple(range(1, scores.ndim)))
