"""Matrices near the Birkhoff polytope, shared by tests."""

from functools import partial

import jax
import numpy as np

from symjax.birkhoff import projection_birkhoff

SIZE = 12  # one size and one batch shape for most tests, so that they share what is compiled
newton = partial(projection_birkhoff, full_output=True)  # compiled once for every shape


def doubly_stochastic(rng, n):
    weights = rng.dirichlet(np.ones(3 * n))
    return sum(w * np.eye(n)[rng.permutation(n)] for w in weights)


def sample(kind, noise, n=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "feasible":
        base = doubly_stochastic(rng, n)
    else:
        base = {"vertex": np.eye(n)[rng.permutation(n)], "zero": 0}[kind]
    return np.float32(base + noise * rng.normal(size=(n, n)))


def gradient(matrix, weights, method):
    return jax.grad(lambda m: (projection_birkhoff(m, method=method) * weights).sum())(matrix)
