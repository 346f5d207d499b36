"""Closed forms between the features of two models: second moments, batch by batch, and what follows from them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from symjax.birkhoff.checks import real, require_finite, scalar
from symjax.birkhoff.dual import matmul
from symjax.errors import InputError
from symjax.similarity.alignment import positive_matching
from symjax.spelling import one_line


class FeatureMoments(NamedTuple):
    """Second moments of features x (to be stitched) and y (wanted), averaged over examples and pixels."""

    xx: jax.Array  # (d_x, d_x), mean of x_i x_j
    yx: jax.Array  # (d_y, d_x), mean of y_i x_j
    yy: jax.Array  # (d_y,), mean of y_i^2

    __repr__ = one_line


def feature_moments(x: jax.Array, y: jax.Array) -> FeatureMoments:
    """Moments of one batch; those of equal batches are averaged. Inputs (..., d), all leading axes are samples."""
    x, y = real("x", x), real("y", y)
    if x.ndim < 2 or x.shape[:-1] != y.shape[:-1] or not (x.size and y.size):
        raise InputError(f"x, y: got shapes {x.shape} and {y.shape}, wanted (..., d), equally many samples of both")
    require_finite("x", x)
    require_finite("y", y)
    x, y = (value.reshape(-1, value.shape[-1]).astype(jnp.float32) for value in (x, y))
    samples = x.shape[0]
    powers = jnp.einsum("nc,nc->c", y, y, precision="highest")
    return FeatureMoments(matmul(x.T, x) / samples, matmul(y.T, x) / samples, powers / samples)


def matched(moments: FeatureMoments) -> jax.Array:
    """The G_ReLU-Procrustes map from x to y: a permutation of channels with positive scaling, as a matrix (d_y, d_x).

    With every channel brought to unit norm, the permutation p maximises sum_i <y_i, x_p(i)>, and channel i is scaled
    by |y_i| / |x_p(i)| (Godfrey et al. 2022, section 5). A channel that is dead in x keeps scale 1, one that is dead
    in y gets scale 0, as it should.
    """
    x_norm, y_norm = jnp.sqrt(jnp.diagonal(moments.xx)), jnp.sqrt(moments.yy)
    safe = lambda norm: jnp.where(norm > 0, norm, 1)  # noqa: E731
    correlations = moments.yx / safe(y_norm)[:, None] / safe(x_norm)[None, :]
    return positive_matching(correlations, x_norm, y_norm).matrix


def least_squares(moments: FeatureMoments, *, ridge: float = 1e-5) -> jax.Array:
    """The matrix W (d_y, d_x) that minimises the mean of |y - W x|^2 + ridge * (mean channel power of x) * |W|^2.

    The ridge, relative to the features' own scale, keeps dead and duplicate channels of x from blowing up.
    """
    ridge = scalar("ridge", ridge, "a number from 0", lambda value: 0 <= value < float("inf"))
    channels = moments.xx.shape[0]
    power = jnp.trace(moments.xx) / channels
    damping = ridge * jnp.where(power > 0, power, 1) * jnp.eye(channels, dtype=jnp.float32)
    return jnp.linalg.solve(moments.xx + damping, moments.yx.T).T


def start_matrices(moments: FeatureMoments) -> dict[str, jax.Array]:
    """The start matrices that do not depend on the family; between different widths, the one that there is."""
    rows, columns = moments.yx.shape
    if rows != columns:
        return {"least_squares": least_squares(moments)}
    return {
        "identity": jnp.eye(columns, dtype=jnp.float32),
        "matched": matched(moments),
        "least_squares": least_squares(moments),
    }
