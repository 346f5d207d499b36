"""Sinkhorn's algorithm, nearest permutations, SoftSort, and the arguments of these functions."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from birkhoff_helpers import sample
from scipy.optimize import linear_sum_assignment

from symjax.birkhoff import nearest_permutation, permutation_matrix, projection_birkhoff, sinkhorn, softsort
from symjax.errors import InputError


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


# Sinkhorn
def test_sinkhorn_reaches_the_marginals_and_keeps_cross_ratios():
    matrix = np.exp(sample("zero", 1.0))
    scaled = np.float64(sinkhorn(matrix, 100))
    np.testing.assert_allclose(scaled.sum(0), 1, atol=1e-6)
    np.testing.assert_allclose(scaled.sum(1), 1, atol=1e-6)
    cross = np.log(scaled / np.float64(matrix))
    np.testing.assert_allclose(cross - cross[:, :1] - cross[:1] + cross[0, 0], 0, atol=1e-5)  # diag(a) M diag(b)


def test_sinkhorn_keeps_zero_rows_and_columns():
    matrix = np.exp(sample("zero", 1.0))
    matrix[2], matrix[:, 3] = 0, 0
    scaled = np.asarray(sinkhorn(matrix))
    assert np.isfinite(scaled).all() and (scaled[2] == 0).all() and (scaled[:, 3] == 0).all()
    slope = jax.jit(jax.grad(lambda m: (sinkhorn(m) ** 2).sum()))(matrix)
    assert np.isfinite(slope).all()
    assert (np.asarray(sinkhorn(np.zeros((3, 3), np.float32))) == 0).all()


def test_sinkhorn_sweeps_range_and_batches():
    matrix = np.exp(sample("zero", 1.0))
    by_hand = np.float64(matrix)
    for _ in range(16):
        by_hand /= by_hand.sum(1, keepdims=True)
        by_hand /= by_hand.sum(0)
    np.testing.assert_allclose(sinkhorn(matrix), by_hand, rtol=1e-5)
    np.testing.assert_allclose(sinkhorn(np.stack([matrix * 1e30, matrix * 1e-30])), [by_hand] * 2, rtol=1e-5)
    np.testing.assert_array_equal(sinkhorn(matrix, 0), matrix)
    np.testing.assert_allclose(jax.jit(jax.vmap(sinkhorn))(matrix[None])[0], by_hand, rtol=1e-5)


def test_sinkhorn_stops_at_a_tolerance_and_reports_its_residual():
    batch = np.exp(np.stack([sample("zero", 0.01, 6), sample("zero", 2.0, 6)]))
    scaled, info = sinkhorn(batch, 100, tol=1e-3, full_output=True)
    off = np.maximum(*(np.abs(np.float64(scaled).sum(axis) - 1).max(-1) for axis in (1, 2)))
    np.testing.assert_allclose(info.residual, off, atol=1e-6)
    assert (off <= 1e-3).all() and 0 < info.iterations[0] < info.iterations[1] < 100
    for one, sweeps, matrix in zip(batch, np.asarray(info.iterations), scaled, strict=True):
        np.testing.assert_allclose(sinkhorn(one, int(sweeps)), matrix, rtol=1e-6)
        assert sinkhorn(one, int(sweeps) - 1, full_output=True)[1].residual > 1e-3
    assert (sinkhorn(batch, full_output=True)[1].iterations == 16).all()
    kept, info = sinkhorn(np.eye(3, dtype=np.float32), tol=1e-6, full_output=True)
    assert info.iterations == 0 and info.residual == 0 and (kept == np.eye(3)).all()
    slopes = (jax.grad(lambda m, tol=tol: (sinkhorn(m, 30, tol=tol) ** 2).sum())(batch[1]) for tol in (1e-9, None))
    np.testing.assert_allclose(*slopes, atol=1e-5)
    with pytest.raises(InputError, match="^tol: "):
        sinkhorn(batch, tol=0)


def test_residual_of_half_precisions_is_that_of_the_rounded_matrix():
    for dtype in (jnp.bfloat16, jnp.float16):
        matrix, info = projection_birkhoff(jnp.asarray(sample("zero", 1.0, 8), dtype), full_output=True)
        off = max(np.abs(np.asarray(matrix, np.float64).sum(axis) - 1).max() for axis in (0, 1))
        np.testing.assert_allclose(info.residual, off, rtol=1e-3)
        assert not info.converged and off > 1e-5
        assert projection_birkhoff(matrix, tol=0.01, full_output=True)[1].converged


def test_sinkhorn_gradient_agrees_with_finite_differences():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        matrix, weights, direction = np.exp(rng.normal(size=(4, 4))), *rng.normal(size=(2, 4, 4))
        loss = jax.jit(lambda m: (sinkhorn(m, 3) * weights).sum())
        numeric = (loss(matrix + 1e-6 * direction) - loss(matrix - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose((jax.grad(loss)(matrix) * direction).sum(), numeric, rtol=1e-6)


# Permutations
def test_nearest_permutation_takes_all_bits_of_numpy():
    matrix = np.float64(sample("zero", 1.0, 7))
    np.testing.assert_array_equal(nearest_permutation(matrix + 1e9), nearest_permutation(matrix))
    whole = np.int64(np.rint(1e3 * matrix))
    np.testing.assert_array_equal(nearest_permutation(whole + 2**40), nearest_permutation(whole))


@pytest.mark.parametrize("n", [1, 7, 100])
def test_nearest_permutation_agrees_with_scipy(n):
    matrix = sample("zero", 1.0, n)
    expected = linear_sum_assignment(matrix, maximize=True)[1]
    for function in (nearest_permutation, jax.jit(nearest_permutation)):
        assert function(matrix).dtype == jnp.int32
        np.testing.assert_array_equal(function(matrix), expected)


def test_nearest_permutation_batches_and_maps():
    batch = np.stack([[sample("zero", 1.0, 6, seed=3 * i + j) for j in range(3)] for i in range(2)])
    expected = [[linear_sum_assignment(matrix, maximize=True)[1] for matrix in row] for row in batch]
    np.testing.assert_array_equal(nearest_permutation(batch), expected)
    np.testing.assert_array_equal(jax.jit(nearest_permutation)(batch), expected)
    np.testing.assert_array_equal(jax.jit(jax.vmap(nearest_permutation))(batch), expected)
    np.testing.assert_array_equal(jax.vmap(jax.vmap(nearest_permutation))(batch), expected)


def test_a_large_assignment_under_jit_returns():
    matrix = sample("zero", 1.0, 512)
    product = jax.jit(lambda m: nearest_permutation(m @ m.T))(matrix)  # a callback on a computed, large operand
    np.testing.assert_array_equal(np.sort(product), np.arange(512))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_large_assignment_in_a_loop_returns_on_one_core():
    program = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, jax.numpy as jnp, numpy as np
from symjax.birkhoff import nearest_permutation
batch = np.random.default_rng(0).normal(size=(3, 512, 512)).astype(np.float32)
looped = jax.jit(lambda batch: jax.lax.map(lambda m: nearest_permutation(m @ m.T), batch))(batch)
assert (np.sort(looped) == np.arange(512)).all()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_permutation_matrices_round_to_themselves():
    permutation = np.random.default_rng(0).permuted(np.tile(np.arange(9), (4, 1)), axis=1)
    matrices = permutation_matrix(permutation)
    assert matrices[2, 5, permutation[2, 5]] == 1
    np.testing.assert_array_equal(nearest_permutation(matrices), permutation)
    np.testing.assert_array_equal(matrices[0] @ np.arange(9, dtype=np.float32), permutation[0])
    assert permutation_matrix(permutation, jnp.int8).dtype == jnp.int8


def test_rounding_of_non_finite_entries():
    batch = np.stack([sample("zero", 1.0, 4), sample("zero", 1.0, 4)])
    batch[1, 0, 0] = np.nan
    rounded = np.asarray(jax.jit(nearest_permutation)(batch))
    np.testing.assert_array_equal(np.sort(rounded[0]), np.arange(4))
    np.testing.assert_array_equal(rounded[1], -1)
    assert (np.asarray(permutation_matrix(rounded[1])) == 0).all()
    with pytest.raises(InputError, match="matrix.*finite"):
        nearest_permutation(batch)


# SoftSort
def test_softsort_tends_to_the_sorting_permutation():
    scores = np.float32(np.random.default_rng(0).permutation(8))
    limit = np.asarray(jax.jit(softsort)(scores, 1e-3))
    np.testing.assert_allclose(limit, permutation_matrix(np.argsort(-scores)), atol=1e-6)
    np.testing.assert_allclose(limit @ scores, np.sort(scores)[::-1], atol=1e-5)


def test_softsort_by_its_formula_and_symmetries():
    scores = np.float32(np.random.default_rng(0).normal(size=(2, 3, 5)))
    weights = np.exp(-np.abs(-np.sort(-scores)[..., :, None] - scores[..., None, :]) / 0.7)
    expected = weights / weights.sum(-1, keepdims=True)
    mapped = jax.jit(jax.vmap(softsort, (0, None)))
    np.testing.assert_allclose(mapped(scores, 0.7), expected, rtol=1e-5)
    np.testing.assert_allclose(mapped(scores + 3, 0.7), expected, rtol=1e-4)
    np.testing.assert_allclose(mapped(scores[..., ::-1], 0.7), expected[..., ::-1], rtol=1e-5)
    slope = jax.jit(jax.grad(lambda v, tau: (softsort(v, tau) ** 2).sum(), (0, 1)))(scores[0, 0], np.float32(0.7))
    assert np.isfinite(slope[0]).all() and np.isfinite(slope[1])


# Mistakes
RECTANGLE, SQUARE = np.ones((2, 3), np.float32), np.ones((3, 3), np.float32)


@pytest.mark.parametrize("function", [projection_birkhoff, sinkhorn, nearest_permutation])
@pytest.mark.parametrize("matrix", [RECTANGLE, SQUARE[0], np.float32(1), SQUARE.astype(np.complex64), np.ones((0, 0))])
def test_what_is_not_a_real_square_matrix_is_refused(function, matrix):
    with pytest.raises(InputError, match="^matrix: got"):
        function(matrix)
    with pytest.raises(InputError, match="^matrix: got"):
        jax.jit(function)(matrix)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: projection_birkhoff(SQUARE, method="simplex"),
            "method: got 'simplex', expected one of newton, sweeps, dykstra",
        ),
        (lambda: projection_birkhoff(SQUARE, tol=0), "tol"),
        (lambda: projection_birkhoff(SQUARE, tol=np.nan), "tol"),
        (lambda: projection_birkhoff(SQUARE, max_iters=-1), "max_iters"),
        (lambda: projection_birkhoff(SQUARE, init=SQUARE), "init.*pair"),
        (lambda: projection_birkhoff(SQUARE, init=(SQUARE[0], SQUARE)), "init.*shape"),
        (lambda: sinkhorn(-SQUARE), "matrix.*negative"),
        (lambda: sinkhorn(SQUARE * np.nan), "matrix.*finite"),
        (lambda: sinkhorn(SQUARE, -1), "num_iters"),
        (lambda: sinkhorn(SQUARE, 2.0), "num_iters"),
        (lambda: permutation_matrix(SQUARE[0]), "permutation"),
        (lambda: permutation_matrix(3), "permutation"),
        (lambda: softsort(np.float32(1), 1.0), "scores"),
        (lambda: softsort(SQUARE[0], 0.0), "tau"),
        (lambda: softsort(SQUARE[0], -1.0), "tau"),
        (lambda: softsort(SQUARE[0], SQUARE[0]), "tau"),
        (lambda: softsort(np.ones(3, np.complex64), 1.0), "scores"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
