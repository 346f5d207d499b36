"""What tests of measures share: derivatives against finite differences, in float64."""

import jax
import numpy as np


def check_derivative(function, x, y, step=1e-6):
    """Gradients of `function(x, y)`, having seen them agree with central differences along one direction."""
    pair = np.float64(x), np.float64(y)
    rng = np.random.default_rng(9)
    directions = [rng.normal(size=z.shape) for z in pair]
    gradients = jax.grad(function, (0, 1))(*pair)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    ahead, behind = (function(*(z + s * step * d for z, d in zip(pair, directions, strict=True))) for s in (1, -1))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-9)
    return gradients
