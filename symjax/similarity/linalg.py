"""Centring, scaling and reduction of data matrices (samples by features), real or complex."""

import jax
import jax.numpy as jnp
from jax import lax


def matmul(left, right):
    return jnp.matmul(left, right, precision="highest")  # no TF32 or bfloat16 on accelerators


def adjoint(matrix):
    return matrix.conj().T


def transposed(x):
    """X' of a real X, laid out as such.

    On CPU a product with it takes two thirds of the time of one with `x.T`, which the compiler hands to the product as
    it is (512 x 10,000 by 10,000 x 512 on one core: 72 against 104 ms).
    """
    return lax.optimization_barrier(x.T)


def centre(x):
    """`x` less its mean over samples, and the mean."""
    mean = x.mean(0)
    centred = x - mean
    # Once more, for what rounding left of a mean that is large beside the deviations.
    rest = centred.mean(0)
    return centred - rest, mean + rest


def column_norms(x):
    return jnp.sqrt(jnp.einsum("ni,ni->i", x.conj(), x, precision="highest").real)


def unit_columns(centred, mean):
    """`centred` with columns of norm 1, and what each was divided by: 0 where the column is constant, and then 0.

    Constant is what deviates from its mean by no more than rounding does. The scale carries no derivative: what is
    invariant to it has none, and everything else can multiply it back.
    """
    norm = lax.stop_gradient(column_norms(centred))
    rounding = 4 * jnp.finfo(norm.dtype).eps * jnp.sqrt(centred.shape[0]) * jnp.abs(lax.stop_gradient(mean))
    scale = jnp.where(norm <= rounding, 0, norm)  # a NaN is no constant
    return centred * reciprocal(scale), scale


def reciprocal(value):
    """1 / value, and 0 for 0."""
    return jnp.where(value == 0, 0, 1 / jnp.where(value == 0, 1, value))


def narrow(x):
    """(x Q, Q): more columns than rows rotated into as many as rows, X = (X Q) Q*; other x with Q None.

    Q is a constant to derivatives, with which X Q has the first-order change of every matrix with the products X X*.
    """
    rows, columns = x.shape
    if columns <= rows:
        return x, None
    q = jnp.linalg.qr(lax.stop_gradient(adjoint(x)))[0]
    return matmul(x, q), q


def widen(directions, q):
    """Directions of X Q as directions of X."""
    return directions if q is None else matmul(q, directions)


@jax.custom_jvp
def triangular(x):
    """R of X = Q R (fewer rows than columns: X), for what depends on R* R = X* X alone; such is its derivative too."""
    return jnp.linalg.qr(x, mode="r") if x.shape[0] > x.shape[1] else x


@triangular.defjvp
def _triangular_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    if x.shape[0] <= x.shape[1]:
        return x, dx
    q, r = jnp.linalg.qr(x)
    return r, matmul(adjoint(q), dx)  # R + Q* dX has the first-order change of X* X; Q itself need not be followed
