"""Dykstra's alternating projections between {row and column sums 1} and {X >= 0}.

The first set is affine and needs no correction; the correction of the second is min(W, 0). A round therefore changes
W = A - u - v alone: X = max(W, 0) is projected onto the affine set as X - du - dv, and W changes by the same du, dv.
"""

import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import excess, initial_state, make_state

BLOCK = 32  # rounds between two evaluations of the residual


def dykstra(matrix, u, v, tol, max_iters):
    size = matrix.shape[0]

    def unfinished(state):
        return (state.residual > tol) & (state.iterations < max_iters)

    def block(state):
        # Changes are accumulated separately: added one by one to the large W, u and v, they would be rounded away.
        def one_round(_, change):
            du, dv = change
            rows, columns = excess(state.shifted - du[:, None] - dv[None, :])
            shared = rows.mean() / 2
            return du + (rows - shared) / size, dv + (columns - shared) / size

        zero = jnp.zeros_like(u)
        du, dv = lax.fori_loop(0, BLOCK, one_round, (zero, zero))
        moved = state.shifted - du[:, None] - dv[None, :]
        return make_state(moved, state.u + du, state.v + dv, state.iterations + BLOCK)

    return lax.while_loop(unfinished, block, initial_state(matrix, u, v))
