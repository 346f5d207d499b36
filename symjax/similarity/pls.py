"""Partial least squares: directions of greatest covariance."""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from symjax.birkhoff.dual import matmul
from symjax.similarity.channels import magnitude, subtract_mean
from symjax.similarity.inputs import as_matrix, as_pair
from symjax.similarity.linalg import from_row_space, to_row_space
from symjax.similarity.measure import ORTHOGONAL, Measure
from symjax.similarity.nuclear_norm import nuclear_norm
from symjax.similarity.pair_product import Prepared
from symjax.similarity.split_measure import SplitMeasure, permute_samples
from symjax.spelling import one_line


class PLS(NamedTuple):
    """Partial least squares: scores are (x - x_mean) @ x_directions; k = min(d_x, d_y), or n if that is less."""

    covariances: jax.Array  # (k,), of the i-th scores of x and y, descending, divisor n - 1; other pairs have 0
    x_directions: jax.Array  # (d_x, k), orthonormal
    y_directions: jax.Array  # (d_y, k)
    x_mean: jax.Array  # (d_x,)
    y_mean: jax.Array  # (d_y,)

    def __repr__(self):
        return one_line(self)


def pls(x, y, *, samples="positions", layout=None, mask=None):
    """Compute partial least squares: orthonormal directions of x and of y whose scores have the largest covariance.

    The singular value decomposition of the cross covariance X' Y / (n - 1) of centered data ("PLS-SVD"). CCA maximizes
    correlations and ignores variances; PLS maximizes covariances. Widths may differ. Signs of pairs of directions are
    not determined.

    Derivatives are defined for covariances everywhere, for directions where covariances are distinct and not 0, and
    within the span of the data if n < d.

    Args:
        x: (n, d_x) or (n, h, w, c), floating (integers become the default float, half precisions float32).
        y: (n, d_y) or maps, with as many examples.
        samples: how tokens and maps become matrices: "positions" (each token or pixel is a sample), "pool" (the
            mean over them), "flatten", "first" or "last" (one of them); see `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.

    Returns:
        `PLS`.

    Raises:
        InputError: x or y not as above, fewer than 2 samples; concrete NaN or infinite entries.

    Reference: Wegelin 2000.

    Example:
        >>> import numpy as np
        >>> from symjax import pls
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> result = pls(x, x[:, ::-1])
        >>> result.covariances.shape, result.y_directions.shape
        ((4,), (4, 4))
    """
    return _pls(*as_pair(x, y, samples, layout=layout, mask=mask))


@jax.jit
def _pls(x, y):
    return pls_of_centered(subtract_mean(x), subtract_mean(y), x.shape[0])


def pls_of_centered(x, y, samples):
    """Return the `PLS` of two pairs (centered data, mean) whose rows may be rotated."""
    (x_centered, x_mean), (y_centered, y_mean) = x, y
    x_size, y_size = magnitude(x_centered), magnitude(y_centered)
    (x_narrow, x_q), (y_narrow, y_q) = to_row_space(x_centered / x_size), to_row_space(y_centered / y_size)
    cross = matmul(x_narrow.T, y_narrow) / (samples - 1)
    u, covariances, vt = jnp.linalg.svd(cross, full_matrices=False)
    return PLS(covariances * x_size * y_size, from_row_space(u, x_q), from_row_space(vt.T, y_q), x_mean, y_mean)


def pls_similarity(x, y, *, samples="positions", layout=None, mask=None):
    """Return the sum of PLS covariances divided by its bound, |X' Y|_* / (|X|_F |Y|_F), with X and Y centered.

    It is the cosine of the angle of orthogonal Procrustes (Williams et al. 2021).

    Args and Raises: as for `pls`.

    Returns:
        0-d array in [0, 1]: 0 where no neuron of x covaries with one of y, 1 where the centered y is a rotated multiple
        of the centered x. NaN where a side is constant. Symmetric. Invariant to translation, isotropic scaling and
        orthogonal maps.

    Example:
        >>> import numpy as np
        >>> from symjax import pls_similarity
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{pls_similarity(x, 3 * x[:, ::-1] + 1):.3f}")
        1.000
    """
    return _similarity(*as_pair(x, y, samples, layout=layout, mask=mask, translation_invariant=True))


@jax.jit
def _similarity(x, y):
    return jnp.minimum(nuclear_norm(matmul(_unit(x).T, _unit(y))), 1)


@lru_cache(maxsize=64)
def split(shapes, *, samples="positions"):
    """Return `pls_similarity` as a `SplitMeasure`."""
    return SplitMeasure(
        lambda x: Prepared(_unit(as_matrix(x, "x", samples, layout="nhwc")).T, ()),
        lambda total, a, b: jnp.minimum(total, 1),
        permute=permute_samples,
        nuclear=True,
    )


def _unit(x):
    return to_row_space(_unit_norm(subtract_mean(x)[0]))[0]


def _unit_norm(x):
    x = x / magnitude(x)
    return x / jnp.sqrt((x**2).sum())


MEASURES = (
    Measure(
        name="pls",
        fn=pls_similarity,
        reference="Wegelin 2000; Williams et al. 2021",
        range=(0.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=ORTHOGONAL | {"translation", "isotropic_scaling"},
        split=split,
        one_map_size=True,
        zero_channels=True,
        cost="n p^2 once, n p q a pair",
        bias="grows with (p + q) / n",
        use="shared directions weighted by their variance in both",
    ),
)
