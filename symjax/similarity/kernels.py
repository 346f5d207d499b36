"""Kernel matrices of examples."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from symjax.checks import one_of, scalar
from symjax.similarity.linalg import gram

KERNELS = ("linear", "rbf")
_ROUNDING = 1e-4  # allowed rounding of squared distances over the squared bandwidth
_NEGLIGIBLE = 50  # squared distance over the squared bandwidth, from which on kernel entries are negligible


def check_kernel(kernel, bandwidth):
    one_of("kernel", kernel, KERNELS)
    scalar("bandwidth", bandwidth, "a positive scalar", lambda value: 0 < value < math.inf)


def kernel_of(x, kernel, bandwidth):
    """Return the kernel matrix of x, whose bulk lies around the origin."""
    products = gram(x)
    if kernel == "linear":
        return products
    squares = jnp.diagonal(products)
    sizes = squares[:, None] + squares[None, :]
    squared_distances = jnp.maximum(sizes - 2 * products, 0)
    # Rounding of the products matters for distances that are not much larger than the median; others hardly count.
    median = _median(squared_distances)
    scale = bandwidth**2 * median
    noise = 4 * float(jnp.finfo(x.dtype).eps) * sizes
    off_diagonal = ~jnp.eye(len(x), dtype=bool)
    inaccurate = (off_diagonal & (noise > _ROUNDING * scale) & (squared_distances - noise < _NEGLIGIBLE * scale)).any()

    def from_differences(x):
        squared_distances = lax.map(jax.checkpoint(lambda row: ((x - row[None]) ** 2).sum(1)), x)
        return squared_distances, _median(squared_distances)

    squared_distances, median = lax.cond(
        inaccurate, jax.checkpoint(from_differences), lambda x: (squared_distances, median), x
    )
    return jnp.exp(-jnp.where(off_diagonal, squared_distances, 0) / (2 * bandwidth**2 * median))


def _median(squared_distances):
    """Return the median over pairs of different examples."""
    return jnp.median(squared_distances[jnp.triu_indices(len(squared_distances), 1)])
