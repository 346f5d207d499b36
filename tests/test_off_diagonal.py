"""Sums over pairs of different examples against NumPy with whole kernel matrices, merged, moved and scaled."""

import jax
import numpy as np
import pytest

from symjax.similarity import hsic
from symjax.similarity.hsic import normalizer
from symjax.similarity.off_diagonal import (
    OffDiagonalSums,
    centered_products,
    merge_sums,
    scale_sums,
    sums_of,
    translate_sums,
)

N, WIDTHS = 300, (5, 7)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, WIDTHS[0])) + 0.3
    return x, rng.normal(size=(N, WIDTHS[1])) + x[:, :1]


def by_definition(x, y):
    z = np.concatenate([x, y], 1)
    kernels = np.stack([x @ x.T, y @ y.T]) * (1 - np.eye(len(x)))
    rows = kernels.sum(2).T
    squares = np.einsum("kij,lij->kl", kernels, kernels)
    return OffDiagonalSums(z.sum(0), z.T @ z, rows.sum(0), rows.T @ z, rows.T @ rows, squares)


def agree(result, expected):
    for name, a, b in zip(OffDiagonalSums._fields, result, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-8, err_msg=name)


def test_sums_are_those_of_the_definition():
    x, y = data()
    agree(jax.jit(sums_of)(x, y), by_definition(x, y))
    parts = by_definition(x[:100], y[:100]), by_definition(x[100:], y[100:])
    agree(jax.jit(merge_sums, static_argnums=2)(*parts, WIDTHS), by_definition(x, y))
    by = np.random.default_rng(1).normal(size=sum(WIDTHS))
    agree(translate_sums(by_definition(x, y), N, by, WIDTHS), by_definition(x + by[: WIDTHS[0]], y + by[WIDTHS[0] :]))
    agree(scale_sums(by_definition(x, y), np.array([2.0, 3.0]), WIDTHS), by_definition(2 * x, 3 * y))


@pytest.mark.parametrize("estimator", ["song", "lange", "gretton"])
def test_they_make_hsic(estimator):
    x, y = data()
    result = centered_products(by_definition(x, y), N, estimator, WIDTHS) / normalizer(N, estimator)
    kernels = x @ x.T, y @ y.T
    np.testing.assert_allclose(result, [[hsic(k, l, estimator) for l in kernels] for k in kernels], rtol=1e-9)  # noqa: E741
