"""The Birkhoff polytope, against SciPy in float64, the optimality conditions, and the symmetries of the problem."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from scipy.optimize import linear_sum_assignment, minimize

from symjax.birkhoff import nearest_permutation, permutation_matrix, projection_birkhoff, sinkhorn, softsort
from symjax.errors import InputError

METHODS = ("newton", "sweeps", "dykstra")
SIZE = 12  # one size and one batch shape for most tests, so that they share what is compiled
BATCH = (2, 3, SIZE, SIZE)

newton = partial(projection_birkhoff, full_output=True)  # compiled once for every shape
compiled = jax.jit(jax.vmap(newton))  # of BATCH: one axis mapped, one native


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


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


def oracle(matrix):
    """The projection in float64: L-BFGS on the dual, then Newton steps by dense least squares while they help."""
    a = np.asarray(matrix, np.float64)
    n = len(a)

    def dual(z):
        x = np.maximum(a - z[:n, None] - z[None, n:], 0)
        return 0.5 * (x**2).sum() + z.sum(), 1 - np.concatenate([x.sum(1), x.sum(0)])

    start = np.concatenate([a.mean(1) - 1 / n, a.mean(0) - a.mean()])
    options = {"maxiter": 20_000, "maxfun": 50_000, "ftol": 0, "gtol": 1e-11}
    z = minimize(dual, start, jac=True, method="L-BFGS-B", options=options).x
    for _ in range(20):
        gradient = dual(z)[1]
        support = np.float64(a - z[:n, None] - z[None, n:] > 0)
        hessian = np.block([[np.diag(support.sum(1)), support], [support.T, np.diag(support.sum(0))]])
        moved = z - np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0]
        if np.abs(dual(moved)[1]).max() >= np.abs(gradient).max():
            break
        z = moved
    assert np.abs(dual(z)[1]).max() < 1e-8
    return np.maximum(a - z[:n, None] - z[None, n:], 0)


def float64_solution(matrix):
    with jax.enable_x64(True):
        projected, info = projection_birkhoff(np.float64(matrix), tol=1e-12, full_output=True)
        assert info.converged
        return np.asarray(projected)


def assert_optimal(projected, matrix, duals, tol=2e-6):
    """Feasible, complementary and of the form max(A - u - v, 0): the Karush-Kuhn-Tucker conditions."""
    projected, matrix = np.float64(projected), np.float64(matrix)
    scale = max(1, np.abs(matrix).max())
    shifted = matrix - np.float64(duals[0])[:, None] - np.float64(duals[1])[None, :]
    assert projected.min() >= 0
    np.testing.assert_allclose(projected.sum(0), 1, atol=tol)
    np.testing.assert_allclose(projected.sum(1), 1, atol=tol)
    np.testing.assert_allclose(projected, np.maximum(shifted, 0), atol=tol * scale)


# Projection: values


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("noise", [0.01, 1.0])
@pytest.mark.parametrize("kind", ["feasible", "vertex", "zero"])
@pytest.mark.few(9)
def test_projection_agrees_with_scipy(method, kind, noise):
    matrix = sample(kind, noise)
    projected, info = newton(matrix, method=method)
    assert info.converged and info.residual <= 1e-6
    np.testing.assert_allclose(projected, oracle(matrix), atol=1e-5)
    assert_optimal(projected, matrix, info.duals)


@pytest.mark.parametrize("kind", ["feasible", "vertex", "zero"])
def test_newton_agrees_with_scipy_far_away(kind):
    matrix = sample(kind, 10.0)
    projected, info = newton(matrix)
    assert info.converged
    np.testing.assert_allclose(projected, oracle(matrix), atol=1e-5 * np.abs(matrix).max())
    assert_optimal(projected, matrix, info.duals)


@pytest.mark.parametrize(
    "matrix",
    [
        np.full((SIZE, SIZE), 7.0),
        np.full((SIZE, SIZE), -1e6),
        np.zeros((SIZE, SIZE)),
        sample("zero", 1.0) - 1e3,
        np.abs(sample("zero", 1.0)) * -50,
        sample("zero", 1e-30),
        sample("zero", 1e-3) + 1e3 * np.arange(SIZE)[:, None],
    ],
    ids=["constant", "very-negative", "zeros", "shifted-down", "negative", "tiny", "steep-rows"],
)
def test_projection_of_extreme_matrices(matrix):
    matrix = np.float32(matrix)
    projected, info = newton(matrix)
    assert info.converged
    np.testing.assert_allclose(projected, oracle(matrix), atol=1e-5 * max(1, np.abs(matrix).max()))
    np.testing.assert_allclose(projected.sum(0), 1, atol=2e-6)
    np.testing.assert_allclose(projected.sum(1), 1, atol=2e-6)


@pytest.mark.parametrize("scale", [1e6, 1e20, 1e37])
def test_huge_entries_round_to_the_nearest_permutation(scale):
    matrix = sample("zero", scale)
    projected, info = newton(matrix)
    assert info.converged
    np.testing.assert_allclose(projected, permutation_matrix(nearest_permutation(matrix)), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["feasible", "vertex"])
def test_feasible_matrices_come_back(method, kind):
    matrix = sample(kind, 0.0)
    projected, info = newton(matrix, method=method)
    np.testing.assert_allclose(projected, matrix, atol=1e-6)
    assert info.converged and info.iterations == 0


def test_uniform_matrix_comes_back():
    np.testing.assert_allclose(newton(np.full((SIZE, SIZE), 1 / SIZE, np.float32))[0], 1 / SIZE, rtol=1e-6)


def test_projection_is_idempotent():
    once = newton(sample("zero", 3.0))[0]
    np.testing.assert_allclose(newton(once)[0], once, atol=1e-6)


def test_permuting_rows_and_columns_permutes_the_projection():
    rng, matrix = np.random.default_rng(1), sample("zero", 1.0)
    rows, columns = rng.permutation(SIZE), rng.permutation(SIZE)
    np.testing.assert_allclose(newton(matrix[rows][:, columns])[0], newton(matrix)[0][rows][:, columns], atol=2e-6)


def test_adding_constants_to_rows_and_columns_changes_nothing():
    rng, matrix = np.random.default_rng(1), sample("zero", 1.0)
    moved = matrix + 10 * rng.normal(size=(SIZE, 1)) + 10 * rng.normal(size=(1, SIZE))
    np.testing.assert_allclose(newton(np.float32(moved))[0], newton(matrix)[0], atol=1e-5)


def test_one_by_one_is_one():
    for value in (-3.0, 0.0, 1.0, 1e6):
        np.testing.assert_allclose(projection_birkhoff(np.float32([[value]])), [[1.0]], atol=1e-6)


def test_two_by_two_has_a_closed_form():
    for matrix in np.float32(np.random.default_rng(0).normal(size=(20, 2, 2))):
        kept = np.clip((matrix[0, 0] + matrix[1, 1] - matrix[0, 1] - matrix[1, 0] + 2) / 4, 0, 1)
        np.testing.assert_allclose(projection_birkhoff(matrix), [[kept, 1 - kept], [1 - kept, kept]], atol=2e-6)


@pytest.mark.parametrize("noise", [0.01, 1.0, 10.0])
def test_float32_keeps_five_digits(noise):
    matrix = sample("vertex", noise, 48)
    projected, info = newton(matrix)
    assert info.converged
    np.testing.assert_allclose(projected, oracle(matrix), atol=1e-5 * max(1, np.abs(matrix).max()))


@pytest.mark.parametrize(
    ("n", "noise"), [(256, 0.01), slow(256, 1.0), (256, 10.0), slow(512, 0.01), (512, 1.0), slow(512, 10.0)]
)
@pytest.mark.few(1)
@pytest.mark.slow
def test_float32_keeps_five_digits_at_full_size(n, noise):
    batch = np.stack([sample(kind, noise, n) for kind in ("feasible", "vertex", "zero")])
    projected, info = newton(batch)
    assert info.converged.all()
    for matrix, result in zip(batch, projected, strict=True):
        np.testing.assert_allclose(result, float64_solution(matrix), atol=1e-5 * max(1, np.abs(matrix).max()))


def test_a_disconnected_support_is_no_obstacle():
    blocks = np.full((SIZE, SIZE), -100.0)
    half = SIZE // 2
    blocks[:half, :half] = sample("zero", 1.0)[:half, :half]
    blocks[half:, half:] = sample("zero", 1.0)[half:, half:] + 5
    projected, info = newton(np.float32(blocks))
    assert info.converged
    np.testing.assert_allclose(projected, oracle(blocks), atol=1e-5)


def test_unequal_blocks_have_to_exchange_mass():
    matrix = np.full((SIZE, SIZE), -100.0)
    matrix[:3, :5], matrix[3:, 5:] = 1.0, 1.0  # 3 rows want 5 columns, 9 rows want 7
    projected, info = newton(np.float32(matrix))
    assert info.converged
    np.testing.assert_allclose(projected, oracle(matrix), atol=1e-5)


# Projection: how it behaves


def batch_of_six():
    return np.stack([sample(kind, noise) for kind in ("feasible", "zero") for noise in (0.0, 0.1, 10.0)]).reshape(BATCH)


def test_jit_equals_eager_and_batches_equal_loops():
    batch = batch_of_six()
    single = np.stack([newton(matrix)[0] for matrix in batch.reshape(6, SIZE, SIZE)]).reshape(BATCH)
    together, info = compiled(batch)
    np.testing.assert_allclose(together, single, atol=2e-6)
    assert info.converged.all() and info.converged.shape == (2, 3) and info.duals[0].shape == (2, 3, SIZE)


def test_finished_members_of_a_batch_stand_still():
    batch = batch_of_six()
    together, info = compiled(batch)
    assert info.iterations[0, 0] == 0 and info.iterations.max() > 10
    np.testing.assert_array_equal(together[0, 0], batch[0, 0])


@pytest.mark.parametrize("noise", [0.1, 10.0])
def test_warm_start_takes_fewer_iterations(noise):
    matrix = sample("vertex", noise)
    cold = newton(matrix)[1]
    again, info = newton(matrix, init=cold.duals)
    assert info.converged and info.iterations <= 2
    moved = matrix + np.float32(0.01 * matrix.std()) * sample("zero", 1.0, seed=1)
    projected, info = newton(moved, init=cold.duals)
    from_scratch, cold = newton(moved)
    assert info.converged and info.iterations < cold.iterations
    np.testing.assert_allclose(projected, from_scratch, atol=2e-6 * max(1, np.abs(moved).max()))


def test_a_misleading_warm_start_is_survived():
    matrix = sample("vertex", 1.0)
    misleading = (np.float32(1e4) * sample("zero", 1.0)[0], np.float32(1e4) * sample("zero", 1.0)[1])
    projected, info = newton(matrix, init=misleading)
    assert info.converged
    np.testing.assert_allclose(projected, newton(matrix)[0], atol=2e-2)  # float32 has 1e-3 left between numbers of 1e4


@pytest.mark.parametrize("method", ["sweeps", "newton"])
@pytest.mark.few(1)
def test_steps_that_crowd_the_support_do_not_end_in_a_cycle(method):
    """Over-relaxed sweeps with one step to each threshold went round and round in the third of these projections.

    From a permutation, steps of Adam with noise for a gradient: just under each threshold there are many entries.
    """
    n, step_size = 128, 0.01
    key, noise_key = jax.random.split(jax.random.key(3))
    matrix = jnp.eye(n)[jax.random.permutation(key, n)]
    duals, momentum, squares = (jnp.zeros(n), jnp.zeros(n)), jnp.zeros((n, n)), jnp.zeros((n, n))
    # The keys of a run of 600 steps, as it was met.
    for t, step_key in enumerate(jax.random.split(noise_key, 600)[:4], start=1):
        gradient = jax.random.normal(step_key, (n, n)) - 0.1 * matrix / jnp.linalg.norm(matrix)
        momentum, squares = 0.9 * momentum + 0.1 * gradient, 0.999 * squares + 0.001 * gradient**2
        step = momentum / (1 - 0.9**t) / (jnp.sqrt(squares / (1 - 0.999**t)) + 1e-8)
        moved = matrix - step_size * step
        matrix, info = projection_birkhoff(moved, method=method, init=duals, max_iters=200, full_output=True)
        assert info.converged and info.iterations < 100
        np.testing.assert_allclose(matrix, newton(moved)[0], atol=2e-6)
        duals = info.duals


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.slow
def test_sweeps_converge_from_anywhere(seed):
    """Sizes, noise and duals to begin with of all sizes."""
    rng = np.random.default_rng(seed)
    for n in (2, 5, 33):
        start = np.eye(n)[rng.permutation(n)] + 10.0 ** rng.uniform(-3, 0) * rng.normal(size=(n, n))
        duals = [np.float32(10.0 ** rng.uniform(-3, 0.5) * rng.normal(size=n)) for _ in "uv"]
        projected, info = projection_birkhoff(
            np.float32(start), method="sweeps", init=duals, max_iters=20_000, full_output=True
        )
        assert info.residual < 1e-5
        np.testing.assert_allclose(projected, newton(np.float32(start))[0], atol=2e-5)


def test_options_do_not_retrace():
    traces = []

    @jax.jit
    def project(matrix, tol, max_iters):
        traces.append(1)
        return projection_birkhoff(matrix, method="dykstra", tol=tol, max_iters=max_iters)

    for tol in (1e-3, 1e-6):
        project(sample("zero", tol), tol, 10)
    assert len(traces) == 1


@pytest.mark.parametrize("method", METHODS)
def test_what_did_not_converge_says_so(method):
    _, info = projection_birkhoff(sample("zero", 10.0), method=method, max_iters=1, full_output=True)
    assert not info.converged and info.residual > 1e-6 and info.iterations >= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_entries(bad):
    batch = batch_of_six()
    expected = np.array(compiled(batch)[0])
    batch[1, 1, 2, 3], expected[1, 1] = bad, np.nan
    projected, info = compiled(batch)
    np.testing.assert_array_equal(projected, expected)
    np.testing.assert_array_equal(info.converged, [[True] * 3, [True, False, True]])
    with pytest.raises(InputError, match="matrix.*finite"):
        projection_birkhoff(batch)


def test_dtypes():
    matrix = sample("zero", 1.0)
    half = projection_birkhoff(jnp.asarray(matrix, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), newton(matrix)[0], atol=0.02)
    integers = projection_birkhoff(np.arange(SIZE * SIZE).reshape(SIZE, SIZE))
    assert integers.dtype == jnp.float32
    np.testing.assert_allclose(integers, 1 / SIZE, atol=1e-5)


# Projection: derivatives


def test_derivatives_agree_with_finite_differences():
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(8, 8))

    @jax.jit
    def derivatives(matrix, direction):
        def loss(matrix):
            return (jnp.sin(projection_birkhoff(matrix, tol=1e-12) * 3) * weights).sum()

        value, push_forward = jax.linearize(loss, matrix)
        (pulled_back,) = jax.linear_transpose(push_forward, matrix)(jnp.ones_like(value))
        return value, push_forward(direction), (pulled_back * direction).sum()

    with jax.enable_x64(True):
        for kind in ("feasible", "vertex", "zero"):
            matrix, direction, step = np.float64(sample(kind, 1.0, 8)), rng.normal(size=(8, 8)), 1e-6
            ahead, behind = (derivatives(matrix + side * direction, direction)[0] for side in (step, -step))
            value, forward, reverse = derivatives(matrix, direction)
            assert value.dtype == np.float64
            np.testing.assert_allclose([forward, reverse], (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


def gradient(matrix, weights, method):
    return jax.grad(lambda m: (projection_birkhoff(m, method=method) * weights).sum())(matrix)


newton_gradient = jax.jit(partial(gradient, method="newton"))
dykstra_gradient = jax.jit(partial(gradient, method="dykstra"))


def test_gradients_do_not_depend_on_the_method():
    weights = sample("zero", 1.0, seed=5)
    for matrix in (sample("vertex", 1.0), sample("zero", 0.3), sample("feasible", 0.1)):
        by_newton, by_dykstra = newton_gradient(matrix, weights), dykstra_gradient(matrix, weights)
        np.testing.assert_allclose(by_newton, by_dykstra, atol=1e-5)


@pytest.mark.slow
def test_gradients_of_a_batch_are_those_of_its_members():
    batch, weights = np.stack([sample("vertex", 1.0), sample("zero", 0.3)]), sample("zero", 1.0, seed=5)
    alone = np.stack([newton_gradient(matrix, weights) for matrix in batch])
    mapped = jax.jit(jax.vmap(partial(gradient, method="newton"), (0, None)))
    np.testing.assert_allclose(mapped(batch, weights), alone, atol=1e-6)
    native = jax.jit(partial(gradient, method="newton"))
    np.testing.assert_allclose(native(batch, weights), alone, atol=1e-6)


def test_gradients_lie_on_the_face():
    matrix, weights = sample("zero", 0.3), sample("zero", 1.0, seed=5)
    slope = np.asarray(newton_gradient(matrix, weights))
    np.testing.assert_allclose(slope.sum(0), 0, atol=1e-5)
    np.testing.assert_allclose(slope.sum(1), 0, atol=1e-5)
    assert np.abs(slope[newton(matrix)[0] == 0]).max() == 0
    vertex = np.eye(SIZE, dtype=np.float32)  # the face of a vertex is the vertex
    np.testing.assert_allclose(newton_gradient(vertex, weights), 0, atol=1e-6)


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


def test_nothing_is_differentiated_through_rounding():
    matrix = sample("feasible", 0.1)

    def loss(matrix):
        return (matrix * permutation_matrix(nearest_permutation(matrix))).sum()

    expected = permutation_matrix(nearest_permutation(matrix))
    np.testing.assert_array_equal(jax.grad(loss)(matrix), expected)
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(matrix), expected)


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
