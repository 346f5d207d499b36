"""Cutting a set into batches: shuffled ones to train on, padded ones to evaluate on."""

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import integer, require_unmasked
from symjax.errors import InputError


def epoch_indices(key, num_examples: int, batch_size: int) -> jax.Array:
    """The examples of each step of one epoch, in a new random order: (num_examples // batch_size, batch_size), int32.

    No example occurs twice. The num_examples % batch_size examples left over at the end are not used in this epoch;
    which ones they are depends on the key. A pure function of its arguments; the two sizes are Python ints.

    Raises:
        InputError: no integers, or batch_size is not in 1..num_examples.
    """
    num_examples = integer("num_examples", num_examples)
    if integer("batch_size", batch_size, 1) > num_examples:
        raise InputError(f"batch_size: got {batch_size}, wanted 1 to {num_examples}, the number of examples.")
    steps = num_examples // batch_size
    order = jax.random.permutation(key, jnp.arange(num_examples, dtype=jnp.int32))
    return order[: steps * batch_size].reshape(steps, batch_size)


def batches(arrays, batch_size: int):
    """Cuts arrays into batches that cover every example once, with a mask that leaves out the padding.

    Sums over examples weighted by the mask, divided by the number of examples, are exact means over EXAMPLES; a mean
    of batch means would count those of a short last batch more than the others.

    Args:
        arrays: one array or a pytree of arrays of shapes (n, ...), n >= 1, in NumPy or JAX.
        batch_size: 1 or more.

    Returns:
        (batched, mask): the arrays reshaped to (ceil(n / batch_size), batch_size, ...), where the last example is
        repeated to fill the last batch, and a NumPy mask (ceil(n / batch_size), batch_size), bool, False on padding.

    Raises:
        InputError: batch_size under 1, no examples, arrays of unequal lengths or with masked entries.
    """
    batch_size = integer("batch_size", batch_size, 1)
    leaves = jax.tree.leaves(arrays)
    if not all(getattr(leaf, "ndim", 0) for leaf in leaves):
        raise InputError("arrays: wanted each with an axis of examples.")
    for leaf in leaves:
        require_unmasked("arrays", leaf)
    lengths = sorted({len(array) for array in leaves})
    if len(lengths) != 1 or lengths[0] == 0:
        raise InputError(f"arrays: got lengths {lengths}, wanted one common length of 1 or more.")
    n = lengths[0]
    steps = -(-n // batch_size)
    padding = steps * batch_size - n

    def cut(array):
        if padding:
            xp = jnp if isinstance(array, jax.Array) else np
            array = xp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1), mode="edge")
        return array.reshape(steps, batch_size, *array.shape[1:])

    mask = np.arange(steps * batch_size) < n
    return jax.tree.map(cut, arrays), mask.reshape(steps, batch_size)
