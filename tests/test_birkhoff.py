"""The projection onto the Birkhoff polytope, against SciPy in float64, and the symmetries of the problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from birkhoff_helpers import SIZE, newton, sample
from campaign import slow
from scipy.optimize import minimize

from symjax.birkhoff import nearest_permutation, permutation_matrix, projection_birkhoff
from symjax.errors import InputError

METHODS = ("newton", "sweeps", "dykstra")
BATCH = (2, 3, SIZE, SIZE)
compiled = jax.jit(jax.vmap(newton))  # of BATCH: one axis mapped, one native


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


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
    """Sweeps converge for several sizes, noise levels and initial duals."""
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
