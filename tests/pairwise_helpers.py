"""Representations of several models, shared by the tests of all pairs."""

import numpy as np

EXAMPLES, MODELS = 30, 3
SAME = 2e-6  # rounding of float32, for values near 1


def zoo(models=MODELS, examples=EXAMPLES, seed=0, sizes=((2, 2, 5),), noise=0.6):
    """Return related nonnegative maps, one layer for each size."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(examples, 4))

    def layer(h, w, c):
        mixed = signal @ rng.normal(size=(4, h * w * c)) + noise * rng.normal(size=(models, examples, h * w * c))
        return np.float32(np.maximum(mixed + 0.3, 0).reshape(models, examples, h, w, c))

    return {f"layer{k}": layer(*size) for k, size in enumerate(sizes)}
