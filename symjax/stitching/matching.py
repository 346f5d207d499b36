"""Closed-form stitches from second moments of the features of two models."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from symjax.birkhoff.dual import matmul
from symjax.checks import real, require_finite, scalar
from symjax.errors import InputError
from symjax.similarity.alignment import positive_matching
from symjax.spelling import one_line


class FeatureMoments(NamedTuple):
    """Second moments of features x (which are mapped) and y (the target), averaged over examples and pixels."""

    xx: jax.Array  # (d_x, d_x), mean of x_i x_j
    yx: jax.Array  # (d_y, d_x), mean of y_i x_j
    yy: jax.Array  # (d_y,), mean of y_i^2

    def __repr__(self):
        return one_line(self)


def feature_moments(x: jax.Array, y: jax.Array) -> FeatureMoments:
    """Return the second moments E[x x'], E[y x'] and E[y_i^2] of one batch.

    The moments of several batches of equal size are the mean of their moments.

    Args:
      x: features (..., d_x), floats; all leading axes are samples.
      y: features (..., d_y) of the same samples.

    Returns:
      `FeatureMoments` in float32.

    Raises:
      InputError: shapes that do not match, empty arrays or entries that are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from symjax.stitching import feature_moments
        >>> feature_moments(jnp.eye(4), jnp.ones((4, 3))).yx.shape
        (3, 4)
    """
    x, y = real("x", x), real("y", y)
    if x.ndim < 2 or x.shape[:-1] != y.shape[:-1] or not (x.size and y.size):
        raise InputError(f"x, y: got shapes {x.shape} and {y.shape}, expected (..., d), equally many samples of both")
    require_finite("x", x)
    require_finite("y", y)
    x, y = (value.reshape(-1, value.shape[-1]).astype(jnp.float32) for value in (x, y))
    samples = x.shape[0]
    powers = jnp.einsum("nc,nc->c", y, y, precision="highest")
    return FeatureMoments(matmul(x.T, x) / samples, matmul(y.T, x) / samples, powers / samples)


def matched(moments: FeatureMoments) -> jax.Array:
    """Return the G_ReLU-Procrustes map from x to y: a permutation of channels with positive scaling.

    With every channel divided by its norm, the permutation p maximizes sum_i <y_i, x_p(i)>; channel i is scaled by
    |y_i| / |x_p(i)| (Godfrey et al. 2022, section 5). A zero channel of x has scale 1, a zero channel of y scale 0.

    Args:
      moments: of x and y with equal numbers of channels d.

    Returns:
      The matrix (d, d).

    Example:
        >>> import jax.numpy as jnp
        >>> from symjax.stitching import feature_moments, matched
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 3.0]])
        >>> matched(feature_moments(x, 2 * x[:, ::-1])).round(3).tolist()
        [[0.0, 2.0], [2.0, 0.0]]
    """
    x_norm, y_norm = jnp.sqrt(jnp.diagonal(moments.xx)), jnp.sqrt(moments.yy)
    safe = lambda norm: jnp.where(norm > 0, norm, 1)  # noqa: E731
    correlations = moments.yx / safe(y_norm)[:, None] / safe(x_norm)[None, :]
    return positive_matching(correlations, x_norm, y_norm).matrix


def least_squares(moments: FeatureMoments, *, ridge: float = 1e-5) -> jax.Array:
    """Return the matrix W (d_y, d_x) that minimizes E|y - W x|^2 + ridge * E|x|^2 / d_x * |W|_F^2.

    The ridge, relative to the mean power of the channels of x, makes the problem well-posed for zero and for equal
    channels.

    Args:
      moments: of x (d_x channels) and y (d_y channels).
      ridge: a number from 0.

    Raises:
      InputError: a ridge that is not a number from 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from symjax.stitching import feature_moments, least_squares
        >>> least_squares(feature_moments(jnp.eye(2), 3 * jnp.eye(2)), ridge=0.0).tolist()
        [[3.0, 0.0], [0.0, 3.0]]
    """
    ridge = scalar("ridge", ridge, "a number from 0", lambda value: 0 <= value < float("inf"))
    channels = moments.xx.shape[0]
    power = jnp.trace(moments.xx) / channels
    damping = ridge * jnp.where(power > 0, power, 1) * jnp.eye(channels, dtype=jnp.float32)
    return jnp.linalg.solve(moments.xx + damping, moments.yx.T).T


def start_matrices(moments: FeatureMoments) -> dict[str, jax.Array]:
    """Return the start matrices that all families share; for unequal widths only least squares."""
    rows, columns = moments.yx.shape
    if rows != columns:
        return {"least_squares": least_squares(moments)}
    return {
        "identity": jnp.eye(columns, dtype=jnp.float32),
        "matched": matched(moments),
        "least_squares": least_squares(moments),
    }
