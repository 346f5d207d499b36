"""Batches of a data set: shuffled for training, padded for evaluation."""

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import integer, require_unmasked
from symjax.errors import InputError


def epoch_indices(key, num_examples: int, batch_size: int) -> jax.Array:
    """Return the example indices of each training step of one epoch, in a random order.

    No example occurs twice. The num_examples % batch_size last examples of the order are not used in this epoch.

    Args:
        key: a JAX random key.
        num_examples: number of examples, static.
        batch_size: examples in a step, static.

    Returns:
        (num_examples // batch_size, batch_size), int32.

    Raises:
        InputError: a size is not an integer, or batch_size is not in 1..num_examples.

    Example:
        >>> import jax
        >>> from symjax.data import epoch_indices
        >>> indices = epoch_indices(jax.random.key(0), num_examples=7, batch_size=3)
        >>> indices.shape, len(set(indices.ravel().tolist()))
        ((2, 3), 6)
    """
    num_examples = integer("num_examples", num_examples)
    if integer("batch_size", batch_size, 1) > num_examples:
        raise InputError(f"batch_size: got {batch_size}, expected 1 to {num_examples}, the number of examples")
    steps = num_examples // batch_size
    order = jax.random.permutation(key, jnp.arange(num_examples, dtype=jnp.int32))
    return order[: steps * batch_size].reshape(steps, batch_size)


def batches(arrays, batch_size: int):
    """Divide arrays into batches that contain each example once, with a mask of the padding.

    A sum over examples weighted by the mask, divided by the number of examples, is the exact mean over examples. A mean
    of batch means would give a larger weight to the examples of a short last batch.

    Args:
        arrays: a pytree of arrays (n, ...) of NumPy or JAX, n >= 1.
        batch_size: 1 or more.

    Returns:
        (batched, mask): arrays of shape (ceil(n / batch_size), batch_size, ...), where the last example is repeated to
        fill the last batch; and a NumPy mask (ceil(n / batch_size), batch_size), bool, False on padding.

    Raises:
        InputError: batch_size is below 1; there are no examples; arrays have unequal lengths or masked entries.

    Example:
        >>> import numpy as np
        >>> from symjax.data import batches
        >>> batches(np.arange(3), 2)
        (array([[0, 1],
               [2, 2]]), array([[ True,  True],
               [ True, False]]))
    """
    batch_size = integer("batch_size", batch_size, 1)
    leaves = jax.tree.leaves(arrays)
    if not all(getattr(leaf, "ndim", 0) for leaf in leaves):
        raise InputError("arrays: got a scalar, expected arrays with an axis of examples")
    for leaf in leaves:
        require_unmasked("arrays", leaf)
    lengths = sorted({len(array) for array in leaves})
    if len(lengths) != 1 or lengths[0] == 0:
        raise InputError(f"arrays: got lengths {lengths}, expected one common length of 1 or more")
    n = lengths[0]
    steps = -(-n // batch_size)
    padding = steps * batch_size - n

    def split(array):
        if padding:
            xp = jnp if isinstance(array, jax.Array) else np
            array = xp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1), mode="edge")
        return array.reshape(steps, batch_size, *array.shape[1:])

    mask = np.arange(steps * batch_size) < n
    return jax.tree.map(split, arrays), mask.reshape(steps, batch_size)
