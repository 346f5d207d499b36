"""Sums over pairs of different examples for linear kernels, from features and without the kernels' diagonals.

|X'Y|^2 is a sum over all pairs of examples. Less its diagonal it is the sum over different ones. One huge example makes
both of the order of the fourth power of its norm, and their difference loses all digits. Here the diagonal is never
added: examples are processed in blocks, each with all previous ones. The sums of a kernel with itself then have terms
of one sign only. The sums of all examples (`OffDiagonalSums`) can be merged, translated and scaled.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul

_BLOCK = 128  # smallest number of examples per block


class OffDiagonalSums(NamedTuple):
    """Sums over examples z_i = (x_i, y_i) with D = p + q features.

    K_ij = <x_i, x_j> and L_ij = <y_i, y_j> are summed over i != j only. Row i of `r` (n, 2) has their sums over j.
    """

    total: jax.Array  # (D,), sum of z_i
    products: jax.Array  # (D, D), sum of z_i z_i'
    rows: jax.Array  # (2,), sum of r_i
    row_products: jax.Array  # (2, D), sum of r_i z_i'
    row_squares: jax.Array  # (2, 2), sum of r_i r_i'
    squares: jax.Array  # (2, 2), sum over i != j of (K_ij, L_ij) (K_ij, L_ij)'


def zero_sums(width, dtype):
    shapes = OffDiagonalSums((width,), (width, width), (2,), (2, width), (2, 2), (2, 2))
    return OffDiagonalSums(*(jnp.zeros(shape, dtype) for shape in shapes))


def sums_of(x, y):
    """Return the `OffDiagonalSums` of x (n, p) and y (n, q)."""
    n, widths = len(x), (x.shape[1], y.shape[1])
    z = jnp.concatenate([x, y], 1)
    # With D / 4 examples per block, reverse-mode derivatives store 4 times the data.
    block = min(n, max(_BLOCK, sum(widths) // 4))
    blocks = jnp.pad(z, ((0, -n % block), (0, 0))).reshape(-1, block, sum(widths))
    totals = blocks.sum(1)
    # Not the total less the block's own sum, which would cancel.
    other_totals = _sums_before(totals) + _sums_before(totals[::-1])[::-1]

    def step(products_before, rows):
        block, other_totals = rows
        kernels = jnp.where(jnp.eye(len(block), dtype=bool), 0, _kernels(block, block, widths))
        rows = kernels.sum(2).T + matmul(block, _split_sides(other_totals, widths).T)
        inside = jnp.einsum("kij,lij->kl", kernels, kernels, precision="highest")
        return products_before + matmul(block.T, block), (
            rows,
            inside + 2 * _cross_products(products_before, block, widths),
        )

    products, (rows, squares) = lax.scan(step, jnp.zeros((sum(widths),) * 2, z.dtype), (blocks, other_totals))
    rows = rows.reshape(-1, 2)[:n]
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
    between = [
        [(left * right).sum() for left, right in zip(*rows, strict=True)]
        for rows in zip(_blocks(a.products, widths), _blocks(b.products, widths), strict=True)
    ]
    return both._replace(squares=both.squares + 2 * jnp.stack([jnp.stack(row) for row in between]))


def translate_sums(sums, n, by, widths):
    """Return the `OffDiagonalSums` of n examples z_i + by."""
    shifts = _split_sides(by, widths)  # (2, D)
    half = (shifts * shifts).sum(1) / 2
    along = matmul(shifts, sums.total[:, None])[:, 0]  # sum over i of shifts z_i
    spread = matmul(shifts, sums.products)  # (2, D)
    # r_i becomes r_i + (n - 2) shifts z_i + level.
    level = along + (n - 1) * 2 * half
    mean = sums.rows + (n - 2) * along
    crossed = matmul(sums.row_products, shifts.T)
    squared = matmul(spread, shifts.T)
    rows = mean + n * level
    row_products = sums.row_products + (n - 2) * spread + level[:, None] * sums.total[None]
    # K_ij becomes K_ij + a_i + a_j with a_i = shifts z_i + half.
    sides = crossed + sums.rows[:, None] * half[None, :]
    of_sides = squared + along[:, None] * half[None, :] + half[:, None] * along[None, :] + n * jnp.outer(half, half)
    totals = along + n * half
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
        sums.squares + 2 * (sides + sides.T) + 2 * (n - 2) * of_sides + 2 * jnp.outer(totals, totals),
    )


def scale_sums(sums, by, widths):
    """Return the `OffDiagonalSums` of (x_i by_0, y_i by_1)."""
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


def centred_products(sums, n, estimator, widths):
    """Return (2, 2): `hsic` of the kernels of x and of y with themselves and with each other, times `normalizer`."""
    if estimator == "song":
        rows = jnp.outer(sums.rows / (n - 1), sums.rows / (n - 2))
        return sums.squares - 2 / (n - 2) * sums.row_squares + rows
    sums = translate_sums(sums, n, -sums.total / n, widths)
    if estimator == "lange":
        return sums.squares
    return jnp.stack([jnp.stack([(part**2).sum() for part in row]) for row in _blocks(sums.products, widths)])


def _sums_before(totals):
    """Return for each row the sum of the rows above it."""
    return jnp.concatenate([jnp.zeros_like(totals[:1]), jnp.cumsum(totals[:-1], 0)])


def _split_sides(total, widths):
    """Return (2, D): the entries of x with zeros for y, and those of y with zeros for x."""
    side = jnp.arange(2).repeat(jnp.array(widths), total_repeat_length=sum(widths))
    return jnp.where(side[None] == jnp.arange(2)[:, None], total[None], 0)


def _kernels(a, b, widths):
    """Return (2, i, j), the kernels K and L between rows of a and of b."""
    (a_x, a_y), (b_x, b_y) = (jnp.split(side, [widths[0]], 1) for side in (a, b))
    return jnp.stack([matmul(a_x, b_x.T), matmul(a_y, b_y.T)])


def _blocks(products, widths):
    """Return the blocks of (D, D): x with x, x with y; y with x, y with y."""
    return [jnp.split(rows, [widths[0]], 1) for rows in jnp.split(products, [widths[0]], 0)]


def _cross_products(products, block, widths):
    """Return (2, 2), sums over the pairs of a block's rows and all examples in `products`."""
    sides = jnp.split(block, [widths[0]], 1)
    parts = _blocks(products, widths)
    xx, xy, yy = ((matmul(sides[k], parts[k][m]) * sides[m]).sum() for k, m in ((0, 0), (0, 1), (1, 1)))
    return jnp.stack([jnp.stack([xx, xy]), jnp.stack([xy, yy])])
