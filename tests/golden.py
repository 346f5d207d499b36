"""Figures that the published implementation printed, on features that NumPy's generator gives again."""

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    seed: int
    n: int
    size: int
    channels: int
    wreath_procrustes: float
    orthogonal_procrustes: float
    wreath_cka_max: float
    channel_normalized_cka: float

    def features(self):
        """Maps x, and y = x with permuted and scaled channels and noise; float32 behind a ReLU."""
        shape = (self.n, self.size, self.size, self.channels)
        x, noise = activations(self.seed, shape), activations(self.seed + 1, shape)
        rng = np.random.default_rng(self.seed + 2)
        permutation = rng.permutation(self.channels)
        scaling = np.exp(rng.standard_normal(self.channels)).astype(np.float32)
        return x, np.float32(0.7) * x[..., permutation] * scaling + np.float32(0.3) * noise


def activations(seed, shape):
    return np.maximum(np.random.default_rng(seed).standard_normal(shape), 0).astype(np.float32)


CASES = (
    Case(101, 32, 8, 6, 0.66139270, 0.60830749, 0.34759133, 0.50059474),
    Case(111, 48, 4, 16, 0.74588501, 0.64963529, 0.56527459, 0.69154316),
)
