"""Sums over pairs of different examples for linear kernels, from features and without the kernels' diagonals.

|X'Y|^2 is a sum over all pairs of examples; without its diagonal it is the sum over different ones. With one huge
example both are of the order of the fourth power of its norm, and their difference loses all digits. Here the diagonal
is never added: examples are processed in blocks, each with all previous ones. The sums of a kernel with itself then
have terms of one sign only. `OffDiagonalSums` can be merged, translated and scaled.
"""

from itertools import accumulate
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul

_BLOCK = 128  # smallest number of examples per block


class OffDiagonalSums(NamedTuple):
    """Sums over examples z_i = (x_i, y_i, ...) of S sides with D features in all.

    The kernels K_ij = <x_i, x_j>, L_ij = <y_i, y_j>, ... are summed over i != j only. Row i of `r` (n, S) has their
    sums over j.
    """

    total: jax.Array  # (D,), sum of z_i
    products: jax.Array  # (D, D), sum of z_i z_i'
    rows: jax.Array  # (S,), sum of r_i
    row_products: jax.Array  # (S, D), sum of r_i z_i'
    row_squares: jax.Array  # (S, S), sum of r_i r_i'
    squares: jax.Array  # (S, S), sum over i != j of (K_ij, L_ij, ...) (K_ij, L_ij, ...)'


def zero_sums(widths, dtype):
    sides, width = len(widths), sum(widths)
    shapes = OffDiagonalSums((width,), (width, width), (sides,), (sides, width), (sides, sides), (sides, sides))
    return OffDiagonalSums(*(jnp.zeros(shape, dtype) for shape in shapes))


def sums_of(*sides):
    """Return the `OffDiagonalSums` of x (n, p), y (n, q), ..."""
    n, widths = len(sides[0]), tuple(side.shape[1] for side in sides)
    z = jnp.concatenate(sides, 1)
    # With D / 4 examples per block, reverse-mode derivatives store 4 times the data.
    block = min(n, max(_BLOCK, sum(widths) // 4))
    blocks = jnp.pad(z, ((0, -n % block), (0, 0))).reshape(-1, block, sum(widths))
    totals = blocks.sum(1)
    # Not the total minus the block's own sum, which would cancel.
    other_totals = _sums_before(totals) + _sums_before(totals[::-1])[::-1]

    def step(products_before, rows):
        block, other_totals = rows
        parts = jnp.split(block, _edges(widths), 1)
        kernels = jnp.where(jnp.eye(len(block), dtype=bool), 0, jnp.stack([matmul(part, part.T) for part in parts]))
        rows = kernels.sum(2).T + matmul(block, _split_sides(other_totals, widths).T)
        inside = jnp.einsum("kij,lij->kl", kernels, kernels, precision="highest")
        products = matmul(block.T, block)
        between = _block_sums(products_before * products, widths)  # pairs of the block's rows and all rows before
        return products_before + products, (rows, inside + 2 * between)

    products, (rows, squares) = lax.scan(step, jnp.zeros((sum(widths),) * 2, z.dtype), (blocks, other_totals))
    rows = rows.reshape(-1, len(widths))[:n]
    return OffDiagonalSums(z.sum(0), products, rows.sum(0), matmul(rows.T, z), matmul(rows.T, rows), squares.sum(0))


def merge_sums(a, b, widths):
    """Return the `OffDiagonalSums` of the examples of a and b together."""
    a_total, b_total = (_split_sides(part.total, widths) for part in (a, b))

    def add_other_rows(part, other):
        """Add to the rows of `part` the products of its examples with the sum of the others."""
        change = matmul(other, part.products)
        crossed = matmul(part.row_products, other.T)
        return OffDiagonalSums(
            part.total,
            part.products,
            part.rows + matmul(other, part.total[:, None])[:, 0],
            part.row_products + change,
            part.row_squares + crossed + crossed.T + matmul(change, other.T),
            part.squares,
        )

    both = jax.tree.map(jnp.add, add_other_rows(a, b_total), add_other_rows(b, a_total))
    return both._replace(squares=both.squares + 2 * _block_sums(a.products * b.products, widths))


def translate_sums(sums, n, by, widths):
    """Return the `OffDiagonalSums` of n examples z_i + by.

    With b the part of `by` of the side x, K_ij becomes <x_i + b, x_j + b> = K_ij + a_i + a_j, where a_i = b'x_i +
    |b|^2 / 2. With A the sum of all a_i, and c_i and C those of the side of a kernel L, sums over j != i and over
    i != j are

        r_i -> r_i + (n - 1) a_i + (A - a_i) = r_i + (n - 2) b'x_i + level,   level = b' sum_j x_j + (n - 1) |b|^2,
        sum K_ij L_ij -> sum (K_ij + a_i + a_j) (L_ij + c_i + c_j)
                       = sum K_ij L_ij + 2 sum_i (r_i^K c_i + r_i^L a_i) + 2 (n - 2) sum_i a_i c_i + 2 A C.
    """
    shifts = _split_sides(by, widths)  # (S, D), the vectors b
    half = (shifts * shifts).sum(1) / 2  # |b|^2 / 2
    along = matmul(shifts, sums.total[:, None])[:, 0]  # b' sum_i x_i
    spread = matmul(shifts, sums.products)  # (S, D), sum of b'x_i z_i
    level = along + (n - 1) * 2 * half
    mean = sums.rows + (n - 2) * along
    crossed = matmul(sums.row_products, shifts.T)
    squared = matmul(spread, shifts.T)
    rows = mean + n * level
    row_products = sums.row_products + (n - 2) * spread + level[:, None] * sums.total[None]
    rows_by_a = crossed + sums.rows[:, None] * half[None, :]  # (S, S), sum of r_i a_i'
    a_by_a = squared + along[:, None] * half[None, :] + half[:, None] * along[None, :] + n * jnp.outer(half, half)
    a_total = along + n * half
    return OffDiagonalSums(
        sums.total + n * by,
        sums.products + jnp.outer(sums.total, by) + jnp.outer(by, sums.total) + n * jnp.outer(by, by),
        rows,
        row_products + rows[:, None] * by[None],
        sums.row_squares
        + (n - 2) * (crossed + crossed.T)
        + (n - 2) ** 2 * squared
        + jnp.outer(mean, level)
        + jnp.outer(level, mean)
        + n * jnp.outer(level, level),
        sums.squares + 2 * (rows_by_a + rows_by_a.T) + 2 * (n - 2) * a_by_a + 2 * jnp.outer(a_total, a_total),
    )


def scale_sums(sums, by, widths):
    """Return the `OffDiagonalSums` of (x_i by_0, y_i by_1, ...)."""
    each, square = jnp.repeat(by, jnp.array(widths), total_repeat_length=sum(widths)), by**2
    outer = jnp.outer(square, square)
    return OffDiagonalSums(
        sums.total * each,
        sums.products * each[:, None] * each[None],
        sums.rows * square,
        sums.row_products * square[:, None] * each[None],
        sums.row_squares * outer,
        sums.squares * outer,
    )


def centered_products(sums, n, estimator, widths):
    """Return (S, S): `hsic` of the kernels of all pairs of sides, times `normalizer`."""
    if estimator == "song":
        rows = jnp.outer(sums.rows / (n - 1), sums.rows / (n - 2))
        return sums.squares - 2 / (n - 2) * sums.row_squares + rows
    sums = translate_sums(sums, n, -sums.total / n, widths)
    if estimator == "lange":
        return sums.squares
    return _block_sums(sums.products**2, widths)


def _sums_before(totals):
    """Return for each row the sum of the rows above it."""
    return jnp.concatenate([jnp.zeros_like(totals[:1]), jnp.cumsum(totals[:-1], 0)])


def _side_of(widths):
    return jnp.arange(len(widths)).repeat(jnp.array(widths), total_repeat_length=sum(widths))


def _edges(widths):
    return list(accumulate(widths[:-1]))


def _split_sides(total, widths):
    """Return (S, D): in each row the entries of one side, with zeros for the others."""
    return jnp.where(_side_of(widths)[None] == jnp.arange(len(widths))[:, None], total[None], 0)


def _block_sums(products, widths):
    """Return (S, S), the sums of the blocks of (D, D): x with x, x with y, ...; y with x, ..."""
    columns = jnp.stack([part.sum(1) for part in jnp.split(products, _edges(widths), 1)])
    return jnp.stack([part.sum(1) for part in jnp.split(columns, _edges(widths), 1)])
