"""Sums over pairs of different examples for linear kernels, from features alone and without the kernels' diagonals.

|X'Y|^2 is a sum over all pairs of examples, and less its diagonal it is the sum over different ones. One example of
huge norm makes both of the order of the fourth power of that norm, and of their difference no digit is left. Here the
diagonal is never added: the examples come in blocks, each with what came before. So the sums of a kernel with itself
have terms of one sign alone. What is kept of all examples (`Sums`) can be merged, moved and scaled.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul

_BLOCK = 128  # examples at once, at least


class Sums(NamedTuple):
    """Of examples z_i = (x_i, y_i) with D = p + q features.

    K_ij = <x_i, x_j> and L_ij = <y_i, y_j> count for i != j alone; row i of `r` (n, 2) has their sums over j.
    """

    total: jax.Array  # (D,), sum of z_i
    products: jax.Array  # (D, D), sum of z_i z_i'
    rows: jax.Array  # (2,), sum of r_i
    row_products: jax.Array  # (2, D), sum of r_i z_i'
    row_squares: jax.Array  # (2, 2), sum of r_i r_i'
    squares: jax.Array  # (2, 2), sum over i != j of (K_ij, L_ij) (K_ij, L_ij)'


def no_sums(width, dtype):
    shapes = Sums((width,), (width, width), (2,), (2, width), (2, 2), (2, 2))
    return Sums(*(jnp.zeros(shape, dtype) for shape in shapes))


def sums_of(x, y):
    """The `Sums` of x (n, p) and y (n, q)."""
    n, widths = len(x), (x.shape[1], y.shape[1])
    z = jnp.concatenate([x, y], 1)
    # With a quarter of D examples at once, what derivatives in reverse keep of all blocks is 4 times the data.
    block = min(n, max(_BLOCK, sum(widths) // 4))
    blocks = jnp.pad(z, ((0, -n % block), (0, 0))).reshape(-1, block, sum(widths))
    totals = blocks.sum(1)
    # Not the total less those of the block itself, which would cancel.
    others = _before(totals) + _before(totals[::-1])[::-1]

    def step(before, rows):
        block, others = rows
        kernels = jnp.where(jnp.eye(len(block), dtype=bool), 0, _kernels(block, block, widths))
        rows = kernels.sum(2).T + matmul(block, _masked(others, widths).T)
        inside = jnp.einsum("kij,lij->kl", kernels, kernels, precision="highest")
        return before + matmul(block.T, block), (rows, inside + 2 * _between(before, block, widths))

    products, (rows, squares) = lax.scan(step, jnp.zeros((sum(widths),) * 2, z.dtype), (blocks, others))
    rows = rows.reshape(-1, 2)[:n]
    return Sums(z.sum(0), products, rows.sum(0), matmul(rows.T, z), matmul(rows.T, rows), squares.sum(0))


def merged(a, b, widths):
    """The `Sums` of the examples of both."""
    a_total, b_total = (_masked(part.total, widths) for part in (a, b))

    def with_others(part, other):
        """Rows of `part` grow by the products of its examples with the sum of the others."""
        change = matmul(other, part.products)
        crossed = matmul(part.row_products, other.T)
        return Sums(
            part.total,
            part.products,
            part.rows + matmul(other, part.total[:, None])[:, 0],
            part.row_products + change,
            part.row_squares + crossed + crossed.T + matmul(change, other.T),
            part.squares,
        )

    both = jax.tree.map(jnp.add, with_others(a, b_total), with_others(b, a_total))
    between = [
        [(left * right).sum() for left, right in zip(*rows, strict=True)]
        for rows in zip(_parts(a.products, widths), _parts(b.products, widths), strict=True)
    ]
    return both._replace(squares=both.squares + 2 * jnp.stack([jnp.stack(row) for row in between]))


def moved(sums, n, by, widths):
    """The `Sums` of n examples z_i + by."""
    shifts = _masked(by, widths)  # (2, D)
    half = (shifts * shifts).sum(1) / 2
    along = matmul(shifts, sums.total[:, None])[:, 0]  # sum over i of what r_i and K_ij change by, for each example
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
    return Sums(
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


def scaled(sums, by, widths):
    """The `Sums` of (x_i by_0, y_i by_1)."""
    each, square = jnp.repeat(by, jnp.array(widths), total_repeat_length=sum(widths)), by**2
    outer = jnp.outer(square, square)
    return Sums(
        sums.total * each,
        sums.products * each[:, None] * each[None],
        sums.rows * square,
        sums.row_products * square[:, None] * each[None],
        sums.row_squares * outer,
        sums.squares * outer,
    )


def products_of_kernels(sums, n, estimator, widths):
    """(2, 2): `hsic` of the kernels of x and of y with themselves and with each other, up to `pairs`."""
    if estimator == "song":
        rows = jnp.outer(sums.rows / (n - 1), sums.rows / (n - 2))
        return sums.squares - 2 / (n - 2) * sums.row_squares + rows
    sums = moved(sums, n, -sums.total / n, widths)
    if estimator == "lange":
        return sums.squares
    return jnp.stack([jnp.stack([(part**2).sum() for part in row]) for row in _parts(sums.products, widths)])


def _before(totals):
    """Of each row, the sum of those above it."""
    return jnp.concatenate([jnp.zeros_like(totals[:1]), jnp.cumsum(totals[:-1], 0)])


def _masked(total, widths):
    """(2, D): of x alone, and of y alone."""
    side = jnp.arange(2).repeat(jnp.array(widths), total_repeat_length=sum(widths))
    return jnp.where(side[None] == jnp.arange(2)[:, None], total[None], 0)


def _kernels(a, b, widths):
    """(2, i, j), K and L of rows of a and of b."""
    (a_x, a_y), (b_x, b_y) = (jnp.split(side, [widths[0]], 1) for side in (a, b))
    return jnp.stack([matmul(a_x, b_x.T), matmul(a_y, b_y.T)])


def _parts(products, widths):
    """Blocks of (D, D): of x and x, x and y; y and x, y and y."""
    return [jnp.split(rows, [widths[0]], 1) for rows in jnp.split(products, [widths[0]], 0)]


def _between(products, block, widths):
    """(2, 2), sums over the rows of a block and all that is in `products`."""
    sides = jnp.split(block, [widths[0]], 1)
    parts = _parts(products, widths)
    xx, xy, yy = ((matmul(sides[k], parts[k][m]) * sides[m]).sum() for k, m in ((0, 0), (0, 1), (1, 1)))
    return jnp.stack([jnp.stack([xx, xy]), jnp.stack([xy, yy])])
