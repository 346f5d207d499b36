"""Scaling and reduction of data matrices (samples by features), real or complex."""

from itertools import pairwise

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from symjax.birkhoff.dual import matmul
from symjax.similarity.channels import magnitude, norms, subtract_ninther

_LEAST_ROWS = 250  # products of factors with fewer rows are slow
_PART_ROWS = 2048
_COLUMNS = 1024  # columns that are centered and multiplied at a time, so that they stay in the cache


def adjoint(matrix):
    return matrix.conj().T


def transposed(x):
    """Return X' of a real X, stored in transposed order.

    On CPU a product with it takes two thirds of the time of one with `x.T`, which the compiler does not transpose (512
    x 10,000 by 10,000 x 512 on one core: 72 against 104 ms).
    """
    return lax.optimization_barrier(x.T)


def gram(x):
    """Return X X' for real rows (n, d).

    For many rows, the lower half is copied and not computed, which saves a quarter of the operations (a fifth of the
    time for 1,000 x 8,192 on one core of a CPU; splitting into quarters is slower again).
    """
    half = len(x) // 2
    if half < _LEAST_ROWS:
        return matmul(x, x.T)
    above = matmul(x[:half], x.T)
    corner = matmul(x[half:], x[half:].T)
    return jnp.concatenate([above, jnp.concatenate([above[:, half:].T, corner], axis=1)])


def gram_of_centered(x):
    """Return Y Y' for Y = x minus its ninthers (`subtract_ninther`), divided by a power of two.

    It has no reverse-mode derivatives.

    Columns are centered and multiplied in blocks. This avoids a second copy of x in memory, each page of which costs as
    much as the product of its contents. Blocks under the diagonal are copied and not computed. For 1,000 x 8,192 on one
    core of a CPU it takes two thirds of the time of `gram` of data centered before.
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
    """Scale columns to norm 1 (zero columns stay zero); return them with their previous norms.

    Norms are constants to derivatives: a function invariant to scaling has the same derivative either way.
    """
    lengths = norms(lax.stop_gradient(x))
    return x * reciprocal(lengths).astype(x.dtype), lengths[0]


def masked(x, kept):
    """Set `x` to 0 where not `kept`: entries, or columns of a matrix."""
    return jnp.where(kept if kept.ndim == x.ndim else kept[None], x, 0)


def reciprocal(value):
    """Return 1 / value, and 0 for 0."""
    return jnp.where(value == 0, 0, 1 / jnp.where(value == 0, 1, value))


@jax.custom_jvp
def hold_constant(value, source):
    """Return `value`, computed from `source`, as a constant to first derivatives; second derivatives raise an error.

    For functions whose first derivative is correct with `value` held fixed, but whose second derivative is not.
    """
    del source
    return value


@hold_constant.defjvp
def _held_jvp(primals, tangents):
    return first_order_only(*primals), jax.tree.map(jnp.zeros_like, primals[0])


@jax.custom_jvp
def first_order_only(value, source):
    """Return `value`, computed from `source` in a derivative rule that has no derivative itself."""
    del source
    return value


@first_order_only.defjvp
def _raise(primals, tangents):
    raise NotImplementedError("second derivatives of this measure are not implemented; the first are")


def to_row_space(x):
    """Return (X Q, Q), where Q rotates more columns than rows into as many as rows, X = (X Q) Q*.

    Other x are returned with None for Q.

    Q is a constant to derivatives. X Q then has the same first-order change of X X* as X.
    """
    rows, columns = x.shape
    if columns <= rows:
        return x, None
    q = hold_constant(jnp.linalg.qr(lax.stop_gradient(adjoint(x)))[0], x)
    return matmul(x, q), q


def from_row_space(directions, q):
    """Return directions of X Q as directions of X."""
    return directions if q is None else matmul(q, directions)


@jax.custom_jvp
def triangular_factor(x):
    """Return R of X = Q R, or X itself if it has fewer rows than columns, with a derivative.

    For functions of R* R = X* X alone; the derivative is valid for such functions.
    """
    return jnp.linalg.qr(x, mode="r") if x.shape[0] > x.shape[1] else x


@triangular_factor.defjvp
def _triangular_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    if x.shape[0] <= x.shape[1]:
        return x, dx
    q, r = jnp.linalg.qr(x)
    return r, matmul(adjoint(q), dx)  # R + Q* dX has the first-order change of X* X; no derivative of Q is needed


def factor_of_parts(x):
    """Return rows with the Gram matrix of x (n, d): the `triangular_factor` of each of at most 16 parts.

    With a QR of these rows it takes half the time of one QR of all, whose columns leave the cache (32,768 x 144 on one
    core of a CPU: 60 against 119 ms).
    """
    size = max(_PART_ROWS, 16 * x.shape[1], -(-len(x) // 16))
    if len(x) < 2 * size:
        return x
    return jnp.concatenate([triangular_factor(x[start : start + size]) for start in range(0, len(x), size)])


@jax.custom_jvp
def least_squares(a, target):
    """Return B that minimizes |target - A B|, for A (n, p) of full rank with n >= p."""
    q, r = jnp.linalg.qr(a)
    return solve_triangular(r, matmul(q.T, target))


@least_squares.defjvp
def _least_squares_jvp(primals, tangents):
    (a, target), (da, dtarget) = primals, tangents
    q, r = jnp.linalg.qr(a)
    solution = solve_triangular(r, matmul(q.T, target))
    change = matmul(q.T, dtarget - matmul(da, solution))
    change += solve_triangular(r, matmul(da.T, target - matmul(a, solution)), trans=1)
    return solution, solve_triangular(r, change)
