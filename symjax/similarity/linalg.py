"""Scaling and reduction of data matrices (samples by features), real or complex."""

from itertools import pairwise

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.similarity.channels import magnitude, norms, subtract_ninther

_LEAST_ROWS = 250  # of a factor, under which products are too small to be quick
_COLUMNS = 1024  # at a time, of a kernel matrix: what is centred of them stays in the cache


def adjoint(matrix):
    return matrix.conj().T


def transposed(x):
    """X' of a real X, laid out as such.

    On CPU a product with it takes two thirds of the time of one with `x.T`, which the compiler hands to the product as
    it is (512 x 10,000 by 10,000 x 512 on one core: 72 against 104 ms).
    """
    return lax.optimization_barrier(x.T)


def gram(x):
    """X X' of real rows (n, d).

    Of many rows what lies under the diagonal is not computed but copied, by halves: a quarter of the operations less (a
    fifth of the time for 1,000 x 8,192 on one core of a CPU; quarters are slower again).
    """
    half = len(x) // 2
    if half < _LEAST_ROWS:
        return matmul(x, x.T)
    above = matmul(x[:half], x.T)
    corner = matmul(x[half:], x[half:].T)
    return jnp.concatenate([above, jnp.concatenate([above[:, half:].T, corner], axis=1)])


def gram_of_centred(x):
    """Y Y' of rows Y (n, d) that are those of x `subtract_ninther`, over a power of two; not for derivatives in
    reverse.

    Columns are moved and multiplied so many at a time, which spares the memory of x once more (where each fresh page
    costs as much as the product of what lies on it), and what lies under the diagonal blocks is not computed but
    copied: of 1,000 x 8,192 on one core of a CPU two thirds of the time of `gram` of what was centred before.
    """
    n, d = x.shape
    size, parts = magnitude(x), max(1, min(4, n // _LEAST_ROWS))
    edges = [n * i // parts for i in range(parts + 1)]

    def add(total, columns):
        y = subtract_ninther(columns / size)
        return [rows + matmul(y[a:b], y[a:].T) for rows, (a, b) in zip(total, pairwise(edges), strict=True)]

    total = [jnp.zeros((b - a, n - a), x.dtype) for a, b in pairwise(edges)]
    width = min(d, _COLUMNS)
    steps = d // width
    total = lax.fori_loop(
        0, steps, lambda i, total: add(total, lax.dynamic_slice_in_dim(x, i * width, width, 1)), total
    )
    total = add(total, x[:, steps * width :]) if d % width else total
    above = jnp.concatenate([jnp.pad(rows, ((0, 0), (n - rows.shape[1], 0))) for rows in total])
    return jnp.where(jnp.tri(n, k=-1, dtype=bool), above.T, above)


def unit_columns(x):
    """`x` with columns of norm 1 (or 0), and the norms they had.

    These are constants to derivatives: what is invariant to scaling has the same with them as without.
    """
    lengths = norms(lax.stop_gradient(x))
    return x * reciprocal(lengths).astype(x.dtype), lengths[0]


def masked(x, kept):
    """`x` with 0 where not `kept`; its columns, of a matrix and booleans for them."""
    return jnp.where(kept if kept.ndim == x.ndim else kept[None], x, 0)


def reciprocal(value):
    """1 / value, and 0 for 0."""
    return jnp.where(value == 0, 0, 1 / jnp.where(value == 0, 1, value))


@jax.custom_jvp
def hold_constant(value, source):
    """`value`, which was made of `source`, as a constant to first derivatives by it; second ones raise an error.

    For derivatives that are right with a part of the function held fixed: those of them would not be.
    """
    del source
    return value


@hold_constant.defjvp
def _held_jvp(primals, tangents):
    return first_order_only(*primals), jax.tree.map(jnp.zeros_like, primals[0])


@jax.custom_jvp
def first_order_only(value, source):
    """`value`, made of `source` in the rule of a derivative that has none itself."""
    del source
    return value


@first_order_only.defjvp
def _raise(primals, tangents):
    raise NotImplementedError("second derivatives of this measure are not implemented; the first are")


def to_row_space(x):
    """(x Q, Q): more columns than rows rotated into as many as rows, X = (X Q) Q*; other x with Q None.

    Q is a constant to derivatives, with which X Q has the first-order change of every matrix with the products X X*.
    """
    rows, columns = x.shape
    if columns <= rows:
        return x, None
    q = hold_constant(jnp.linalg.qr(lax.stop_gradient(adjoint(x)))[0], x)
    return matmul(x, q), q


def from_row_space(directions, q):
    """Directions of X Q as directions of X."""
    return directions if q is None else matmul(q, directions)


@jax.custom_jvp
def triangular_factor(x):
    """R of X = Q R (fewer rows than columns: X), for what depends on R* R = X* X alone; such is its derivative too."""
    return jnp.linalg.qr(x, mode="r") if x.shape[0] > x.shape[1] else x


@triangular_factor.defjvp
def _triangular_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    if x.shape[0] <= x.shape[1]:
        return x, dx
    q, r = jnp.linalg.qr(x)
    return r, matmul(adjoint(q), dx)  # R + Q* dX has the first-order change of X* X; Q itself need not be followed
