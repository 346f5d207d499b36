"""Data and HSIC by its definition in float64, shared by the tests of HSIC and CKA."""

import numpy as np

ESTIMATORS = ("song", "gretton", "lange")
N, P, Q = 24, 5, 7


def data(seed=0, n=N, p=P, q=Q):
    """Two linear functions of common data, with noise."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 3))
    x, y = (common @ rng.normal(size=(3, d)) + rng.normal(size=(n, d)) for d in (p, q))
    return np.float32(x), np.float32(y + 2)


def hsic_by_definition(k, l, estimator):  # noqa: E741
    n = len(k)
    h = np.eye(n) - 1 / n
    if estimator == "gretton":
        return np.trace(k @ h @ l @ h) / (n - 1) ** 2
    off = 1 - np.eye(n)
    if estimator == "lange":
        return ((h @ k @ h) * (h @ l @ h) * off).sum() / (n * (n - 3))
    k, l = k * off, l * off  # noqa: E741
    one = np.ones(n)
    three = (
        np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l @ one)
    )
    return three / (n * (n - 3))


def linear(x):
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    return x @ x.T
