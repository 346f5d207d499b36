"""Nuclear norms of many matrices against singular value decompositions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax.similarity.nuclear_norm import nuclear_norms

RNG = np.random.default_rng(0)
GRADED = 1 / np.arange(1, 41) ** 3
CASES = {
    "square": RNG.normal(size=(7, 40, 40)),
    "wide": RNG.normal(size=(3, 5, 60)),
    "narrow": RNG.normal(size=(3, 60, 5)),
    "low rank": RNG.normal(size=(3, 40, 2)) @ RNG.normal(size=(3, 2, 40)),
    "graded": RNG.normal(size=(3, 40, 40)) * GRADED * GRADED[:, None],
    "orthogonal": np.linalg.qr(RNG.normal(size=(3, 40, 40)))[0],
    "numbers": RNG.normal(size=(4, 1, 1)),
    "small": 1e-15 * RNG.normal(size=(3, 6, 6)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("jitted", [False, True])
def test_sums_of_singular_values(name, jitted):
    matrices = np.float32(CASES[name])
    expected = np.linalg.svd(np.float64(matrices), compute_uv=False).sum(-1)
    result = (jax.jit(nuclear_norms) if jitted else nuclear_norms)(jnp.asarray(matrices))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=2e-6)


def test_batches():
    matrices = np.float32(RNG.normal(size=(2, 3, 8, 6)))
    expected = np.linalg.svd(matrices, compute_uv=False).sum(-1)
    np.testing.assert_allclose(jax.vmap(nuclear_norms)(jnp.asarray(matrices)), expected, rtol=2e-6)


def test_derivative():
    matrices = np.float32(CASES["square"])
    gradient = jax.jit(jax.grad(lambda matrices: nuclear_norms(matrices).sum()))(jnp.asarray(matrices))
    u, _, vt = np.linalg.svd(np.float64(matrices))
    np.testing.assert_allclose(gradient, u @ vt, atol=2e-5)


def test_zeros_and_not_a_number():
    zeros = jnp.zeros((3, 4, 5))
    np.testing.assert_array_equal(nuclear_norms(zeros.at[1, 2, 2].set(jnp.nan)), [0, np.nan, 0])


def test_float64():
    with jax.enable_x64(True):
        matrices = CASES["graded"]
        expected = np.linalg.svd(matrices, compute_uv=False).sum(-1)
        np.testing.assert_allclose(nuclear_norms(jnp.asarray(matrices)), expected, rtol=1e-13)
