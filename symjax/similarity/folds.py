"""Folds of examples for cross-validation."""

import numpy as np

from symjax.checks import integer, is_integer, numpy_array
from symjax.errors import InputError


def fold_of_samples(folds, examples, samples):
    """Return the fold (samples,) of each sample, those of an example in one fold, and the number of folds.

    Args:
        folds: number of folds, at most `examples`: example i is in fold i modulo it; or the fold of each example, an
            array of integers (examples,).
        examples: number of examples.
        samples: number of samples, a multiple of `examples`.

    Raises:
        InputError: folds not as above, or fewer than two.
    """
    if is_integer(folds):
        labels = np.arange(examples) % integer("folds", folds, 2, examples)
    else:
        labels = numpy_array("folds", folds)
        if labels.shape != (examples,) or labels.dtype.kind not in "iu":
            raise InputError(
                f"folds: got {labels.dtype} of shape {labels.shape}, expected an integer, or integers of shape "
                f"({examples},)"
            )
    known, labels = np.unique(labels, return_inverse=True)
    if len(known) < 2:
        raise InputError("folds: got one fold, expected at least 2")
    return np.repeat(labels.reshape(-1).astype(np.int32), samples // examples), len(known)
