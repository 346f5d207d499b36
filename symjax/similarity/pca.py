"""Principal component analysis, and the leading directions that explain a share of the variance."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax.birkhoff.dual import matmul
from symjax.checks import scalar
from symjax.similarity.channels import magnitude, subtract_mean
from symjax.similarity.inputs import as_matrix
from symjax.similarity.linalg import (
    first_order_only,
    from_row_space,
    masked,
    reciprocal,
    to_row_space,
    triangular_factor,
)
from symjax.spelling import one_line


class PCA(NamedTuple):
    """Principal components, as columns: (x - mean) @ components are the scores. k = min(n, d)."""

    components: jax.Array  # (d, k), orthonormal
    variances: jax.Array  # (k,), of the scores, descending, with divisor n - 1
    ratios: jax.Array  # (k,), shares of the total variance; NaN where that is 0
    mean: jax.Array  # (d,)

    def __repr__(self):
        return one_line(self)


def pca(x, *, samples="positions", layout=None, mask=None):
    """Compute the principal components: orthonormal directions of descending variance.

    Variances are s_i^2 / (n - 1), with s_i the singular values of the centered data. They are never computed as
    eigenvalues of a covariance matrix, so small ones are accurate. The sign of a component is not determined.

    Derivatives are defined for variances and ratios everywhere, for components where variances are distinct, and within
    the span of the data if n < d.

    Args:
        x: (n, d) or (n, h, w, c), floating (integers become the default float, half precisions float32).
        samples: how tokens and maps become matrices: "positions" (each token or pixel is a sample), "pool" (the
            mean over them), "flatten", "first" or "last" (one of them); see `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.

    Returns:
        `PCA`.

    Raises:
        InputError: x not as above, fewer than 2 samples; concrete NaN or infinite entries.

    Reference: Pearson 1901.

    Example:
        >>> import numpy as np
        >>> from symjax import pca
        >>> x = np.random.default_rng(0).normal(size=(16, 1)) * [3, 4, 0, 0]
        >>> result = pca(x)
        >>> result.ratios.round(4).tolist()
        [1.0, 0.0, 0.0, 0.0]
        >>> print(np.abs(np.asarray(result.components[:, 0])).round(4))
        [0.6 0.8 0.  0. ]
    """
    return _pca(as_matrix(x, "x", samples, layout=layout, mask=mask))


@jax.jit
def _pca(x):
    centered, mean = subtract_mean(x)
    size = magnitude(centered)
    reduced, q = to_row_space(centered / size)
    _, s, vt = jnp.linalg.svd(triangular_factor(reduced), full_matrices=False)
    variances = s**2 / (x.shape[0] - 1)
    return PCA(from_row_space(vt.T, q), variances * size * size, variances / variances.sum(), mean)


def check_variance(variance):
    return scalar("variance", variance, "a number in (0, 1]", lambda value: 0 < value <= 1)


def leading_directions(centered, variance):
    """Return an orthonormal basis V (d, d) of the fewest principal directions that explain the share `variance`.

    The data (n, d) are centered, with d <= n. Columns of V past these directions are zero.

    The derivative is that of the subspace: V moves orthogonally to itself. For functions of the span of V alone.
    """
    return _split_subspace(centered / magnitude(centered), jnp.asarray(variance, centered.dtype))[0]


@jax.custom_jvp
def _split_subspace(centered, variance):
    _, s, vt = jnp.linalg.svd(triangular_factor(centered), full_matrices=False)
    # Tails are summed from the small end, to keep their digits. Directions at rounding level are dropped.
    tail = jnp.cumsum((s**2)[::-1])[::-1]
    rounding = 8 * float(jnp.finfo(s.dtype).eps) * math.sqrt(len(s)) * s[0]
    kept = ~(tail <= (1 - variance) * tail[0]) & ~(s <= rounding)
    return masked(vt.T, kept), masked(vt.T, ~kept), s, kept


@_split_subspace.defjvp
def _leading_jvp(primals, tangents):
    (centered, variance), (centered_dot, _) = primals, tangents
    # Directions within the subspaces have no derivative.
    outputs = first_order_only(_split_subspace(centered, variance), centered)
    basis, rest, s, kept = outputs
    gram_dot = matmul(centered_dot.T, matmul(centered, basis)) + matmul(centered.T, matmul(centered_dot, basis))
    gap = s[None, :] ** 2 - s[:, None] ** 2
    rotation = matmul(rest.T, gram_dot) * masked(reciprocal(gap), ~kept[:, None] & kept[None, :])
    rest_dot = -matmul(basis, rotation.T)
    no_tangent = np.zeros(kept.shape, jax.dtypes.float0)
    return outputs, (matmul(rest, rotation), rest_dot, jnp.zeros_like(s), no_tangent)
