"""Derivatives of the Birkhoff projection and of rounding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from birkhoff_helpers import SIZE, gradient, newton, sample

from symjax.birkhoff import nearest_permutation, permutation_matrix, projection_birkhoff


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


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


newton_gradient = jax.jit(partial(gradient, method="newton"))
dykstra_gradient = jax.jit(partial(gradient, method="dykstra"))


@pytest.mark.slow
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


def test_nothing_is_differentiated_through_rounding():
    matrix = sample("feasible", 0.1)

    def loss(matrix):
        return (matrix * permutation_matrix(nearest_permutation(matrix))).sum()

    expected = permutation_matrix(nearest_permutation(matrix))
    np.testing.assert_array_equal(jax.grad(loss)(matrix), expected)
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(matrix), expected)
