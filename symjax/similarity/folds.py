"""Folds of examples for cross-validation."""

import numpy as np

from symjax.checks import any_array, integer, is_integer, numpy_array
from symjax.errors import InputError


def fold_of_samples(folds, x, samples, mask=None):
    """Return the fold of each sample, those of an example in one fold, and the number of folds.

    Args:
        folds: the number of folds, at most `examples`, with example i in fold i modulo this number; or the fold of each
            example, an array of integers (examples,).
        x: the array of examples, before positions became samples.
        samples: number of samples.
        mask: None, or which positions of each example are samples, (examples, ...).

    Raises:
        InputError: folds not as above, or fewer than two.
    """
    examples = len(any_array("x", x))
    if is_integer(folds):
        labels = np.arange(examples) % integer("folds", folds, 2, examples)
    else:
        labels = numpy_array("folds", folds)
        if labels.shape != (examples,) or labels.dtype.kind not in "iu":
            raise InputError(
                f"folds: got {labels.dtype} of shape {labels.shape}, expected an integer, or integers of shape "
                f"({examples},)"
            )
    counts = samples // examples if mask is None else np.asarray(mask).astype(bool).reshape(examples, -1).sum(1)
    known, labels = np.unique(np.repeat(labels, counts), return_inverse=True)
    if len(known) < 2:
        raise InputError("folds: got samples of one fold, expected at least 2")
    return labels.reshape(-1).astype(np.int32), len(known)
