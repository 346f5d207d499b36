"""The orthogonal factor of a matrix, with its derivative."""

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.checks import is_concrete
from symjax.similarity.inputs import NumericalWarning, warn_user
from symjax.similarity.linalg import masked, reciprocal

LARGEST_TURN = 1e-3  # angle by which rounding may turn a direction
LARGEST_SHARE = 0.01  # largest share of the data in directions that are turned by more, without a warning


@jax.custom_jvp
def polar(x):
    """Return U V' of x = U S V' (m, d), over the directions with singular values above rounding, and what is dropped.

    U V' is the rotation nearest to x, and zero on directions outside of the span of x. The second result is the largest
    singular value that is dropped, relative to the largest one; 0 without any. It has no derivative. The derivative of
    U V' holds at constant rank.
    """
    u, _, vt, dropped = _svd(x)
    return matmul(u, vt), dropped


@polar.defjvp
def _polar_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    u, s, vt, dropped = _svd(x)
    right = matmul(dx, vt.T)
    within = matmul(u.T, right)
    turn = (within - within.T) * reciprocal(s[:, None] + s[None, :])
    rows = (right - matmul(u, within)) * reciprocal(s)[None]
    left = matmul(u.T, dx)
    columns = (left - matmul(within, vt)) * reciprocal(s)[:, None]
    change = matmul(matmul(u, turn) + rows, vt) + matmul(u, columns)
    return (matmul(u, vt), dropped), (change, jnp.zeros_like(dropped))


def uncertain_share(products, x, y):
    """Return the share of <x, y>, rows x (n, m) and y (n, d), that rounding of `products` (m, d) may turn in `polar`.

    It is sum_k |A_k| |B_k| / sum_k |x_k| |y_k| with rows A and B of x and y in the directions of small products:
    rounding is relative to the largest ones.
    """
    u, s, vt, _ = _svd(lax.stop_gradient(products))
    small = s < float(jnp.finfo(x.dtype).eps) / LARGEST_TURN * s[0]

    def norms(rows):
        return jnp.sqrt((lax.stop_gradient(rows) ** 2).sum(1))

    lost = norms(matmul(x, masked(u, small))) * norms(matmul(y, masked(vt.T, small)))
    return lost.sum() * reciprocal((norms(x) * norms(y)).sum())


def warn_of_uncertain_directions(share):
    if is_concrete(share) and share > LARGEST_SHARE:
        warn_user(
            f"rounding determines the rotation of directions with {float(share):.1%} of the data, since others have "
            "far larger products; outliers may be the reason. jax_enable_x64 shows the effect",
            NumericalWarning,
        )


def _svd(x):
    """Return the SVD with zeros in place of directions of rounding, and the largest one of these over the largest."""
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    kept = ~(s <= 8 * float(jnp.finfo(x.dtype).eps) * min(x.shape) ** 0.5 * s[0])  # a NaN is kept
    dropped = masked(s, ~kept).max() * reciprocal(s[0])
    return masked(u, kept), masked(s, kept), jnp.where(kept[:, None], vt, 0), dropped
